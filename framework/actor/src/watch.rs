//! Death watch: learning that an actor ended, and why.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use afflux_wire::contract::Panic;
use afflux_wire::{NodeId, Status};
use parking_lot::Mutex;

/// Why an actor ended.
#[derive(Clone, Debug, PartialEq)]
pub enum StopReason {
    /// Its work is done.
    Finished,
    /// Somebody asked, with this explanation.
    Asked(Status),
    /// A handler panicked and the policy allows no restart.
    Panicked(Panic),
    /// It could not be started, or gave up.
    Failed(Status),
    /// It was restarted too often.
    RestartBudget {
        /// Restarts within the span.
        restarts: u32,
        /// What ended it the last time.
        last: Box<StopReason>,
    },
    /// The node it lived on is gone.
    NodeLost {
        /// The node.
        node: NodeId,
        /// How that was noticed.
        reason: String,
    },
}

impl StopReason {
    /// The closed set of words for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            StopReason::Finished => "finished",
            StopReason::Asked(_) => "asked",
            StopReason::Panicked(_) => "panicked",
            StopReason::Failed(_) => "failed",
            StopReason::RestartBudget { .. } => "restart_budget",
            StopReason::NodeLost { .. } => "node_lost",
        }
    }

    pub(crate) const ALL: [&'static str; 6] =
        ["finished", "asked", "panicked", "failed", "restart_budget", "node_lost"];
}

impl From<Status> for StopReason {
    fn from(status: Status) -> Self {
        StopReason::Asked(status)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Finished => f.write_str("finished"),
            StopReason::Asked(status) => write!(f, "asked to stop: {}", status.message),
            StopReason::Panicked(panic) => write!(f, "panicked: {panic}"),
            StopReason::Failed(status) => write!(f, "failed: {status}"),
            StopReason::RestartBudget { restarts, last } => {
                write!(f, "gave up after {restarts} restarts; the last end: {last}")
            }
            StopReason::NodeLost { node, reason } => write!(f, "node {node} is lost: {reason}"),
        }
    }
}

#[derive(Default)]
struct State {
    reason: Option<StopReason>,
    /// One a live [`Watch`] that has been polled: bounded by the watches that exist.
    wakers: Vec<(u64, Waker)>,
    next: u64,
}

/// The announcement of one end. Whoever learns of it announces; any number may watch.
///
/// ```
/// use afflux_actor::{Death, StopReason};
/// let death = Death::new();
/// death.announce(StopReason::Finished);
/// assert_eq!(death.reason(), Some(StopReason::Finished));
/// ```
#[derive(Clone, Default)]
pub struct Death(Arc<Mutex<State>>);

impl Death {
    /// An end that has not come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces the end. The first reason stands.
    pub fn announce(&self, reason: StopReason) {
        let wakers = {
            let mut state = self.0.lock();
            if state.reason.is_some() {
                return;
            }
            state.reason = Some(reason);
            std::mem::take(&mut state.wakers)
        };
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    /// The reason, once there is one.
    pub fn reason(&self) -> Option<StopReason> {
        self.0.lock().reason.clone()
    }

    /// A future of the reason; resolves at once when the end has come already.
    pub fn watch(&self) -> Watch {
        let mut state = self.0.lock();
        state.next += 1;
        Watch { death: self.clone(), id: state.next }
    }
}

impl fmt::Debug for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Death").field(&self.reason()).finish()
    }
}

/// A future of the end of an actor.
#[derive(Debug)]
#[must_use = "a watch tells only whom awaits it"]
pub struct Watch {
    death: Death,
    id: u64,
}

impl Future for Watch {
    type Output = StopReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<StopReason> {
        let mut state = self.death.0.lock();
        if let Some(reason) = &state.reason {
            return Poll::Ready(reason.clone());
        }
        match state.wakers.iter_mut().find(|(id, _)| *id == self.id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => state.wakers.push((self.id, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.death.0.lock();
        if let Some(index) = state.wakers.iter().position(|(id, _)| *id == self.id) {
            state.wakers.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn every_watcher_learns_the_first_reason_also_after_the_end() {
        let death = Death::new();
        let (mut one, mut two) = (death.watch(), death.watch());
        assert_eq!((&mut one).now_or_never(), None);
        assert_eq!((&mut two).now_or_never(), None);
        death.announce(StopReason::Finished);
        death.announce(StopReason::Asked(Status::unavailable("later")));
        assert_eq!(one.now_or_never(), Some(StopReason::Finished));
        assert_eq!(two.now_or_never(), Some(StopReason::Finished));
        assert_eq!(death.watch().now_or_never(), Some(StopReason::Finished));
    }

    #[test]
    fn a_dropped_watch_leaves_nothing_behind() {
        let death = Death::new();
        let mut watch = death.watch();
        assert_eq!((&mut watch).now_or_never(), None);
        assert_eq!(death.0.lock().wakers.len(), 1);
        drop(watch);
        assert!(death.0.lock().wakers.is_empty());
    }
}
