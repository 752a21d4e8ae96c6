//! A registry in the memory of one process: for `dev`, tests, and one process alone.
//!
//! It has no task and no clock of its own: what has expired by tokio's time is removed by whoever
//! looks next, and a watcher looks when the next lease runs out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use afflux_wire::NodeId;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::RegistryError;
use crate::instance::Instance;
use crate::registry::{Fence, LeaseId, Registry, check_name, check_ttl, sum};
use crate::view::{Expiry, Publisher, View, Watcher};

const NAME: &str = "memory";
/// Nodes that fit.
const INSTANCES_MAX: usize = 10_000;
/// Locks that fit, held at one time.
const LOCKS_MAX: usize = 10_000;
/// Counters that fit, those of value 0 not counted.
const COUNTERS_MAX: usize = 10_000;

struct Record {
    instance: Instance,
    lease: LeaseId,
    ttl: Duration,
    expires_at: Instant,
}

struct Lock {
    holder: String,
    fence: Fence,
    ttl: Duration,
    expires_at: Instant,
}

#[derive(Default)]
struct State {
    records: BTreeMap<NodeId, Record>,
    locks: BTreeMap<String, Lock>,
    /// Those that are not 0.
    counters: BTreeMap<String, i64>,
    leases: u64,
    /// One counter for all locks: a lock that is free needs no memory, and tokens still grow.
    fences: u64,
    /// Set by [`MemoryRegistry::cut`].
    outage: Option<String>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    publisher: Publisher,
}

/// A registry in memory. Clones are the same registry.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use afflux_registry::{Instance, MemoryRegistry, Registry};
/// use afflux_wire::Incarnation;
/// let registry = MemoryRegistry::new();
/// let ttl = Duration::from_secs(10);
/// registry.register(Instance::new("a", Incarnation(1), "127.0.0.1:7400"), ttl).await?;
/// assert_eq!(registry.view().await?.instances.len(), 1);
/// # Ok::<(), afflux_registry::RegistryError>(()) }).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct MemoryRegistry(Arc<Inner>);

impl MemoryRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        let registry = Self::default();
        registry.0.publisher.seen(Vec::new());
        registry
    }

    /// An empty registry whose tokens are greater than `token`. Tokens must grow over the lives of a
    /// registry too: what holds one in memory begins with the calendar, in milliseconds.
    pub fn with_tokens_above(token: u64) -> Self {
        let registry = Self::new();
        registry.0.state.lock().fences = token;
        registry
    }

    /// Ends the leases of a node whose process is known to have ended: its record, and the locks whose
    /// holder is `NODE` or begins with `NODE/`.
    pub fn bury(&self, node: &NodeId) {
        let mut state = self.0.state.lock();
        state.records.remove(node);
        let of_node = |holder: &str| holder.split('/').next() == Some(node.as_str());
        state.locks.retain(|_, lock| !of_node(&lock.holder));
        self.0.publish(&state);
    }

    /// Simulates an outage: every operation fails until [`heal`](Self::heal). Leases run on.
    pub fn cut(&self, reason: &str) {
        self.0.state.lock().outage = Some(reason.to_owned());
        self.0.publisher.unreachable();
    }

    /// Ends the outage.
    pub fn heal(&self) {
        let mut state = self.0.state.lock();
        state.outage = None;
        self.0.expire_in(&mut state);
        self.0.publish(&state);
    }

    /// Forgets all records and locks, as a registry does that lost its disk. Tokens still grow.
    pub fn forget(&self) {
        let mut state = self.0.state.lock();
        state.records.clear();
        state.locks.clear();
        self.0.publish(&state);
    }

    /// Runs one operation on what has not expired. No operation waits, so the lock is never held
    /// across one.
    fn with<R>(
        &self,
        operation: impl FnOnce(&mut State, &Inner) -> Result<R, RegistryError>,
    ) -> Result<R, RegistryError> {
        let inner = &*self.0;
        let mut state = inner.state.lock();
        if let Some(reason) = &state.outage {
            return Err(RegistryError::Unreachable { registry: NAME, reason: reason.clone() });
        }
        inner.expire_in(&mut state);
        operation(&mut state, inner)
    }
}

impl State {
    fn count(&mut self, name: &str, value: i64) -> Result<(), RegistryError> {
        if value == 0 {
            self.counters.remove(name);
            return Ok(());
        }
        if self.counters.len() >= COUNTERS_MAX && !self.counters.contains_key(name) {
            return Err(RegistryError::Full {
                registry: NAME,
                what: "counters",
                max: COUNTERS_MAX,
                cure: "set those that are not needed to 0",
            });
        }
        self.counters.insert(name.to_owned(), value);
        Ok(())
    }
}

impl Inner {
    /// Removes what has expired and publishes if that changed anything.
    fn expire_in(&self, state: &mut State) {
        let now = Instant::now();
        let before = state.records.len();
        state.records.retain(|node, record| {
            let alive = record.expires_at > now;
            if !alive {
                tracing::info!(%node, lease = record.lease.0, "a registration expired");
            }
            alive
        });
        state.locks.retain(|_, lock| lock.expires_at > now);
        if state.records.len() != before {
            self.publish(state);
        }
    }

    fn publish(&self, state: &State) {
        if state.outage.is_none() {
            self.publisher.seen(state.records.values().map(|r| r.instance.clone()).collect());
        }
    }
}

impl Expiry for Inner {
    fn expire(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        // During an outage nobody can see anything expire.
        if state.outage.is_some() {
            return None;
        }
        self.expire_in(&mut state);
        state.records.values().map(|r| r.expires_at).min()
    }
}

/// A future that is done.
fn done<'a, R: Send + 'a>(result: R) -> BoxFuture<'a, R> {
    Box::pin(std::future::ready(result))
}

impl Registry for MemoryRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
        done(check_ttl(ttl).and_then(|()| {
            self.with(|state, inner| {
                match state.records.get(&instance.node) {
                    Some(present) => instance.check_not_superseded(present.instance.incarnation)?,
                    None if state.records.len() >= INSTANCES_MAX => {
                        return Err(RegistryError::Full {
                            registry: NAME,
                            what: "nodes",
                            max: INSTANCES_MAX,
                            cure: "use etcd, ZooKeeper or Kubernetes for a cluster of this size",
                        });
                    }
                    None => {}
                }
                state.leases += 1;
                let lease = LeaseId(state.leases);
                let expires_at = Instant::now() + ttl;
                let node = instance.node.clone();
                state.records.insert(node, Record { instance, lease, ttl, expires_at });
                inner.publish(state);
                Ok(lease)
            })
        }))
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        done(self.with(|state, _| match state.records.values_mut().find(|r| r.lease == lease) {
            Some(record) => {
                record.expires_at = Instant::now() + record.ttl;
                Ok(())
            }
            None => Err(RegistryError::LeaseLost { registry: NAME, lease }),
        }))
    }

    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        done(self.with(|state, inner| {
            state.records.retain(|_, record| record.lease != lease);
            inner.publish(state);
            Ok(())
        }))
    }

    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
        done(self.with(|_, inner| Ok(inner.publisher.view())))
    }

    fn watch(&self) -> Watcher {
        self.0.publisher.watcher().expiring(Arc::clone(&self.0) as Arc<dyn Expiry>)
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
        done(check_ttl(ttl).and_then(|()| check_name(name)).and_then(|()| {
            self.with(|state, _| {
                let expires_at = Instant::now() + ttl;
                if let Some(lock) = state.locks.get_mut(name) {
                    if lock.holder != holder {
                        return Ok(None);
                    }
                    (lock.ttl, lock.expires_at) = (ttl, expires_at);
                    return Ok(Some(lock.fence));
                }
                if state.locks.len() >= LOCKS_MAX {
                    return Err(RegistryError::Full {
                        registry: NAME,
                        what: "locks",
                        max: LOCKS_MAX,
                        cure: "release those that are not needed",
                    });
                }
                state.fences += 1;
                let fence = Fence(state.fences);
                let lock = Lock { holder: holder.to_owned(), fence, ttl, expires_at };
                state.locks.insert(name.to_owned(), lock);
                Ok(Some(fence))
            })
        }))
    }

    fn renew<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        done(self.with(|state, _| match state.locks.get_mut(name) {
            Some(lock) if lock.fence == fence => {
                lock.expires_at = Instant::now() + lock.ttl;
                Ok(())
            }
            _ => Err(RegistryError::NotHeld { name: name.to_owned(), fence: fence.0 }),
        }))
    }

    fn release<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        done(self.with(|state, _| {
            if state.locks.get(name).is_some_and(|lock| lock.fence == fence) {
                state.locks.remove(name);
            }
            Ok(())
        }))
    }

    fn holder<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
        done(self.with(|state, _| Ok(state.locks.get(name).map(|l| (l.holder.clone(), l.fence)))))
    }

    fn counter<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
        done(self.with(|state, _| Ok(state.counters.get(name).copied().unwrap_or(0))))
    }

    fn counter_compare_and_set<'a>(
        &'a self,
        name: &'a str,
        expected: i64,
        new: i64,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        done(check_name(name).and_then(|()| {
            self.with(|state, _| {
                let found = state.counters.get(name).copied().unwrap_or(0) == expected;
                if found {
                    state.count(name, new)?;
                }
                Ok(found)
            })
        }))
    }

    fn counter_add<'a>(&'a self, name: &'a str, n: i64) -> BoxFuture<'a, Result<i64, RegistryError>> {
        done(check_name(name).and_then(|()| {
            self.with(|state, _| {
                let new = sum(name, state.counters.get(name).copied().unwrap_or(0), n)?;
                state.count(name, new)?;
                Ok(new)
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{self, Fixture};
    use afflux_wire::Incarnation;

    struct Memory(MemoryRegistry);

    impl Fixture for Memory {
        fn registry(&self) -> Arc<dyn Registry> {
            Arc::new(self.0.clone())
        }
        fn cut(&self) {
            self.0.cut("the test cut it");
        }
        fn heal(&self) {
            self.0.heal();
        }
        fn forget(&self) -> BoxFuture<'_, ()> {
            self.0.forget();
            done(())
        }
        fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
            Box::pin(tokio::time::sleep(span))
        }
    }

    macro_rules! over_memory {
        ($($behaviour:ident),* $(,)?) => {$(
            #[tokio::test(start_paused = true)]
            async fn $behaviour() {
                suite::$behaviour(&Memory(MemoryRegistry::new())).await;
            }
        )*};
    }
    crate::suite::every_behaviour!(over_memory);

    #[tokio::test(start_paused = true)]
    async fn a_buried_node_is_gone_with_its_locks_and_the_next_token_is_greater() {
        let registry = MemoryRegistry::with_tokens_above(1_000);
        let ttl = Duration::from_secs(60);
        for name in ["a", "ab"] {
            registry.register(Instance::new(name, Incarnation(1), "h:1"), ttl).await.unwrap();
        }
        let first = registry.acquire("jobs", "a/1", ttl).await.unwrap().unwrap();
        registry.acquire("other", "ab/1", ttl).await.unwrap().unwrap();
        registry.bury(&NodeId::new("a"));
        let left = registry.view().await.unwrap();
        assert_eq!(left.instances.iter().map(|i| i.node.as_str()).collect::<Vec<_>>(), ["ab"]);
        let second = registry.acquire("jobs", "ab/1", ttl).await.unwrap().unwrap();
        assert!(first.0 > 1_000 && second > first);
        assert!(registry.holder("other").await.unwrap().is_some(), "another node's stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_without_a_sensible_time_to_live_is_refused() {
        let registry = MemoryRegistry::new();
        for ttl in [Duration::ZERO, Duration::from_secs(3601)] {
            let instance = Instance::new("a", Incarnation(1), "h:1");
            assert!(matches!(registry.register(instance, ttl).await, Err(RegistryError::Ttl { .. })));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_registry_takes_no_new_node_but_keeps_those_it_has() {
        let registry = MemoryRegistry::new();
        let ttl = Duration::from_secs(60);
        {
            let mut state = registry.0.state.lock();
            for n in 0..INSTANCES_MAX {
                let instance = Instance::new(NodeId::new(format!("n{n}")), Incarnation(1), "h:1");
                let expires_at = Instant::now() + ttl;
                let record = Record { lease: LeaseId(n as u64), ttl, expires_at, instance };
                state.records.insert(record.instance.node.clone(), record);
            }
        }
        let register =
            |name: &'static str| registry.register(Instance::new(name, Incarnation(1), "h:1"), ttl);
        assert!(matches!(register("new").await, Err(RegistryError::Full { .. })));
        assert!(register("n7").await.is_ok());
    }
}
