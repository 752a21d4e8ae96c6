//! The values of all keys of one state in one task, wherever they are kept: one set of operations
//! over both backends.

use std::borrow::Cow;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Backend;
#[cfg(feature = "disk")]
use super::disk::{Codec, DiskTable, Emptied, Place};
use crate::Result;
use crate::block::Blocks;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::table::{Entries, Extent, Row, Table, WriteRow};

/// A table in memory or on disk.
pub(crate) enum Kept<K, V> {
    Memory(Table<K, V>),
    #[cfg(feature = "disk")]
    Disk(Box<DiskTable<K, V>>),
}

impl<K: Key, V> Kept<K, V> {
    /// An empty table. The name is for people.
    pub(crate) fn new(backend: &Backend, name: &str) -> Self
    where
        V: Serialize + DeserializeOwned,
    {
        let _ = name;
        match backend {
            Backend::Memory => Self::memory(),
            #[cfg(feature = "disk")]
            Backend::Disk(store) => Self::Disk(Box::new(DiskTable::new(store, name, Codec::new()))),
        }
    }

    /// An empty table in memory.
    pub(crate) fn memory() -> Self {
        Self::Memory(Table::new())
    }

    /// Brings the values of these keys, with their hashes, to where they can be used: ready at once in
    /// memory; on disk it may have to wait. They stay there until the next call.
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
        match self {
            Self::Memory(_) => {
                let _ = (task, keys);
                Poll::Ready(Ok(()))
            }
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.poll_prepare(task, keys),
        }
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
        self.poll_prepare(
            task,
            rows.iter().map(|row| {
                let key = keys.key(row);
                (key.key_hash(), key)
            }),
        )
    }

    /// The value of a key; on disk only what is in memory is seen.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Memory(table) => table.get(key.key_hash(), key),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.get(key),
        }
    }

    /// The value of a prepared key, made when it is absent.
    #[inline]
    pub(crate) fn entry(
        &mut self,
        hash: u64,
        key: Cow<'_, K>,
        make: impl FnOnce() -> V,
    ) -> StateEntry<'_, K, V> {
        match self {
            Self::Memory(table) => StateEntry::Memory(table.entry(hash, key, make)),
            #[cfg(feature = "disk")]
            Self::Disk(table) => StateEntry::Disk(table.entry(hash, key, make)),
        }
    }

    /// The value of a prepared key that has one.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<StateEntry<'_, K, V>> {
        match self {
            Self::Memory(table) => table.find(hash, key).map(StateEntry::Memory),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.find(hash, key).map(StateEntry::Disk),
        }
    }

    /// Takes in all rows, whose keys are prepared: `add` for each with the value of its key, made when
    /// it is absent.
    #[inline]
    pub(crate) fn upsert_all<T, F: KeyOf<T, Key = K>>(
        &mut self,
        rows: &[T],
        keys: &F,
        make: impl Fn() -> V,
        add: impl Fn(&mut V, &T),
    ) {
        match self {
            Self::Memory(table) => table.upsert_all(rows, keys, make, add),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.upsert_all(rows, keys, make, add),
        }
    }

    /// Sets the value of a key that a checkpoint holds.
    ///
    /// # Errors
    /// When the disk cannot be written, or is full.
    pub(crate) fn restore(&mut self, key: K, value: V) -> Result<()> {
        match self {
            Self::Memory(table) => {
                table.insert(key, value);
                Ok(())
            }
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.restore(key, value),
        }
    }

    /// A barrier passes: a snapshot begins that has the values as they are now. Rows are what
    /// `write` makes of them with the tag.
    ///
    /// # Errors
    /// While the one before is being written.
    pub(crate) fn begin(&mut self, write: WriteRow<K, V>, tag: i64) -> Result<()> {
        match self {
            Self::Memory(table) => table.begin(write, tag),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.begin(write, tag),
        }
    }

    /// The same, where the next snapshot may be of what has changed since this `epoch`, and this one of what
    /// has changed since the epoch `since`, if that was the last. On disk it is of all rows.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(crate) fn begin_tracked(
        &mut self,
        write: WriteRow<K, V>,
        epoch: u64,
        since: Option<u64>,
    ) -> Result<Extent> {
        match self {
            Self::Memory(table) => table.begin_tracked(write, epoch, since),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.begin(write, 0).map(|()| Extent::All),
        }
    }

    /// Whether a snapshot is being written.
    pub(crate) fn is_writing(&self) -> bool {
        match self {
            Self::Memory(table) => table.is_writing(),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.is_cut(),
        }
    }

    /// Goes on with the snapshot until the budget (bytes and buckets) is spent; its rows when all are
    /// written.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub(crate) fn write(&mut self, budget: &mut usize) -> Result<Option<Blocks>>
    where
        V: 'static,
    {
        match self {
            Self::Memory(table) => Ok(table.write(budget)),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.write_cut(budget),
        }
    }

    /// What is written so far of the snapshot under way.
    pub(crate) fn written(&mut self) -> Option<&mut Blocks> {
        match self {
            Self::Memory(table) => table.written(),
            #[cfg(feature = "disk")]
            Self::Disk(table) => table.written(),
        }
    }

    /// Takes all rows out, some at a time.
    pub(crate) fn into_rows(self) -> KeptRows<K, V> {
        match self {
            Self::Memory(table) => KeptRows::Memory(table.into_entries()),
            #[cfg(feature = "disk")]
            Self::Disk(table) => KeptRows::Disk(Box::new(table.into_emptied())),
        }
    }
}

/// The rows of a table that is no longer needed.
pub(crate) enum KeptRows<K, V> {
    Memory(Entries<K, V>),
    #[cfg(feature = "disk")]
    Disk(Box<Emptied<K, V>>),
}

impl<K: Key, V> KeptRows<K, V> {
    /// Gives up to `rows` rows to `take`; `false`: there are no more.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub(crate) fn next(&mut self, rows: usize, mut take: impl FnMut(K, V)) -> Result<bool> {
        match self {
            Self::Memory(entries) => {
                entries.by_ref().take(rows).for_each(|(key, value)| take(key, value));
                Ok(entries.len() > 0)
            }
            #[cfg(feature = "disk")]
            Self::Disk(emptied) => emptied.next(rows, take),
        }
    }
}

/// The value of one key, in its place.
pub(crate) enum StateEntry<'a, K, V> {
    Memory(Row<'a, K, V>),
    #[cfg(feature = "disk")]
    Disk(Place<'a, K, V>),
}

impl<K: Key, V> StateEntry<'_, K, V> {
    /// The key and its value.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&K, &mut V) {
        match self {
            Self::Memory(row) => row.parts(),
            #[cfg(feature = "disk")]
            Self::Disk(place) => place.parts(),
        }
    }

    /// Forgets the key.
    pub(crate) fn remove(self) {
        match self {
            Self::Memory(row) => drop(row.remove()),
            #[cfg(feature = "disk")]
            Self::Disk(place) => place.remove(),
        }
    }
}
