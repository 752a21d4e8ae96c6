//! Rows by key in memory, at places that can be gone through one after the other while rows come
//! and go.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::table::spread;

/// A key and its value.
pub(super) struct Row<K, V> {
    pub(super) hash: u64,
    pub(super) entry: (K, V),
}

/// Tables of one index. One that is full moves its rows when it grows: a share of them at once, not all.
const SHARDS: usize = 64;
/// Rows that lie together: more rows move none of those that are there.
const CHUNK_ROWS: usize = 4096;

/// Rows, each at a place.
pub(super) struct Slab<K, V> {
    chunks: Vec<Vec<Option<Row<K, V>>>>,
    /// By the lowest bits of the hash.
    index: Box<[HashTable<u32>]>,
    free: Vec<u32>,
    places: usize,
    len: usize,
}

const fn shard(hash: u64) -> usize {
    hash as usize % SHARDS
}

impl<K: Eq, V> Slab<K, V> {
    pub(super) fn new() -> Self {
        let index = std::iter::repeat_with(HashTable::new).take(SHARDS).collect();
        Self { chunks: Vec::new(), index, free: Vec::new(), places: 0, len: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Places that have been used, empty ones included.
    pub(super) const fn places(&self) -> usize {
        self.places
    }

    pub(super) fn find(&self, hash: u64, key: &K) -> Option<u32> {
        self.index.get(shard(hash))?.find(spread(hash), |at| self.is(*at, hash, key)).copied()
    }

    fn is(&self, at: u32, hash: u64, key: &K) -> bool {
        self.at(at).is_some_and(|r| r.hash == hash && r.entry.0 == *key)
    }

    pub(super) fn at(&self, at: u32) -> Option<&Row<K, V>> {
        let at = at as usize;
        self.chunks.get(at / CHUNK_ROWS)?.get(at % CHUNK_ROWS)?.as_ref()
    }

    pub(super) fn at_mut(&mut self, at: u32) -> Option<&mut Row<K, V>> {
        self.place(at)?.as_mut()
    }

    fn place(&mut self, at: u32) -> Option<&mut Option<Row<K, V>>> {
        let at = at as usize;
        self.chunks.get_mut(at / CHUNK_ROWS)?.get_mut(at % CHUNK_ROWS)
    }

    /// Adds a row whose key is not there.
    pub(super) fn insert(&mut self, row: Row<K, V>) -> u32 {
        let hash = row.hash;
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.place(at) {
                    *place = Some(row);
                }
                at
            }
            None => {
                match self.chunks.last_mut() {
                    Some(chunk) if chunk.len() < CHUNK_ROWS => chunk.push(Some(row)),
                    // The first grows with its rows, as there may be few; later ones are whole.
                    first => {
                        let rows = if first.is_none() { 0 } else { CHUNK_ROWS };
                        let mut chunk = Vec::with_capacity(rows);
                        chunk.push(Some(row));
                        self.chunks.push(chunk);
                    }
                }
                self.places += 1;
                (self.places - 1) as u32
            }
        };
        self.len += 1;
        let chunks = &self.chunks;
        let hash_of = |at: &u32| {
            let at = *at as usize;
            let row = chunks.get(at / CHUNK_ROWS).and_then(|chunk| chunk.get(at % CHUNK_ROWS));
            spread(row.and_then(Option::as_ref).map_or(0, |r| r.hash))
        };
        if let Some(index) = self.index.get_mut(shard(hash)) {
            index.insert_unique(spread(hash), at, hash_of);
        }
        at
    }

    /// Takes the row of a place out.
    pub(super) fn take(&mut self, at: u32) -> Option<Row<K, V>> {
        let row = self.place(at)?.take()?;
        if let Some(index) = self.index.get_mut(shard(row.hash))
            && let Ok(entry) = index.find_entry(spread(row.hash), |other| *other == at)
        {
            entry.remove();
        }
        self.free.push(at);
        self.len -= 1;
        Some(row)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row<K, V>> {
        self.chunks.iter().flatten().flatten()
    }
}

/// Keys.
pub(super) struct Keys<K>(HashTable<(u64, K)>);

impl<K: Eq> Keys<K> {
    pub(super) const fn new() -> Self {
        Self(HashTable::new())
    }
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(super) fn insert(&mut self, hash: u64, key: K) {
        if let Entry::Vacant(place) =
            self.0.entry(spread(hash), |k| k.0 == hash && k.1 == key, |k| spread(k.0))
        {
            place.insert((hash, key));
        }
    }
    pub(super) fn contains(&self, hash: u64, key: &K) -> bool {
        self.0.find(spread(hash), |k| k.0 == hash && k.1 == *key).is_some()
    }
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, K)> + '_ {
        self.0.drain()
    }
}
