//! Holding a lock of the registry: what runs once in a cluster runs where the lock is held.

use std::sync::Arc;
use std::time::Duration;

use afflux_registry::{Fence, Registry, RegistryError};
use tokio::sync::watch;
use tokio::time::Instant;

/// A lock is extended this often within its time to live, and asked for as often by those who wait.
const TURNS_PER_TTL: u32 = 3;

/// Tries to hold the lock `name` until `closing` says so, and tells `turn` of each gain
/// (`Some(token)`) and each loss (`None`).
///
/// A loss is told before another can hold the lock: when the registry has not answered for two thirds
/// of the time to live, the lock counts as lost.
pub(crate) async fn hold(
    registry: Arc<dyn Registry>,
    name: String,
    holder: String,
    ttl: Duration,
    mut closing: watch::Receiver<bool>,
    mut turn: impl FnMut(Option<Fence>),
) {
    let pause = ttl / TURNS_PER_TTL;
    let mut held: Option<(Fence, Instant)> = None;
    let mut told_unsupported = false;
    loop {
        let asked = Instant::now();
        match held {
            None => match tokio::time::timeout(pause, registry.acquire(&name, &holder, ttl)).await {
                Ok(Ok(Some(fence))) => {
                    held = Some((fence, asked));
                    tracing::info!(lock = name, fence = fence.0, "this node leads");
                    turn(Some(fence));
                }
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error @ RegistryError::Unsupported { .. })) => {
                    if !told_unsupported {
                        tracing::error!(lock = name, %error, "what runs once in a cluster cannot run");
                    }
                    told_unsupported = true;
                }
                Ok(Err(error)) => tracing::debug!(lock = name, %error, "the lock cannot be asked for"),
            },
            Some((fence, sure_since)) => {
                let lost = match tokio::time::timeout(pause, registry.renew(&name, fence)).await {
                    Ok(Ok(())) => {
                        held = Some((fence, asked));
                        None
                    }
                    Ok(Err(error @ RegistryError::NotHeld { .. })) => Some(error.to_string()),
                    Ok(Err(error)) => overdue(sure_since, pause).then(|| error.to_string()),
                    Err(_) => overdue(sure_since, pause).then(|| "the registry does not answer".to_owned()),
                };
                if let Some(reason) = lost {
                    held = None;
                    tracing::warn!(lock = name, reason, "this node no longer leads");
                    turn(None);
                }
            }
        }
        let next = asked + pause;
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            () = tokio::time::sleep_until(next) => {}
        }
    }
    if let Some((fence, _)) = held {
        turn(None);
        if let Err(error) = registry.release(&name, fence).await {
            tracing::debug!(lock = name, %error, "the lock was not given back and will run out");
        }
    }
}

/// Whether nothing was heard for two thirds of the time to live.
fn overdue(sure_since: Instant, pause: Duration) -> bool {
    sure_since.elapsed() >= pause * (TURNS_PER_TTL - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_registry::MemoryRegistry;
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
            tokio::spawn(hold(
                registry,
                "desk".into(),
                holder.into(),
                TTL,
                closing.subscribe(),
                move |turn| {
                    told.lock().push(turn);
                },
            ));
            Self { turns, closing }
        }

        fn leads(&self) -> bool {
            matches!(self.turns.lock().last(), Some(Some(_)))
        }
    }

    fn paused(test: impl Future<Output = ()>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn one_of_two_leads_and_the_other_follows_when_it_closes() {
        paused(async {
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
        });
    }

    #[test]
    fn a_leader_that_cannot_reach_the_registry_steps_down_before_another_can_lead() {
        paused(async {
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
        });
    }
}
