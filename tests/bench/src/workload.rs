//! The generator of the stream benchmarks W1 to W4, shared by our jobs, the hand loops and the peers.
//!
//! A record is a pure function of its index `i = 0, 1, 2, …`; source partition `p` of `P` takes
//! `i = p, p + P, …` ([`indices`]), so every engine computes the same result at any parallelism, and one
//! checksum per record count proves it. All arithmetic wraps at 64 bits. The file has no dependencies:
//! `tests/peers`, a workspace of its own, compiles this very file.
//!
//! | | record | result | checksum (wrapping sum) |
//! |---|---|---|---|
//! | W1 chain | `x` = [`rnd`], [`w1_map`], [`w1_keep`] | records kept | the count itself |
//! | W2 key sum | [`w2_record`]: key, value | sum per key | [`w2_term`] over the keys |
//! | W3 window | [`w3_record`]: key, value, timestamp | sum per key and tumbling window | [`w3_term`] over the groups |
//! | W4 words | [`Words::write_line`]: ten words | count per word | [`w4_term`] over the words |
//!
//! The sums are linear: a key counted in two places gives the same checksum as a key counted in one.
//! A job therefore reports the number of its groups as well.
//!
//! The mixer is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
//! Generators, 2014); the hash of words is 64-bit FNV-1a (draft-eastlake-fnv).

/// Distance between the states of two neighbouring records (the golden ratio, 64 bit).
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// State before the first record.
pub const SEED: u64 = 0x5EED_1234_ABCD_0001;
/// The factor of W1's map (Knuth's multiplicative hash).
pub const W1_FACTOR: u64 = 2_654_435_761;
/// Distinct keys of W2; keys are `0..W2_KEYS`.
pub const W2_KEYS: u64 = 1_000_000;
/// Distinct keys of W3; keys are `0..W3_KEYS`.
pub const W3_KEYS: u64 = 10_000;
/// Width of W3's tumbling windows in ms.
pub const W3_WINDOW_MS: u64 = 1_000;
/// How far W3's watermark stays behind the greatest timestamp seen, in ms.
/// No record of a partition is ever later than this.
pub const W3_LAG_MS: u64 = 100;
/// Records of W3 per ms of event time, over all partitions.
pub const W3_RECORDS_PER_MS: u64 = 1_000;
/// Distinct words of W4.
pub const W4_WORDS: usize = 50_000;
/// Words in a line of W4.
pub const W4_WORDS_PER_LINE: u64 = 10;

/// Bits of W4's table index: the table has `2^W4_TABLE_BITS` entries.
const W4_TABLE_BITS: u32 = 20;

/// The finalizer of SplitMix64: a bijection in which every input bit moves every output bit.
#[inline]
#[must_use]
pub const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The random 64 bits of record `i`.
#[inline]
#[must_use]
pub const fn rnd(i: u64) -> u64 {
    mix(SEED.wrapping_add(i.wrapping_add(1).wrapping_mul(STEP)))
}

/// The indices below `records` that source `partition` of `partitions` takes, in order.
///
/// # Panics
/// If `partitions` is zero.
#[inline]
pub fn indices(partition: u64, partitions: u64, records: u64) -> impl Iterator<Item = u64> + Clone {
    assert!(partitions > 0, "a job has at least one source partition");
    (0..share(partition, partitions, records)).map(move |n| partition + n * partitions)
}

/// How many indices below `records` belong to source `partition` of `partitions`.
///
/// # Panics
/// If `partitions` is zero.
#[inline]
#[must_use]
pub const fn share(partition: u64, partitions: u64, records: u64) -> u64 {
    records.saturating_sub(partition).div_ceil(partitions)
}

/// A checksum the way reports write it: 16 hexadecimal digits.
#[must_use]
pub fn hex(checksum: u64) -> String {
    format!("{checksum:016x}")
}

/// W1's map.
#[inline]
#[must_use]
pub const fn w1_map(x: u64) -> u64 {
    x.wrapping_mul(W1_FACTOR)
}

/// W1's filter over the mapped value; keeps half of the records.
#[inline]
#[must_use]
pub const fn w1_keep(y: u64) -> bool {
    (y >> 7) & 1 == 0
}

/// Record `i` of W2: `(key, value)`.
#[inline]
#[must_use]
pub const fn w2_record(i: u64) -> (u64, u64) {
    let r = rnd(i);
    ((r >> 1) % W2_KEYS, r >> 32)
}

/// What a key of W2 adds to the checksum.
#[inline]
#[must_use]
pub const fn w2_term(key: u64, sum: u64) -> u64 {
    (2 * key + 1).wrapping_mul(sum)
}

/// Record `i` of W3: `(key, value, timestamp in ms)`.
///
/// Timestamps are 0 to 100 ms ahead of `i / 1000`, hence out of order by at most [`W3_LAG_MS`].
#[inline]
#[must_use]
pub const fn w3_record(i: u64) -> (u64, u64, u64) {
    let r = rnd(i);
    let back = (((r >> 14) & 0xFFFF) * (W3_LAG_MS + 1)) >> 16;
    ((r >> 1) % W3_KEYS, r >> 32, i / W3_RECORDS_PER_MS + W3_LAG_MS - back)
}

/// The number of the tumbling window that holds a timestamp; window `w` is
/// `w * W3_WINDOW_MS .. (w + 1) * W3_WINDOW_MS`.
#[inline]
#[must_use]
pub const fn w3_window(timestamp_ms: u64) -> u64 {
    timestamp_ms / W3_WINDOW_MS
}

/// What a key within a window of W3 adds to the checksum.
#[inline]
#[must_use]
pub const fn w3_term(window: u64, key: u64, sum: u64) -> u64 {
    (2 * (window * W3_KEYS + key) + 1).wrapping_mul(sum)
}

/// 64-bit FNV-1a.
#[inline]
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// What a word of W4 adds to the checksum.
#[inline]
#[must_use]
pub fn w4_term(word: &str, count: u64) -> u64 {
    (fnv1a(word.as_bytes()) | 1).wrapping_mul(count)
}

/// W4's vocabulary and the table that draws from it with Zipf's law, exponent 1.
///
/// Building it takes some milliseconds and about 5 MB; do it before the clock starts.
#[derive(Clone, Debug)]
pub struct Words {
    words: Vec<String>,
    /// `table[r >> 44]` is the rank of the word drawn by the random bits `r`.
    table: Vec<u16>,
}

impl Words {
    /// Builds vocabulary and table.
    #[must_use]
    pub fn new() -> Self {
        let mut total = 0u64;
        let cumulated: Vec<u64> = (0..W4_WORDS as u64)
            .map(|k| {
                total += (1 << 36) / (k + 1);
                total
            })
            .collect();
        let step = total >> W4_TABLE_BITS;
        let mut rank = 0usize;
        let table = (0..1u64 << W4_TABLE_BITS)
            .map(|entry| {
                // Never past the end: entry * step < total.
                while cumulated[rank] <= entry * step {
                    rank += 1;
                }
                // W4_WORDS fits 16 bits, checked below.
                rank as u16
            })
            .collect();
        Self { words: (0..W4_WORDS as u64).map(spell).collect(), table }
    }

    /// The word drawn by 64 random bits.
    #[inline]
    #[must_use]
    pub fn draw(&self, r: u64) -> &str {
        &self.words[usize::from(self.table[(r >> (64 - W4_TABLE_BITS)) as usize])]
    }

    /// Word `j` of line `i`, for `j < W4_WORDS_PER_LINE`.
    #[inline]
    #[must_use]
    pub fn word(&self, i: u64, j: u64) -> &str {
        self.draw(rnd(W4_WORDS_PER_LINE * i + j))
    }

    /// Appends line `i` to `line`: ten words with one space between two.
    #[inline]
    pub fn write_line(&self, i: u64, line: &mut String) {
        for j in 0..W4_WORDS_PER_LINE {
            if j > 0 {
                line.push(' ');
            }
            line.push_str(self.word(i, j));
        }
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(W4_WORDS <= 1 << 16, "ranks of words are kept in 16 bits");

/// The spelling of word `k`: two to five letters, then `k` in decimal, so that no two are alike.
fn spell(k: u64) -> String {
    let h = mix(k);
    let mut word: String = (h >> 2)
        .to_le_bytes()
        .iter()
        .take(2 + (h & 3) as usize)
        .map(|byte| char::from(byte % 26 + b'a'))
        .collect();
    word.push_str(&k.to_string());
    word
}

#[cfg(test)]
mod tests {
    //! The numbers come from tests/peers/reference.py, written from the definition, not from this file.

    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_random_bits_are_those_of_the_definition() {
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
        assert_eq!(rnd(0), 0x4e84_bb04_40a8_57ae);
        assert_eq!(rnd(1), 0x5b25_6386_5a84_a5c1);
        assert_eq!(rnd(1_000_000), 0xd80b_8351_4ed1_e474);
    }

    #[test]
    fn w1_keeps_the_known_number_of_records() {
        assert_eq!((0..1000).filter(|i| w1_keep(w1_map(rnd(*i)))).count(), 524);
    }

    #[test]
    fn w2_gives_the_known_sums() {
        let mut sums = BTreeMap::<u64, u64>::new();
        for (key, value) in (0..10_000).map(w2_record) {
            *sums.entry(key).or_default() += value;
        }
        assert_eq!(sums.len(), 9949);
        let checksum = sums.iter().fold(0u64, |all, (key, sum)| all.wrapping_add(w2_term(*key, *sum)));
        assert_eq!(hex(checksum), "29e488ba258385b2");
    }

    #[test]
    fn w3_gives_the_known_sums_per_window() {
        let mut sums = BTreeMap::<(u64, u64), u64>::new();
        for (key, value, timestamp) in (0..3_000_000).step_by(100).map(w3_record) {
            *sums.entry((w3_window(timestamp), key)).or_default() += value;
        }
        assert_eq!(sums.len(), 19_220);
        let checksum = sums
            .iter()
            .fold(0u64, |all, ((window, key), sum)| all.wrapping_add(w3_term(*window, *key, *sum)));
        assert_eq!(hex(checksum), "1baac4d6e10410e5");
    }

    #[test]
    fn w3_has_the_known_timestamps_and_no_record_later_than_the_lag() {
        let timestamps: Vec<u64> = [0, 1, 2, 1_000_000].iter().map(|i| w3_record(*i).2).collect();
        assert_eq!(timestamps, [99, 59, 46, 1077]);
        let mut greatest = 0;
        for (_, _, timestamp) in (0..200_000).map(w3_record) {
            assert!(timestamp + W3_LAG_MS >= greatest, "{timestamp} is late behind {greatest}");
            greatest = greatest.max(timestamp);
        }
        assert!(greatest > 2 * W3_LAG_MS, "the bound was never in play");
    }

    #[test]
    fn w4_draws_the_known_words() {
        let words = Words::new();
        assert_eq!([0, 1, 2, 3, 49_999].map(spell), ["aa0", "rlc1", "ipiy2", "ik3", "bt49999"]);
        assert_eq!([0, 1 << 63, u64::MAX].map(|r| words.draw(r)), [spell(0), spell(167), spell(49_999)]);
        let mut line = String::new();
        words.write_line(0, &mut line);
        assert_eq!(line, "cgo18 lgb31 mym9017 sw24 gcxe20 pbb430 xglav5549 ipiy2 eqtb341 sa8");
    }

    #[test]
    fn w4_gives_the_known_counts() {
        let words = Words::new();
        let mut counts = BTreeMap::<String, u64>::new();
        for i in 0..200 {
            let mut line = String::new();
            words.write_line(i, &mut line);
            for word in line.split(' ') {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), 1069);
        let checksum = counts.iter().fold(0u64, |all, (word, count)| all.wrapping_add(w4_term(word, *count)));
        assert_eq!(hex(checksum), "fb7d12caeaabd174");
        assert_eq!(fnv1a(b"afflux"), 0x11fe_2dab_611b_1779);
    }

    #[test]
    fn partitions_share_out_every_index_once() {
        for (partitions, records) in [(1, 0), (1, 7), (3, 2), (3, 100), (4, 100)] {
            let mut all: Vec<u64> = (0..partitions).flat_map(|p| indices(p, partitions, records)).collect();
            for p in 0..partitions {
                assert_eq!(indices(p, partitions, records).count() as u64, share(p, partitions, records));
            }
            all.sort_unstable();
            assert_eq!(all, (0..records).collect::<Vec<_>>(), "{partitions} partitions, {records} records");
        }
    }
}
