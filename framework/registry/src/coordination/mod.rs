//! What a user gets of a registry: locks, elections and counters, by name.
//!
//! Consensus is the registry's. Here is only what a holder owes the others: to extend its lease, to say
//! when it is no longer sure of it, and to hand its fencing token to whoever writes.
//!
//! Under partition (the book's chapter on coordination says more): a holder that is cut off takes its
//! lock for lost after two thirds of the time to live, before another can get it, as long as its
//! process runs. A process that is stopped meanwhile cannot notice; only the token protects from what
//! it writes when it goes on.

mod counter;
mod election;
mod guard;
mod hold;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::error::RegistryError;
use crate::registry::{Fence, Registry, check_name, check_ttl};

pub use counter::Counter;
pub use election::{Election, Leader, Leadership};
pub use guard::Guard;
pub use hold::hold;

/// Runs what works in the background: extending a lock, following a watch.
pub type Spawner = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// Locks, elections and counters of one process. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::{sync::Arc, time::Duration};
/// use afflux_registry::{Coordination, MemoryRegistry};
/// let spawner = Arc::new(|work| drop(tokio::spawn(work)));
/// let ttl = Duration::from_secs(5);
/// let here = Coordination::new(Arc::new(MemoryRegistry::new()), "orders-1/7", ttl, spawner);
/// let guard = here.lock("nightly-report").await?;
/// assert!(guard.is_held() && guard.fence().0 > 0);
/// guard.release().await;
/// assert_eq!(here.counter("reports")?.add(1).await?, 1);
/// # Ok::<(), afflux_registry::RegistryError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Coordination {
    registry: Arc<dyn Registry>,
    holder: Arc<str>,
    ttl: Duration,
    spawner: Spawner,
    holders: Arc<AtomicU64>,
}

impl Coordination {
    /// `holder` names one life of this process, best as `node/incarnation`; what dies with it is free
    /// after `ttl`.
    pub fn new(
        registry: Arc<dyn Registry>,
        holder: impl Into<Arc<str>>,
        ttl: Duration,
        spawner: Spawner,
    ) -> Self {
        Self { registry, holder: holder.into(), ttl, spawner, holders: Arc::default() }
    }

    /// The registry that is asked.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// Waits for a lock and keeps it until the guard is released or dropped, or the lock is lost.
    ///
    /// Safe only with its fence: see [`Guard::fence`].
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no locks; [`RegistryError::Unreachable`].
    pub async fn lock(&self, name: &str) -> Result<Guard, RegistryError> {
        self.check(name)?;
        let holder = self.next_holder();
        let fence = self.registry.lock(name, &holder, self.ttl).await?;
        self.guard(name, fence).await
    }

    /// Takes a lock if it is free now.
    ///
    /// # Errors
    /// As [`Coordination::lock`].
    pub async fn try_lock(&self, name: &str) -> Result<Option<Guard>, RegistryError> {
        self.check(name)?;
        let holder = self.next_holder();
        match self.registry.acquire(name, &holder, self.ttl).await? {
            Some(fence) => self.guard(name, fence).await.map(Some),
            None => Ok(None),
        }
    }

    /// Takes part in an election until the handle is resigned or dropped. One candidate of the cluster
    /// leads at a time; when it ends or is cut off, another follows.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no elections; a name that cannot be one.
    pub fn elect(&self, name: &str) -> Result<Election, RegistryError> {
        self.check(name)?;
        Ok(Election::begin(self, name))
    }

    /// A counter of the cluster.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no counters; a name that cannot be one.
    pub fn counter(&self, name: &str) -> Result<Counter, RegistryError> {
        self.check(name)?;
        Ok(Counter::new(Arc::clone(&self.registry), name))
    }

    fn check(&self, name: &str) -> Result<(), RegistryError> {
        self.registry.coordinates()?;
        check_ttl(self.ttl)?;
        check_name(name)
    }

    /// Two tasks of one process are two holders.
    fn next_holder(&self) -> String {
        format!("{}/{}", self.holder, self.holders.fetch_add(1, Ordering::Relaxed))
    }

    async fn guard(&self, name: &str, fence: Fence) -> Result<Guard, RegistryError> {
        Guard::keep(Arc::clone(&self.registry), name, fence, self.ttl, &self.spawner).await
    }
}
