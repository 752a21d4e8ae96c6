//! The keyed state of one operator in memory: one hash table a task.

use std::borrow::Cow;
use std::mem::needs_drop;

use hashbrown::HashTable;
use hashbrown::hash_table::IntoIter;

use crate::key::Key;
use crate::keyed::KeyOf;

/// Rows whose hashes are made before the first is looked up, so that the look-ups' cache misses
/// overlap: nothing stands between them.
const CHUNK: usize = 1024;

/// A map from keys to values whose hashes the caller may have already.
pub(crate) struct Table<K, V> {
    table: HashTable<(K, V)>,
}

/// The table takes its tag from the top bits of a hash. Those are the key group, nearly constant
/// within one task: other bits go there.
#[inline(always)]
pub(crate) const fn spread(hash: u64) -> u64 {
    hash.rotate_left(24)
}

impl<K: Key, V> Table<K, V> {
    pub(crate) const fn new() -> Self {
        Self { table: HashTable::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The table itself; its hashes are [`spread`].
    pub(crate) const fn inner(&self) -> &HashTable<(K, V)> {
        &self.table
    }

    /// The table itself, to change.
    pub(crate) const fn inner_mut(&mut self) -> &mut HashTable<(K, V)> {
        &mut self.table
    }

    /// The value of a key, made when it is absent.
    #[inline]
    pub(crate) fn upsert(&mut self, hash: u64, key: Cow<'_, K>, make: impl FnOnce() -> V) -> &mut V {
        let entry = self.table.entry(spread(hash), |e| e.0 == *key, |e| spread(e.0.key_hash()));
        &mut entry.or_insert_with(|| (key.into_owned(), make())).into_mut().1
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
                *hash = spread(keys.hash(row));
            }
            for (row, hash) in chunk.iter().zip(&hashes) {
                let key = keys.key(row);
                match self.table.find_mut(*hash, |e| e.0 == *key) {
                    Some(entry) => add(&mut entry.1, row),
                    None => {
                        let mut value = make();
                        add(&mut value, row);
                        let entry = (key.into_owned(), value);
                        self.table.insert_unique(*hash, entry, |e| spread(e.0.key_hash()));
                    }
                }
            }
        }
    }

    /// Sets the value of a key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let hash = spread(key.key_hash());
        match self.table.find_mut(hash, |e| e.0 == key) {
            Some(entry) => entry.1 = value,
            None => {
                self.table.insert_unique(hash, (key, value), |e| spread(e.0.key_hash()));
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.table.iter()
    }

    pub(crate) fn into_entries(self) -> IntoIter<(K, V)> {
        self.table.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::{ByRef, ByValue};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::marker::PhantomData;

    fn first(row: &(u64, u32)) -> &u64 {
        &row.0
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(rows in proptest::collection::vec((0_u64..500, any::<u32>()), 0..3000)) {
            let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
            for (key, value) in &rows {
                *expected.entry(*key).or_default() += u64::from(*value);
            }
            let by_ref = ByRef { f: first, key: PhantomData };
            let mut batched = Table::new();
            batched.upsert_all(&rows, &by_ref, || 0, |sum, r| *sum += u64::from(r.1));
            let mut single = Table::new();
            for (key, value) in &rows {
                *single.upsert(key.key_hash(), Cow::Borrowed(key), || 0) += u64::from(*value);
            }
            let by_text = ByValue { f: |r: &(u64, u32)| r.0.to_string(), key: PhantomData };
            let mut texts = Table::new();
            texts.upsert_all(&rows, &by_text, || 0_u64, |sum, r| *sum += u64::from(r.1));
            prop_assert_eq!(batched.len(), expected.len());
            prop_assert_eq!(batched.into_entries().collect::<BTreeMap<_, _>>(), expected.clone());
            prop_assert_eq!(single.into_entries().collect::<BTreeMap<_, _>>(), expected.clone());
            let texts: BTreeMap<u64, u64> = texts.into_entries().map(|(k, v)| (k.parse().unwrap(), v)).collect();
            prop_assert_eq!(texts, expected);
        }
    }
}
