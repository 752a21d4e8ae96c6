//! The keyed state of one operator in memory: one hash table a task.

use std::borrow::Cow;

use hashbrown::HashTable;
use hashbrown::hash_table::IntoIter;

use crate::key::Key;

/// A map from keys to values whose hashes the caller already has.
pub(crate) struct Table<K, V> {
    table: HashTable<(K, V)>,
}

/// The table's own position is taken from other bits than the key group, whose bits are nearly
/// constant within one task.
#[inline(always)]
const fn spread(hash: u64) -> u64 {
    hash.rotate_left(24)
}

impl<K: Key, V> Table<K, V> {
    pub(crate) const fn new() -> Self {
        Self { table: HashTable::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The value of a key, made when it is absent.
    #[inline]
    pub(crate) fn upsert(&mut self, hash: u64, key: Cow<'_, K>, make: impl FnOnce() -> V) -> &mut V {
        let entry = self.table.entry(spread(hash), |e| e.0 == *key, |e| spread(e.0.key_hash()));
        &mut entry.or_insert_with(|| (key.into_owned(), make())).into_mut().1
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let hash = spread(key.key_hash());
        self.table.insert_unique(hash, (key, value), |e| spread(e.0.key_hash()));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.table.iter()
    }

    pub(crate) fn into_entries(self) -> IntoIter<(K, V)> {
        self.table.into_iter()
    }
}
