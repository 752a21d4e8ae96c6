//! What operators remember: the state of one key, and where all keys of a task are kept.
//!
//! An operator sees the state of the current key only, as a plain value behind `&mut`. Where the
//! values live is [`KeyedState`]'s affair: every keyed operator goes through it, and through it
//! alone a snapshot is written and read back.

mod life;
mod list;
mod map;
mod reducing;
mod value;

use std::borrow::Cow;

use hashbrown::hash_table::OccupiedEntry;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::key::{Key, KeyGroup};
use crate::keyed::KeyOf;
use crate::snapshot::{Restore, TaskSnapshot};
use crate::table::Table;

pub use life::{Life, StateField};
pub use list::ListState;
pub use map::MapState;
pub use reducing::{AggregatingState, Aggregator, Reducer, ReducingState};
pub use value::ValueState;

/// What an operator remembers of one key: saved in checkpoints, forgotten when it is empty.
pub trait State: Default + Serialize + DeserializeOwned + 'static {
    /// Whether anything in it has a time to live.
    const EXPIRES: bool = false;

    /// Whether nothing is remembered: the key is forgotten.
    fn is_empty(&self) -> bool;

    /// Forgets what has outlived its time at `now` (milliseconds). Called before the state is used.
    fn expire(&mut self, _now: i64) {}

    /// The earliest moment (milliseconds) at which something will have outlived its time.
    fn expires_at(&self) -> Option<i64> {
        None
    }
}

impl State for () {
    fn is_empty(&self) -> bool {
        true
    }
}

impl<T: Serialize + DeserializeOwned + 'static> State for Option<T> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

impl<T: Serialize + DeserializeOwned + 'static> State for Vec<T> {
    fn is_empty(&self) -> bool {
        Vec::is_empty(self)
    }
}

/// The values of all keys of one state in one task.
pub(crate) struct KeyedState<K, V> {
    name: &'static str,
    table: Table<K, V>,
}

impl<K: Key, V> KeyedState<K, V> {
    /// No values. The name tells an operator's states apart in a snapshot.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, table: Table::new() }
    }

    /// Keys that have a value.
    #[allow(dead_code, reason = "a collection has a length")]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.table.get(key.key_hash(), key)
    }

    /// The value of a key, made when it is absent. `hash` is the key's [`Key::key_hash`].
    #[inline]
    pub(crate) fn entry(
        &mut self,
        hash: u64,
        key: Cow<'_, K>,
        make: impl FnOnce() -> V,
    ) -> StateEntry<'_, K, V> {
        StateEntry(self.table.entry(hash, key, make))
    }

    /// The value of a key that has one.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<StateEntry<'_, K, V>> {
        self.table.find(hash, key).map(StateEntry)
    }

    /// Takes in all rows: `add` for each with the value of its key, made when it is absent.
    #[inline]
    #[allow(dead_code, reason = "for stages that take a batch at once")]
    pub(crate) fn upsert_all<T, F: KeyOf<T, Key = K>>(
        &mut self,
        rows: &[T],
        keys: &F,
        make: impl Fn() -> V,
        add: impl Fn(&mut V, &T),
    ) {
        self.table.upsert_all(rows, keys, make, add);
    }

    /// Takes all values out.
    #[allow(dead_code, reason = "for stages that fire all keys at once")]
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (K, V)> + use<K, V> {
        let name = self.name;
        std::mem::replace(self, Self::new(name)).table.into_entries()
    }

    /// Looks at all values, in no order that means anything.
    #[allow(dead_code, reason = "for stages that ask all keys")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.table.iter()
    }

    /// A barrier passes: a snapshot begins that has the values as they are now.
    ///
    /// # Errors
    /// While the one before is being written.
    pub(crate) fn begin(&mut self) -> Result<()>
    where
        V: Serialize,
    {
        self.table.begin(|blocks, _, row| blocks.push(row), 0)
    }

    /// Goes on with the snapshot that has begun, until the budget (bytes and buckets) is spent. `true`:
    /// all is written, or there is none.
    ///
    /// # Errors
    /// When a value cannot be encoded.
    pub(crate) fn write(
        &mut self,
        snapshot: &mut TaskSnapshot,
        operator: &str,
        subtask: u32,
        budget: &mut usize,
    ) -> Result<bool> {
        let name = (operator, self.name, subtask);
        if let Some(mut blocks) = self.table.write(budget) {
            blocks.hand_over(true, snapshot, name)?;
        } else if let Some(blocks) = self.table.written() {
            blocks.hand_over(false, snapshot, name)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes the values of this task's key groups out of a checkpoint.
    pub(crate) fn restore(
        &mut self,
        restore: &Restore,
        operator: &str,
        (subtask, parallelism): (u32, u32),
    ) -> Result<()>
    where
        V: DeserializeOwned,
    {
        let groups = KeyGroup::range_of(subtask, parallelism);
        restore.rows(operator, self.name, Some(&groups), |_, (key, value): (K, V)| {
            if groups.contains(&u32::from(KeyGroup::of(key.key_hash()).0)) {
                self.table.insert(key, value);
            }
        })
    }
}

/// The value of one key, in its place.
pub(crate) struct StateEntry<'a, K, V>(OccupiedEntry<'a, (K, V)>);

impl<K, V> StateEntry<'_, K, V> {
    /// The key and its value.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&K, &mut V) {
        let (key, value) = self.0.get_mut();
        (key, value)
    }

    /// Forgets the key.
    pub(crate) fn remove(self) -> (K, V) {
        self.0.remove().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_gives_each_task_the_keys_of_its_groups() {
        let mut all = KeyedState::<u64, u64>::new("values");
        for key in 0..100_u64 {
            *all.entry(key.key_hash(), Cow::Owned(key), || 0).parts().1 = key * 2;
        }
        let mut snapshot = TaskSnapshot::default();
        all.begin().unwrap();
        assert!(all.write(&mut snapshot, "op", 0, &mut { usize::MAX }).unwrap());
        let restore = Restore::new([snapshot]);
        let mut found = 0;
        for subtask in 0..3 {
            let mut mine = KeyedState::<u64, u64>::new("values");
            mine.restore(&restore, "op", (subtask, 3)).unwrap();
            assert!(mine.iter().all(|(k, v)| *v == k * 2 && KeyGroup::of(k.key_hash()).owner(3) == subtask));
            found += mine.len();
        }
        assert_eq!(found, 100);
    }
}
