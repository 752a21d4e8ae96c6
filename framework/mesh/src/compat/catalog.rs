//! From a name that a client sent to a method: of this node, or of one that is linked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use afflux_wire::compat::{
    MethodDescription, ServiceDescription, Wanted, is_method, plain_name, read_services, split_name,
};
use afflux_wire::contract::{MethodKind, MethodSpec, Target};
use afflux_wire::{Code, Executed, NodeId, Stage, Status};

use crate::mesh::Shared;
use crate::metrics::ServedMetrics;
use crate::services::nearest;

/// Services of the framework itself: links alone reach them.
pub(super) const OWN_PREFIX: &str = "afflux.";
/// What every node tells of its services.
const NODE_SERVICE: &str = "afflux.node";
/// For a node to tell what it offers.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The deadline of a method of which nothing but the name is known.
const UNKNOWN_DEADLINE: Duration = Duration::from_secs(30);
/// Services of other nodes whose descriptions are kept.
const DESCRIBED_SERVICES_MAX: usize = 1_024;

/// A method as a client can call it.
pub(super) struct Method {
    pub(super) target: Target,
    /// As declared.
    pub(super) name: String,
    pub(super) one_way: bool,
    pub(super) is_stream: bool,
    pub(super) deadline: Duration,
    /// The rule of the method itself; empty for one of another node, which asks again.
    pub(super) allow: &'static str,
    /// Nothing is known of the parameters of a method of a node that does not describe itself.
    pub(super) wanted: Option<Wanted>,
    /// Of a method that is served here.
    pub(super) metrics: Option<ServedMetrics>,
}

impl Method {
    fn local(shared: &Shared, service: &'static str, spec: &'static MethodSpec) -> Self {
        Self {
            target: Target::service(service),
            name: spec.name.to_owned(),
            one_way: spec.kind == MethodKind::OneWay,
            is_stream: spec.kind.accepts() || spec.kind.streams(),
            deadline: spec.deadline,
            allow: spec.allow,
            wanted: Some(Wanted::new(spec.fields, &(spec.params)().to_value())),
            metrics: Some(shared.metrics.served(service, spec.name)),
        }
    }

    fn remote(service: &str, described: &MethodDescription) -> Self {
        Self {
            target: Target::service(service),
            name: described.name.clone(),
            one_way: described.kind == "oneway",
            is_stream: described.kind == "duplex" || described.kind.ends_with("stream"),
            deadline: match described.deadline_ms {
                0 => UNKNOWN_DEADLINE,
                ms => Duration::from_millis(ms),
            },
            allow: "",
            wanted: Some(described.wanted()),
            metrics: None,
        }
    }

    fn unknown(service: &str, name: &str) -> Self {
        Self {
            target: Target::service(service),
            name: name.to_owned(),
            one_way: false,
            is_stream: false,
            deadline: UNKNOWN_DEADLINE,
            allow: "",
            wanted: None,
            metrics: None,
        }
    }
}

/// Methods that were called once: what a schema says is read once.
pub(super) struct Known {
    /// By the contract's methods, which live as long as the process, and the index among them.
    pub(super) local: BTreeMap<(usize, usize), Arc<Method>>,
    pub(super) remote: BTreeMap<String, Described>,
}

/// A service of other nodes.
pub(super) struct Described {
    /// The node that told, and the count of changes at that time: links and services may differ later.
    from: NodeId,
    version: u64,
    description: Arc<ServiceDescription>,
    methods: Vec<Arc<Method>>,
}

/// Finds what a client calls.
pub(super) async fn resolve(shared: &Arc<Shared>, called: &str) -> Result<Arc<Method>, Status> {
    let Some((service, method)) = split_name(called) else {
        return Err(unknown(format!(
            "`{called}` names no method: write service and method, such as shop.orders.place{}",
            nearest(called, names(shared).into_iter())
        )));
    };
    if service.starts_with(OWN_PREFIX) {
        return Err(Status::new(
            Code::PermissionDenied,
            format!("{called} is a service of the nodes among themselves: rpc.describe tells what this node offers"),
        )
        .executed(Executed::No)
        .stage(Stage::Admission));
    }
    let services = shared.services();
    if let Some(entry) = services.entry(service) {
        let found = entry.methods.iter().enumerate().find(|(_, spec)| is_method(spec.name, method));
        let Some((index, spec)) = found else { return Err(no_method(shared, service, method)) };
        let key = (entry.methods.as_ptr().addr(), index);
        if let Some(known) = shared.compat.methods.lock().local.get(&key) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(Method::local(shared, entry.name, spec));
        shared.compat.methods.lock().local.insert(key, Arc::clone(&made));
        return Ok(made);
    }
    let Some((_, offered)) = shared.offered(service) else {
        return Err(Status::not_found(format!(
            "service `{service}` is offered by no node that is linked to this one{}",
            nearest(service, shared.routes.read().names().into_iter())
        ))
        .stage(Stage::Admission));
    };
    let Some(name) = offered.iter().find(|name| is_method(name, method)) else {
        return Err(no_method(shared, service, method));
    };
    // The offer without a description is enough to call it.
    let _ = describe_remote(shared, service).await;
    let known = shared.compat.methods.lock();
    let described = known.remote.get(service).and_then(|d| d.methods.iter().find(|m| m.name == *name));
    Ok(described.map_or_else(|| Arc::new(Method::unknown(service, name)), Arc::clone))
}

/// What a service of another node takes and gives, asked once.
pub(super) async fn describe_remote(
    shared: &Arc<Shared>,
    service: &str,
) -> Result<Arc<ServiceDescription>, Status> {
    let version = *shared.changes.borrow();
    let Some((node, _)) = shared.offered(service) else {
        return Err(Status::not_found(format!("service `{service}` is offered by nobody")));
    };
    if let Some(known) = shared.compat.methods.lock().remote.get(service)
        && (known.version == version || known.from == node)
    {
        return Ok(Arc::clone(&known.description));
    }
    let target = Target::on(NODE_SERVICE, node.clone());
    let answer = shared.call_raw(&target, "Services", vec![0x80], DESCRIBE_TIMEOUT).await?;
    let all = read_services(&answer)?;
    let mut known = shared.compat.methods.lock();
    for description in all.into_iter().filter(|described| !described.name.starts_with(OWN_PREFIX)) {
        if known.remote.len() >= DESCRIBED_SERVICES_MAX && !known.remote.contains_key(&description.name) {
            known.remote.pop_first();
        }
        let methods =
            description.methods.iter().map(|m| Arc::new(Method::remote(&description.name, m))).collect();
        let name = description.name.clone();
        let described =
            Described { from: node.clone(), version, description: Arc::new(description), methods };
        known.remote.insert(name, described);
    }
    match known.remote.get(service) {
        Some(described) => Ok(Arc::clone(&described.description)),
        None => Err(Status::not_found(format!("node {node} does not describe service `{service}`"))),
    }
}

/// Every method that can be called from here, as clients write it; sorted.
pub(super) fn names(shared: &Shared) -> Vec<String> {
    let services = shared.services();
    let mut names = Vec::new();
    for service in services_of_others(shared) {
        if let Some((_, methods)) = shared.offered(&service) {
            names.extend(methods.iter().map(|method| plain_name(&service, method)));
        }
    }
    for entry in services.entries().filter(|entry| !entry.name.starts_with(OWN_PREFIX)) {
        names.extend(entry.methods.iter().map(|spec| plain_name(entry.name, spec.name)));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Services that other nodes offer and this one does not.
pub(super) fn services_of_others(shared: &Shared) -> Vec<String> {
    let services = shared.services();
    let mut names = shared.routes.read().names();
    names.retain(|name| !name.starts_with(OWN_PREFIX) && services.entry(name).is_none());
    names
}

fn no_method(shared: &Shared, service: &str, method: &str) -> Status {
    let prefix = format!("{service}.");
    let names = names(shared);
    let names = names.iter().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned()));
    unknown(format!("service {service} has no method `{method}`{}", nearest(method, names)))
}

pub(super) fn unknown(text: String) -> Status {
    Status::new(Code::Unimplemented, text).executed(Executed::No).stage(Stage::Admission)
}
