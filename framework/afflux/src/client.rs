//! A client of a cluster: finds its nodes through the registry, calls their services.

use std::sync::Arc;
use std::time::Duration;

use afflux_actor::{Clock, Place};
use afflux_mesh::{CLIENT_PREFIX, Mesh, MeshConfig, MeshMetrics, Tls, Transport};
use afflux_registry::{InstanceState, Registry, View};
use afflux_wire::contract::{CallError, RpcError, Service, Target};
use afflux_wire::{Code, Incarnation, NodeId, Stage, Status};
use futures_util::future::join_all;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::jobs::{Jobs, JobsClient};
use crate::node_service::{NodeInfo, NodeService, NodeServiceClient, ServiceInfo};
use crate::registry_service::{Home, RegistryService, RemoteRegistry};

/// Time to reach a node and to see the cluster's nodes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that is no node: it dials and is never dialled.
///
/// Cheap to clone. A [`Node`](crate::Node) has one too, over its own mesh.
#[derive(Clone)]
pub struct Client {
    mesh: Mesh,
    registry: Arc<dyn Registry>,
}

/// A service and the nodes that offer it.
#[derive(Clone, Debug, Serialize)]
pub struct Offered {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceInfo,
    /// The nodes, by name.
    pub nodes: Vec<String>,
}

/// Whom to connect to, and as what.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// Node port of any process of the cluster.
    pub address: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's secret, or a caller's own; empty for none.
    pub token: String,
    /// Certificates, where the cluster's links are inside TLS.
    pub tls: Option<Tls>,
}

impl Client {
    /// Connects to a cluster through one of its processes.
    ///
    /// Must be called inside [`afflux_actor::system`].
    ///
    /// # Errors
    /// Nobody there, another cluster, another protocol, a wrong token: with the address and the cure.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self> {
        Self::connect_over(endpoint, Transport::Tcp).await
    }

    /// The same over another transport.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_over(endpoint: &Endpoint, transport: Transport) -> Result<Self> {
        let place = Place::current()
            .ok_or_else(|| Error::failed("a client needs `afflux_actor::system` around it"))?;
        let clock = Clock::new(std::time::SystemTime::now);
        let wall = clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let id = format!("{CLIENT_PREFIX}{}-{}", std::process::id(), wall.as_nanos() % 1_000_000_000);
        let config = MeshConfig {
            incarnation: Incarnation(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
            token: (!endpoint.token.is_empty()).then(|| endpoint.token.clone()),
            tls: endpoint.tls.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            ..MeshConfig::new(id.as_str(), endpoint.cluster.clone())
        };
        let mesh = Mesh::start(config, transport, place.clone(), MeshMetrics::unregistered())?;
        let (_, home) = find_home(&mesh, &endpoint.address).await?;
        let registry = RemoteRegistry::new(mesh.client_on::<RegistryService>(&home), &place);
        let client = Self { mesh, registry: Arc::new(registry) };
        client.mesh.set_view(&*client.view().await?);
        follow(&place, client.mesh.clone(), &*client.registry);
        Ok(client)
    }

    /// A client over a mesh that is there already.
    /// Its mesh.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) fn of(mesh: Mesh, registry: Arc<dyn Registry>) -> Self {
        Self { mesh, registry }
    }

    /// A client of a service: a name, not a connection.
    pub fn client<S: Service>(&self) -> S::Client {
        self.mesh.client::<S>()
    }

    /// What one node tells of itself.
    pub fn node(&self, node: &NodeId) -> NodeServiceClient {
        self.mesh.client_on::<NodeService>(node)
    }

    /// A client of the cluster's coordinator of jobs.
    ///
    /// # Errors
    /// When no node coordinates jobs; that is told at once, not waited for.
    pub async fn jobs(&self) -> Result<JobsClient> {
        let view = self.view().await?;
        if view.offering(<Jobs as Service>::NAME).next().is_none() {
            return Err(Error::failed("no node of the cluster coordinates jobs")
                .hint("one does as soon as a node with a pipeline is ready: `nodes` shows who is there"));
        }
        Ok(self.client::<Jobs>())
    }

    /// Every node's record.
    ///
    /// # Errors
    /// A registry that does not answer.
    pub async fn view(&self) -> Result<Arc<View>> {
        Ok(self.registry.view().await?)
    }

    /// Tells every change of the records.
    pub(crate) fn watch(&self) -> afflux_registry::Watcher {
        self.registry.watch()
    }

    /// Calls a method with MessagePack params; returns MessagePack.
    ///
    /// # Errors
    /// What the service answers, or why it did not.
    pub async fn call_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        deadline: Duration,
    ) -> std::result::Result<Vec<u8>, Status> {
        self.mesh.call_raw(target, method, params, deadline).await
    }

    /// Opens a call without types, of a method of any kind but one-way: `deadline` bounds the opening.
    ///
    /// # Errors
    /// What the service answers, or why it did not.
    pub async fn open_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        deadline: Duration,
    ) -> std::result::Result<afflux_mesh::RawStream, Status> {
        self.mesh.open_raw(target, method, params, deadline).await
    }

    /// Every node, asked at the same time; one that does not answer is marked `unreachable`.
    ///
    /// # Errors
    /// A registry that does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        let view = self.view().await?;
        let asked = view.instances.iter().map(|instance| async {
            match self.node(&instance.node).info().await {
                Ok(info) => info,
                Err(error) => {
                    tracing::debug!(node = %instance.node, %error, "a node does not answer");
                    NodeInfo::silent(instance)
                }
            }
        });
        let mut nodes = join_all(asked).await;
        // A cluster without pipelines has nobody who coordinates jobs.
        if view.offering(<Jobs as Service>::NAME).next().is_some() {
            match self.client::<Jobs>().list().await {
                Ok(jobs) => {
                    for task in jobs.into_iter().filter(|job| !job.has_ended()).flat_map(|job| job.tasks) {
                        if let Some(node) = nodes.iter_mut().find(|node| node.id == task.node) {
                            node.tasks.push(task);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the coordinator does not tell its jobs: no tasks are shown")
                }
            }
        }
        Ok(nodes)
    }

    /// Every service with the nodes that offer it, by name.
    ///
    /// # Errors
    /// A registry that does not answer.
    pub async fn services(&self) -> Result<Vec<Offered>> {
        let view = self.view().await?;
        let asked = view.instances.iter().map(|instance| async {
            (instance.node.to_string(), self.node(&instance.node).services().await)
        });
        let mut by_name = std::collections::BTreeMap::new();
        for (node, answer) in join_all(asked).await {
            match answer {
                Ok(services) => {
                    for service in services {
                        by_name
                            .entry(service.name.clone())
                            .or_insert_with(|| Offered { service, nodes: Vec::new() })
                            .nodes
                            .push(node.clone());
                    }
                }
                Err(error) => tracing::warn!(node, %error, "a node does not tell its services"),
            }
        }
        Ok(by_name.into_values().collect())
    }

    /// Closes its connections.
    pub fn close(&self) {
        self.mesh.close();
    }
}

/// Connects to a process of the cluster and, if it is another, to the one that holds the registry;
/// returns where that is and its node id.
pub(crate) async fn find_home(mesh: &Mesh, address: &str) -> Result<(Home, NodeId)> {
    let unreached = |status: Status| {
        let error = Error::from(status).context(format!("cannot join through {address}"));
        error.hint("is a node running there, of this cluster, with this token? `AFFLUX_TOKEN` sets it")
    };
    let first = mesh.connect_unknown(address).await.map_err(unreached)?;
    let home = called(mesh.client_on::<RegistryService>(&first).home().deadline(CONNECT_TIMEOUT).await)
        .map_err(|error| error.context(format!("{address} does not tell where the registry is")))?;
    if home.node == first.as_str() {
        return Ok((home, first));
    }
    let node = mesh.connect_unknown(&home.address).await.map_err(|status| {
        Error::from(status).context(format!("cannot reach the registry at {}", home.address))
    })?;
    Ok((home, node))
}

/// A node that has left the registry keeps its links for this long: its last answers are on their way.
const LEAVING: Duration = Duration::from_millis(500);

/// Keeps a mesh's view that of the registry, for as long as the registry lives.
pub(crate) fn follow(place: &Place, mesh: Mesh, registry: &dyn Registry) {
    let mut watcher = registry.watch();
    place.spawn_future(async move {
        let mut applied = View::default();
        // A view without the nodes that have left, applied once `LEAVING` has passed.
        let mut pending: Option<(tokio::time::Instant, View)> = None;
        loop {
            let view = match &pending {
                None => watcher.next().await,
                Some((due, _)) => match tokio::time::timeout_at(*due, watcher.next()).await {
                    Ok(view) => view,
                    Err(_) => {
                        if let Some((_, view)) = pending.take() {
                            mesh.set_view(&view);
                            applied = view;
                        }
                        continue;
                    }
                },
            };
            let Some(view) = view else { return };
            // Unreachable is not empty: what was seen last stays, connections tell who is alive.
            if !view.reachable {
                continue;
            }
            let (merged, leaving) = with_leaving(&applied, &view);
            mesh.set_view(&merged);
            applied = merged;
            pending = match (leaving, pending) {
                (false, _) => None,
                (true, Some((due, _))) => Some((due, View::clone(&view))),
                (true, None) => Some((tokio::time::Instant::now() + LEAVING, View::clone(&view))),
            };
        }
    });
}

/// The new view, and in it, as draining, what it lacks of the old; whether that is anything.
fn with_leaving(old: &View, new: &View) -> (View, bool) {
    let mut merged = new.clone();
    let gone = old.instances.iter().filter(|instance| new.instance(&instance.node).is_none());
    merged.instances.extend(gone.cloned().map(|mut instance| {
        instance.state = InstanceState::Draining;
        instance
    }));
    let leaving = merged.instances.len() > new.instances.len();
    merged.instances.sort_by(|a, b| a.node.cmp(&b.node));
    (merged, leaving)
}

/// The error of a call as this process's own, with what to do when nobody offers the service.
pub(crate) fn called<T, E: RpcError>(answer: std::result::Result<T, CallError<E>>) -> Result<T> {
    answer.map_err(|error| {
        let status = error.into_status();
        let nobody = status.code == Code::Unavailable
            && status.details.as_ref().is_some_and(|details| details.stage == Some(Stage::Connect));
        let error = Error::from(status);
        if nobody {
            error.hint("`services --all` lists what is offered, `nodes` who is there")
        } else {
            error
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_registry::Instance;

    #[test]
    fn a_node_that_has_left_gets_no_new_calls_but_keeps_its_link_for_a_moment() {
        let of = |names: &[&str]| View {
            version: 1,
            instances: names
                .iter()
                .map(|n| Instance::new(*n, Incarnation(1), "h:1").offering("s", "1"))
                .collect(),
            reachable: true,
        };
        let (merged, leaving) = with_leaving(&of(&["a", "b"]), &of(&["b", "c"]));
        assert!(leaving);
        let names: Vec<&str> = merged.instances.iter().map(|i| i.node.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let called: Vec<&str> = merged.offering("s").map(|i| i.node.as_str()).collect();
        assert_eq!(called, ["b", "c"]);
        assert!(!with_leaving(&of(&["a"]), &of(&["a", "b"])).1);
    }
}
