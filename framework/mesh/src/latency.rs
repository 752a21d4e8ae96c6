//! How long the calls of a method take, for second attempts.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Two buckets an octave, from 1 µs to over an hour.
const BUCKETS: usize = 64;
/// With fewer samples nothing is said.
const SAMPLES_MIN: u32 = 20;
/// At this many samples all counts are halved, so that old ones fade.
const SAMPLES_MAX: u32 = 1_024;

/// A histogram of the sampled calls of one method.
#[derive(Debug)]
pub(crate) struct Latency {
    counts: [AtomicU32; BUCKETS],
    samples: AtomicU32,
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU32::new(0)), samples: AtomicU32::new(0) }
    }
}

impl Latency {
    pub(crate) fn observe(&self, span: Duration) {
        let micros = (span.as_micros() as f64).max(1.0);
        let bucket = ((micros.log2() * 2.0) as usize).min(BUCKETS - 1);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        if self.samples.fetch_add(1, Ordering::Relaxed) + 1 >= SAMPLES_MAX {
            let mut left = 0;
            for count in &self.counts {
                let half = count.load(Ordering::Relaxed) / 2;
                count.store(half, Ordering::Relaxed);
                left += half;
            }
            self.samples.store(left, Ordering::Relaxed);
        }
    }

    /// The time within which this share of the calls was answered, rounded up to a bucket's end;
    /// nothing while too few are known.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u32> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u32 = counts.iter().sum();
        if all < SAMPLES_MIN {
            return None;
        }
        let wanted = (f64::from(all) * share).ceil() as u32;
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_micros(((bucket + 1) as f64 / 2.0).exp2().ceil() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_a_few_calls() {
        let latency = Latency::default();
        for _ in 1..SAMPLES_MIN {
            latency.observe(Duration::from_millis(1));
        }
        assert_eq!(latency.quantile(0.95), None);
    }

    #[test]
    fn ninety_five_of_a_hundred_calls_are_within_the_quantile() {
        let latency = Latency::default();
        for n in 0..100 {
            latency.observe(Duration::from_millis(if n < 96 { 10 } else { 900 }));
        }
        let p95 = latency.quantile(0.95).unwrap();
        assert!(p95 >= Duration::from_millis(10) && p95 < Duration::from_millis(15), "{p95:?}");
        assert!(latency.quantile(0.99).unwrap() > Duration::from_millis(900));
    }

    #[test]
    fn old_calls_fade() {
        let latency = Latency::default();
        (0..SAMPLES_MAX).for_each(|_| latency.observe(Duration::from_secs(1)));
        (0..8 * SAMPLES_MAX).for_each(|_| latency.observe(Duration::from_micros(100)));
        assert!(latency.quantile(0.95).unwrap() < Duration::from_millis(1));
    }
}
