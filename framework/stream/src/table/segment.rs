//! One part of a table: a hash table of bounded size, and which of its rows a snapshot has.

use std::borrow::Cow;

use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, OccupiedEntry};

use super::{WriteRow, spread};
use crate::block::Blocks;
use crate::key::Key;

/// Rows of the one segment that a table begins as. A look-up in a table of one segment takes two thirds of
/// the time, so that it is one for as long as it may be: what moves at once then takes some 50 ms, once.
/// Seven eighths of a power of two, as the next, so that a segment is split where it would grow.
pub(super) const FIRST_ROWS_MAX: usize = if cfg!(test) { 3_584 } else { 1_835_008 };
/// Rows of each segment when there are several.
pub(super) const SEGMENT_ROWS_MAX: usize = if cfg!(test) { 448 } else { 57_344 };
/// The first segment is split by so many bits of the hash at once, each other one by one bit.
const FIRST_BITS: u32 = 6;
/// Segments are split by this many bits of the hash at most; after that they grow.
const DEPTH_MAX: u32 = 20;

/// The snapshot that a table is being written to, row by row.
pub(super) struct Pen<K, V> {
    pub(super) write: WriteRow<K, V>,
    /// Stands before each row, where rows of several tables make one state.
    pub(super) tag: i64,
    /// Segments before this one are written.
    pub(super) segment: usize,
    /// Keys that are gone since the snapshot before, where it leaves out what has not changed.
    pub(super) gone: Vec<K>,
    pub(super) blocks: Blocks,
}

impl<K: Key, V> Pen<K, V> {
    /// Writes keys that are gone until all are written or the budget is spent.
    pub(super) fn write_gone(&mut self, budget: &mut usize) {
        while *budget > 0
            && let Some(key) = self.gone.pop()
        {
            let bytes = self.blocks.push_gone(&key);
            *budget = budget.saturating_sub(bytes.max(1));
        }
    }
}

/// Which rows of a segment have changed since the last snapshot, where the next may be of those alone.
#[derive(Debug, Default)]
pub(super) enum Changed {
    /// Nobody asks.
    #[default]
    Unasked,
    /// None.
    Nothing,
    /// Those in buckets whose bit is set.
    Some(Box<[u64]>),
    /// Some, and rows have moved: all of them.
    All,
}

impl Changed {
    #[inline(always)]
    pub(super) const fn is_asked(&self) -> bool {
        !matches!(self, Changed::Unasked)
    }

    /// The row in this bucket has changed.
    #[inline]
    pub(super) fn note(&mut self, bucket: usize, buckets: usize) {
        if matches!(self, Changed::Nothing) {
            *self = Changed::Some(vec![0; buckets.div_ceil(64)].into_boxed_slice());
        }
        if let Changed::Some(bits) = self
            && let Some(word) = bits.get_mut(bucket / 64)
        {
            *word |= 1 << (bucket % 64);
        }
    }

    /// Rows move, or have moved.
    pub(super) fn moved(&mut self) {
        if self.is_asked() {
            *self = Changed::All;
        }
    }
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
    pub(super) changed: Changed,
    /// How many low bits of the hash all its rows have in common.
    pub(super) depth: u32,
}

impl<K: Key, V> Segment<K, V> {
    pub(super) const fn new() -> Self {
        Self { table: HashTable::new(), lacks: Lacks::Nothing, changed: Changed::Unasked, depth: 0 }
    }

    /// How many rows a snapshot of what has changed would have, at most.
    pub(super) fn changes(&self) -> usize {
        match &self.changed {
            Changed::Unasked | Changed::All => self.table.len(),
            Changed::Nothing => 0,
            Changed::Some(bits) => bits.iter().map(|word| word.count_ones() as usize).sum(),
        }
    }

    /// A barrier passes: the snapshot lacks all rows, or those that have changed since the one before.
    pub(super) fn begin(&mut self, changes_alone: bool) {
        let changed = std::mem::replace(&mut self.changed, Changed::Nothing);
        self.lacks = match changed {
            _ if self.table.is_empty() => Lacks::Nothing,
            Changed::Nothing if changes_alone => Lacks::Nothing,
            Changed::Some(mut bits) if changes_alone => {
                bits.iter_mut().for_each(|word| *word = !*word);
                Lacks::Some(bits)
            }
            _ => Lacks::All,
        };
    }

    /// The row of a key that has one, to change.
    #[inline(always)]
    pub(super) fn find(&mut self, hash: u64, key: &K) -> Option<OccupiedEntry<'_, (K, V)>> {
        let buckets = self.table.num_buckets();
        let entry = self.table.find_entry(spread(hash), |e| e.0 == *key).ok()?;
        if self.changed.is_asked() {
            self.changed.note(entry.bucket_index(), buckets);
        }
        Some(entry)
    }

    /// The row of a key, made when it is absent, to change. There is room for it.
    #[inline(always)]
    pub(super) fn entry(
        &mut self,
        hash: u64,
        key: Cow<'_, K>,
        make: impl FnOnce() -> V,
    ) -> OccupiedEntry<'_, (K, V)> {
        if self.changed.is_asked() && self.moves_next() {
            self.changed.moved();
        }
        let Segment { table, lacks, changed, .. } = self;
        let buckets = table.num_buckets();
        let entry = match table.entry(spread(hash), |e| e.0 == *key, |e| spread(e.0.key_hash())) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert((key.into_owned(), make())),
        };
        if !lacks.is_nothing() {
            // It is written already, or was not there at the barrier.
            lacks.leave_out(entry.bucket_index(), buckets);
        }
        if changed.is_asked() {
            changed.note(entry.bucket_index(), buckets);
        }
        entry
    }

    /// Whether a write needs nothing but the write.
    #[inline(always)]
    pub(super) fn is_written(&self) -> bool {
        self.lacks.is_nothing()
    }

    /// Whether it is to be split before a row is added.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        let rows_max = if self.depth == 0 { FIRST_ROWS_MAX } else { SEGMENT_ROWS_MAX };
        self.table.len() >= rows_max && self.depth < DEPTH_MAX
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
            (pen.write.one)(&mut pen.blocks, pen.tag, row);
        }
        *word |= bit;
    }

    /// The row of this bucket is about to change, by a way that does not lead through
    /// [`find`](Self::find) or [`entry`](Self::entry).
    #[inline]
    pub(super) fn touch(&mut self, bucket: usize, pen: Option<&mut Pen<K, V>>) {
        if !self.is_written()
            && let Some(pen) = pen
        {
            self.keep(bucket, pen);
        }
        if self.changed.is_asked() {
            self.changed.note(bucket, self.table.num_buckets());
        }
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
            let lacking = !*word;
            let bytes = (pen.write.many)(&mut pen.blocks, pen.tag, &self.table, index * 64, lacking);
            *word = u64::MAX;
            *budget = budget.saturating_sub(lacking.count_ones() as usize + bytes);
        }
        self.lacks = Lacks::Nothing;
    }

    /// Moves the rows into new segments by the next bits of their hashes. Those whose bits are 0 stay; the
    /// others are returned in the order of their bits, from 1.
    pub(super) fn split(&mut self) -> Vec<Self> {
        let first = self.depth;
        let bits = if first == 0 { FIRST_BITS } else { 1 };
        self.depth += bits;
        let (depth, asked) = (self.depth, self.changed.is_asked());
        self.changed.moved();
        let part = |_| {
            let table = HashTable::with_capacity(SEGMENT_ROWS_MAX);
            let changed = if asked { Changed::All } else { Changed::Unasked };
            Self { table, lacks: Lacks::Nothing, changed, depth }
        };
        let mut parts: Vec<Self> = (0..1_usize << bits).map(part).collect();
        for row in std::mem::take(&mut self.table) {
            let hash = row.0.key_hash();
            let index = (hash >> first) as usize & (parts.len() - 1);
            parts[index].table.insert_unique(spread(hash), row, |e| spread(e.0.key_hash()));
        }
        let others = parts.split_off(1);
        if let Some(mine) = parts.pop() {
            self.table = mine.table;
        }
        others
    }
}
