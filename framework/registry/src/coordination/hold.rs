//! Keeping a lock: extended while it is wanted, given up before another can have it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::RegistryError;
use crate::registry::{Fence, Registry};
use crate::watch;

/// A lock is extended this often within its time to live, and asked for as often after a failure.
const TURNS_PER_TTL: u32 = 3;

/// Extends a lock; resolves with the reason when it is lost.
///
/// Lost is what was refused, and what has not been confirmed for two thirds of its time to live: another
/// cannot have it yet. `sure_since` is when the last confirmation was asked for.
pub(super) async fn keep(
    registry: &dyn Registry,
    name: &str,
    fence: Fence,
    ttl: Duration,
    mut sure_since: Instant,
) -> String {
    let pause = ttl / TURNS_PER_TTL;
    let mut next = sure_since + pause;
    loop {
        tokio::time::sleep_until(next).await;
        let asked = Instant::now();
        next = asked + pause;
        let failed = match timeout(pause, registry.renew(name, fence)).await {
            Ok(Ok(())) => {
                sure_since = asked;
                continue;
            }
            Ok(Err(error @ RegistryError::NotHeld { .. })) => return error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("the registry {} does not answer", registry.name()),
        };
        let sure_until = sure_since + pause * (TURNS_PER_TTL - 1);
        if Instant::now() >= sure_until {
            return failed;
        }
        tracing::debug!(lock = name, error = failed, "the lock could not be extended");
        // An outage is noticed in time, and asked about again before that.
        next = sure_until.min(Instant::now() + pause / 4);
    }
}

/// Confirms a lock that was waited for, since waiting may have used up its time to live.
pub(super) async fn confirm(
    registry: &dyn Registry,
    name: &str,
    fence: Fence,
) -> Result<Instant, RegistryError> {
    let asked = Instant::now();
    registry.renew(name, fence).await?;
    Ok(asked)
}

/// Tries to hold the lock `name` until `closing` says so, and tells `turn` of each gain
/// (`Some(token)`) and each loss (`None`).
///
/// A loss is told before another can hold the lock: when the registry has not answered for two thirds
/// of the time to live, the lock counts as lost.
pub async fn hold(
    registry: Arc<dyn Registry>,
    name: String,
    holder: String,
    ttl: Duration,
    mut closing: watch::Receiver<bool>,
    mut turn: impl FnMut(Option<Fence>),
) {
    let mut told_unsupported = false;
    loop {
        let gained = async {
            let fence = registry.lock(&name, &holder, ttl).await?;
            Ok((fence, confirm(&*registry, &name, fence).await?))
        };
        let gained = tokio::select! {
            biased;
            () = closed(&mut closing) => return,
            gained = gained => gained,
        };
        match gained {
            Ok((fence, sure_since)) => {
                tracing::info!(lock = name, fence = fence.0, "this node leads");
                turn(Some(fence));
                let lost = tokio::select! {
                    biased;
                    () = closed(&mut closing) => None,
                    reason = keep(&*registry, &name, fence, ttl, sure_since) => Some(reason),
                };
                turn(None);
                match lost {
                    Some(reason) => tracing::warn!(lock = name, reason, "this node no longer leads"),
                    None => {
                        give_back(&*registry, &name, fence).await;
                        return;
                    }
                }
            }
            Err(error @ RegistryError::Unsupported { .. }) => {
                if !told_unsupported {
                    tracing::error!(lock = name, %error, "what runs once in a cluster cannot run");
                }
                told_unsupported = true;
            }
            Err(error) => tracing::debug!(lock = name, %error, "the lock cannot be asked for"),
        }
        tokio::select! {
            biased;
            () = closed(&mut closing) => return,
            () = tokio::time::sleep(ttl / TURNS_PER_TTL) => {}
        }
    }
}

pub(super) async fn give_back(registry: &dyn Registry, name: &str, fence: Fence) {
    if let Err(error) = registry.release(name, fence).await {
        tracing::debug!(lock = name, %error, "the lock was not given back and will run out");
    }
}

/// Resolves when the value is true, or its sender is gone.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _gone = closing.wait_for(|closing| *closing).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryRegistry;
    use parking_lot::Mutex;

    const TTL: Duration = Duration::from_secs(3);

    struct Candidate {
        turns: Arc<Mutex<Vec<Option<Fence>>>>,
        closing: watch::Sender<bool>,
    }

    impl Candidate {
        fn start(registry: &MemoryRegistry, holder: &str) -> Self {
            let turns = Arc::new(Mutex::new(Vec::new()));
            let closing = watch::Sender::new(false);
            let told = Arc::clone(&turns);
            let registry: Arc<dyn Registry> = Arc::new(registry.clone());
            let turn = move |turn| told.lock().push(turn);
            tokio::spawn(hold(registry, "desk".into(), holder.into(), TTL, closing.subscribe(), turn));
            Self { turns, closing }
        }

        fn leads(&self) -> bool {
            matches!(self.turns.lock().last(), Some(Some(_)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_leads_and_the_other_follows_when_it_closes() {
        let registry = MemoryRegistry::new();
        let first = Candidate::start(&registry, "a");
        tokio::time::sleep(TTL).await;
        let second = Candidate::start(&registry, "b");
        tokio::time::sleep(TTL * 3).await;
        assert!(first.leads() && !second.leads());
        first.closing.send_replace(true);
        tokio::time::sleep(TTL).await;
        assert!(!first.leads() && second.leads());
        let fence = |c: &Candidate| c.turns.lock().iter().flatten().last().map(|f| f.0);
        assert!(fence(&second) > fence(&first), "a later leader has a greater token");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_reach_the_registry_steps_down_before_another_can_lead() {
        let registry = MemoryRegistry::new();
        let leader = Candidate::start(&registry, "a");
        tokio::time::sleep(TTL).await;
        assert!(leader.leads());
        registry.cut("the cable");
        let cut_at = Instant::now();
        while leader.leads() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(cut_at.elapsed() < TTL, "stepped down after {:?}", cut_at.elapsed());
        registry.heal();
        tokio::time::sleep(TTL * 2).await;
        assert!(leader.leads());
    }
}
