//! Which receivers this node has, which attempts are over, and how a sender finds its receiver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use afflux_actor::clock;
use afflux_wire::{Attach, Attempt, Code, Status};
use parking_lot::Mutex;

use crate::channel::{Attaching, ChannelKey, RecvState, SendState};
use crate::mesh::Shared;

/// The first wait after a refused ATTACH: the receiver's node may be deploying still.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_millis(250);
/// Jobs whose last released attempt is remembered.
const RELEASED_JOBS_MAX: usize = 16_384;

/// Why an ATTACH was answered with DETACH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No receiver of that name: it may come.
    Unknown,
    /// The attempt is over.
    Released,
    /// Another build.
    Fingerprint,
    /// It has a sender.
    Taken,
    /// Only nodes of the cluster send batches.
    Forbidden,
}

impl Refusal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Released => "released",
            Self::Fingerprint => "fingerprint",
            Self::Taken => "taken",
            Self::Forbidden => "forbidden",
        }
    }
}

/// The receivers of a node.
#[derive(Default)]
pub(crate) struct ChannelTable {
    state: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    receivers: BTreeMap<ChannelKey, Arc<RecvState>>,
    released: BTreeMap<Arc<str>, Attempt>,
}

impl ChannelTable {
    /// Adds a receiver; one of the same name is closed, one of an old attempt is born closed.
    pub(crate) fn insert(&self, state: &Arc<RecvState>) {
        let mut tables = self.state.lock();
        let over = tables.released.get(&state.key.job).is_some_and(|last| state.key.attempt <= *last);
        let closed = if over {
            Some(Arc::clone(state))
        } else {
            tables.receivers.insert(state.key.clone(), Arc::clone(state))
        };
        drop(tables);
        if let Some(closed) = closed {
            closed.close();
        }
    }

    /// Forgets a receiver, unless another has taken its name.
    pub(crate) fn remove(&self, state: &Arc<RecvState>) {
        let mut tables = self.state.lock();
        if tables.receivers.get(&state.key).is_some_and(|known| Arc::ptr_eq(known, state)) {
            tables.receivers.remove(&state.key);
        }
    }

    /// The receiver that an ATTACH is for.
    pub(crate) fn receiver(&self, attach: &Attach<'_>) -> Result<Arc<RecvState>, Refusal> {
        let key = ChannelKey {
            job: attach.job.into(),
            attempt: Attempt(attach.attempt),
            edge: attach.edge,
            from: attach.from,
            to: attach.to,
        };
        let tables = self.state.lock();
        if tables.released.get(&key.job).is_some_and(|last| key.attempt <= *last) {
            return Err(Refusal::Released);
        }
        let state = Arc::clone(tables.receivers.get(&key).ok_or(Refusal::Unknown)?);
        drop(tables);
        if state.fingerprint != attach.fingerprint {
            let status = Status::precondition(format!(
                "channel {key}: the sender's build is {:016x}, this node's is {:016x}: a job runs on \
                 nodes of one build only",
                attach.fingerprint, state.fingerprint
            ));
            tracing::error!(%status, "a channel was refused");
            let mut wakers = Vec::new();
            state.end(Some(status), &mut wakers);
            wakers.into_iter().for_each(std::task::Waker::wake);
            return Err(Refusal::Fingerprint);
        }
        Ok(state)
    }

    /// Ends all receivers of this attempt and of earlier ones.
    pub(crate) fn release(&self, job: &str, attempt: Attempt) {
        let mut tables = self.state.lock();
        let over = |key: &ChannelKey| *key.job == *job && key.attempt <= attempt;
        let keys: Vec<_> = tables.receivers.keys().filter(|key| over(key)).cloned().collect();
        let closed: Vec<_> = keys.iter().filter_map(|key| tables.receivers.remove(key)).collect();
        let last = tables.released.entry(job.into()).or_insert(attempt);
        *last = attempt.max(*last);
        if tables.released.len() > RELEASED_JOBS_MAX {
            tables.released.pop_first();
        }
        drop(tables);
        for state in closed {
            state.close();
        }
    }
}

/// Attaches a sender: waits for a link, tries again when the receiver is not there yet, and gives up
/// after the attach timeout. Ends once the channel is open.
pub(crate) async fn run(shared: Arc<Shared>, sender: Arc<SendState>) {
    let started = clock::now();
    let timeout = shared.config.attach_timeout;
    let (mut wait, mut refusals, mut linked) = (RETRY_FIRST, 0u32, false);
    loop {
        let left = timeout.saturating_sub(clock::now().saturating_duration_since(started));
        match sender.attaching() {
            Attaching::Settled => return,
            _ if left.is_zero() => return sender.fail(not_attached(&sender, timeout, linked, refusals)),
            Attaching::Waiting => {
                let _ = tokio::time::timeout(left, sender.settled.notified()).await;
                if matches!(sender.attaching(), Attaching::Unattached) {
                    refusals += 1;
                    tokio::time::sleep(wait.min(left)).await;
                    wait = (2 * wait).min(RETRY_MAX);
                }
            }
            Attaching::Unattached => match shared.link_to(&sender.peer) {
                Some(link) => {
                    linked = true;
                    if let Err(status) = link.attach(&sender) {
                        return sender.fail(status);
                    }
                }
                None => {
                    let changed = shared.changed_since_now(left);
                    if shared.link_to(&sender.peer).is_none() {
                        changed.await;
                    }
                }
            },
        }
    }
}

fn not_attached(sender: &SendState, timeout: Duration, linked: bool, refusals: u32) -> Status {
    let why = if linked {
        format!("node {} has no receiver for it ({refusals} tries)", sender.peer)
    } else {
        format!("there is no link to node {}", sender.peer)
    };
    Status::new(
        Code::Unavailable,
        format!("channel {} did not open within {timeout:?} (attach_timeout): {why}", sender.key),
    )
    .node(&sender.peer)
}
