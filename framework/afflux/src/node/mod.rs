//! One node: threads, mesh, registration, services, admin HTTP, and its share of pipelines.

mod actors;
mod builder;
mod coordinate;
mod drain;
mod engine;
mod facts;
mod grpc;
mod hook;
mod hosted;
mod keyed;
mod lookup;
mod outside;
mod reach;
mod routing;

pub use actors::Spawned;
pub use builder::NodeBuilder;
pub(crate) use builder::default_id;
pub(crate) use engine::{defaults as job_defaults, guarantee_named, storage as checkpoint_storage};
pub(crate) use hook::{Hook, boxed as hook_of};
pub(crate) use hosted::{Declared, Spread, Surroundings};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use afflux_actor::{Place, ServiceEntry, Threads};
use afflux_mesh::Mesh;
use afflux_registry::{Coordination, InstanceState, RegistrationState, Registry, ServiceRecord, watch};
use afflux_wire::contract::Service;
use afflux_wire::{ActorPath, NodeId, Status};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::admin::{AdminServer, Probes};
use crate::client::Client;
use crate::registry_metrics::RegistryMetrics;
use crate::settings::Settings;
use facts::Facts;
use hosted::{Hosted, Stop};

/// A running node. Cheap to clone; [`Node::close`] ends it.
///
/// ```
/// use afflux::settings::Settings;
/// use afflux::{Node, NodeBuilder};
///
/// afflux_actor::system(|| async {
///     let node = NodeBuilder::new(Settings::default()).start().await?;
///     node.ready().await;
///     node.close().await;
///     Ok::<(), afflux::Error>(())
/// })??;
/// # Ok::<(), afflux::Error>(())
/// ```
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    threads: Arc<Threads>,
    mesh: Mesh,
    registry: Arc<dyn Registry>,
    coordination: Coordination,
    registry_metrics: RegistryMetrics,
    metrics: prometheus::Registry,
    probes: Arc<Probes>,
    facts: Arc<Facts>,
    around: Surroundings,
    admin: Option<AdminServer>,
    health: Option<AdminServer>,
    /// What the registry is to know, and how that stands.
    record: watch::Sender<Record>,
    registered: watch::Receiver<Option<RegistrationState>>,
    closing: watch::Sender<bool>,
    /// All of it has ended.
    ended: watch::Sender<bool>,
    /// Each is resolved when something that runs until `closing` has ended.
    closed: Mutex<Vec<oneshot::Receiver<()>>>,
    /// What stops the actors of services that run on every node.
    stops: Mutex<Vec<Stop>>,
    /// What stops the actors that were started by their names.
    spawned: Mutex<BTreeMap<ActorPath, Stop>>,
    /// Where gRPC clients reach it.
    grpc: Mutex<Option<SocketAddr>>,
}

impl Node {
    /// Its name.
    pub fn id(&self) -> &NodeId {
        self.inner.mesh.node()
    }

    /// Where other nodes and clients reach it.
    pub fn address(&self) -> String {
        self.inner.facts.address.clone()
    }

    /// Where its admin HTTP is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.inner.admin.as_ref().map(AdminServer::address)
    }

    /// Where its health port is: probes and metrics alone.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.inner.health.as_ref().map(AdminServer::address)
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// A client of a service, here or elsewhere: a name, not a connection.
    pub fn client<S: Service>(&self) -> S::Client {
        self.inner.mesh.client::<S>()
    }

    /// A client of the cluster.
    pub fn cluster(&self) -> Client {
        Client::of(self.inner.mesh.clone(), Arc::clone(&self.inner.registry))
    }

    /// Its mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.inner.mesh
    }

    /// Its registry.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.inner.registry
    }

    /// Its threads.
    pub fn threads(&self) -> &Arc<Threads> {
        &self.inner.threads
    }

    /// What it counts.
    pub fn metrics(&self) -> &prometheus::Registry {
        &self.inner.metrics
    }

    /// What `/readyz` answers.
    pub fn probes(&self) -> &Arc<Probes> {
        &self.inner.probes
    }

    /// Resolves when other nodes can find it.
    pub async fn ready(&self) {
        let mut registered = self.inner.registered.clone();
        // An error means that the node is closing: nothing changes any more.
        let _gone =
            registered.wait_for(|state| state.as_ref().is_some_and(RegistrationState::is_registered)).await;
    }

    /// Resolves when a later life of this node has taken its place in the registry: this one has to end.
    pub async fn superseded(&self) {
        let mut registered = self.inner.registered.clone();
        let taken =
            |state: &Option<RegistrationState>| matches!(state, Some(RegistrationState::Superseded { .. }));
        if registered.wait_for(taken).await.is_err() {
            futures_util::future::pending::<()>().await;
        }
    }

    /// Offers a service from now on.
    pub fn offer(&self, entry: ServiceEntry) {
        self.inner.facts.add(entry.clone());
        self.inner.mesh.serve(entry);
        self.publish();
    }

    /// Offers a service no longer.
    pub fn withdraw(&self, service: &str) {
        self.inner.mesh.withdraw(service);
        self.inner.facts.remove(service);
        self.publish();
    }

    /// Tells the registry what is offered now.
    fn publish(&self) {
        let services = self.inner.facts.records();
        let labels = self.inner.facts.labels.lock().clone();
        self.inner.record.send_modify(|record| {
            record.services = services;
            record.labels = labels;
        });
    }

    /// A place for services, links and timers.
    fn io(&self) -> &Place {
        &self.inner.around.place
    }

    /// Starts the actor of a declared service and offers what it serves.
    fn host(&self, declared: &Declared) -> Stop {
        let mut hosted = declared.start(&self.inner.around);
        if let Err(error) = self.name_actors(&mut hosted) {
            tracing::warn!(service = declared.name, %error, "an actor cannot be looked up");
        }
        let Hosted { entries, stop, ended, .. } = hosted;
        let names: Vec<&'static str> = entries.iter().map(|entry| entry.name).collect();
        for entry in entries {
            self.offer(entry);
        }
        let (node, name, gone) = (self.clone(), declared.name.clone(), names.clone());
        self.io().spawn_future(async move {
            let reason = ended.await;
            // Asked to: then it has been withdrawn already, or the node is closing.
            if !matches!(reason, afflux_actor::StopReason::Asked(_)) {
                tracing::error!(service = name, %reason, "a service has ended for good and is withdrawn");
                for service in gone {
                    node.withdraw(service);
                }
            }
        });
        let node = self.clone();
        Box::new(move |reason| {
            for service in names {
                node.withdraw(service);
            }
            stop(reason);
        })
    }

    /// Runs something on the node that ends when `closing` is true; [`Node::close`] waits for it.
    fn until_closing(
        &self,
        work: impl FnOnce(watch::Receiver<bool>) -> futures_util::future::BoxFuture<'static, ()>,
    ) {
        let (done, closed) = oneshot::channel();
        self.inner.closed.lock().push(closed);
        let work = work(self.inner.closing.subscribe());
        self.io().spawn_future(async move {
            work.await;
            let _ = done.send(());
        });
    }

    /// Runs what is declared to run once in the cluster, while this node holds its lock.
    fn lead(&self, lock: String, mut begin: impl FnMut(afflux_registry::Fence) -> Stop + Send + 'static) {
        let registry = Arc::clone(&self.inner.registry);
        let holder = format!("{}/{}", self.id(), self.inner.mesh.incarnation().0);
        let ttl = Duration::from_millis(self.inner.settings.registry_ttl_ms);
        let leads = self.inner.registry_metrics.election(&lock);
        self.until_closing(move |closing| {
            let mut running: Option<Stop> = None;
            Box::pin(afflux_registry::hold(registry, lock, holder, ttl, closing, move |turn| {
                leads.turn(turn.is_some());
                match turn {
                    Some(fence) => running = Some(begin(fence)),
                    None => {
                        if let Some(stop) = running.take() {
                            stop(Status::unavailable("this node no longer leads"));
                        }
                    }
                }
            }))
        });
    }

    /// Leaves the cluster and ends: not ready, deregistered, the calls that were taken answered within
    /// `drain.grace_ms`, then closed. A second call waits for the first.
    pub async fn close(&self) {
        if self.inner.closing.send_replace(true) {
            return self.closed().await;
        }
        let inner = &self.inner;
        let _ended = drain::Ended(&inner.ended);
        inner.probes.unmet("serving", "the node is shutting down");
        inner.facts.drain();
        // Peers hear it now; the registry may take a while to tell them.
        inner.mesh.leave();
        inner.record.send_modify(|record| record.state = InstanceState::Draining);
        tokio::time::sleep(Duration::from_millis(inner.settings.drain_lame_duck_ms)).await;
        let grace = Duration::from_millis(inner.settings.drain_grace_ms);
        let leading = std::mem::take(&mut *inner.closed.lock());
        let stepped_down = futures_util::future::join_all(leading);
        if tokio::time::timeout(grace, stepped_down).await.is_err() {
            tracing::warn!("the locks of this node were not given back in time and will run out");
        }
        inner.record.send_modify(|record| record.leave = true);
        let mut registered = inner.registered.clone();
        // The registration's end closes the channel.
        let left = async { while registered.changed().await.is_ok() {} };
        if tokio::time::timeout(grace, left).await.is_err() {
            tracing::warn!("this node could not be deregistered: its lease will run out");
        }
        inner.mesh.drain(grace).await;
        self.stop_spawned();
        for stop in inner.stops.lock().drain(..) {
            stop(Status::unavailable("the node is shutting down"));
        }
        inner.mesh.close();
        for server in inner.admin.iter().chain(&inner.health) {
            server.stop().await;
        }
    }
}

/// What the registry is to know of a node, beside what never changes.
#[derive(Clone, Debug, Default)]
struct Record {
    services: Vec<ServiceRecord>,
    /// What other nodes are to know of them.
    labels: BTreeMap<String, String>,
    state: InstanceState,
    /// The record is to be removed.
    leave: bool,
}

/// What a node publishes of a service.
fn record(entry: &ServiceEntry) -> ServiceRecord {
    ServiceRecord { name: entry.name.to_owned(), version: entry.version.to_owned() }
}
