//! Keeping one's own record in a registry: a loop that compares what is there with what should be.
//!
//! It trusts no past success. A lease can be lost in an outage, and the end of an old session can
//! remove the record of the new one; so after each extension the record is read back, and whatever
//! differs is registered again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use afflux_wire::Incarnation;
use tokio::time::{Instant, timeout};

use crate::error::RegistryError;
use crate::instance::Instance;
use crate::registry::{LeaseId, Registry};
use crate::watch;

/// A lease is extended this often within its time to live.
const EXTENSIONS_PER_TTL: u32 = 3;
/// The pause after the first failed try; it doubles up to the interval of extensions.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);

/// How a registration stands: what readiness and `registry_*` metrics tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// The first try is under way.
    Registering,
    /// The record was there when it was last looked at.
    Registered {
        /// Since then without a gap.
        since: Instant,
    },
    /// The record is not there, or its lease has run out unseen.
    NotRegistered {
        /// Since then.
        since: Instant,
        /// What stands in the way; trying goes on.
        error: String,
    },
    /// A later life of this node has taken its place: this process has to end. Final.
    Superseded {
        /// The later life.
        newer: Incarnation,
    },
    /// It was closed and its record removed. Final.
    Closed,
}

impl RegistrationState {
    /// Whether others can find this node.
    pub fn is_registered(&self) -> bool {
        matches!(self, Self::Registered { .. })
    }

    fn is_final(&self) -> bool {
        matches!(self, Self::Superseded { .. } | Self::Closed)
    }
}

/// The record of this process in a registry. Dropping it removes the record, as long as its driver
/// is still run.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::{sync::Arc, time::Duration};
/// use afflux_registry::{Instance, MemoryRegistry, Registration, RegistrationState};
/// use afflux_wire::Incarnation;
/// let registry = Arc::new(MemoryRegistry::new());
/// let instance = Instance::new("a", Incarnation(1), "127.0.0.1:7400");
/// let (registration, driver) = Registration::new(registry, instance, Duration::from_secs(10));
/// let driver = tokio::spawn(driver);
/// registration.wait_for(RegistrationState::is_registered).await;
/// registration.close().await;
/// # driver.await.unwrap() });
/// ```
#[derive(Debug)]
pub struct Registration {
    desired: watch::Sender<Instance>,
    state: watch::Receiver<RegistrationState>,
    misses: Arc<AtomicU64>,
}

impl Registration {
    /// A registration and the future that does its work, to be run where the caller likes.
    pub fn new(
        registry: Arc<dyn Registry>,
        instance: Instance,
        ttl: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let desired = watch::Sender::new(instance);
        let (state_sender, state) = watch::channel(RegistrationState::Registering);
        let misses = Arc::new(AtomicU64::new(0));
        let driver = Driver {
            misses: Arc::clone(&misses),
            registry,
            ttl,
            desired: desired.subscribe(),
            state: state_sender,
            lease: None,
            changed: false,
            sure_until: Instant::now(),
            failures: 0,
        };
        (Self { desired, state, misses }, driver.run())
    }

    /// How it stands.
    pub fn state(&self) -> RegistrationState {
        self.state.borrow().clone()
    }

    /// How many times the registry did not take a registration or an extension.
    pub fn misses(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.misses)
    }

    /// Resolves when its state fits, or when there will be no other state.
    pub async fn wait_for(&self, fits: impl Fn(&RegistrationState) -> bool) {
        // An error means that the driver is gone: nothing changes any more.
        let mut state = self.state.clone();
        let _gone = state.wait_for(|state| fits(state) || state.is_final()).await;
    }

    /// Changes the record: services, labels, state. Node and incarnation stay what they were.
    pub fn update(&self, change: impl FnOnce(&mut Instance)) {
        self.desired.send_if_modified(|instance| {
            let before = instance.clone();
            change(instance);
            instance.node = before.node.clone();
            instance.incarnation = before.incarnation;
            *instance != before
        });
    }

    /// Removes the record, within a third of its time to live.
    pub async fn close(self) {
        let Self { desired, mut state, .. } = self;
        drop(desired);
        // An error means that the driver is gone, and the lease will run out.
        let _gone = state.wait_for(RegistrationState::is_final).await;
    }
}

struct Driver {
    misses: Arc<AtomicU64>,
    registry: Arc<dyn Registry>,
    ttl: Duration,
    desired: watch::Receiver<Instance>,
    state: watch::Sender<RegistrationState>,
    lease: Option<LeaseId>,
    /// The record of this lease is not the one that is desired.
    changed: bool,
    /// The lease cannot have run out before this moment.
    sure_until: Instant,
    failures: u32,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let before = Instant::now();
            let pause = match self.reconcile(before).await {
                Ok(()) => {
                    self.failures = 0;
                    self.interval()
                }
                Err(RegistryError::Superseded { newer, node, .. }) => {
                    tracing::error!(%node, ?newer, "a later life of this node is registered");
                    self.state.send_replace(RegistrationState::Superseded { newer });
                    return;
                }
                Err(error) => self.failed(&error),
            };
            // What changes cuts the pause short; a dropped registration ends it.
            match timeout(pause, self.desired.changed()).await {
                Ok(Ok(())) => self.changed = true,
                Ok(Err(_closed)) => break,
                Err(_elapsed) => {}
            }
        }
        if let Some(lease) = self.lease {
            let name = self.registry.name();
            match timeout(self.interval(), self.registry.deregister(lease)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(registry = name, %error, "the record is left to expire")
                }
                Err(_elapsed) => {
                    tracing::warn!(registry = name, "no answer: the record is left to expire")
                }
            }
        }
        self.state.send_replace(RegistrationState::Closed);
    }

    fn interval(&self) -> Duration {
        self.ttl / EXTENSIONS_PER_TTL
    }

    /// Makes the record be there as it should, whatever has happened to it.
    async fn reconcile(&mut self, now: Instant) -> Result<(), RegistryError> {
        let wanted = self.desired.borrow_and_update().clone();
        if let Some(lease) = self.lease.filter(|_| !self.changed) {
            match self.answered(self.registry.keep_alive(lease)).await {
                Ok(()) => {
                    self.sure_until = now + self.ttl;
                    match self.answered(self.registry.record(&wanted.node)).await? {
                        Some(found) if found == wanted => {
                            self.registered(now);
                            return Ok(());
                        }
                        found => {
                            if let Some(found) = found {
                                wanted.check_not_superseded(found.incarnation)?;
                            }
                            tracing::warn!(node = %wanted.node, "the own record is missing or differs");
                        }
                    }
                }
                Err(RegistryError::LeaseLost { .. }) => {
                    tracing::warn!(node = %wanted.node, %lease, "the lease was lost: registering again");
                }
                Err(error) => return Err(error),
            }
            self.lease = None;
        }
        let registering = Instant::now();
        match self.answered(self.registry.register(wanted, self.ttl)).await {
            Ok(lease) => {
                self.lease = Some(lease);
                self.changed = false;
                self.sure_until = registering + self.ttl;
                self.registered(registering);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A registry that does not answer within an interval is unreachable.
    async fn answered<R>(
        &self,
        operation: impl Future<Output = Result<R, RegistryError>>,
    ) -> Result<R, RegistryError> {
        match timeout(self.interval(), operation).await {
            Ok(result) => result,
            Err(_elapsed) => Err(RegistryError::Unreachable {
                registry: self.registry.name(),
                reason: format!("no answer within {:?}", self.interval()),
            }),
        }
    }

    fn registered(&self, now: Instant) {
        self.state.send_if_modified(|state| {
            let news = !state.is_registered();
            if news {
                *state = RegistrationState::Registered { since: now };
            }
            news
        });
    }

    /// Notes a failure; returns the pause before the next try.
    fn failed(&mut self, error: &RegistryError) -> Duration {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let text = error.to_string();
        // While the lease cannot have run out others still find this node.
        if self.lease.is_none() || now >= self.sure_until {
            self.state.send_if_modified(|state| match state {
                RegistrationState::NotRegistered { error, .. } => {
                    let news = *error != text;
                    *error = text;
                    news
                }
                _ => {
                    tracing::warn!(registry = self.registry.name(), error = %text, "not registered");
                    *state = RegistrationState::NotRegistered { since: now, error: text };
                    true
                }
            });
        }
        let pause = RETRY_PAUSE_MIN.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        pause.min(self.interval())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryRegistry;
    use crate::registry::Fence;
    use crate::view::{View, Watcher};
    use futures_core::future::BoxFuture;
    use futures_util::FutureExt;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, AtomicU32};

    /// A registry in which a record can vanish or hang while its lease lives on, as in ZooKeeper when
    /// an old session ends after the new one registered.
    #[derive(Default)]
    struct Haunted {
        memory: MemoryRegistry,
        vanished: AtomicBool,
        hangs: AtomicBool,
        registrations: AtomicU32,
        extensions: AtomicU32,
    }

    impl Registry for Haunted {
        fn name(&self) -> &'static str {
            "haunted"
        }
        fn register(
            &self,
            instance: Instance,
            ttl: Duration,
        ) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
            self.registrations.fetch_add(1, Ordering::Relaxed);
            self.vanished.store(false, Ordering::Relaxed);
            self.memory.register(instance, ttl)
        }
        fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
            self.extensions.fetch_add(1, Ordering::Relaxed);
            if self.hangs.load(Ordering::Relaxed) {
                return Box::pin(std::future::pending());
            }
            self.memory.keep_alive(lease)
        }
        fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
            self.memory.deregister(lease)
        }
        fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
            if self.vanished.load(Ordering::Relaxed) {
                let empty = View { reachable: true, ..View::default() };
                return Box::pin(std::future::ready(Ok(Arc::new(empty))));
            }
            self.memory.view()
        }
        fn watch(&self) -> Watcher {
            self.memory.watch()
        }
        fn acquire<'a>(
            &'a self,
            name: &'a str,
            holder: &'a str,
            ttl: Duration,
        ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
            self.memory.acquire(name, holder, ttl)
        }
        fn renew<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
            self.memory.renew(name, fence)
        }
        fn release<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
            self.memory.release(name, fence)
        }
        fn holder<'a>(
            &'a self,
            name: &'a str,
        ) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
            self.memory.holder(name)
        }
        fn counter<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
            self.memory.counter(name)
        }
        fn counter_compare_and_set<'a>(
            &'a self,
            name: &'a str,
            expected: i64,
            new: i64,
        ) -> BoxFuture<'a, Result<bool, RegistryError>> {
            self.memory.counter_compare_and_set(name, expected, new)
        }
    }

    const TTL: Duration = Duration::from_secs(3);

    /// Runs the driver for this long.
    async fn drive(driver: &mut std::pin::Pin<&mut impl Future<Output = ()>>, span: Duration) {
        assert!(timeout(span, driver).await.is_err(), "the driver ended");
    }

    fn counts(registry: &Haunted) -> (u32, u32) {
        let count = |n: &AtomicU32| n.swap(0, Ordering::Relaxed);
        (count(&registry.registrations), count(&registry.extensions))
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_vanished_under_a_living_lease_is_registered_again() {
        let registry = Arc::new(Haunted::default());
        let instance = Instance::new("a", Incarnation(1), "h:1");
        let (_registration, driver) = Registration::new(Arc::clone(&registry) as _, instance, TTL);
        let mut driver = pin!(driver);
        drive(&mut driver, Duration::from_millis(2500)).await;
        assert_eq!(counts(&registry), (1, 2));
        registry.vanished.store(true, Ordering::Relaxed);
        drive(&mut driver, Duration::from_millis(1000)).await;
        assert_eq!(counts(&registry), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_registered_at_once_without_an_extension_before_it() {
        let registry = Arc::new(Haunted::default());
        let instance = Instance::new("a", Incarnation(1), "h:1");
        let (registration, driver) = Registration::new(Arc::clone(&registry) as _, instance, TTL);
        let mut driver = pin!(driver);
        drive(&mut driver, Duration::from_millis(10)).await;
        registration.update(|instance| {
            instance.slots = 4;
            instance.incarnation = Incarnation(9);
        });
        drive(&mut driver, Duration::from_millis(10)).await;
        assert_eq!(counts(&registry), (2, 0));
        let view = registry.view().now_or_never().unwrap().unwrap();
        assert_eq!((view.instances[0].slots, view.instances[0].incarnation), (4, Incarnation(1)));
        registration.update(|_| {});
        drive(&mut driver, Duration::from_millis(10)).await;
        assert_eq!(counts(&registry), (0, 0), "nothing changed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_never_answers_is_unreachable_and_a_close_does_not_wait_for_it() {
        let registry = Arc::new(Haunted::default());
        let instance = Instance::new("a", Incarnation(1), "h:1");
        let (registration, driver) = Registration::new(Arc::clone(&registry) as _, instance, TTL);
        let mut driver = pin!(driver);
        registry.hangs.store(true, Ordering::Relaxed);
        drive(&mut driver, TTL * 2).await;
        match registration.state() {
            RegistrationState::NotRegistered { error, .. } => {
                assert!(error.contains("no answer within 1s"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        let began = Instant::now();
        futures_util::future::join(driver, registration.close()).await;
        assert!(began.elapsed() <= TTL, "{:?}", began.elapsed());
    }
}
