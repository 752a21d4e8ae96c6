//! A lock that is held.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Spawner;
use super::hold::{confirm, give_back, keep};
use crate::error::RegistryError;
use crate::registry::{Fence, Registry};
use crate::watch;

/// How a guard stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Held,
    Lost(String),
    Released,
}

/// A lock that this process holds, extended in the background until it is released, dropped or lost.
pub struct Guard {
    name: Arc<str>,
    fence: Fence,
    standing: watch::Receiver<Standing>,
    /// Dropping it ends the extending and gives the lock back.
    _wanted: watch::Sender<()>,
}

impl Guard {
    pub(super) async fn keep(
        registry: Arc<dyn Registry>,
        name: &str,
        fence: Fence,
        ttl: Duration,
        spawner: &Spawner,
    ) -> Result<Self, RegistryError> {
        let sure_since = confirm(&*registry, name, fence).await?;
        let name: Arc<str> = name.into();
        let (standing_sender, standing) = watch::channel(Standing::Held);
        let wanted = watch::Sender::new(());
        let (mut until, kept) = (wanted.subscribe(), Arc::clone(&name));
        spawner(Box::pin(async move {
            let released = async { while until.changed().await.is_ok() {} };
            tokio::select! {
                biased;
                () = released => {
                    give_back(&*registry, &kept, fence).await;
                    standing_sender.send_replace(Standing::Released);
                }
                reason = keep(&*registry, &kept, fence, ttl, sure_since) => {
                    tracing::warn!(lock = %kept, fence = fence.0, reason, "a lock was lost");
                    standing_sender.send_replace(Standing::Lost(reason));
                }
            }
        }));
        Ok(Self { name, fence, standing, _wanted: wanted })
    }

    /// The lock.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fencing token, greater than that of every holder before.
    ///
    /// A lock alone protects nothing: a process can be stopped between its last look at
    /// [`is_held`](Self::is_held) and its write. Send the token with every write, and let what is
    /// written to refuse a token smaller than one it has seen.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Whether it was held when last looked at.
    pub fn is_held(&self) -> bool {
        *self.standing.borrow() == Standing::Held
    }

    /// Resolves with the reason when the lock is lost: stop what is done under it. The future does not
    /// borrow the guard; it never resolves for a lock that is given back.
    pub fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let mut standing = self.standing.clone();
        async move {
            let reason = match standing.wait_for(|standing| *standing != Standing::Held).await.as_deref() {
                Ok(Standing::Lost(reason)) => Some(reason.clone()),
                Ok(_) => None,
                // The place that extended it is gone.
                Err(_) => Some("this process no longer extends it".to_owned()),
            };
            match reason {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        }
    }

    /// Gives the lock back; others can have it when this resolves, if the registry answers.
    pub async fn release(self) {
        let Self { mut standing, _wanted, .. } = self;
        drop(_wanted);
        // An error means that the place that extended it is gone: the lock will run out.
        let _gone = standing.wait_for(|standing| *standing != Standing::Held).await;
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({:?}, fence {}, {:?})", self.name, self.fence.0, *self.standing.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Coordination;
    use super::*;
    use crate::memory::MemoryRegistry;
    use crate::static_list::StaticRegistry;
    use futures_util::FutureExt;

    const TTL: Duration = Duration::from_secs(3);

    fn process(registry: &MemoryRegistry, holder: &str) -> Coordination {
        let spawner: Spawner = Arc::new(|work| drop(tokio::spawn(work)));
        Coordination::new(Arc::new(registry.clone()), holder, TTL, spawner)
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_holds_longer_than_its_time_to_live_and_a_dropped_one_frees_the_lock() {
        let registry = MemoryRegistry::new();
        let (a, b) = (process(&registry, "a/1"), process(&registry, "b/1"));
        let guard = a.lock("x").await.unwrap();
        tokio::time::sleep(TTL * 4).await;
        assert!(guard.is_held());
        assert!(b.try_lock("x").await.unwrap().is_none());
        assert!(a.try_lock("x").await.unwrap().is_none(), "two tasks of one process are two holders");
        let first = guard.fence();
        drop(guard);
        let next = b.lock("x").await.unwrap();
        assert!(next.fence() > first);
        next.release().await;
        assert_eq!(registry.holder("x").await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_whose_lock_is_gone_says_so() {
        let registry = MemoryRegistry::new();
        let guard = process(&registry, "a/1").lock("x").await.unwrap();
        let lost = guard.lost();
        registry.forget();
        let reason = tokio::time::timeout(TTL, lost).await.unwrap();
        assert!(reason.contains("not held"), "{reason}");
        assert!(!guard.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_cut_off_knows_before_another_can_hold() {
        let registry = MemoryRegistry::new();
        let guard = process(&registry, "a/1").lock("x").await.unwrap();
        registry.cut("the cable");
        let began = tokio::time::Instant::now();
        let reason = tokio::time::timeout(TTL * 2, guard.lost()).await.unwrap();
        assert!(began.elapsed() < TTL, "{:?}", began.elapsed());
        assert!(reason.contains("cannot be reached"), "{reason}");
    }

    #[test]
    fn a_registry_without_leases_refuses_and_names_itself_and_the_cure() {
        let registry = Arc::new(StaticRegistry::new(["h:1"]));
        let here = Coordination::new(registry, "a/1", TTL, Arc::new(drop));
        for error in [
            here.lock("x").now_or_never().unwrap().unwrap_err(),
            here.elect("x").map(drop).unwrap_err(),
            here.counter("x").map(drop).unwrap_err(),
        ] {
            assert_eq!(
                error.to_string(),
                "the registry static has no leases: use memory, etcd, ZooKeeper or Kubernetes for that"
            );
        }
    }
}
