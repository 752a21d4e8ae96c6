//! Whether threads take turns: what `/livez` answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use afflux_actor::Place;
use afflux_actor::clock::now;

/// Between two beats of a thread.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// A thread that has not beaten for so long is stuck: a handler that blocks it for less delays others and is seen in
/// `afflux_runtime_poll_delay_seconds`.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// The last beat of each watched thread.
pub(crate) struct Pulse {
    begun: Instant,
    /// Milliseconds from `begun` to the last beat.
    beats: Vec<AtomicU64>,
}

impl Pulse {
    fn new(threads: usize, begun: Instant) -> Self {
        Self { begun, beats: (0..threads).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Lets each of the places beat for as long as it lives.
    pub(crate) fn of(places: &[Place]) -> Arc<Self> {
        let pulse = Arc::new(Self::new(places.len(), now()));
        for (thread, place) in places.iter().enumerate() {
            let pulse = Arc::clone(&pulse);
            place.spawn_future(async move {
                loop {
                    pulse.beat(thread, now());
                    tokio::time::sleep(BEAT_EVERY).await;
                }
            });
        }
        pulse
    }

    fn beat(&self, thread: usize, now: Instant) {
        let at = u64::try_from(now.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX);
        if let Some(beat) = self.beats.get(thread) {
            beat.store(at, Ordering::Relaxed);
        }
    }

    /// Whether every thread has beaten lately.
    ///
    /// # Errors
    /// Which has not, and for how long.
    pub(crate) fn check(&self, now: Instant) -> Result<(), String> {
        let since_begun = now.saturating_duration_since(self.begun);
        for (thread, beat) in self.beats.iter().enumerate() {
            let silent = since_begun.saturating_sub(Duration::from_millis(beat.load(Ordering::Relaxed)));
            if silent > STUCK_AFTER {
                return Err(format!(
                    "I/O thread {thread} has not taken a turn for {} s, more than {} s: something blocks it",
                    silent.as_secs(),
                    STUCK_AFTER.as_secs()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_beat_is_named_after_a_while() {
        let begun = now();
        let pulse = Pulse::new(2, begun);
        assert_eq!(pulse.check(begun + STUCK_AFTER), Ok(()));
        pulse.beat(0, begun + STUCK_AFTER);
        let later = begun + STUCK_AFTER + Duration::from_secs(1);
        let told = pulse.check(later).unwrap_err();
        assert!(told.starts_with("I/O thread 1 has not taken a turn for 21 s"), "{told}");
        pulse.beat(1, later);
        assert_eq!(pulse.check(later), Ok(()));
    }
}
