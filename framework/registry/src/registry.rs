//! What a registry can do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::error::RegistryError;
use crate::instance::Instance;
use crate::view::{View, Watcher};

/// The shortest time to live of a record or a lock.
pub(crate) const TTL_MIN: Duration = Duration::from_millis(10);
/// The longest: a dead node disappears within an hour whatever it asked for.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(3600);

/// A record's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {}", self.0)
    }
}

/// A fencing token: greater than that of every holder before. Whoever writes under a lock sends it
/// along, and what is written to refuses a smaller one than it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

/// A registry: records with leases, and locks with fencing tokens.
///
/// Every operation fails with [`RegistryError::Unreachable`] when the registry does not answer, which
/// says nothing about what is in it. Futures may be dropped; the operation may then still happen.
pub trait Registry: Send + Sync + 'static {
    /// Its name in messages: `memory`, `static`, `etcd`.
    fn name(&self) -> &'static str;

    /// Puts a node's record there for `ttl`, in place of the record of an earlier life, or of this
    /// life, whose lease is lost by that.
    ///
    /// # Errors
    /// [`RegistryError::Superseded`] when a later life of the node is registered.
    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>>;

    /// Extends a lease by its time to live, from now.
    ///
    /// # Errors
    /// [`RegistryError::LeaseLost`]: the record is gone, register again.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Removes the record of a lease; one that is lost already is no error.
    ///
    /// # Errors
    /// Only those of every operation.
    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Asks for all records now.
    ///
    /// # Errors
    /// Only those of every operation.
    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>>;

    /// Subscribes to all records. An outage comes as a view that is not `reachable`.
    fn watch(&self) -> Watcher;

    /// Takes a lock for `ttl`, if it is free; `None` when another holds it. `holder` must name one
    /// life of one process: whoever holds the lock already gets its token again, extended.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no locks.
    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>>;

    /// Extends a lock by its time to live, from now.
    ///
    /// # Errors
    /// [`RegistryError::NotHeld`]: it expired. Whatever is done under it has to stop.
    fn renew<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>>;

    /// Gives a lock back; one that is not held with this token any more is no error.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no locks.
    fn release<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>>;

    /// Who holds a lock.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no locks.
    fn holder<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>>;
}

/// Checks a time to live: there is no record without one.
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), RegistryError> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        Ok(())
    } else {
        Err(RegistryError::Ttl { ttl, min: TTL_MIN, max: TTL_MAX })
    }
}
