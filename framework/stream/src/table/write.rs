//! How rows of a table get into the blocks of a snapshot.

use hashbrown::HashTable;
use serde::Serialize;

use crate::block::Blocks;
use crate::key::Key;

type PushMany<K, V> = fn(&mut Blocks, i64, &HashTable<(K, V)>, usize, u64) -> usize;

/// Adds rows to the blocks of a snapshot, with what stands before each row of the table. The types of rows
/// are known here alone, and a call for many rows costs as much as one for a single row.
pub(crate) struct WriteRow<K, V> {
    /// Adds a row; returns its bytes.
    pub(crate) one: fn(&mut Blocks, i64, &(K, V)) -> usize,
    /// Adds the rows in those of 64 buckets from this one on whose bits are set; returns their bytes.
    pub(super) many: PushMany<K, V>,
}

impl<K, V> Clone for WriteRow<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for WriteRow<K, V> {}

impl<K: Key, V: Serialize> WriteRow<K, V> {
    /// Key and value.
    pub(crate) const fn pairs() -> Self {
        Self { one: Pair::push, many: push_many::<K, V, Pair> }
    }

    /// The table's tag, key and value.
    pub(crate) const fn tagged() -> Self {
        Self { one: Tagged::push, many: push_many::<K, V, Tagged> }
    }
}

/// What a row is in a snapshot.
trait Form<K, V> {
    fn push(blocks: &mut Blocks, tag: i64, row: &(K, V)) -> usize;
}

struct Pair;

impl<K: Serialize, V: Serialize> Form<K, V> for Pair {
    #[inline]
    fn push(blocks: &mut Blocks, _: i64, row: &(K, V)) -> usize {
        blocks.push(row)
    }
}

struct Tagged;

impl<K: Serialize, V: Serialize> Form<K, V> for Tagged {
    #[inline]
    fn push(blocks: &mut Blocks, tag: i64, (key, value): &(K, V)) -> usize {
        blocks.push(&(tag, key, value))
    }
}

fn push_many<K, V, F: Form<K, V>>(
    blocks: &mut Blocks,
    tag: i64,
    table: &HashTable<(K, V)>,
    first: usize,
    mut bits: u64,
) -> usize {
    // Which buckets have rows is as good as random: nothing is to depend on it but the next loop's end.
    let mut rows = 0_u64;
    for bit in 0..64 {
        rows |= u64::from(table.get_bucket(first + bit).is_some()) << bit;
    }
    bits &= rows;
    let mut bytes = 0;
    while bits != 0 {
        let bucket = first + bits.trailing_zeros() as usize;
        bits &= bits - 1;
        if let Some(row) = table.get_bucket(bucket) {
            bytes += F::push(blocks, tag, row);
        }
    }
    bytes
}
