//! Actors by their names: started at run time, looked up on every node, watched.

use std::fmt;
use std::sync::Arc;

use afflux_actor::{Death, Serves, StopReason, Watch};
use afflux_mesh::DownWatch;
use afflux_wire::contract::{ActorRef, Caller, Service, Via};
use afflux_wire::{ActorId, ActorPath, Status};

use super::Node;
use super::hosted::{Hosted, Stop, begin};
use crate::error::{Error, Result};

/// An actor that was started by its name. Dropping this stops nothing.
pub struct Spawned {
    id: ActorId,
    services: Vec<&'static str>,
    death: Death,
    node: Node,
}

impl Spawned {
    /// Which actor it is.
    pub fn id(&self) -> &ActorId {
        &self.id
    }

    /// A reference that can be kept, sent and called from any node.
    ///
    /// # Errors
    /// A contract that it does not serve.
    pub fn actor<S: Service>(&self) -> Result<ActorRef<S>> {
        if self.services.contains(&S::NAME) {
            return Ok(ActorRef::new(self.id.clone()));
        }
        Err(Error::failed(format!("the actor {} does not serve {}", self.id, S::NAME))
            .hint(format!("it serves {}", self.services.join(", "))))
    }

    /// A future of its end.
    pub fn watch(&self) -> Watch {
        self.death.watch()
    }

    /// Asks it to stop, after the message it is handling.
    pub fn stop(&self, reason: &str) {
        if let Some(stop) = self.node.inner.spawned.lock().remove(&self.id.path) {
            stop(Status::unavailable(reason));
        }
    }
}

impl fmt::Debug for Spawned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spawned({}, {:?})", self.id, self.death.reason())
    }
}

impl Node {
    /// Starts an actor under a name of this node. It is reached by references and lookups alone: its
    /// contracts are not offered to clients, as those of [`NodeBuilder::service`](crate::NodeBuilder::service)
    /// are. `factory` makes its state, and a fresh one after a crash. It ends with the node.
    ///
    /// # Errors
    /// A name that a living actor of this node has.
    pub fn spawn<A, E, F>(&self, name: &str, factory: F) -> Result<Spawned>
    where
        A: Serves,
        E: Into<Error>,
        F: Fn() -> std::result::Result<A, E> + Clone + Send + Sync + 'static,
    {
        const { assert!(A::KEYED.is_none(), "a keyed actor is declared with `keyed`") };
        let path = ActorPath::new(name);
        if self.inner.mesh.named_actor(&path).is_some() {
            return Err(Error::failed(format!("node {} has an actor {name} already", self.id()))
                .hint("give this one another name, or stop that one first"));
        }
        let factory = move || factory().map_err(|error| error.into().into_status());
        let mut hosted = begin::<A>(name, &self.inner.around, factory);
        let death = hosted.named.first().map(|named| named.death.clone()).unwrap_or_default();
        let services = hosted.entries.iter().map(|entry| entry.name).collect();
        let ids = self.name_actors(&mut hosted)?;
        let id = ids.into_iter().next().ok_or_else(|| Error::failed("an actor without a name"))?;
        let Hosted { stop, ended, .. } = hosted;
        self.inner.spawned.lock().insert(path.clone(), stop);
        let (node, watched) = (self.clone(), death.clone());
        self.io().spawn_future(async move {
            // Polled to its end: a pool announces its own.
            let _ = ended.await;
            let _ = watched.watch().await;
            if node.inner.mesh.named_actor(&path).is_none() {
                node.inner.spawned.lock().remove(&path);
            }
        });
        Ok(Spawned { id, services, death, node: self.clone() })
    }

    /// Gives the actors of a host their names.
    pub(super) fn name_actors(&self, hosted: &mut Hosted) -> Result<Vec<ActorId>> {
        let named = std::mem::take(&mut hosted.named);
        let name =
            |actor: super::hosted::Named| self.inner.mesh.name_actor(actor.path, actor.entries, actor.death);
        let ids: std::result::Result<Vec<_>, Status> = named.into_iter().map(name).collect();
        Ok(ids?)
    }

    /// The actor of this name that serves `S`: this node's, else that of the first node that has one.
    ///
    /// # Errors
    /// `NOT_FOUND` when no node has one, `UNAVAILABLE` when some could not be asked.
    pub async fn lookup<S: Service>(&self, name: &str) -> Result<ActorRef<S>> {
        self.cluster().lookup(name).await
    }

    /// The actors of this name that serve `S`, in the order of their nodes.
    ///
    /// # Errors
    /// As [`Node::lookup`].
    pub async fn lookup_all<S: Service>(&self, name: &str) -> Result<Vec<ActorRef<S>>> {
        self.cluster().lookup_all(name).await
    }

    /// A future of the end of an actor, here or on another node; see [`afflux_mesh::Mesh::watch`] for
    /// what a lost link means.
    pub fn watch<S: Service>(&self, actor: &ActorRef<S>) -> DownWatch {
        self.inner.mesh.watch(actor.id())
    }

    /// Stops what [`Node::spawn`] has started.
    pub(super) fn stop_spawned(&self) {
        let spawned: Vec<Stop> = std::mem::take(&mut *self.inner.spawned.lock()).into_values().collect();
        for stop in spawned {
            stop(Status::unavailable("the node is shutting down"));
        }
    }
}

impl Via for Node {
    fn caller(&self) -> Option<Arc<dyn Caller>> {
        Some(self.inner.mesh.caller())
    }
}

/// The last of several ends, told as that of all.
pub(super) async fn all_ended(watches: Vec<Watch>, death: Death) -> StopReason {
    let mut last = StopReason::Finished;
    for watch in watches {
        last = watch.await;
    }
    death.announce(last.clone());
    last
}
