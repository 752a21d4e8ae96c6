//! Which partitions this node owns: it takes the locks of those that are meant for it, and gives back
//! those that are not any more, once their actors have ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::{Fence, Registry, RegistryError, watch};
use afflux_wire::NodeId;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::host::Partitions;
use super::{KEYED_PARTITIONS, KeyedMetrics};

/// A lock is extended this often within its time to live, and asked for as often while another holds it.
const TURNS_PER_TTL: u32 = 3;

/// Between two looks at actors that are to end.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// Between two looks at what is idle and what waits for an owner.
const TICK_MAX: Duration = Duration::from_millis(250);

/// How one partition stands with this node.
#[derive(Clone, Copy, Debug)]
enum Lock {
    Free { ask_at: Instant },
    Held { fence: Fence, sure_since: Instant, renew_at: Instant, leaving: bool },
}

enum Work {
    Acquire,
    Renew(Fence),
    Release(Fence),
}

enum Done {
    Acquired(Result<Option<Fence>, RegistryError>),
    Renewed(Result<(), RegistryError>),
    Released,
    Late,
}

/// What the driver of one keyed service works with.
pub(crate) struct Drive {
    pub(crate) name: String,
    pub(crate) host: Arc<dyn Partitions>,
    pub(crate) registry: Arc<dyn Registry>,
    /// One life of this node.
    pub(crate) holder: String,
    pub(crate) ttl: Duration,
    pub(crate) closing: watch::Receiver<bool>,
    /// Somebody gave a partition back, or an actor has ended.
    pub(crate) wake: Arc<Notify>,
    /// Tells a node that partitions meant for it are free.
    pub(crate) vacated: Box<dyn Fn(NodeId) + Send + Sync>,
    pub(crate) metrics: KeyedMetrics,
}

impl Drive {
    fn lock_name(&self, partition: u32) -> String {
        format!("afflux.keyed.{}.{partition}", self.name)
    }

    async fn carry_out(&self, partition: u32, work: Work) -> (u32, Instant, Done) {
        let asked = Instant::now();
        let (name, pause) = (self.lock_name(partition), self.ttl / (2 * TURNS_PER_TTL));
        let done = async {
            match work {
                Work::Acquire => Done::Acquired(self.registry.acquire(&name, &self.holder, self.ttl).await),
                Work::Renew(fence) => Done::Renewed(self.registry.renew(&name, fence).await),
                Work::Release(fence) => match self.registry.release(&name, fence).await {
                    Ok(()) => Done::Released,
                    // Its lease runs out.
                    Err(error) => {
                        tracing::debug!(lock = name, %error, "a partition was not given back");
                        Done::Released
                    }
                },
            }
        };
        (partition, asked, timeout(pause, done).await.unwrap_or(Done::Late))
    }

    fn moved(&self, how: &str) {
        self.metrics.moves.with_label_values(&[self.name.as_str(), how]).inc();
    }
}

/// Owns partitions until `closing`, and then none.
pub(crate) async fn run(mut drive: Drive) {
    let mut views = drive.registry.watch();
    let pause = drive.ttl / TURNS_PER_TTL;
    let valid_for = pause * (TURNS_PER_TTL - 1);
    let mut locks = vec![Lock::Free { ask_at: Instant::now() }; KEYED_PARTITIONS as usize];
    let (mut closing, mut watching) = (false, true);
    loop {
        let now = Instant::now();
        closing |= *drive.closing.borrow();
        drive.host.set_closing(closing);
        let wanted: Vec<bool> = (0..KEYED_PARTITIONS).map(|p| !closing && drive.host.is_wanted(p)).collect();
        let mut works = Vec::new();
        for (partition, lock) in (0_u32..).zip(&mut locks) {
            let wanted = wanted[partition as usize];
            match lock {
                Lock::Free { ask_at } if wanted && *ask_at <= now => works.push((partition, Work::Acquire)),
                Lock::Free { .. } => {}
                Lock::Held { sure_since, .. } if now.duration_since(*sure_since) >= valid_for => {
                    drive.host.lose(partition, "its lock was not confirmed in time");
                    drive.moved("lost");
                    *lock = Lock::Free { ask_at: now + pause };
                }
                Lock::Held { fence, renew_at, leaving, .. } => {
                    if !wanted && !*leaving {
                        *leaving = true;
                        drive.host.leave(partition);
                    }
                    if *leaving && drive.host.has_left(partition) {
                        works.push((partition, Work::Release(*fence)));
                    } else if *renew_at <= now {
                        works.push((partition, Work::Renew(*fence)));
                    }
                }
            }
        }
        let done =
            join_all(works.into_iter().map(|(partition, work)| drive.carry_out(partition, work))).await;
        let mut told = BTreeSet::new();
        for (partition, asked, done) in done {
            let lock = &mut locks[partition as usize];
            match (done, &mut *lock) {
                (Done::Acquired(Ok(Some(fence))), Lock::Free { .. }) => {
                    *lock = Lock::Held { fence, sure_since: asked, renew_at: asked + pause, leaving: false };
                    drive.host.own(partition, fence.0, asked + valid_for);
                    drive.moved("gained");
                }
                (Done::Acquired(answer), Lock::Free { ask_at }) => {
                    if let Err(error) = answer {
                        tracing::debug!(service = drive.name, partition, %error, "a partition cannot be taken");
                    }
                    *ask_at = asked + pause;
                }
                (Done::Renewed(Ok(())), Lock::Held { sure_since, renew_at, .. }) => {
                    (*sure_since, *renew_at) = (asked, asked + pause);
                    drive.host.extend(partition, asked + valid_for);
                }
                (Done::Renewed(Err(error @ RegistryError::NotHeld { .. })), Lock::Held { .. }) => {
                    drive.host.lose(partition, &error.to_string());
                    drive.moved("lost");
                    *lock = Lock::Free { ask_at: Instant::now() };
                }
                // Asked again soon: the time for which the lock is sure runs on.
                (_, Lock::Held { renew_at, leaving: false, .. }) => *renew_at = asked + pause / 4,
                (Done::Released, Lock::Held { .. }) => {
                    *lock = Lock::Free { ask_at: Instant::now() };
                    drive.host.left(partition);
                    drive.moved("handed_over");
                    told.extend(drive.host.meant_for(partition));
                }
                (Done::Late, Lock::Free { ask_at }) => *ask_at = asked + pause,
                (_, Lock::Held { renew_at, .. }) => *renew_at = asked + pause / 4,
                (_, Lock::Free { .. }) => {}
            }
        }
        told.into_iter().for_each(|node| (drive.vacated)(node));
        let owned = locks.iter().filter(|lock| matches!(lock, Lock::Held { .. })).count();
        drive.metrics.partitions.with_label_values(&[drive.name.as_str()]).set(owned as i64);
        if closing && owned == 0 {
            return;
        }
        drive.host.tick();
        let now = Instant::now();
        let mut next = now + TICK_MAX.min(pause);
        for (lock, wanted) in locks.iter().zip(&wanted) {
            next = next.min(match lock {
                Lock::Held { leaving: true, .. } => now + DRAIN_LOOK,
                Lock::Held { renew_at, sure_since, .. } => (*renew_at).min(*sure_since + valid_for),
                Lock::Free { ask_at } if *wanted => *ask_at,
                Lock::Free { .. } => next,
            });
        }
        tokio::select! {
            biased;
            _ = drive.closing.changed(), if !closing => {}
            view = views.next(), if watching => watching = view.is_some(),
            () = drive.wake.notified() => {
                // What was asked for in vain may be free now.
                for lock in &mut locks {
                    if let Lock::Free { ask_at } = lock {
                        *ask_at = Instant::now();
                    }
                }
            }
            () = sleep_until(next.max(now + Duration::from_millis(1))) => {}
        }
    }
}
