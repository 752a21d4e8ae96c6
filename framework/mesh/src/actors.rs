//! Named actors of this node: each is reached alone, by its path and its life.
//!
//! A service is a name that any endpoint may answer for; an actor is one. Whoever calls one says which
//! life it means, and another life never answers for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use afflux_actor::{Death, ServiceEntry};
use afflux_wire::contract::{CallMeta, MethodSpec, Outgoing, Started, Target};
use afflux_wire::{ActorId, ActorPath, Code, Executed, Incarnation, Method, NodeId, Stage, Status};
use parking_lot::RwLock;

use crate::link::{Link, MethodName};
use crate::mesh::{Mesh, Shared};
use crate::metrics::MeshMetrics;
use crate::router::no_link;
use crate::services::{ServedMethod, ServiceTable, full_name, nearest, served_method};

/// Actors with a name that one node holds.
pub const NAMED_ACTORS_MAX: usize = 100_000;

/// An actor of this node.
pub(crate) struct NamedActor {
    id: ActorId,
    entries: Vec<ServiceEntry>,
    /// By `service/method`.
    methods: BTreeMap<String, Arc<ServedMethod>>,
    pub(crate) death: Death,
}

#[derive(Default)]
struct State {
    by_path: BTreeMap<ActorPath, Arc<NamedActor>>,
    lives: u64,
}

/// The actors of this node by their paths.
#[derive(Default)]
pub(crate) struct ActorTable(RwLock<State>);

/// A failure before anything ran.
fn refused(status: Status, node: &NodeId) -> Status {
    status.executed(Executed::No).stage(Stage::Admission).node(node)
}

/// The life of a node that a reference means is over.
fn restarted(id: &ActorId, now: Incarnation) -> Status {
    let text = format!(
        "the actor {id} is gone: node {} was started again and is incarnation {} now; look it up anew",
        id.node, now.0
    );
    refused(Status::new(Code::NotFound, text), &id.node)
}

impl ActorTable {
    fn insert(
        &self,
        node: &NodeId,
        incarnation: Incarnation,
        path: ActorPath,
        entries: Vec<ServiceEntry>,
        death: Death,
        metrics: &MeshMetrics,
    ) -> Result<ActorId, Status> {
        let mut state = self.0.write();
        match state.by_path.get(&path) {
            Some(actor) if actor.death.reason().is_none() => {
                let text = format!("node {node} has an actor {path} already: give this one another name");
                return Err(refused(Status::new(Code::AlreadyExists, text), node));
            }
            None if state.by_path.len() >= NAMED_ACTORS_MAX => {
                let text = format!(
                    "node {node} has {NAMED_ACTORS_MAX} named actors, its limit (NAMED_ACTORS_MAX): stop \
                     some, or make one actor of many"
                );
                return Err(refused(Status::new(Code::ResourceExhausted, text), node));
            }
            _ => {}
        }
        state.lives += 1;
        let id = ActorId { node: node.clone(), incarnation, path: path.clone(), life: state.lives };
        let each = entries.iter().flat_map(|entry| {
            let method = move |(index, spec): (usize, &'static MethodSpec)| {
                (full_name(entry.name, spec.name), served_method(entry, index, spec, metrics))
            };
            entry.methods.iter().enumerate().map(method)
        });
        let methods = each.collect();
        let actor = NamedActor { id: id.clone(), entries, methods, death };
        state.by_path.insert(path, Arc::new(actor));
        Ok(id)
    }

    fn remove(&self, id: &ActorId) {
        let mut state = self.0.write();
        if state.by_path.get(&id.path).is_some_and(|actor| actor.id == *id) {
            state.by_path.remove(&id.path);
        }
    }

    fn at(&self, path: &ActorPath) -> Option<Arc<NamedActor>> {
        self.0.read().by_path.get(path).filter(|actor| actor.death.reason().is_none()).cloned()
    }

    /// The actor that a reference means, and no other.
    pub(crate) fn find(
        &self,
        node: &NodeId,
        incarnation: Incarnation,
        id: &ActorId,
    ) -> Result<Arc<NamedActor>, Status> {
        let gone = |text: String| refused(Status::new(Code::NotFound, text), node);
        if id.node != *node {
            return Err(gone(format!("the actor {id} was asked for on node {node}")));
        }
        if id.incarnation != incarnation {
            return Err(restarted(id, incarnation));
        }
        match self.0.read().by_path.get(&id.path) {
            None => Err(gone(format!("the actor {id} is gone: nothing has the path {} there now", id.path))),
            Some(other) if other.id.life != id.life => {
                Err(gone(format!("the actor {id} is gone: life {} has its path now", other.id.life)))
            }
            Some(actor) => match actor.death.reason() {
                Some(reason) => Err(gone(format!("the actor {id} is gone: it ended ({reason})"))),
                None => Ok(Arc::clone(actor)),
            },
        }
    }
}

impl NamedActor {
    fn entry(&self, service: &str) -> Result<&ServiceEntry, Status> {
        self.entries.iter().find(|entry| entry.name == service).ok_or_else(|| self.serves_not(service))
    }

    fn serves_not(&self, service: &str) -> Status {
        let names: Vec<&str> = self.entries.iter().map(|entry| entry.name).collect();
        let text = format!("the actor {} does not serve {service}: it serves {}", self.id, names.join(", "));
        refused(Status::new(Code::Unimplemented, text), &self.id.node)
    }

    fn method(&self, name: &str) -> Result<Arc<ServedMethod>, Status> {
        if let Some(method) = self.methods.get(name) {
            return Ok(Arc::clone(method));
        }
        let (service, method) = name.rsplit_once('/').unwrap_or((name, ""));
        let entry = self.entry(service)?;
        let names = entry.methods.iter().map(|spec| spec.name.to_owned());
        let text = format!("service {service} has no method `{method}`{}", nearest(method, names));
        Err(refused(Status::new(Code::Unimplemented, text), &self.id.node))
    }
}

impl Shared {
    /// The actor of this node that a reference means.
    pub(crate) fn find_actor(&self, id: &ActorId) -> Result<Arc<NamedActor>, Status> {
        self.actors.find(&self.config.node, self.config.incarnation, id)
    }

    /// What a request calls whose meta names one actor; the word is the metric's reason.
    #[cold]
    pub(crate) fn method_of_actor(
        &self,
        to: &[u8],
        services: &ServiceTable,
        method: Method<'_>,
    ) -> Result<Arc<ServedMethod>, (Status, &'static str)> {
        let id: ActorId = afflux_wire::codec::from_slice(to)
            .map_err(|status| (Status::invalid(format!("meta.to: {}", status.message)), "actor"))?;
        let actor = self.find_actor(&id).map_err(|status| (status, "actor"))?;
        let name = match method {
            Method::Name(name) => name.to_owned(),
            Method::Number(_) => services.name(method).ok_or_else(|| {
                let text = "no method is bound to this number: call it by its name";
                (Status::new(Code::Unimplemented, text).executed(Executed::No), "unknown_method")
            })?,
        };
        actor.method(&name).map_err(|status| (status, "unknown_method"))
    }

    /// The link to the life of a node in which an actor lives. At stage connect it may come yet; any
    /// other failure is final.
    pub(crate) fn link_of(&self, id: &ActorId) -> Result<Arc<Link>, Status> {
        let peers = self.peers.lock();
        match peers.link(&id.node) {
            Some(link) if link.incarnation > id.incarnation => Err(restarted(id, link.incarnation)),
            Some(link) if link.incarnation < id.incarnation => Err(no_link(&id.node)),
            Some(link) if link.is_up() => Ok(Arc::clone(link)),
            Some(_) => {
                let text = format!("node {} is going away, and the actor {id} with it", id.node);
                Err(refused(Status::unavailable(text), &id.node))
            }
            None if peers.knows(&id.node) => Err(no_link(&id.node)),
            None => {
                let text = format!(
                    "the actor {id} is out of reach: node {} has left the cluster, or is not known here yet",
                    id.node
                );
                Err(refused(Status::unavailable(text), &id.node))
            }
        }
    }

    /// Starts a call of one actor.
    #[cold]
    pub(crate) fn start_actor(
        &self,
        id: &ActorId,
        target: &Target,
        method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        if self.is_closed() {
            let text = format!("node {} has closed its mesh", self.config.node);
            return Err(refused(Status::unavailable(text), &self.config.node));
        }
        if id.node == self.config.node {
            let actor = self.find_actor(id)?;
            call.deliver(&*actor.entry(&target.service)?.endpoint, meta)?;
            return Ok(Started::Local);
        }
        let one_way = !method.expects_answer();
        self.link_of(id)?.start(&target.service, MethodName::Spec(method), one_way, &meta, call)
    }
}

impl Mesh {
    /// Gives an actor of this node a name, under which it alone is called. It is forgotten when
    /// `death` is announced.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` while another has the path, `RESOURCE_EXHAUSTED` above [`NAMED_ACTORS_MAX`].
    pub fn name_actor(
        &self,
        path: ActorPath,
        entries: Vec<ServiceEntry>,
        death: Death,
    ) -> Result<ActorId, Status> {
        let shared = &self.shared;
        let (node, life) = (&shared.config.node, shared.config.incarnation);
        let id = shared.actors.insert(node, life, path, entries, death.clone(), &shared.metrics)?;
        let (ended, shared) = (id.clone(), Arc::clone(shared));
        self.shared.place.spawn_future(async move {
            tokio::select! {
                biased;
                _ = death.watch() => {}
                () = shared.stopped() => {}
            }
            shared.actors.remove(&ended);
        });
        Ok(id)
    }

    /// The actor that has this path here now, with the services that it serves.
    pub fn named_actor(&self, path: &ActorPath) -> Option<(ActorId, Vec<&'static str>)> {
        let actor = self.shared.actors.at(path)?;
        Some((actor.id.clone(), actor.entries.iter().map(|entry| entry.name).collect()))
    }
}

impl afflux_wire::contract::Via for Mesh {
    fn caller(&self) -> Option<Arc<dyn afflux_wire::contract::Caller>> {
        Some(Mesh::caller(self))
    }
}
