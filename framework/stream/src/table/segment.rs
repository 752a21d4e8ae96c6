//! One part of a table: a hash table of bounded size, and which of its rows a snapshot has.

use hashbrown::HashTable;

use super::spread;
use crate::block::Blocks;
use crate::key::Key;

/// Rows of a segment at most: seven eighths of a power of two, so that it is split where it would grow.
pub(super) const SEGMENT_ROWS_MAX: usize = 57_344;
/// Segments are split by this many bits of the hash at most; after that they grow.
const DEPTH_MAX: u32 = 20;

/// Adds a row to the blocks of a snapshot, with what stands before each row of the table.
pub(crate) type WriteRow<K, V> = fn(&mut Blocks, i64, &(K, V)) -> usize;

/// The snapshot that a table is being written to, row by row.
pub(super) struct Pen<K, V> {
    pub(super) write: WriteRow<K, V>,
    /// Stands before each row, where rows of several tables make one state.
    pub(super) tag: i64,
    /// Segments before this one are written.
    pub(super) segment: usize,
    pub(super) blocks: Blocks,
}

/// Which rows of a segment the snapshot under way still lacks.
#[derive(Debug, Default)]
pub(super) enum Lacks {
    /// None: it has them all, or there is no snapshot.
    #[default]
    Nothing,
    /// Every row.
    All,
    /// Those in buckets whose bit is not set. Rows that came after the barrier have theirs set.
    Some(Box<[u64]>),
}

impl Lacks {
    #[inline(always)]
    pub(super) const fn is_nothing(&self) -> bool {
        matches!(self, Lacks::Nothing)
    }

    fn bits(&mut self, buckets: usize) -> &mut [u64] {
        if matches!(self, Lacks::All) {
            *self = Lacks::Some(vec![0; buckets.div_ceil(64)].into_boxed_slice());
        }
        match self {
            Lacks::Some(bits) => bits,
            _ => &mut [],
        }
    }

    /// The row of this bucket came after the barrier, or is written.
    pub(super) fn leave_out(&mut self, bucket: usize, buckets: usize) {
        if let Some(word) = self.bits(buckets).get_mut(bucket / 64) {
            *word |= 1 << (bucket % 64);
        }
    }
}

/// A part of a table.
pub(super) struct Segment<K, V> {
    pub(super) table: HashTable<(K, V)>,
    pub(super) lacks: Lacks,
    /// How many low bits of the hash all its rows have in common.
    pub(super) depth: u32,
}

impl<K: Key, V> Segment<K, V> {
    pub(super) const fn new() -> Self {
        Self { table: HashTable::new(), lacks: Lacks::Nothing, depth: 0 }
    }

    /// Whether a write needs nothing but the write.
    #[inline(always)]
    pub(super) fn is_written(&self) -> bool {
        self.lacks.is_nothing()
    }

    /// Whether it is to be split before a row is added.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.table.len() >= SEGMENT_ROWS_MAX && self.depth < DEPTH_MAX
    }

    /// Whether one more row may move the others.
    pub(super) fn moves_next(&self) -> bool {
        self.table.len() >= self.table.capacity()
    }

    /// The row of this bucket is about to change: the snapshot gets it as it is.
    pub(super) fn keep(&mut self, bucket: usize, pen: &mut Pen<K, V>) {
        let bits = self.lacks.bits(self.table.num_buckets());
        let Some(word) = bits.get_mut(bucket / 64) else { return };
        let bit = 1 << (bucket % 64);
        if *word & bit == 0
            && let Some(row) = self.table.get_bucket(bucket)
        {
            (pen.write)(&mut pen.blocks, pen.tag, row);
        }
        *word |= bit;
    }

    /// Writes what the snapshot lacks until all is written or the budget (bytes and buckets) is spent.
    pub(super) fn write(&mut self, pen: &mut Pen<K, V>, budget: &mut usize) {
        if self.is_written() {
            return;
        }
        let bits = self.lacks.bits(self.table.num_buckets());
        for (index, word) in bits.iter_mut().enumerate() {
            if *word == u64::MAX {
                continue;
            }
            if *budget == 0 {
                return;
            }
            let mut cost = 64;
            for bit in 0..64 {
                if *word >> bit & 1 == 0
                    && let Some(row) = self.table.get_bucket(index * 64 + bit)
                {
                    cost += (pen.write)(&mut pen.blocks, pen.tag, row);
                }
            }
            *word = u64::MAX;
            *budget = budget.saturating_sub(cost);
        }
        self.lacks = Lacks::Nothing;
    }

    /// Moves the rows whose next bit is set into a new segment.
    pub(super) fn split(&mut self) -> Self {
        let bit = self.depth;
        self.depth += 1;
        let rows = std::mem::replace(&mut self.table, HashTable::with_capacity(SEGMENT_ROWS_MAX));
        let mut other = HashTable::with_capacity(SEGMENT_ROWS_MAX);
        for row in rows {
            let hash = row.0.key_hash();
            let table = if hash >> bit & 1 == 0 { &mut self.table } else { &mut other };
            table.insert_unique(spread(hash), row, |e| spread(e.0.key_hash()));
        }
        Self { table: other, lacks: Lacks::Nothing, depth: self.depth }
    }
}
