//! What operators remember: the state of one key, and where all keys of a task are kept.
//!
//! An operator sees the state of the current key only, as a plain value behind `&mut`. Where the
//! values live is [`KeyedState`]'s affair: every keyed operator goes through it, and through it
//! alone a snapshot is written and read back.

mod backend;
#[cfg(feature = "disk")]
mod disk;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod increments;
mod kept;
mod life;
mod list;
mod map;
mod reducing;
mod value;

use std::borrow::Cow;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::key::{Key, KeyGroup};
use crate::keyed::KeyOf;
use crate::snapshot::{Increment, Restore, TaskSnapshot};
use crate::table::{Extent, WriteRow};

pub(crate) use backend::Backend;
pub use backend::{
    DiskCounters, DiskReading, STATE_CACHE_BYTES_DEFAULT, STATE_RESERVE_BYTES_DEFAULT, StateBackend,
    StateRoot,
};
#[cfg(feature = "disk")]
pub(crate) use disk::DiskTimers;
pub(crate) use kept::{Kept, KeptRows, StateEntry};
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
    table: Kept<K, V>,
    /// What the snapshot under way is of.
    extent: Extent,
}

impl<K: Key, V> KeyedState<K, V> {
    /// No values. The name tells an operator's states apart in a snapshot.
    pub(crate) fn new(name: &'static str, backend: &Backend) -> Self
    where
        V: Serialize + DeserializeOwned,
    {
        Self { name, table: Kept::new(backend, name), extent: Extent::All }
    }

    /// Brings the values of these keys, with their hashes, to where they can be used; see
    /// [`Kept::poll_prepare`]. To be called before `entry`, `find` and `upsert_all`.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    #[inline]
    pub(crate) fn poll_prepare<'k>(
        &mut self,
        task: &mut Context<'_>,
        keys: impl Iterator<Item = (u64, Cow<'k, K>)>,
    ) -> Poll<Result<()>>
    where
        K: 'k,
    {
        self.table.poll_prepare(task, keys)
    }

    /// The same for the keys of rows.
    ///
    /// # Errors
    /// As [`poll_prepare`](Self::poll_prepare).
    #[inline]
    pub(crate) fn poll_prepare_rows<T, F: KeyOf<T, Key = K>>(
        &mut self,
        task: &mut Context<'_>,
        rows: &[T],
        keys: &F,
    ) -> Poll<Result<()>> {
        self.table.poll_prepare_rows(task, rows, keys)
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.table.get(key)
    }

    /// The value of a key, made when it is absent. `hash` is the key's [`Key::key_hash`].
    #[inline]
    pub(crate) fn entry(
        &mut self,
        hash: u64,
        key: Cow<'_, K>,
        make: impl FnOnce() -> V,
    ) -> StateEntry<'_, K, V> {
        self.table.entry(hash, key, make)
    }

    /// The value of a key that has one.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<StateEntry<'_, K, V>> {
        self.table.find(hash, key)
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

    /// A barrier passes: a snapshot begins that has the values as they are now.
    ///
    /// # Errors
    /// While the one before is being written.
    pub(crate) fn begin(&mut self, snapshot: &TaskSnapshot) -> Result<()>
    where
        V: Serialize,
    {
        let since = match snapshot.increment {
            Increment::Never => return self.table.begin(WriteRow::pairs(), 0),
            Increment::First => None,
            Increment::Since(epoch) => Some(epoch),
        };
        self.extent = self.table.begin_tracked(WriteRow::pairs(), snapshot.epoch, since)?;
        Ok(())
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
    ) -> Result<bool>
    where
        V: 'static,
    {
        let name = (operator, self.name, subtask);
        if let Some(mut blocks) = self.table.write(budget)? {
            blocks.hand_over(true, snapshot, name)?;
            if let Extent::Since(epoch, left) = std::mem::replace(&mut self.extent, Extent::All) {
                snapshot.follows(name, epoch, left as u64);
            }
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
        let mut failed = None;
        let mine = |hash| groups.contains(&u32::from(KeyGroup::of(hash).0));
        restore.latest(operator, self.name, Some(&groups), mine, |key: K, value: V| {
            if failed.is_none() {
                failed = self.table.restore(key, value).err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_gives_each_task_the_keys_of_its_groups() {
        let mut all = KeyedState::<u64, u64>::new("values", &Backend::Memory);
        for key in 0..100_u64 {
            *all.entry(key.key_hash(), Cow::Owned(key), || 0).parts().1 = key * 2;
        }
        let mut snapshot = TaskSnapshot::default();
        all.begin(&snapshot).unwrap();
        assert!(all.write(&mut snapshot, "op", 0, &mut { usize::MAX }).unwrap());
        let restore = Restore::new([snapshot]);
        let mut found = 0;
        for subtask in 0..3 {
            let mut mine = KeyedState::<u64, u64>::new("values", &Backend::Memory);
            mine.restore(&restore, "op", (subtask, 3)).unwrap();
            for key in 0..100_u64 {
                if let Some(value) = mine.get(&key) {
                    assert!(*value == key * 2 && KeyGroup::of(key.key_hash()).owner(3) == subtask);
                    found += 1;
                }
            }
        }
        assert_eq!(found, 100);
    }
}
