//! A registry served over the mesh, and the registry that asks one so.
//!
//! The process that holds a registry in memory (the launcher of `dev`, or the node that began the
//! cluster) serves it as [`RegistryService`]; every other node registers through a
//! [`RemoteRegistry`]. This glue lives here so that the registry's crate sees no links.

use std::sync::Arc;
use std::time::Duration;

use afflux_actor::{Place, ServiceEntry};
use afflux_registry::{Fence, Instance, LeaseId, Publisher, Registry, RegistryError, View, Watcher, watch};
use afflux_wire::contract::{CallError, Cx, Fault};
use afflux_wire::{Incarnation, NodeId};
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::concurrent::{Concurrent, log_panic};
use crate::macros::{RpcError, Service};

/// A view is asked for again after this long without a change.
const VIEW_WAIT_MS: u64 = 5_000;

/// What a caller waits beyond [`VIEW_WAIT_MS`] before it takes the registry for unreachable.
const VIEW_MARGIN_MS: u64 = 2_000;

/// Between two questions to a registry that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// An operation other than the view is given up after this long.
const OPERATION_MS_MAX: u64 = 2_000;

/// The name of a remote registry in messages.
const NAME: &str = "embedded";

/// Where the registry of a cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Home {
    /// The process that holds it: a node, or the launcher.
    pub node: String,
    /// Its node port.
    pub address: String,
}

/// A node's record on the wire: the registry's own named map.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct InstanceRecord(#[schemars(with = "serde_json::Value")] pub Instance);

/// A view on the wire: the registry's own named map.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ViewRecord(#[schemars(with = "serde_json::Value")] pub View);

/// Who holds a lock, and its fencing token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HolderRecord {
    /// One life of one process.
    pub holder: String,
    /// Its token.
    pub fence: u64,
}

/// Why a registry did not do what it was asked, as it crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, RpcError)]
pub enum RegistryFault {
    /// The lease has expired or was taken over.
    #[rpc(code = NotFound)]
    LeaseLost {
        /// The lease.
        lease: u64,
    },
    /// A later life of the node is registered.
    #[rpc(code = Aborted)]
    Superseded {
        /// The node.
        node: String,
        /// The life that was refused.
        ours: u64,
        /// The one that is registered.
        newer: u64,
    },
    /// The lock is not held with this token.
    #[rpc(code = Aborted)]
    NotHeld {
        /// The lock.
        name: String,
        /// The token.
        fence: u64,
    },
    /// There are no locks.
    #[rpc(code = Unimplemented)]
    NoLocks,
    /// A counter cannot hold that.
    #[rpc(code = OutOfRange)]
    Overflow {
        /// The counter.
        name: String,
        /// Its value.
        value: i64,
        /// What was to be added.
        n: i64,
    },
    /// A name that cannot be part of a key.
    #[rpc(code = InvalidArgument)]
    Name {
        /// The name, cut.
        name: String,
        /// The most bytes.
        max: usize,
    },
    /// Anything else, as text.
    #[rpc(code = Unavailable)]
    Other {
        /// What happened.
        reason: String,
    },
}

impl From<RegistryError> for RegistryFault {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::LeaseLost { lease, .. } => Self::LeaseLost { lease: lease.0 },
            RegistryError::Superseded { node, ours, newer } => {
                Self::Superseded { node: node.to_string(), ours: ours.0, newer: newer.0 }
            }
            RegistryError::NotHeld { name, fence } => Self::NotHeld { name, fence },
            RegistryError::Unsupported { .. } => Self::NoLocks,
            RegistryError::Overflow { name, value, n } => Self::Overflow { name, value, n },
            RegistryError::Name { name, max } => Self::Name { name, max },
            other => Self::Other { reason: other.to_string() },
        }
    }
}

/// The error of a call, for whoever uses the registry: what it answered, or that it did not.
fn error_of(error: CallError<RegistryFault>) -> RegistryError {
    let unreachable = |reason: String| RegistryError::Unreachable { registry: NAME, reason };
    match error {
        CallError::Status(status) => unreachable(status.message),
        CallError::Typed(fault, _) => match fault {
            RegistryFault::LeaseLost { lease } => {
                RegistryError::LeaseLost { registry: NAME, lease: LeaseId(lease) }
            }
            RegistryFault::Superseded { node, ours, newer } => RegistryError::Superseded {
                node: NodeId::new(node),
                ours: Incarnation(ours),
                newer: Incarnation(newer),
            },
            RegistryFault::NotHeld { name, fence } => RegistryError::NotHeld { name, fence },
            RegistryFault::NoLocks => RegistryError::Unsupported { registry: NAME, what: "locks" },
            RegistryFault::Overflow { name, value, n } => RegistryError::Overflow { name, value, n },
            RegistryFault::Name { name, max } => RegistryError::Name { name, max },
            RegistryFault::Other { reason } => unreachable(reason),
        },
    }
}

/// A registry over the mesh.
#[derive(Service)]
#[service(name = "afflux.registry", version = "1.0", error = RegistryFault)]
pub enum RegistryService {
    /// Where the registry is that this process asks: whoever joins registers there.
    #[rpc(returns = Home, idempotent, allow = "authenticated", deadline = "2s")]
    Home,
    /// Puts a node's record there; returns its lease.
    #[rpc(returns = u64, deadline = "2s")]
    Register {
        /// The record.
        instance: InstanceRecord,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// Extends a lease.
    #[rpc(idempotent, deadline = "2s")]
    KeepAlive {
        /// The lease.
        lease: u64,
    },
    /// Removes the record of a lease.
    #[rpc(idempotent, deadline = "2s")]
    Deregister {
        /// The lease.
        lease: u64,
    },
    /// All records, as soon as their version is another than `seen`, at the latest after `wait_ms`.
    #[rpc(returns = ViewRecord, idempotent, allow = "authenticated", deadline = "10s")]
    View {
        /// The version the caller has.
        #[serde(default)]
        seen: Option<u64>,
        /// How long it waits for another.
        #[serde(default)]
        wait_ms: u64,
    },
    /// Takes a lock, if it is free; returns its fencing token.
    #[rpc(returns = Option<u64>, deadline = "2s")]
    Acquire {
        /// The lock.
        name: String,
        /// One life of one process.
        holder: String,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// Extends a lock.
    #[rpc(idempotent, deadline = "2s")]
    Renew {
        /// The lock.
        name: String,
        /// Its token.
        fence: u64,
    },
    /// Gives a lock back.
    #[rpc(idempotent, deadline = "2s")]
    Release {
        /// The lock.
        name: String,
        /// Its token.
        fence: u64,
    },
    /// Who holds a lock.
    #[rpc(returns = Option<HolderRecord>, idempotent, deadline = "2s")]
    Holder {
        /// The lock.
        name: String,
    },
    /// The value of a counter.
    #[rpc(returns = i64, idempotent, deadline = "2s")]
    Counter {
        /// The counter.
        name: String,
    },
    /// Sets a counter if its value is the expected one; whether it was.
    #[rpc(returns = bool, deadline = "2s")]
    CounterCompareAndSet {
        /// The counter.
        name: String,
        /// The value it must have.
        expected: i64,
        /// The value it gets.
        new: i64,
    },
    /// Adds to a counter; returns its new value.
    #[rpc(returns = i64, deadline = "2s")]
    CounterAdd {
        /// The counter.
        name: String,
        /// What is added.
        n: i64,
    },
}

/// The service entry of a registry; `home` is told to those who join.
pub fn serve(registry: Arc<dyn Registry>, home: Home, place: Place) -> ServiceEntry {
    serve_until(registry, home, place, None)
}

/// The same; who waits for a change of the view is answered when `drains` says that this node drains,
/// so that nobody waits for them.
pub(crate) fn serve_until(
    registry: Arc<dyn Registry>,
    home: Home,
    place: Place,
    drains: Option<watch::Receiver<bool>>,
) -> ServiceEntry {
    let served = Served { registry, home, drains };
    Concurrent::<RegistryService, _>::entry(place, None, move |call: RegistryServiceCall, mut cx: Cx| {
        let mut served = served.clone();
        async move {
            let ended = call.dispatch(&mut served, &mut cx).await;
            log_panic(<RegistryService as afflux_wire::contract::Service>::NAME, ended, cx.take_failure());
        }
    })
}

#[derive(Clone)]
struct Served {
    registry: Arc<dyn Registry>,
    home: Home,
    drains: Option<watch::Receiver<bool>>,
}

/// Resolves when the node drains; never without a node, or when it has ended.
async fn drained(drains: &mut Option<watch::Receiver<bool>>) {
    if let Some(drains) = drains
        && drains.wait_for(|draining| *draining).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

type Answer<T> = Result<T, Fault<RegistryFault>>;

fn answer<T>(result: Result<T, RegistryError>) -> Answer<T> {
    result.map_err(|error| RegistryFault::from(error).into())
}

impl RegistryServiceHandler for Served {
    async fn home(&mut self, _: &mut Cx) -> Answer<Home> {
        Ok(self.home.clone())
    }

    async fn register(&mut self, _: &mut Cx, instance: InstanceRecord, ttl_ms: u64) -> Answer<u64> {
        let lease = self.registry.register(instance.0, Duration::from_millis(ttl_ms)).await;
        answer(lease.map(|lease| lease.0))
    }

    async fn keep_alive(&mut self, _: &mut Cx, lease: u64) -> Answer<()> {
        answer(self.registry.keep_alive(LeaseId(lease)).await)
    }

    async fn deregister(&mut self, _: &mut Cx, lease: u64) -> Answer<()> {
        answer(self.registry.deregister(LeaseId(lease)).await)
    }

    async fn view(&mut self, _: &mut Cx, seen: Option<u64>, wait_ms: u64) -> Answer<ViewRecord> {
        let mut watcher = self.registry.watch();
        let changed = async {
            loop {
                match watcher.next().await {
                    Some(view) if Some(view.version) == seen => {}
                    Some(view) => break Some(view),
                    None => break None,
                }
            }
        };
        let wait = Duration::from_millis(wait_ms.min(VIEW_WAIT_MS));
        let changed = tokio::select! {
            biased;
            changed = tokio::time::timeout(wait, changed) => changed.ok(),
            () = drained(&mut self.drains) => None,
        };
        let view = match changed {
            Some(Some(view)) => view,
            Some(None) => {
                return Err(RegistryFault::Other { reason: "the registry is closing".into() }.into());
            }
            None => watcher.latest(),
        };
        Ok(ViewRecord(View::clone(&view)))
    }

    async fn acquire(
        &mut self,
        _: &mut Cx,
        name: String,
        holder: String,
        ttl_ms: u64,
    ) -> Answer<Option<u64>> {
        let fence = self.registry.acquire(&name, &holder, Duration::from_millis(ttl_ms)).await;
        answer(fence.map(|fence| fence.map(|fence| fence.0)))
    }

    async fn renew(&mut self, _: &mut Cx, name: String, fence: u64) -> Answer<()> {
        answer(self.registry.renew(&name, Fence(fence)).await)
    }

    async fn release(&mut self, _: &mut Cx, name: String, fence: u64) -> Answer<()> {
        answer(self.registry.release(&name, Fence(fence)).await)
    }

    async fn holder(&mut self, _: &mut Cx, name: String) -> Answer<Option<HolderRecord>> {
        let held = self.registry.holder(&name).await;
        answer(held.map(|held| held.map(|(holder, fence)| HolderRecord { holder, fence: fence.0 })))
    }

    async fn counter(&mut self, _: &mut Cx, name: String) -> Answer<i64> {
        answer(self.registry.counter(&name).await)
    }

    async fn counter_compare_and_set(
        &mut self,
        _: &mut Cx,
        name: String,
        expected: i64,
        new: i64,
    ) -> Answer<bool> {
        answer(self.registry.counter_compare_and_set(&name, expected, new).await)
    }

    async fn counter_add(&mut self, _: &mut Cx, name: String, n: i64) -> Answer<i64> {
        answer(self.registry.counter_add(&name, n).await)
    }
}

/// A registry that another process holds.
///
/// While that process does not answer, the last good view stays, marked as not reachable.
pub struct RemoteRegistry {
    client: RegistryServiceClient,
    publisher: Arc<Publisher>,
}

impl RemoteRegistry {
    /// Asks through this client; `place` runs the loop that keeps the view fresh, until the registry
    /// is dropped.
    pub fn new(client: RegistryServiceClient, place: &Place) -> Self {
        Self::new_until(client, place, None)
    }

    /// The same; the loop ends as well when `drains` says that this node drains.
    pub(crate) fn new_until(
        client: RegistryServiceClient,
        place: &Place,
        mut drains: Option<watch::Receiver<bool>>,
    ) -> Self {
        let publisher = Arc::new(Publisher::new());
        let (follower, shared) = (client.clone(), Arc::downgrade(&publisher));
        place.spawn_future(async move {
            let mut seen = None;
            loop {
                let call = follower.view(seen, VIEW_WAIT_MS).fail_fast();
                let call = call.deadline(Duration::from_millis(VIEW_WAIT_MS + VIEW_MARGIN_MS)).into_future();
                let result = tokio::select! {
                    biased;
                    result = call => result,
                    // The call is cancelled: the end of this node does not wait for its answer.
                    () = drained(&mut drains) => return,
                };
                let Some(publisher) = shared.upgrade() else { return };
                let failed = match result {
                    Ok(ViewRecord(view)) => {
                        seen = Some(view.version);
                        if view.reachable {
                            publisher.seen(view.instances);
                        } else {
                            publisher.unreachable();
                        }
                        false
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the registry does not answer");
                        // Another life of the registry counts its versions anew.
                        seen = None;
                        publisher.unreachable();
                        true
                    }
                };
                drop(publisher);
                if failed {
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        });
        Self { client, publisher }
    }
}

const OPERATION: Duration = Duration::from_millis(OPERATION_MS_MAX);

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Registry for RemoteRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
        let call = self.client.register(InstanceRecord(instance), ms(ttl)).deadline(OPERATION).into_future();
        Box::pin(async move { call.await.map(LeaseId).map_err(error_of) })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        let call = self.client.keep_alive(lease.0).deadline(OPERATION).into_future();
        Box::pin(async move { call.await.map_err(error_of) })
    }

    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        let call = self.client.deregister(lease.0).deadline(OPERATION).into_future();
        Box::pin(async move { call.await.map_err(error_of) })
    }

    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
        let call = self.client.view(None, 0).deadline(OPERATION).into_future();
        Box::pin(async move {
            let ViewRecord(view) = call.await.map_err(error_of)?;
            if !view.reachable {
                self.publisher.unreachable();
                let reason = "the process that holds it cannot reach it itself".to_owned();
                return Err(RegistryError::Unreachable { registry: NAME, reason });
            }
            self.publisher.seen(view.instances);
            Ok(self.publisher.view())
        })
    }

    fn watch(&self) -> Watcher {
        self.publisher.watcher()
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
        let call = self
            .client
            .acquire(name.to_owned(), holder.to_owned(), ms(ttl))
            .deadline(OPERATION)
            .into_future();
        Box::pin(async move { call.await.map(|fence| fence.map(Fence)).map_err(error_of) })
    }

    fn renew<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        let call = self.client.renew(name.to_owned(), fence.0).deadline(OPERATION).into_future();
        Box::pin(async move { call.await.map_err(error_of) })
    }

    fn release<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        let call = self.client.release(name.to_owned(), fence.0).deadline(OPERATION).into_future();
        Box::pin(async move { call.await.map_err(error_of) })
    }

    fn holder<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
        let call = self.client.holder(name.to_owned()).deadline(OPERATION).into_future();
        Box::pin(async move {
            let held = call.await.map_err(error_of)?;
            Ok(held.map(|held| (held.holder, Fence(held.fence))))
        })
    }

    fn counter<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
        let call = self.client.counter(name.to_owned()).deadline(OPERATION).into_future();
        Box::pin(async move { call.await.map_err(error_of) })
    }

    fn counter_compare_and_set<'a>(
        &'a self,
        name: &'a str,
        expected: i64,
        new: i64,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        let call = self
            .client
            .counter_compare_and_set(name.to_owned(), expected, new)
            .deadline(OPERATION)
            .into_future();
        Box::pin(async move { call.await.map_err(error_of) })
    }

    fn counter_add<'a>(&'a self, name: &'a str, n: i64) -> BoxFuture<'a, Result<i64, RegistryError>> {
        let call = self.client.counter_add(name.to_owned(), n).deadline(OPERATION).into_future();
        Box::pin(async move { call.await.map_err(error_of) })
    }
}
