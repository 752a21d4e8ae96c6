//! Whether an actor that ended starts again. Pure: no clock, no actor.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::options::{Restart, RestartPolicy};
use crate::watch::StopReason;

/// What follows the end of an actor.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// It stays ended, for this reason.
    End(StopReason),
    /// It starts again after this pause.
    Restart(Duration),
}

/// The restarts of one actor within the span of its policy.
#[derive(Debug)]
pub(crate) struct Budget {
    restart: Restart,
    /// At most `restart.max` moments.
    recent: VecDeque<Instant>,
}

impl Budget {
    pub(crate) fn new(restart: Restart) -> Self {
        Self { restart, recent: VecDeque::new() }
    }

    pub(crate) fn decide(&mut self, reason: StopReason, now: Instant) -> Decision {
        let again = match (self.restart.policy, &reason) {
            (_, StopReason::Asked(_)) | (RestartPolicy::Temporary, _) => false,
            (RestartPolicy::Transient, StopReason::Finished) => false,
            (RestartPolicy::Permanent | RestartPolicy::Transient, _) => true,
        };
        if !again {
            return Decision::End(reason);
        }
        while self.recent.front().is_some_and(|at| now.duration_since(*at) >= self.restart.within) {
            self.recent.pop_front();
        }
        let restarts = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if restarts >= self.restart.max {
            return Decision::End(StopReason::RestartBudget { restarts, last: Box::new(reason) });
        }
        self.recent.push_back(now);
        let pause = match restarts {
            0 => Duration::ZERO,
            n => self.restart.backoff.saturating_mul(1_u32.checked_shl(n - 1).unwrap_or(u32::MAX)),
        };
        Decision::Restart(pause.min(self.restart.backoff_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::Status;
    use afflux_wire::contract::Panic;

    fn panicked() -> StopReason {
        StopReason::Panicked(Panic { message: "boom".into() })
    }

    fn asked() -> StopReason {
        StopReason::Asked(Status::unavailable("bye"))
    }

    fn budget(policy: RestartPolicy, max: u32) -> Budget {
        Budget::new(Restart { policy, max, ..Restart::default() })
    }

    #[test]
    fn the_policy_says_which_ends_are_followed_by_a_restart() {
        use RestartPolicy::{Permanent, Temporary, Transient};
        let now = Instant::now();
        for (policy, reason, again) in [
            (Permanent, panicked(), true),
            (Permanent, StopReason::Finished, true),
            (Permanent, asked(), false),
            (Transient, panicked(), true),
            (Transient, StopReason::Failed(Status::internal("x")), true),
            (Transient, StopReason::Finished, false),
            (Transient, asked(), false),
            (Temporary, panicked(), false),
            (Temporary, StopReason::Finished, false),
        ] {
            let decision = budget(policy, 5).decide(reason.clone(), now);
            assert_eq!(matches!(decision, Decision::Restart(_)), again, "{policy:?} {reason:?}");
        }
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_pauses_double_up_to_their_limit() {
        let now = Instant::now();
        let mut budget = Budget::new(Restart {
            max: 100,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_millis(300),
            ..Restart::default()
        });
        let pauses: Vec<_> = (0..40)
            .map(|_| match budget.decide(panicked(), now) {
                Decision::Restart(pause) => pause.as_millis(),
                Decision::End(reason) => panic!("{reason}"),
            })
            .collect();
        assert_eq!(pauses[..6], [0, 50, 100, 200, 300, 300]);
        assert_eq!(pauses[39], 300);
    }

    #[test]
    fn one_restart_too_many_within_the_span_ends_the_actor_and_old_ones_do_not_count() {
        let start = Instant::now();
        let mut budget = budget(RestartPolicy::Permanent, 2);
        let second = Duration::from_secs(1);
        assert!(matches!(budget.decide(panicked(), start), Decision::Restart(_)));
        assert!(matches!(budget.decide(panicked(), start + second), Decision::Restart(_)));
        assert_eq!(
            budget.decide(panicked(), start + 2 * second),
            Decision::End(StopReason::RestartBudget { restarts: 2, last: Box::new(panicked()) })
        );
        assert!(matches!(budget.decide(panicked(), start + 30 * second), Decision::Restart(_)));
    }
}
