//! What every node answers of itself: `rpc.list`, `rpc.describe`, `rpc.health`.

use std::sync::Arc;

use afflux_wire::compat::{
    MethodDescription, Params, ServiceDescription, describe_service, is_method, split_name,
};
use afflux_wire::{Status, codec};

use super::catalog::{self, OWN_PREFIX, describe_remote, services_of_others, unknown};
use crate::mesh::Shared;
use crate::services::nearest;

/// Names that begin so are the protocol's own.
pub(super) const PREFIX: &str = "rpc.";

const NAMES: [&str; 8] =
    ["rpc.auth", "rpc.cancel", "rpc.credit", "rpc.describe", "rpc.end", "rpc.health", "rpc.item", "rpc.list"];

/// Answers `rpc.…`.
pub(super) async fn answer(shared: &Arc<Shared>, method: &str, params: &[u8]) -> Result<Vec<u8>, Status> {
    let params = Params::read(params)?;
    match method {
        "rpc.list" => codec::to_named(&catalog::names(shared)),
        "rpc.describe" => describe(shared, params.first_text()).await,
        "rpc.health" => health(shared, params.first_text()),
        _ => {
            let names = NAMES.iter().map(|name| (*name).to_owned());
            Err(unknown(format!("there is no `{method}`{}", nearest(method, names))))
        }
    }
}

async fn describe(shared: &Arc<Shared>, name: Option<&str>) -> Result<Vec<u8>, Status> {
    let services = shared.services();
    let Some(name) = name else {
        let mut all: Vec<_> = services
            .entries()
            .filter(|entry| !entry.name.starts_with(OWN_PREFIX))
            .filter_map(|entry| describe_service(&of_entry(entry), None))
            .collect();
        for service in services_of_others(shared) {
            if let Ok(described) = describe_remote(shared, &service).await {
                all.extend(describe_service(&described, None));
            }
        }
        return codec::to_named(&all);
    };
    // A service's name may look like that of a method of a shorter one.
    let (service, method) = match split_name(name) {
        _ if knows(shared, name) => (name, None),
        Some((service, method)) if knows(shared, service) => (service, Some(method)),
        _ => {
            let known = catalog::names(shared).into_iter().chain(shared.routes.read().names());
            return Err(Status::not_found(format!(
                "neither a service nor a method is called `{name}`{}",
                nearest(name, known)
            )));
        }
    };
    let described = match services.entry(service) {
        Some(entry) => Arc::new(of_entry(entry)),
        None => describe_remote(shared, service).await?,
    };
    match describe_service(&described, method) {
        Some(value) => codec::to_named(&value),
        None => {
            let method = method.unwrap_or_default();
            let names = described.methods.iter().map(|known| known.name.clone());
            let text = format!("service {service} has no method `{method}`{}", nearest(method, names));
            Err(unknown(text))
        }
    }
}

fn knows(shared: &Shared, service: &str) -> bool {
    !service.starts_with(OWN_PREFIX)
        && (shared.services().entry(service).is_some() || shared.offered(service).is_some())
}

fn of_entry(entry: &afflux_actor::ServiceEntry) -> ServiceDescription {
    ServiceDescription {
        name: entry.name.to_owned(),
        version: entry.version.to_owned(),
        doc: entry.doc.trim().to_owned(),
        methods: entry.methods.iter().map(MethodDescription::from).collect(),
    }
}

fn health(shared: &Shared, service: Option<&str>) -> Result<Vec<u8>, Status> {
    if let Some(service) = service {
        let is_there = knows(shared, service)
            || split_name(service).is_some_and(|(service, method)| {
                shared
                    .services()
                    .entry(service)
                    .is_some_and(|entry| entry.methods.iter().any(|spec| is_method(spec.name, method)))
            });
        if !is_there {
            let names = shared.routes.read().names().into_iter();
            return Err(Status::not_found(format!(
                "service `{service}` is not offered{}",
                nearest(service, names)
            )));
        }
    }
    let status = if shared.compat.is_draining() { "draining" } else { "serving" };
    let node = shared.config.node.as_str();
    codec::to_named(&std::collections::BTreeMap::from([("status", status), ("node", node)]))
}
