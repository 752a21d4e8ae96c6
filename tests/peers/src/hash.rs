//! A fast hash for keys that nobody attacks: what both the hand loops and timely's operators use, since
//! the default hasher of the standard library would hide everything else.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map on [`FoldHasher`].
pub type FoldMap<K, V> = HashMap<K, V, BuildHasherDefault<FoldHasher>>;

const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Multiplies to 128 bits and folds the halves, so that high and low bits of the result are both good.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldHasher(u64);

/// The folded product of a word.
#[inline]
#[must_use]
pub const fn fold(word: u64) -> u64 {
    let product = (word ^ FACTOR) as u128 * FACTOR as u128;
    (product as u64) ^ (product >> 64) as u64
}

impl Hasher for FoldHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0u8; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    /// A string ends with this byte; words are short, so it must not cost a product of its own.
    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.0 = self.0.rotate_left(5) ^ u64::from(byte);
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
