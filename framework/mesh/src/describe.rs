//! `afflux.schema/Describe`: what every node tells of its methods to a peer whose fingerprints differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use afflux_actor::{Dispatch, ServiceEntry};
use afflux_wire::contract::{CallMeta, ReplyTo};
use afflux_wire::schema::{DescribeRequest, MethodDescriptor, ServiceDescriptor};
use afflux_wire::{Executed, Stage, Status, codec};

use crate::services::nearest;

/// The service under which every mesh answers.
pub(crate) const SERVICE: &str = "afflux.schema";
/// Its method.
pub(crate) const METHOD: &str = "Describe";

/// Methods that are told in one answer.
pub(crate) const METHODS_TOLD_MAX: usize = 256;

/// Answers at once, without a mailbox: what it tells never changes while the services stay.
pub(crate) struct Describer {
    pub(crate) services: BTreeMap<&'static str, ServiceEntry>,
}

impl Describer {
    fn tell(&self, params: &[u8]) -> Result<Vec<u8>, Status> {
        let ask: DescribeRequest = codec::from_slice(params)?;
        let Some(entry) = self.services.get(ask.service.as_str()) else {
            let names = self.services.keys().map(|&name| name.to_owned());
            let near = nearest(&ask.service, names);
            return Err(Status::not_found(format!("service `{}` is not offered here{near}", ask.service)));
        };
        let methods = entry
            .methods
            .iter()
            .filter(|spec| ask.methods.is_empty() || ask.methods.iter().any(|name| name == spec.name))
            .take(METHODS_TOLD_MAX)
            .map(MethodDescriptor::of)
            .collect();
        let told =
            ServiceDescriptor { name: entry.name.to_owned(), version: entry.version.to_owned(), methods };
        codec::to_named(&told)
    }
}

impl Dispatch for Describer {
    fn dispatch(&self, _: usize, params: &[u8], _: CallMeta, reply: Option<ReplyTo>) {
        let Some(reply) = reply else { return };
        match self.tell(params) {
            Ok(bytes) => reply.respond(Ok(&bytes)),
            Err(status) => reply.respond(Err(&status.executed(Executed::No).stage(Stage::Admission))),
        }
    }

    fn depth(&self) -> usize {
        0
    }

    fn capacity(&self) -> usize {
        1
    }
}

/// What stands in the table of methods for it.
pub(crate) fn dispatch(services: &BTreeMap<&'static str, ServiceEntry>) -> Arc<dyn Dispatch> {
    Arc::new(Describer { services: services.clone() })
}
