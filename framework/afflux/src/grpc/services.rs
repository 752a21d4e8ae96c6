//! The descriptors of services, made when they are first called.

use std::collections::BTreeMap;
use std::sync::Arc;

use afflux_wire::{Code, Executed, Stage, Status};
use parking_lot::Mutex;
use prost_reflect::{DescriptorPool, MethodDescriptor};

use super::numbers::Numbers;
use super::proto::{Mapped, map};
use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::node_service::ServiceInfo;

/// Services whose descriptors are kept.
const SERVICES_MAX: usize = 1_024;

/// The `.proto` files that keep the numbers of services' fields, by service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Protos(BTreeMap<String, Numbers>);

impl Protos {
    /// Adds the text of a `.proto` file.
    ///
    /// # Errors
    /// What is wrong with it; a service that two files describe.
    pub(crate) fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let (service, numbers) = Numbers::parse(name, text)?;
        if self.0.insert(service.clone(), numbers).is_some() {
            return Err(Error::usage(format!("two .proto files describe {service}; the second is {name}"))
                .hint("list one of them in grpc.proto"));
        }
        Ok(())
    }

    pub(crate) fn of(&self, service: &str) -> Numbers {
        self.0.get(service).cloned().unwrap_or_default()
    }
}

/// A service as gRPC clients see it.
pub(super) struct Described {
    info: Arc<ServiceInfo>,
    pub(super) mapped: Mapped,
    pool: DescriptorPool,
}

impl Described {
    /// A method of it.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` with what of it has no counterpart, or that there is none of this name.
    pub(super) fn method(&self, name: &str) -> std::result::Result<MethodDescriptor, Status> {
        let unimplemented = |text: String| {
            Status::new(Code::Unimplemented, text).executed(Executed::No).stage(Stage::Admission)
        };
        if let Some(why) = self.mapped.refused.get(name) {
            return Err(unimplemented(why.clone()));
        }
        let service = self.pool.get_service_by_name(&self.info.name);
        service.and_then(|service| service.methods().find(|method| method.name() == name)).ok_or_else(|| {
            let names: Vec<&str> = self.info.methods.iter().map(|method| method.name.as_str()).collect();
            unimplemented(format!("{} has no method {name}; it has {}", self.info.name, names.join(", ")))
        })
    }

    pub(super) fn info(&self) -> &ServiceInfo {
        &self.info
    }
}

/// Services of the cluster, described once.
pub(super) struct Services {
    pub(super) catalogue: Catalogue,
    protos: Protos,
    known: Mutex<BTreeMap<String, Arc<Described>>>,
}

impl Services {
    pub(super) fn new(catalogue: Catalogue, protos: Protos) -> Self {
        Self { catalogue, protos, known: Mutex::default() }
    }

    /// A service of the cluster.
    ///
    /// # Errors
    /// `NOT_FOUND` with the nearest names.
    pub(super) async fn get(&self, name: &str) -> std::result::Result<Arc<Described>, Status> {
        let info = self.catalogue.service(name).await?;
        if let Some(known) = self.known.lock().get(name)
            && (Arc::ptr_eq(&known.info, &info) || *known.info == *info)
        {
            return Ok(Arc::clone(known));
        }
        let mapped = map(&info, &self.protos.of(name));
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_proto(mapped.file.clone()).map_err(|error| {
            Status::new(Code::Unimplemented, format!("{name} cannot be described in protobuf: {error}"))
                .executed(Executed::No)
        })?;
        for why in mapped.refused.values() {
            tracing::warn!(service = name, why, "a method cannot be called over gRPC");
        }
        let described = Arc::new(Described { info, mapped, pool });
        let mut known = self.known.lock();
        if known.len() >= SERVICES_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), Arc::clone(&described));
        Ok(described)
    }
}
