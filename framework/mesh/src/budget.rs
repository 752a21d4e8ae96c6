//! How many retries and second attempts the calls to one service may cost.
//!
//! A share of the calls of the last [`BUDGET_WINDOW`] and a few a second beside it, as in Finagle's
//! `RetryBudget`: a service that fails as a whole gets a fifth more calls, not three times as many.

use std::time::{Duration, Instant};

/// Calls and retries older than this no longer count.
pub(crate) const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// The window moves on in steps of this.
const STEP_MS: u64 = 1_000;
/// Steps of the window.
const STEPS: usize = 10;

#[derive(Clone, Copy, Default)]
struct Step {
    calls: u64,
    retries: u64,
}

/// The budget of one process for one service. The calls are counted by whoever makes them; the budget
/// looks at their number only when somebody wants to take something out.
pub(crate) struct Budget {
    percent: u64,
    per_second_min: u64,
    epoch: Instant,
    /// The step that `steps[step % STEPS]` is.
    step: u64,
    steps: [Step; STEPS],
    calls_seen: u64,
    seen_at: Instant,
    taken: u64,
}

impl Budget {
    /// `attempts` is where their count begins.
    pub(crate) fn new(percent: u32, per_second_min: u32, attempts: u64, now: Instant) -> Self {
        Self {
            percent: u64::from(percent),
            per_second_min: u64::from(per_second_min),
            epoch: now,
            step: 0,
            steps: [Step::default(); STEPS],
            calls_seen: attempts,
            seen_at: now,
            taken: 0,
        }
    }

    /// Takes one out, if it is there. `attempts` is the number of attempts ever made, those taken out
    /// of here included.
    pub(crate) fn take(&mut self, attempts: u64, now: Instant) -> bool {
        self.move_on(attempts.saturating_sub(self.taken), now);
        let (calls, retries) =
            self.steps.iter().fold((0, 0), |(c, r), step| (c + step.calls, r + step.retries));
        let allowed = calls * self.percent / 100 + self.per_second_min * BUDGET_WINDOW.as_secs();
        if retries >= allowed {
            return false;
        }
        self.steps[(self.step % STEPS as u64) as usize].retries += 1;
        self.taken += 1;
        true
    }

    fn move_on(&mut self, calls: u64, now: Instant) {
        let step = now.saturating_duration_since(self.epoch).as_millis() as u64 / STEP_MS;
        for gone in (self.step + 1..=step).take(STEPS) {
            self.steps[(gone % STEPS as u64) as usize] = Step::default();
        }
        self.step = self.step.max(step);
        let mut fresh = calls.saturating_sub(self.calls_seen);
        let span = now.saturating_duration_since(self.seen_at);
        if span > BUDGET_WINDOW {
            // Nobody looked for longer than the window: of these calls its part of the time counts.
            fresh = (fresh as f64 * BUDGET_WINDOW.as_secs_f64() / span.as_secs_f64()) as u64;
        }
        self.steps[(self.step % STEPS as u64) as usize].calls += fresh;
        self.calls_seen = self.calls_seen.max(calls);
        self.seen_at = now;
    }

    /// What a caller is told who gets nothing.
    pub(crate) fn note(&self, service: &str) -> String {
        format!(
            "not tried again: the retries of {service} have used up their budget, {} % of its calls and {} a \
             second (rpc.retry_percent, rpc.retries_per_second_min)",
            self.percent, self.per_second_min
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &mut Budget, attempts: u64, now: Instant) -> u64 {
        (0..10_000).take_while(|n| budget.take(attempts + n, now)).count() as u64
    }

    #[test]
    fn without_calls_there_are_ten_a_second_and_no_more() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut budget = Budget::new(20, 10, 0, start);
        assert_eq!(taken(&mut budget, 0, at(0)), 100);
        assert!(!budget.take(100, at(9)));
        assert_eq!(taken(&mut budget, 100, at(10)), 100);
    }

    #[test]
    fn calls_allow_a_fifth_of_their_number() {
        let start = Instant::now();
        let mut budget = Budget::new(20, 0, 0, start);
        assert!(!budget.take(0, start));
        assert_eq!(taken(&mut budget, 1_000, start), 200);
        // What was taken out is no call.
        assert!(!budget.take(1_200, start));
        assert_eq!(taken(&mut budget, 1_205, start), 1);
    }

    #[test]
    fn calls_of_an_hour_ago_allow_nothing_now() {
        let start = Instant::now();
        let mut budget = Budget::new(20, 0, 0, start);
        let hour = start + Duration::from_secs(3_600);
        // 3,600 calls in an hour: ten of them in the window.
        assert_eq!(taken(&mut budget, 3_600, hour), 2);
        assert!(!budget.take(3_602, hour + BUDGET_WINDOW + Duration::from_secs(1)));
    }
}
