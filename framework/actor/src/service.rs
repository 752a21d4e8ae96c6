//! Services of an actor as the mesh sees them: found by name, called without their types.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use afflux_wire::contract::{
    Accept, Admitted, CallMeta, LocalEndpoint, Mail, MethodKind, MethodSpec, ReplyTo, Service, Waiter,
    refusal,
};
use afflux_wire::{Code, Executed, Stage, Status};

use crate::actor::Actor;
use crate::address::Address;

/// An actor that serves. Implemented by `derive(Actor)`.
pub trait Serves: Actor {
    /// Its services, each with the mailbox behind `address`.
    fn services(address: &Address<Self::Mail>) -> Vec<ServiceEntry>;
}

/// A service without its type: takes requests that came over a link.
pub trait Dispatch: Send + Sync {
    /// Decodes the params, and puts the call into the mailbox. What goes wrong is answered to `reply`;
    /// without a reply (one-way) it is logged at debug level and the mailbox's counters tell of it.
    /// `method` is an index into [`ServiceEntry::methods`].
    fn dispatch(&self, method: usize, params: &[u8], meta: CallMeta, reply: Option<ReplyTo>);
    /// Messages waiting in the mailbox.
    fn depth(&self) -> usize;
    /// Messages that fit.
    fn capacity(&self) -> usize;
}

/// A service of this process.
#[derive(Clone)]
pub struct ServiceEntry {
    /// The name in the registry.
    pub name: &'static str,
    /// The version of the contract, for people.
    pub version: &'static str,
    /// The doc comment of the contract.
    pub doc: &'static str,
    /// The methods, by number.
    pub methods: &'static [MethodSpec],
    /// A [`LocalEndpoint`] of the service: how a typed caller of this process reaches it, unencoded.
    pub endpoint: Arc<dyn Any + Send + Sync>,
    /// How a link reaches it.
    pub dispatch: Arc<dyn Dispatch>,
}

impl ServiceEntry {
    /// The entry of service `S`, whose calls go into `mailbox`.
    pub fn of<S: Service>(mailbox: Arc<dyn Accept<S::Call>>) -> Self {
        Self {
            name: S::NAME,
            version: S::VERSION,
            doc: S::DOC,
            methods: S::METHODS,
            endpoint: Arc::new(LocalEndpoint::<S>::new(Arc::clone(&mailbox))),
            dispatch: Arc::new(Typed::<S> { mailbox }),
        }
    }
}

impl fmt::Debug for ServiceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceEntry({} {}, {} methods)", self.name, self.version, self.methods.len())
    }
}

struct Typed<S: Service> {
    mailbox: Arc<dyn Accept<S::Call>>,
}

impl<S: Service> Typed<S> {
    /// Where the answer goes; nothing when a call with this key has its answer already, or waits for it.
    fn reply(
        &self,
        spec: &MethodSpec,
        meta: &CallMeta,
        params: &[u8],
        reply: Option<ReplyTo>,
    ) -> Option<Option<ReplyTo>> {
        let Some(to) = reply else { return Some(None) };
        let unary = matches!(spec.kind, MethodKind::Unary | MethodKind::OneWay);
        if meta.idempotency_key.is_none() || !unary {
            return Some(Some(to));
        }
        let Some(window) = self.mailbox.replies() else { return Some(Some(to)) };
        match window.admit(S::NAME, spec, meta, params, Waiter::Wire(to)) {
            Ok(Admitted::Run(to)) | Err(Waiter::Wire(to)) => Some(Some(to)),
            Ok(Admitted::Answered) | Err(Waiter::Local(_)) => None,
        }
    }
}

impl<S: Service> Dispatch for Typed<S> {
    fn dispatch(&self, method: usize, params: &[u8], meta: CallMeta, reply: Option<ReplyTo>) {
        let refuse = |status: Status, reply: Option<ReplyTo>| match reply {
            Some(reply) => reply.respond(Err(&status)),
            None => tracing::debug!(service = S::NAME, %status, "a one-way call was refused"),
        };
        let Some(spec) = S::METHODS.get(method) else {
            let status = Status::new(
                Code::Unimplemented,
                format!("{} has {} methods and no number {method}", S::NAME, S::METHODS.len()),
            );
            return refuse(status.executed(Executed::No).stage(Stage::Admission), reply);
        };
        // A notification of a method that could be acknowledged has a caller who does not care.
        if spec.expects_answer() != reply.is_some() && !spec.ack {
            let (is, sent) = match spec.kind {
                MethodKind::OneWay => ("one-way", "a request that expects an answer"),
                kind => (kind.name(), "a notification"),
            };
            let status =
                Status::invalid(format!("{}/{} is {is}, but the peer sent {sent}", S::NAME, spec.name));
            return refuse(status.stage(Stage::Admission), reply);
        }
        let Some(reply) = self.reply(spec, &meta, params, reply) else { return };
        match S::decode(method, params, meta, reply) {
            Err((status, reply)) => refuse(status, reply),
            Ok(call) => {
                if let Err(refused) = self.mailbox.accept(call) {
                    let status = refusal(S::NAME, spec.name, &refused, &*self.mailbox, None);
                    refused.into_inner().reject(status);
                }
            }
        }
    }

    fn depth(&self) -> usize {
        self.mailbox.depth()
    }

    fn capacity(&self) -> usize {
        self.mailbox.capacity()
    }
}
