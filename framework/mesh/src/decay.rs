//! A number that halves with time, in one word.

use std::sync::atomic::{AtomicU64, Ordering};

/// Below this a number counts as nothing.
const LEAST: f32 = 0.05;

/// Milliseconds since an epoch in the high half, a number as of then in the low half.
#[derive(Debug, Default)]
pub(crate) struct Decay(AtomicU64);

fn pack(ms: u32, value: f32) -> u64 {
    u64::from(ms) << 32 | u64::from(value.to_bits())
}

impl Decay {
    /// Whether it is nothing, without asking for the time.
    #[inline]
    pub(crate) fn is_zero(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// What is left of it.
    pub(crate) fn get(&self, now_ms: u32, half_life_ms: f32) -> f32 {
        let word = self.0.load(Ordering::Relaxed);
        if word == 0 {
            return 0.0;
        }
        let value = left(word, now_ms, half_life_ms);
        if value < LEAST {
            // Back to the word that costs no look at the clock; somebody else's new number stays.
            let _ = self.0.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
            return 0.0;
        }
        value
    }

    /// Begins anew with this number.
    pub(crate) fn set(&self, value: f32, now_ms: u32) {
        self.0.store(if value < LEAST { 0 } else { pack(now_ms, value) }, Ordering::Relaxed);
    }

    /// Adds to what is left.
    pub(crate) fn add(&self, value: f32, now_ms: u32, half_life_ms: f32) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            Some(pack(now_ms, left(word, now_ms, half_life_ms) + value))
        });
    }
}

fn left(word: u64, now_ms: u32, half_life_ms: f32) -> f32 {
    let age = now_ms.saturating_sub((word >> 32) as u32);
    f32::from_bits(word as u32) * (-(age as f32) / half_life_ms).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_and_is_nothing_in_the_end() {
        let decay = Decay::default();
        assert!(decay.is_zero());
        decay.add(4.0, 1_000, 100.0);
        decay.add(4.0, 1_100, 100.0);
        assert!((decay.get(1_100, 100.0) - 6.0).abs() < 1e-3);
        assert!((decay.get(1_200, 100.0) - 3.0).abs() < 1e-3);
        assert!(decay.get(9_000, 100.0) == 0.0 && decay.is_zero());
    }

    #[test]
    fn a_clock_that_stands_still_takes_nothing_off() {
        let decay = Decay::default();
        decay.set(2.0, 50);
        assert!(decay.get(40, 100.0) == 2.0);
        decay.set(0.0, 60);
        assert!(decay.is_zero());
    }
}
