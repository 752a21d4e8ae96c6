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

/// Rows, each at a place.
pub(super) struct Slab<K, V> {
    rows: Vec<Option<Row<K, V>>>,
    index: HashTable<u32>,
    free: Vec<u32>,
}

impl<K: Eq, V> Slab<K, V> {
    pub(super) const fn new() -> Self {
        Self { rows: Vec::new(), index: HashTable::new(), free: Vec::new() }
    }

    pub(super) fn with_capacity(rows: usize) -> Self {
        Self { rows: Vec::with_capacity(rows), index: HashTable::with_capacity(rows), free: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Places that have been used, empty ones included.
    pub(super) fn places(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn find(&self, hash: u64, key: &K) -> Option<u32> {
        self.index.find(spread(hash), |at| self.is(*at, hash, key)).copied()
    }

    fn is(&self, at: u32, hash: u64, key: &K) -> bool {
        self.at(at).is_some_and(|r| r.hash == hash && r.entry.0 == *key)
    }

    pub(super) fn at(&self, at: u32) -> Option<&Row<K, V>> {
        self.rows.get(at as usize).and_then(Option::as_ref)
    }

    pub(super) fn at_mut(&mut self, at: u32) -> Option<&mut Row<K, V>> {
        self.rows.get_mut(at as usize).and_then(Option::as_mut)
    }

    /// Adds a row whose key is not there.
    pub(super) fn insert(&mut self, row: Row<K, V>) -> u32 {
        let hash = row.hash;
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.rows.get_mut(at as usize) {
                    *place = Some(row);
                }
                at
            }
            None => {
                self.rows.push(Some(row));
                (self.rows.len() - 1) as u32
            }
        };
        let rows = &self.rows;
        self.index.insert_unique(spread(hash), at, |at| {
            spread(rows.get(*at as usize).and_then(Option::as_ref).map_or(0, |r| r.hash))
        });
        at
    }

    /// Takes the row of a place out.
    pub(super) fn take(&mut self, at: u32) -> Option<Row<K, V>> {
        let row = self.rows.get_mut(at as usize)?.take()?;
        if let Ok(entry) = self.index.find_entry(spread(row.hash), |other| *other == at) {
            entry.remove();
        }
        self.free.push(at);
        Some(row)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row<K, V>> {
        self.rows.iter().flatten()
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
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, K)> + '_ {
        self.0.drain()
    }
}
