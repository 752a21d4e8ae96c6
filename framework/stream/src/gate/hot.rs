//! The hottest keys of an exchange: a sketch over a sample of the rows that cross it.
//!
//! Counts are those of Misra and Gries (1982) with [`ENTRIES_MAX`] entries: what has been taken off
//! all entries is added back, so a key that has been there since the window began is counted exactly
//! and any other at most by one part in `ENTRIES_MAX + 1` too high. Two windows of [`WINDOW`] follow each
//! other, so a key that becomes hot is seen, and one that no longer is forgotten, within five seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::meter::{EdgeMeter, EdgeReading, KeyShare};

/// One row in so many is looked at where batches are full; all where they are small.
const SAMPLE_MEAN_MAX: usize = 64;
/// Rows that are looked at in a window where many more cross: shares are right to half a hundredth.
const SAMPLES_WANTED: u64 = 16_384;
/// Keys that are counted at a time.
const ENTRIES_MAX: usize = 32;
/// Fewer sampled rows say nothing.
const SAMPLES_MIN: u64 = 32;
/// Length of a window; what is told is of the last two.
const WINDOW: Duration = Duration::from_secs(2);
/// Between two times that it is told.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Keys that are told, and the least share of a key that is.
const TOLD_MAX: usize = 5;
const TOLD_SHARE_MIN: f64 = 0.05;
/// Characters of a key that are told.
pub(crate) const KEY_TEXT_CHARS_MAX: usize = 64;

struct Entry {
    hash: u64,
    count: u64,
    /// Written once the key is frequent.
    text: Option<String>,
}

/// What was seen in a stretch of time.
#[derive(Default)]
struct Window {
    rows: u64,
    samples: u64,
    /// Taken off every entry.
    taken: u64,
    entries: Vec<Entry>,
}

impl Window {
    fn add(&mut self, hash: u64, text: impl FnOnce() -> String) {
        self.samples += 1;
        if let Some(entry) = self.entries.iter_mut().find(|e| e.hash == hash) {
            entry.count += 1;
            // A tenth of the least share that is told: few keys are ever written down.
            if entry.text.is_none() && entry.count >= 3 && entry.count * 200 >= self.samples {
                entry.text = Some(text());
            }
        } else if self.entries.len() < ENTRIES_MAX {
            self.entries.push(Entry { hash, count: 1, text: None });
        } else {
            self.taken += 1;
            self.entries.iter_mut().for_each(|e| e.count -= 1);
            self.entries.retain(|e| e.count > 0);
        }
    }
}

/// The sketch of one exchange in one producing task.
pub(crate) struct HotKeys {
    meter: Arc<EdgeMeter>,
    now: Window,
    before: Window,
    began: Option<Instant>,
    told: Option<Instant>,
    /// Samples that the last answer was of.
    told_of: u64,
    /// Rows until the next that is looked at.
    skip: usize,
    /// At most one of so many rows is looked at, by the rows of the window before.
    thin: usize,
    random: u64,
}

impl HotKeys {
    pub(crate) fn new(meter: Arc<EdgeMeter>) -> Self {
        Self {
            meter,
            now: Window::default(),
            before: Window::default(),
            began: None,
            told: None,
            told_of: 0,
            skip: 0,
            thin: 1,
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }

    /// Takes note of a batch of `rows`: `hash` and `text` give those of the key of one of them.
    pub(crate) fn observe(
        &mut self,
        rows: usize,
        now: Instant,
        hash: impl Fn(usize) -> u64,
        text: impl Fn(usize) -> String,
    ) {
        let began = *self.began.get_or_insert(now);
        if now.duration_since(began) >= WINDOW {
            // After a pause what is in the first window is old too.
            let old = now.duration_since(began) >= 2 * WINDOW;
            self.before = std::mem::take(&mut self.now);
            if old {
                self.before = Window::default();
            }
            self.thin = usize::try_from(self.before.rows / SAMPLES_WANTED).unwrap_or(usize::MAX / 4).max(1);
            self.began = Some(now);
        }
        self.now.rows += rows as u64;
        let mean = (rows / 16).clamp(1, SAMPLE_MEAN_MAX).max(self.thin);
        let mut at = self.skip;
        while at < rows {
            self.now.add(hash(at), || text(at));
            at += self.stride(mean);
        }
        self.skip = at - rows;
        // What is known twice as well does not wait: rows may stop coming at any time.
        let samples = self.now.samples + self.before.samples;
        let better = samples >= SAMPLES_MIN && samples >= 2 * self.told_of;
        if better || self.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY) {
            (self.told, self.told_of) = (Some(now), samples);
            self.tell();
        }
    }

    /// Between 1 and twice the mean less one; a fixed stride would meet the same keys again and again.
    fn stride(&mut self, mean: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        1 + ((self.random >> 33) as usize) % (2 * mean - 1)
    }

    fn tell(&self) {
        let samples = self.now.samples + self.before.samples;
        let mut keys: Vec<KeyShare> = Vec::new();
        if samples >= SAMPLES_MIN {
            let entries = self.now.entries.iter().chain(&self.before.entries);
            let mut seen: Vec<u64> = Vec::new();
            for entry in entries {
                if seen.contains(&entry.hash) {
                    continue;
                }
                seen.push(entry.hash);
                let of = |window: &Window| {
                    let found = window.entries.iter().find(|e| e.hash == entry.hash);
                    (found.map_or(0, |e| e.count + window.taken), found.and_then(|e| e.text.clone()))
                };
                let ((a, now), (b, before)) = (of(&self.now), of(&self.before));
                let share = (a + b) as f64 / samples as f64;
                if let Some(key) = now.or(before).filter(|_| share >= TOLD_SHARE_MIN) {
                    keys.push(KeyShare { key, share: share.min(1.0) });
                }
            }
        }
        keys.sort_by(|a, b| b.share.total_cmp(&a.share));
        keys.truncate(TOLD_MAX);
        let rows = self.now.rows + self.before.rows;
        self.meter.tell(EdgeReading { edge: self.meter.edge(), rows, keys });
    }
}

/// A key for people: as JSON, cut at [`KEY_TEXT_CHARS_MAX`] characters.
pub(crate) fn key_text<K: Serialize>(key: &K) -> String {
    let text = serde_json::to_string(key).unwrap_or_else(|_| "?".to_owned());
    if text.chars().count() <= KEY_TEXT_CHARS_MAX {
        return text;
    }
    text.chars().take(KEY_TEXT_CHARS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch() -> (HotKeys, Arc<EdgeMeter>) {
        let meter = EdgeMeter::new(3);
        (HotKeys::new(Arc::clone(&meter)), meter)
    }

    /// Some seconds of batches of `rows`, a hundred a second; the key of the n-th row of all is `key(n)`.
    fn second(hot: &mut HotKeys, start: Instant, seconds: u64, rows: usize, key: impl Fn(u64) -> u64) {
        for batch in 0..100 * seconds {
            let first = batch * rows as u64;
            let now = start + Duration::from_millis(10 * batch);
            let of = |i: usize| key(first + i as u64);
            hot.observe(rows, now, |i| of(i).wrapping_mul(0x9E37_79B9_7F4A_7C15), |i| of(i).to_string());
        }
    }

    fn mix(n: u64) -> u64 {
        let h = (n ^ (n >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        h ^ (h >> 29)
    }

    #[test]
    fn a_key_with_a_fifth_of_the_rows_is_named_with_its_share_among_a_million_others() {
        for rows in [1, 7, 100, 1_024] {
            let (mut hot, meter) = sketch();
            second(&mut hot, Instant::now(), 4, rows, |n| {
                if mix(n).is_multiple_of(4) { 7 } else { 1_000 + mix(n) % 1_000_000 }
            });
            let read = meter.read();
            assert_eq!(read.keys.len(), 1, "{rows} rows: {read:?}");
            assert_eq!(read.keys[0].key, "7");
            let around = if rows == 1 { 0.15..0.35 } else { 0.2..0.3 };
            assert!(around.contains(&read.keys[0].share), "{rows} rows: {read:?}");
        }
    }

    #[test]
    fn keys_that_come_in_turn_are_none_of_them_hot_whatever_their_number() {
        for keys in [64, 128, 1_000] {
            let (mut hot, meter) = sketch();
            second(&mut hot, Instant::now(), 2, 1_024, |n| n % keys);
            let hottest = meter.read().keys.first().map_or(0.0, |k| k.share);
            assert!(hottest < 0.1, "{keys} keys: {hottest}");
        }
    }

    #[test]
    fn what_is_hot_changes_within_five_seconds() {
        let (mut hot, meter) = sketch();
        let start = Instant::now();
        second(&mut hot, start, 10, 256, |_| 1);
        second(&mut hot, start + Duration::from_secs(10), 5, 256, |n| {
            if n.is_multiple_of(2) { 2 } else { mix(n) }
        });
        let read = meter.read();
        assert_eq!(read.keys.len(), 1, "{read:?}");
        assert_eq!(read.keys[0].key, "2");
    }

    #[test]
    fn where_many_rows_cross_few_are_looked_at_and_shares_stay_right() {
        let (mut hot, meter) = sketch();
        let looked_at = std::cell::Cell::new(0);
        let key = |n| {
            looked_at.set(looked_at.get() + 1);
            if mix(n).is_multiple_of(4) { 7 } else { 1_000 + mix(n) % 1_000_000 }
        };
        let (rows, seconds) = (16_384, 4);
        second(&mut hot, Instant::now(), seconds, rows, key);
        let read = meter.read();
        assert_eq!(read.keys.len(), 1, "{read:?}");
        assert!((0.22..0.28).contains(&read.keys[0].share), "{read:?}");
        // The first window has one row in 64.
        let (first, later) = (200 * rows as u64 / SAMPLE_MEAN_MAX as u64, SAMPLES_WANTED);
        assert!(looked_at.get() < (first + later) * 11 / 10, "{}", looked_at.get());
    }

    #[test]
    fn a_few_rows_name_nobody() {
        let (mut hot, meter) = sketch();
        hot.observe(20, Instant::now(), |_| 1, |_| "1".to_owned());
        assert_eq!((meter.read().rows, meter.read().keys.len()), (20, 0));
    }

    #[test]
    fn a_long_key_is_cut() {
        assert_eq!(key_text(&("JFK", 7)), "[\"JFK\",7]");
        let text = key_text(&"é".repeat(100));
        assert_eq!(text.chars().count(), KEY_TEXT_CHARS_MAX);
        assert!(text.ends_with("é…"), "{text}");
    }
}
