//! What a registry can do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use afflux_wire::NodeId;
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::error::RegistryError;
use crate::instance::Instance;
use crate::view::{View, Watcher};

/// The shortest time to live of a record or a lock.
pub(crate) const TTL_MIN: Duration = Duration::from_millis(10);
/// The longest: a dead node disappears within an hour whatever it asked for.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(3600);
/// Bytes of the name of a lock or a counter.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// Where nothing tells that a lock is free, it is asked for this often within its time to live,
const ASKED_PER_TTL: u32 = 10;
/// and at least as often as this.
const ASK_PAUSE_MAX: Duration = Duration::from_millis(500);

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

/// A registry: records with leases, locks with fencing tokens, and counters.
///
/// Every operation fails with [`RegistryError::Unreachable`] when the registry does not answer, which
/// says nothing about what is in it. Futures may be dropped; the operation may then still happen.
pub trait Registry: Send + Sync + 'static {
    /// Its name in messages: `memory`, `static`, `etcd`.
    fn name(&self) -> &'static str;

    /// Whether it has leases, and with them locks, elections and counters: what must be single in a
    /// cluster (keyed actors, singletons, jobs) asks this first.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`], which names the registry and the cure.
    fn coordinates(&self) -> Result<(), RegistryError> {
        Ok(())
    }

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

    /// Asks for the record of one node now.
    ///
    /// # Errors
    /// Only those of every operation.
    fn record<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<Option<Instance>, RegistryError>> {
        Box::pin(async move { Ok(self.view().await?.instance(node).cloned()) })
    }

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

    /// Waits for its turn and takes a lock for `ttl`. A registry with watches waits in a queue, where
    /// the end of a holder wakes one waiter; this default asks again and again. Dropping the future
    /// leaves the queue, at the latest after `ttl`.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no locks; [`RegistryError::Unreachable`] ends the
    /// waiting.
    fn lock<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Fence, RegistryError>> {
        Box::pin(async move {
            loop {
                if let Some(fence) = self.acquire(name, holder, ttl).await? {
                    return Ok(fence);
                }
                tokio::time::sleep((ttl / ASKED_PER_TTL).min(ASK_PAUSE_MAX)).await;
            }
        })
    }

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

    /// The value of a counter; 0 of one that nobody has changed yet. Counters have no lease: they stay.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no counters.
    fn counter<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>>;

    /// Sets a counter to `new` if its value is `expected`; whether it was.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] where there are no counters. After
    /// [`RegistryError::Unreachable`] it may have happened.
    fn counter_compare_and_set<'a>(
        &'a self,
        name: &'a str,
        expected: i64,
        new: i64,
    ) -> BoxFuture<'a, Result<bool, RegistryError>>;

    /// Adds to a counter; returns its new value.
    ///
    /// # Errors
    /// [`RegistryError::Overflow`], with nothing changed; else as
    /// [`counter_compare_and_set`](Self::counter_compare_and_set).
    fn counter_add<'a>(&'a self, name: &'a str, n: i64) -> BoxFuture<'a, Result<i64, RegistryError>> {
        Box::pin(async move {
            loop {
                let value = self.counter(name).await?;
                let new = sum(name, value, n)?;
                if self.counter_compare_and_set(name, value, new).await? {
                    return Ok(new);
                }
            }
        })
    }
}

/// Checks a time to live: there is no record without one.
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), RegistryError> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        Ok(())
    } else {
        Err(RegistryError::Ttl { ttl, min: TTL_MIN, max: TTL_MAX })
    }
}

/// Checks the name of a lock or a counter: it becomes part of a key, a path or an annotation.
pub(crate) fn check_name(name: &str) -> Result<(), RegistryError> {
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(RegistryError::Name { name: name.chars().take(64).collect(), max: NAME_BYTES_MAX })
    }
}

/// A counter's value and what is added to it.
pub(crate) fn sum(name: &str, value: i64, n: i64) -> Result<i64, RegistryError> {
    value.checked_add(n).ok_or_else(|| RegistryError::Overflow { name: name.to_owned(), value, n })
}

/// The value of a counter kept as a decimal number at `place`, which a message can name.
#[cfg(any(feature = "etcd", feature = "zookeeper", feature = "kubernetes"))]
pub(crate) fn counter_of(registry: &'static str, place: &str, text: &[u8]) -> Result<i64, RegistryError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let value = String::from_utf8_lossy(text);
        let reason = format!("{place} holds {value:?}, which is no counter: delete it");
        RegistryError::Setup { registry, reason }
    })
}

#[cfg(all(test, any(feature = "etcd", feature = "zookeeper", feature = "kubernetes")))]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_counter_is_refused_with_its_place_and_its_text() {
        assert_eq!(counter_of("etcd", "the key /a/n", b"-3"), Ok(-3));
        for (bytes, shown) in [(&b""[..], "\"\""), (b"3 eggs", "\"3 eggs\""), (b"\xff", "\u{fffd}")] {
            let refused = counter_of("etcd", "the key /a/n", bytes).unwrap_err().to_string();
            assert!(refused.contains("the key /a/n holds") && refused.contains(shown), "{refused}");
        }
    }
}
