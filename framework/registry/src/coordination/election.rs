//! Who leads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Coordination;
use super::hold::hold;
use crate::error::RegistryError;
use crate::registry::{Fence, Registry};
use crate::watch;

/// A candidacy. Dropping it resigns.
pub struct Election {
    name: Arc<str>,
    ttl: Duration,
    registry: Arc<dyn Registry>,
    /// The token while this process leads.
    turn: watch::Receiver<Option<Fence>>,
    closing: watch::Sender<bool>,
}

/// Who leads, as the registry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The holder's name: `node/incarnation/number` for a node.
    pub holder: String,
    /// Its fencing token.
    pub fence: Fence,
}

impl Leader {
    /// The node of the holder.
    pub fn node(&self) -> &str {
        self.holder.split('/').next().unwrap_or(&self.holder)
    }
}

/// One term of this process as the leader.
#[derive(Clone)]
pub struct Leadership {
    fence: Fence,
    turn: watch::Receiver<Option<Fence>>,
}

impl Election {
    pub(super) fn begin(of: &Coordination, name: &str) -> Self {
        let (sender, turn) = watch::channel(None);
        let closing = watch::Sender::new(false);
        let work = hold(
            Arc::clone(&of.registry),
            name.to_owned(),
            of.next_holder(),
            of.ttl,
            closing.subscribe(),
            move |turn| {
                sender.send_replace(turn);
            },
        );
        (of.spawner)(Box::pin(work));
        Self { name: name.into(), ttl: of.ttl, registry: Arc::clone(&of.registry), turn, closing }
    }

    /// The election.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The present term of this process, if it leads.
    pub fn leadership(&self) -> Option<Leadership> {
        let fence = *self.turn.borrow();
        fence.map(|fence| Leadership { fence, turn: self.turn.clone() })
    }

    /// Resolves when this process leads.
    pub async fn elected(&self) -> Leadership {
        let mut turn = self.turn.clone();
        let fence = turn.wait_for(Option::is_some).await.ok().and_then(|turn| *turn);
        match fence {
            Some(fence) => Leadership { fence, turn },
            // The place that ran the candidacy is gone.
            None => std::future::pending().await,
        }
    }

    /// Follows the terms of this process: its token while it leads.
    pub fn turns(&self) -> watch::Receiver<Option<Fence>> {
        self.turn.clone()
    }

    /// Who leads now. An answer is old when it comes: whoever acts on it carries the token.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`].
    pub async fn leader(&self) -> Result<Option<Leader>, RegistryError> {
        Ok(self.registry.holder(&self.name).await?.map(|(holder, fence)| Leader { holder, fence }))
    }

    /// Resolves when another than `known` leads, or nobody; the registry is asked three times within
    /// the time to live, and what it does not answer changes nothing.
    pub async fn leader_changed(&self, known: Option<&Leader>) -> Option<Leader> {
        loop {
            match self.leader().await {
                Ok(leader) if leader.as_ref() != known => return leader,
                Ok(_) => {}
                Err(error) => tracing::debug!(election = %self.name, %error, "the leader is not known"),
            }
            tokio::time::sleep(self.ttl / 3).await;
        }
    }

    /// Gives up the candidacy, and the leadership with it.
    pub async fn resign(self) {
        self.closing.send_replace(true);
        let mut turn = self.turn.clone();
        // The candidacy has ended when its sender is gone.
        while turn.changed().await.is_ok() {}
    }
}

impl Leadership {
    /// The fencing token of this term: see [`Guard::fence`](super::Guard::fence).
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Whether this term lasted when last looked at.
    pub fn is_held(&self) -> bool {
        *self.turn.borrow() == Some(self.fence)
    }

    /// Resolves when this term is over: stop what only a leader may do.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mut turn, fence) = (self.turn.clone(), self.fence);
        async move {
            // An error means that the candidacy has ended, and the term with it.
            let _gone = turn.wait_for(|turn| *turn != Some(fence)).await;
        }
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Election({:?}, {:?})", self.name, *self.turn.borrow())
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leadership(fence {}, held: {})", self.fence.0, self.is_held())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryRegistry;

    const TTL: Duration = Duration::from_secs(3);

    fn candidate(registry: &MemoryRegistry, holder: &str) -> Election {
        let spawner: super::super::Spawner = Arc::new(|work| drop(tokio::spawn(work)));
        Coordination::new(Arc::new(registry.clone()), holder, TTL, spawner).elect("desk").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn when_a_leader_resigns_another_follows_with_a_greater_token() {
        let registry = MemoryRegistry::new();
        let a = candidate(&registry, "a/1");
        let first = a.elected().await;
        let b = candidate(&registry, "b/1");
        let leader = b.leader().await.unwrap().unwrap();
        assert_eq!((leader.node(), leader.fence), ("a", first.fence()));
        assert!(b.leadership().is_none());
        let over = first.lost();
        a.resign().await;
        over.await;
        assert!(!first.is_held());
        let second = b.elected().await;
        assert!(second.fence() > first.fence());
        assert_eq!(b.leader_changed(Some(&leader)).await.unwrap().node(), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_candidacy_leaves_the_lock_free() {
        let registry = MemoryRegistry::new();
        let a = candidate(&registry, "a/1");
        let term = a.elected().await;
        drop(a);
        term.lost().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(registry.holder("desk").await.unwrap(), None);
    }
}
