//! The keyed state of one operator in memory: a hash table in segments, written out while it is used.
//!
//! A table begins as one segment. A full segment is split by the low bits of the hash (extendible hashing;
//! Fagin et al. 1979), so that a large table never moves more rows at once than one of its segments has.
//!
//! At a barrier nothing is written ([`Table::begin`]). Until all is written ([`Table::write`]), a row
//! that is about to change is written first, alone: what the snapshot has is what was there at the
//! barrier, and neither a row nor a turn of the task waits for more than a share of it.

mod segment;
mod snapshots;
mod write;

use std::borrow::Cow;
use std::mem::needs_drop;

use hashbrown::HashTable;
use hashbrown::hash_table;

use crate::Result;
use crate::block::Blocks;
use crate::key::Key;
use crate::keyed::KeyOf;
use afflux_wire::Status;

use segment::{FIRST_ROWS_MAX, Lacks, Pen, Segment};
pub(crate) use snapshots::{Extent, Row};
pub(crate) use write::WriteRow;

/// Rows whose hashes are made before the first is looked up, so that the look-ups' cache misses
/// overlap: nothing stands between them.
const CHUNK: usize = 1024;
/// The bucket of a key without a row.
const ABSENT: usize = usize::MAX;

/// A map from keys to values whose hashes the caller may have already.
pub(crate) struct Table<K, V> {
    /// At least one.
    segments: Vec<Segment<K, V>>,
    /// By the low bits of a hash: the segment. As long as a power of two.
    directory: Vec<u32>,
    pen: Option<Box<Pen<K, V>>>,
    /// What has changed since the last snapshot, where that is asked for.
    asked: Option<snapshots::Asked<K>>,
}

/// The table takes its tag from the top bits of a hash. Those are the key group, nearly constant
/// within one task: other bits go there. The lowest bits, which choose the segment, stay out of both the
/// tag and the first bits of the bucket.
#[inline(always)]
pub(crate) const fn spread(hash: u64) -> u64 {
    hash.rotate_left(24)
}

impl<K: Key, V> Table<K, V> {
    pub(crate) fn new() -> Self {
        Self { segments: vec![Segment::new()], directory: vec![0], pen: None, asked: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.iter().map(|s| s.table.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.iter().all(|s| s.table.is_empty())
    }

    /// The segment of a hash.
    #[inline(always)]
    fn at(&self, hash: u64) -> usize {
        self.directory[hash as usize & (self.directory.len() - 1)] as usize
    }

    /// The value of a key.
    pub(crate) fn get(&self, hash: u64, key: &K) -> Option<&V> {
        self.segments[self.at(hash)].table.find(spread(hash), |e| e.0 == *key).map(|e| &e.1)
    }

    /// The row of a key that has one, to change.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<Row<'_, K, V>> {
        let at = self.at(hash);
        if !self.segments[at].is_written() {
            self.keep(at, hash, key);
        }
        let entry = self.segments[at].find(hash, key)?;
        Some(Row::new(entry, self.asked.as_mut()))
    }

    /// The row of a key, made when it is absent, to change.
    #[inline]
    pub(crate) fn entry(&mut self, hash: u64, key: Cow<'_, K>, make: impl FnOnce() -> V) -> Row<'_, K, V> {
        let mut at = self.at(hash);
        let segment = &self.segments[at];
        if !segment.is_written() || segment.is_full() {
            at = self.prepare(at, hash, &key);
        }
        Row::new(self.segments[at].entry(hash, key, make), self.asked.as_mut())
    }

    /// The value of a key, made when it is absent.
    #[inline]
    pub(crate) fn upsert(&mut self, hash: u64, key: Cow<'_, K>, make: impl FnOnce() -> V) -> &mut V {
        self.entry(hash, key, make).into_value()
    }

    /// Keeps a row for the snapshot.
    #[cold]
    fn keep(&mut self, at: usize, hash: u64, key: &K) {
        let segment = &mut self.segments[at];
        if let Some(pen) = &mut self.pen
            && let Some(bucket) = segment.table.find_bucket_index(spread(hash), |e| e.0 == *key)
        {
            segment.keep(bucket, pen);
        }
    }

    /// Makes a segment ready for a write that may add a row; returns where the row belongs then.
    #[cold]
    fn prepare(&mut self, at: usize, hash: u64, key: &K) -> usize {
        let segment = &mut self.segments[at];
        let full = segment.is_full();
        if let Some(pen) = &mut self.pen
            && !segment.is_written()
        {
            if full || segment.moves_next() {
                // Rows are about to move: their buckets would no longer tell which are written.
                segment.write(pen, &mut { usize::MAX });
            } else if let Some(bucket) = segment.table.find_bucket_index(spread(hash), |e| e.0 == *key) {
                segment.keep(bucket, pen);
            }
        }
        if full { self.split(at, hash) } else { at }
    }

    /// Splits a segment until this hash's is not full; returns where the hash belongs then.
    fn split(&mut self, mut at: usize, hash: u64) -> usize {
        while self.segments[at].is_full() {
            let before = self.segments[at].depth;
            let others = self.segments[at].split();
            let depth = self.segments[at].depth;
            while self.directory.len() < 1 << depth {
                self.directory.extend_from_within(..);
            }
            let common = hash as usize & ((1 << before) - 1);
            for (bits, other) in (1_usize..).zip(others) {
                let new = self.segments.len() as u32;
                self.segments.push(other);
                let first = common | bits << before;
                for place in (first..self.directory.len()).step_by(1 << depth) {
                    self.directory[place] = new;
                }
            }
            at = self.at(hash);
        }
        at
    }

    /// Takes in all rows: `add` for each with the value of its key, made when it is absent.
    #[inline]
    pub(crate) fn upsert_all<T, F: KeyOf<T, Key = K>>(
        &mut self,
        rows: &[T],
        keys: &F,
        make: impl Fn() -> V,
        add: impl Fn(&mut V, &T),
    ) {
        if needs_drop::<K>() && !F::BORROWED {
            // Making a key twice would cost more than the misses.
            for row in rows {
                let key = keys.key(row);
                let hash = key.key_hash();
                add(self.upsert(hash, key, &make), row);
            }
            return;
        }
        let mut hashes = [0_u64; CHUNK];
        for chunk in rows.chunks(CHUNK) {
            for (row, hash) in chunk.iter().zip(&mut hashes) {
                *hash = keys.hash(row);
            }
            match &mut self.segments[..] {
                [only]
                    if only.is_written()
                        && self.asked.is_none()
                        && only.table.len() + chunk.len() <= FIRST_ROWS_MAX =>
                {
                    upsert_into(&mut only.table, chunk, &hashes, keys, &make, &add);
                }
                segments if self.pen.is_none() && self.asked.is_none() => {
                    // Nothing but the look-up stands in this loop: the rows of absent keys wait.
                    let mut absent = Vec::new();
                    let (directory, mask) = (&self.directory[..], self.directory.len() - 1);
                    for (index, (row, hash)) in chunk.iter().zip(&hashes).enumerate() {
                        let key = keys.key(row);
                        let segment = &mut segments[directory[*hash as usize & mask] as usize];
                        match segment.table.find_mut(spread(*hash), |e| e.0 == *key) {
                            Some(entry) => add(&mut entry.1, row),
                            None => absent.push(index),
                        }
                    }
                    for index in absent {
                        let row = &chunk[index];
                        add(self.upsert(hashes[index], keys.key(row), &make), row);
                    }
                }
                _ => self.upsert_noted(chunk, &hashes, keys, &make, &add),
            }
        }
    }

    /// As [`upsert_all`](Self::upsert_all) for at most [`CHUNK`] rows, where a snapshot is under way or
    /// changes are noted.
    fn upsert_noted<T, F: KeyOf<T, Key = K>>(
        &mut self,
        rows: &[T],
        hashes: &[u64; CHUNK],
        keys: &F,
        make: impl Fn() -> V,
        add: impl Fn(&mut V, &T),
    ) {
        // First all look-ups, so that their cache misses overlap; then all that depends on what was found.
        let mut buckets = [ABSENT; CHUNK];
        for ((row, hash), bucket) in rows.iter().zip(hashes).zip(&mut buckets) {
            let key = keys.key(row);
            let found = self.segments[self.at(*hash)].table.find_bucket_index(spread(*hash), |e| e.0 == *key);
            *bucket = found.unwrap_or(ABSENT);
        }
        // Nothing moves meanwhile: the rows of absent keys wait.
        let mut absent = Vec::new();
        for (index, ((row, hash), bucket)) in rows.iter().zip(hashes).zip(&buckets).enumerate() {
            if *bucket == ABSENT {
                absent.push(index);
                continue;
            }
            let at = self.at(*hash);
            let segment = &mut self.segments[at];
            segment.touch(*bucket, self.pen.as_deref_mut());
            if let Some(entry) = segment.table.get_bucket_mut(*bucket) {
                add(&mut entry.1, row);
            }
        }
        for index in absent {
            let row = &rows[index];
            add(self.upsert(hashes[index], keys.key(row), &make), row);
        }
    }

    /// Sets the value of a key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let hash = key.key_hash();
        let mut value = Some(value);
        let mut entry =
            self.entry(hash, Cow::Borrowed(&key), || value.take().unwrap_or_else(|| unreachable!()));
        if let Some(value) = value {
            *entry.parts().1 = value;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.segments.iter().flat_map(|s| s.table.iter())
    }

    /// All rows. No snapshot is under way.
    pub(crate) fn into_entries(self) -> Entries<K, V> {
        debug_assert!(self.pen.is_none(), "a snapshot would lack these rows");
        Entries { left: self.len(), rest: self.segments.into_iter(), rows: HashTable::new().into_iter() }
    }

    /// A barrier passes: a snapshot begins that has the rows as they are now. `tag` stands before each.
    ///
    /// # Errors
    /// While the snapshot before is being written.
    pub(crate) fn begin(&mut self, write: WriteRow<K, V>, tag: i64) -> Result<()> {
        if self.pen.is_some() {
            return Err(Status::internal("a barrier came while the snapshot of the one before was written"));
        }
        for segment in self.segments.iter_mut().filter(|s| !s.table.is_empty()) {
            segment.lacks = Lacks::All;
        }
        let (blocks, gone) = (Blocks::default(), Vec::new());
        self.pen = Some(Box::new(Pen { write, tag, segment: 0, gone, blocks }));
        Ok(())
    }

    /// Whether a snapshot is under way.
    pub(crate) const fn is_writing(&self) -> bool {
        self.pen.is_some()
    }

    /// Goes on with the snapshot that has begun, until the budget (bytes and buckets) is spent. When all
    /// is written: its rows.
    pub(crate) fn write(&mut self, budget: &mut usize) -> Option<Blocks> {
        let pen = self.pen.as_mut()?;
        pen.write_gone(budget);
        if !pen.gone.is_empty() {
            return None;
        }
        while let Some(segment) = self.segments.get_mut(pen.segment) {
            segment.write(pen, budget);
            if !segment.is_written() {
                return None;
            }
            pen.segment += 1;
        }
        self.pen.take().map(|pen| pen.blocks)
    }

    /// What the snapshot under way has so far.
    pub(crate) fn written(&mut self) -> Option<&mut Blocks> {
        self.pen.as_mut().map(|pen| &mut pen.blocks)
    }
}

/// Takes rows into one hash table that has room for them.
#[inline]
fn upsert_into<T, K: Key, V, F: KeyOf<T, Key = K>>(
    table: &mut HashTable<(K, V)>,
    rows: &[T],
    hashes: &[u64],
    keys: &F,
    make: impl Fn() -> V,
    add: impl Fn(&mut V, &T),
) {
    for (row, hash) in rows.iter().zip(hashes) {
        let (key, hash) = (keys.key(row), spread(*hash));
        match table.find_mut(hash, |e| e.0 == *key) {
            Some(entry) => add(&mut entry.1, row),
            None => {
                let mut value = make();
                add(&mut value, row);
                table.insert_unique(hash, (key.into_owned(), value), |e| spread(e.0.key_hash()));
            }
        }
    }
}

/// All rows of a table, segment by segment.
pub(crate) struct Entries<K, V> {
    rows: hash_table::IntoIter<(K, V)>,
    rest: std::vec::IntoIter<Segment<K, V>>,
    left: usize,
}

impl<K, V> Iterator for Entries<K, V> {
    type Item = (K, V);
    fn next(&mut self) -> Option<(K, V)> {
        loop {
            if let Some(row) = self.rows.next() {
                self.left -= 1;
                return Some(row);
            }
            self.rows = self.rest.next()?.table.into_iter();
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Entries<K, V> {}

#[cfg(test)]
mod tests;
