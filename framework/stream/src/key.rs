//! Keys: what records are grouped by, hashed over bytes that never change their meaning.
//!
//! The hash of a key never changes, so that state written by one build is found by the next. An
//! integer of up to 64 bits is hashed by one folded multiplication ([`fold`]); every other key by
//! XXH3-64 (seed 0) of its canonical encoding. Canonical encoding: integers little-endian at their width, `bool`
//! one byte, `char` four, floats refused; text and bytes as a `u32` little-endian length and the
//! bytes, except that a key which *is* one text or byte string is its bytes alone; `Option` one
//! byte and the value; tuples and structs their fields in order; an enum its variant's index
//! (`u32`) and its fields.

use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of an encoding that lie beside each other without a buffer: those of a tuple of integers do.
const INLINE_BYTES: usize = 64;

/// The canonical encoding of a key, under construction.
#[derive(Debug)]
pub struct KeyBytes {
    inline: [u8; INLINE_BYTES],
    length: usize,
    /// All of it, once it has outgrown `inline`.
    long: Vec<u8>,
}

impl Default for KeyBytes {
    fn default() -> Self {
        Self { inline: [0; INLINE_BYTES], length: 0, long: Vec::new() }
    }
}

thread_local! {
    /// What long encodings are written into, kept for the next.
    static LONG: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

impl KeyBytes {
    /// Appends bytes whose length is fixed by their type.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        match self.inline.get_mut(self.length..end) {
            Some(place) => place.copy_from_slice(bytes),
            None => self.put_long(bytes),
        }
        self.length = end;
    }

    #[cold]
    fn put_long(&mut self, bytes: &[u8]) {
        if self.long.is_empty() {
            self.long = LONG.take();
            self.long.clear();
            self.long.extend_from_slice(self.inline.get(..self.length).unwrap_or_default());
        }
        self.long.extend_from_slice(bytes);
    }

    /// Forgets what was appended.
    #[cfg(feature = "disk")]
    pub(crate) fn clear(&mut self) {
        self.length = 0;
        self.long.clear();
    }

    /// What was appended.
    #[cfg(feature = "disk")]
    pub(crate) fn as_slice(&self) -> &[u8] {
        if self.long.is_empty() { self.inline.get(..self.length).unwrap_or_default() } else { &self.long }
    }

    /// Appends bytes of any length, with the length.
    #[inline]
    pub fn put_sized(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put(&length.to_le_bytes());
        self.put(bytes);
    }

    #[inline]
    fn hash(self) -> u64 {
        if let Some(short) = self.inline.get(..self.length) {
            return xxh3_64(short);
        }
        let hash = xxh3_64(&self.long);
        LONG.set(self.long);
        hash
    }
}

/// A value that records can be grouped by. Implemented by `derive(Key)` for structs and enums.
///
/// ```
/// use afflux_stream::Key;
/// assert_eq!(("JFK".to_string(), 7_u32).key_hash(), ("JFK".to_string(), 7_u32).key_hash());
/// ```
#[diagnostic::on_unimplemented(
    message = "records cannot be grouped by `{Self}`: it is no key",
    label = "`{Self}` is no key",
    note = "a key is an integer, `bool`, `char`, `String`, `Timestamp`, an `Option` or a tuple of keys, or has `#[derive(Key)]`",
    note = "a float is none, since equal values can have different bytes: take an integer, such as the value in its smallest unit"
)]
pub trait Key: Clone + Eq + Send + Serialize + DeserializeOwned + 'static {
    /// Appends the canonical encoding.
    fn encode_key(&self, out: &mut KeyBytes);

    /// The hash of the canonical encoding, as the module says.
    #[inline]
    fn key_hash(&self) -> u64 {
        let mut out = KeyBytes::default();
        self.encode_key(&mut out);
        out.hash()
    }
}

/// The hash of an integer key: both halves of the 128-bit product of `x ^ 0x9E3779B97F4A7C15` and
/// `0xBF58476D1CE4E5B9`, combined by exclusive or. `x` is the integer as it lies in memory,
/// extended with zeros.
#[inline(always)]
const fn fold(x: u64) -> u64 {
    let product = (x ^ 0x9E37_79B9_7F4A_7C15) as u128 * 0xBF58_476D_1CE4_E5B9_u128;
    (product as u64) ^ ((product >> 64) as u64)
}

macro_rules! integer_keys {
    ($($t:ty as $bits:ty),*) => { $(
        impl Key for $t {
            #[inline]
            fn encode_key(&self, out: &mut KeyBytes) { out.put(&self.to_le_bytes()); }
            #[inline(always)]
            fn key_hash(&self) -> u64 { fold(u64::from(*self as $bits)) }
        }
    )* };
}
integer_keys!(u8 as u8, u16 as u16, u32 as u32, u64 as u64, i8 as u8, i16 as u16, i32 as u32, i64 as u64);

macro_rules! wide_keys {
    ($($t:ty),*) => { $(
        impl Key for $t {
            #[inline]
            fn encode_key(&self, out: &mut KeyBytes) { out.put(&self.to_le_bytes()); }
        }
    )* };
}
wide_keys!(u128, i128);

impl Key for bool {
    fn encode_key(&self, out: &mut KeyBytes) {
        out.put(&[u8::from(*self)]);
    }
}

impl Key for char {
    fn encode_key(&self, out: &mut KeyBytes) {
        out.put(&u32::from(*self).to_le_bytes());
    }
}

impl Key for () {
    fn encode_key(&self, _: &mut KeyBytes) {}
}

impl Key for String {
    fn encode_key(&self, out: &mut KeyBytes) {
        out.put_sized(self.as_bytes());
    }
    #[inline]
    fn key_hash(&self) -> u64 {
        xxh3_64(self.as_bytes())
    }
}

impl Key for crate::time::Timestamp {
    fn encode_key(&self, out: &mut KeyBytes) {
        out.put(&self.millis().to_le_bytes());
    }
}

impl<K: Key> Key for Option<K> {
    fn encode_key(&self, out: &mut KeyBytes) {
        match self {
            None => out.put(&[0]),
            Some(key) => {
                out.put(&[1]);
                key.encode_key(out);
            }
        }
    }
}

macro_rules! tuple_keys {
    ($(($($name:ident . $index:tt),+)),*) => { $(
        impl<$($name: Key),+> Key for ($($name,)+) {
            #[inline]
            fn encode_key(&self, out: &mut KeyBytes) { $(self.$index.encode_key(out);)+ }
        }
    )* };
}
tuple_keys!((A.0), (A.0, B.1), (A.0, B.1, C.2), (A.0, B.1, C.2, D.3), (A.0, B.1, C.2, D.3, E.4));

/// One of the shards that keyed state is kept, snapshotted and moved in.
///
/// A key's group is the top bits of its hash, so a range of groups is a range of hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u16);

/// Key groups of a job; fixed for the job's life.
pub const KEY_GROUPS: u32 = 1024;
const KEY_GROUP_SHIFT: u32 = 64 - KEY_GROUPS.trailing_zeros();

impl KeyGroup {
    /// The group of a key with this hash.
    #[inline]
    pub const fn of(hash: u64) -> Self {
        Self((hash >> KEY_GROUP_SHIFT) as u16)
    }

    /// The subtask, of `parallelism`, that owns this group.
    #[inline]
    pub const fn owner(self, parallelism: u32) -> u32 {
        (self.0 as u32 * parallelism) / KEY_GROUPS
    }

    /// The groups that `subtask` of `parallelism` owns.
    ///
    /// ```
    /// use afflux_stream::KeyGroup;
    /// assert_eq!(KeyGroup::range_of(0, 2), 0..512);
    /// ```
    pub fn range_of(subtask: u32, parallelism: u32) -> Range<u32> {
        let first = |n: u32| (n * KEY_GROUPS).div_ceil(parallelism.max(1));
        first(subtask)..first(subtask + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_never_change_their_value() {
        // Values that state on disk relies on.
        assert_eq!(0_u64.key_hash(), 0xa035e2cc637f5704);
        assert_eq!(7_u32.key_hash(), 0xee2ac8751a2ee025);
        assert_eq!((-1_i8).key_hash(), 255_u8.key_hash());
        assert_eq!((0_u64,).key_hash(), 0xc77b_3abb_6f87_acd9);
        assert_eq!(String::new().key_hash(), 0x2d06_8005_38d3_94c2);
        assert_eq!("abc".to_owned().key_hash(), 0x78af_5f94_892f_3950);
        assert_eq!(("abc".to_owned(),).key_hash(), xxh3_64(b"\x03\0\0\0abc"));
    }

    #[test]
    fn a_hash_is_that_of_the_encoding_whatever_its_length() {
        let sized =
            |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
        for length in (0..200).rev().chain(0..200) {
            let text = "x".repeat(length);
            let key = (7_u64, text.clone(), -1_i16, text.clone());
            let encoded =
                [&7_u64.to_le_bytes()[..], &sized(&text), &(-1_i16).to_le_bytes(), &sized(&text)].concat();
            assert_eq!(key.key_hash(), xxh3_64(&encoded), "two texts of {length} bytes");
        }
        let wide = (1_u128, 2_u128, 3_u128, 4_u128);
        let encoded: Vec<u8> = (1..=4_u128).flat_map(u128::to_le_bytes).collect();
        assert_eq!(wide.key_hash(), xxh3_64(&encoded), "all that fits");
    }

    #[test]
    fn every_group_has_exactly_one_owner_and_ranges_agree_with_it() {
        for parallelism in [1, 2, 3, 7, 16, 1024] {
            for subtask in 0..parallelism {
                for group in KeyGroup::range_of(subtask, parallelism) {
                    assert_eq!(KeyGroup(group as u16).owner(parallelism), subtask);
                }
            }
            let all: u32 = (0..parallelism).map(|s| KeyGroup::range_of(s, parallelism).len() as u32).sum();
            assert_eq!(all, KEY_GROUPS);
        }
    }
}
