//! When a job that has lost an attempt begins another: strategy, back-off and budget.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use afflux_wire::{Code, Status};

/// Whether a job restarts by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartStrategy {
    /// As `Exponential` where the job takes checkpoints by itself, else as `Never`.
    #[default]
    Auto,
    /// With pauses that grow from one failure to the next.
    Exponential,
    /// Its first failure is its end.
    Never,
}

/// How a job restarts: part of its settings.
///
/// ```
/// use afflux_stream::job::RestartSettings;
/// let settings = RestartSettings::default();
/// assert_eq!(settings.pause(1).as_millis(), 100);
/// assert_eq!(settings.pause(3).as_millis(), 400);
/// assert_eq!(settings.pause(40).as_millis(), 10_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartSettings {
    /// Whether it does at all.
    pub strategy: RestartStrategy,
    /// Milliseconds before the restart after a first failure.
    pub backoff_initial_ms: u64,
    /// The longest such pause, in milliseconds.
    pub backoff_max_ms: u64,
    /// Each pause is this many times the one before.
    pub backoff_multiplier: u64,
    /// Failures within `window_ms` that are survived; one more fails the job.
    pub failures_max: u64,
    /// Milliseconds for which a failure counts.
    pub window_ms: u64,
}

impl Default for RestartSettings {
    fn default() -> Self {
        Self {
            strategy: RestartStrategy::Auto,
            backoff_initial_ms: 100,
            backoff_max_ms: 10_000,
            backoff_multiplier: 2,
            failures_max: 10,
            window_ms: 600_000,
        }
    }
}

impl RestartSettings {
    /// Whether a job with these settings restarts; `checkpoints`: it takes them by itself.
    pub fn restarts(&self, checkpoints: bool) -> bool {
        match self.strategy {
            RestartStrategy::Auto => checkpoints,
            RestartStrategy::Exponential => true,
            RestartStrategy::Never => false,
        }
    }

    /// The pause after the `failure`-th failure of the window, from 1.
    pub fn pause(&self, failure: u64) -> Duration {
        let mut pause = self.backoff_initial_ms.min(self.backoff_max_ms);
        for _ in 1..failure {
            pause = pause.saturating_mul(self.backoff_multiplier.max(1)).min(self.backoff_max_ms);
            if pause == self.backoff_max_ms || pause == 0 || self.backoff_multiplier <= 1 {
                break;
            }
        }
        Duration::from_millis(pause)
    }

    /// For how long a failure counts.
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }
}

/// Whether the same would fail again whatever is tried: wrong settings, another build, a limit of the
/// pipeline itself.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(status.code, Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_limit_and_a_multiplier_of_one_keeps_them() {
        let settings = RestartSettings { backoff_max_ms: 350, ..RestartSettings::default() };
        let pauses: Vec<u128> = (1..=4).map(|n| settings.pause(n).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 350, 350]);
        let even = RestartSettings { backoff_multiplier: 1, ..settings };
        assert_eq!(even.pause(1_000_000_000).as_millis(), 100);
    }

    #[test]
    fn a_job_restarts_by_itself_only_where_it_takes_checkpoints_or_was_told_to() {
        let of = |strategy| RestartSettings { strategy, ..RestartSettings::default() };
        assert!(of(RestartStrategy::Auto).restarts(true) && !of(RestartStrategy::Auto).restarts(false));
        assert!(of(RestartStrategy::Exponential).restarts(false));
        assert!(!of(RestartStrategy::Never).restarts(true));
    }

    #[test]
    fn what_would_fail_again_is_final() {
        assert!(is_final(&Status::precondition("another build")));
        assert!(is_final(&Status::invalid("no such setting")));
        assert!(!is_final(&Status::unavailable("node b died")));
        assert!(!is_final(&Status::internal("operator x panicked")));
    }
}
