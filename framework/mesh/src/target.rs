//! What a process remembers of a service that it calls, whatever endpoints come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use afflux_wire::contract::{Failure, Policy, Retry};
use afflux_wire::{Code, Executed};
use parking_lot::Mutex;
use prometheus::IntCounter;

use crate::budget::Budget;
use crate::config::{MeshConfig, mix, name_hash};
use crate::ejection::Group;
use crate::metrics::MeshMetrics;

/// The longest pause in front of a first retry; it doubles with every further one.
const RETRY_PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause in front of any retry, beside what a refusal asks for.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Services that are remembered after their last endpoint has gone.
const TARGETS_KEPT_MAX: usize = 1_024;

/// A service that is called from here.
pub(crate) struct CalledService {
    /// Attempts so far: the balancer's turn and the budget's income.
    pub(crate) turn: AtomicU64,
    pub(crate) group: Arc<Group>,
    budget: Mutex<Budget>,
    seed: u64,
    name: Arc<str>,
    metrics: Arc<MeshMetrics>,
    hedges: IntCounter,
}

impl CalledService {
    fn new(name: &str, config: &MeshConfig, metrics: &Arc<MeshMetrics>, now: Instant) -> Arc<Self> {
        let seed = config.seed ^ name_hash(config.node.as_str());
        Arc::new(Self {
            // Different nodes begin at different endpoints.
            turn: AtomicU64::new(seed >> 16),
            group: Group::new(config.ejection, metrics.group(name), now),
            budget: Mutex::new(Budget::new(
                config.retry_percent,
                config.retries_per_second_min,
                seed >> 16,
                now,
            )),
            seed,
            name: Arc::from(name),
            metrics: Arc::clone(metrics),
            hedges: metrics.hedges(name),
        })
    }

    /// Counts a pick under another policy than the service's own.
    #[cold]
    pub(crate) fn picked_by(&self, policy: Policy) {
        self.metrics.picks(&self.name, policy.name()).inc();
    }

    /// Whether the budget allows another attempt, and when.
    pub(crate) fn retry(&self, failure: &Failure<'_>, now: Instant) -> Retry {
        let attempts = self.turn.load(Ordering::Relaxed);
        let mut budget = self.budget.lock();
        if !budget.take(attempts, now) {
            return Retry::Spent(budget.note(&self.name));
        }
        drop(budget);
        let not_executed = failure.status.was_executed() == Executed::No;
        let reason = match failure.status.code {
            Code::ResourceExhausted => "refused",
            _ if not_executed => "not_executed",
            _ => "repeatable",
        };
        self.metrics.retried(&self.name, reason);
        if failure.tries <= 1 && not_executed && failure.hint().is_zero() {
            // It never began: the first try elsewhere need not wait.
            return Retry::After(Duration::ZERO);
        }
        let doubled = RETRY_PAUSE_FIRST.saturating_mul(1 << failure.tries.saturating_sub(1).min(16));
        let random = mix(self.seed ^ attempts) >> 11;
        // Full jitter: anything from nothing to the whole pause.
        let jitter = doubled.min(RETRY_PAUSE_MAX).mul_f64(random as f64 / (1_u64 << 53) as f64);
        Retry::After(failure.hint() + jitter)
    }

    /// Takes a second attempt out of the budget.
    pub(crate) fn hedge(&self, now: Instant) -> bool {
        let attempts = self.turn.load(Ordering::Relaxed);
        let taken = self.budget.lock().take(attempts, now);
        if taken {
            self.hedges.inc();
        }
        taken
    }
}

/// The services that are called from here, by name.
#[derive(Default)]
pub(crate) struct CalledServices(BTreeMap<String, Arc<CalledService>>);

impl CalledServices {
    pub(crate) fn service(
        &mut self,
        name: &str,
        config: &MeshConfig,
        metrics: &Arc<MeshMetrics>,
        now: Instant,
    ) -> Arc<CalledService> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let service = CalledService::new(name, config, metrics, now);
        self.0.insert(name.to_owned(), Arc::clone(&service));
        service
    }

    /// Forgets services that nobody offers, when there are too many of them.
    pub(crate) fn tidy(&mut self, offered: impl Fn(&str) -> bool) {
        if self.0.len() > TARGETS_KEPT_MAX {
            self.0.retain(|name, _| offered(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::Status;

    fn service() -> (Arc<CalledService>, Instant) {
        let now = Instant::now();
        let mut services = CalledServices::default();
        let config = MeshConfig::new("a", "test");
        (services.service("shop", &config, &MeshMetrics::unregistered(), now), now)
    }

    #[test]
    fn what_never_began_is_tried_at_once_and_then_with_growing_random_pauses() {
        let (service, now) = service();
        let gone = Status::unavailable("gone").executed(Executed::No);
        let after = |tries| service.retry(&Failure { tries, at: None, status: &gone }, now);
        assert_eq!(after(1), Retry::After(Duration::ZERO));
        let mut pauses = Vec::new();
        for _ in 0..40 {
            service.turn.fetch_add(1, Ordering::Relaxed);
            match after(2) {
                Retry::After(pause) => pauses.push(pause),
                other => panic!("{other:?}"),
            }
        }
        assert!(pauses.iter().all(|pause| *pause <= 2 * RETRY_PAUSE_FIRST), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause > RETRY_PAUSE_FIRST), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause < RETRY_PAUSE_FIRST / 2), "{pauses:?}");
    }

    #[test]
    fn a_refusal_is_tried_again_when_it_asked_for_that_and_a_little_later() {
        let (service, now) = service();
        let full = Status::new(Code::ResourceExhausted, "full").executed(Executed::No).retry_after_ms(80);
        match service.retry(&Failure { tries: 1, at: None, status: &full }, now) {
            Retry::After(pause) => {
                assert!((80..=90).contains(&(pause.as_millis() as u64)), "{pause:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_spent_budget_says_which() {
        let (service, now) = service();
        let gone = Status::unavailable("gone").executed(Executed::No);
        let failure = Failure { tries: 1, at: None, status: &gone };
        (0..100).for_each(|_| assert!(matches!(service.retry(&failure, now), Retry::After(_))));
        assert!(!service.hedge(now), "second attempts share the budget");
        match service.retry(&failure, now) {
            Retry::Spent(note) => assert!(note.contains("shop") && note.contains("20 %"), "{note}"),
            other => panic!("{other:?}"),
        }
    }
}
