//! Timers of keys: what an operator asked to be told at a moment, fired in order of time, wherever
//! they are kept.

mod memory;

use std::task::{Context, Poll};

use self::memory::MemoryTimers;
use crate::Result;
use crate::key::{Key, KeyGroup};
use crate::snapshot::{Restore, TaskSnapshot};
use crate::state::Backend;
#[cfg(feature = "disk")]
use crate::state::DiskTimers;

/// The timers of all keys of one operator in one task; a key has at most one for each moment.
pub(crate) enum Timers<K> {
    Memory(MemoryTimers<K>),
    #[cfg(feature = "disk")]
    Disk(Box<DiskTimers<K>>),
}

impl<K: Key> Timers<K> {
    /// None yet. The name tells an operator's timers apart in a snapshot.
    pub(crate) fn new(name: &'static str, backend: &Backend) -> Self {
        match backend {
            Backend::Memory => Self::Memory(MemoryTimers::new(name)),
            #[cfg(feature = "disk")]
            Backend::Disk(store) => Self::Disk(Box::new(DiskTimers::new(name, store))),
        }
    }

    /// Ready when more timers may be set: always in memory; on disk when it has room and its writer
    /// has not fallen behind.
    ///
    /// # Errors
    /// When the disk cannot be written.
    #[inline]
    pub(crate) fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Memory(_) => {
                let _ = task;
                Poll::Ready(Ok(()))
            }
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.poll_ready(task),
        }
    }

    /// Asks for a moment; a second request for the same is none.
    pub(crate) fn set(&mut self, at: i64, key: &K) {
        match self {
            Self::Memory(timers) => timers.set(at, key),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.set(at, key),
        }
    }

    /// Takes a request back.
    pub(crate) fn remove(&mut self, at: i64, key: &K) {
        match self {
            Self::Memory(timers) => timers.remove(at, key),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.remove(at, key),
        }
    }

    /// The earliest moment asked for.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub(crate) fn first(&mut self) -> Result<Option<i64>> {
        match self {
            Self::Memory(timers) => Ok(timers.first()),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.first(),
        }
    }

    /// Takes the next timer that is due at `until`.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub(crate) fn pop(&mut self, until: i64) -> Result<Option<(i64, K)>> {
        match self {
            Self::Memory(timers) => Ok(timers.pop(until)),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.pop(until),
        }
    }

    /// The keys of the next timers that are due at `until`, whose values are worth fetching at once: none
    /// where values need no fetching.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub(crate) fn upcoming(&mut self, until: i64, timers_max: usize) -> Result<Vec<K>> {
        match self {
            Self::Memory(_) => {
                let _ = (until, timers_max);
                Ok(Vec::new())
            }
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.upcoming(until, timers_max),
        }
    }

    /// Whether the next timer that is due at `until` can be taken without much work for the snapshot under
    /// way; else does some of it, until the budget is spent.
    pub(crate) fn ready(&mut self, until: i64, budget: &mut usize) -> bool {
        match self {
            Self::Memory(timers) => timers.ready(until, budget),
            #[cfg(feature = "disk")]
            Self::Disk(_) => true,
        }
    }

    /// A barrier passes: a snapshot begins that has the timers as they are now. Never while a moment is
    /// being fired: a barrier waits.
    ///
    /// # Errors
    /// While the one before is being written.
    pub(crate) fn begin(&mut self) -> Result<()> {
        match self {
            Self::Memory(timers) => timers.begin(),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.begin(),
        }
    }

    /// Goes on with the snapshot that has begun, until the budget (bytes and buckets) is spent. `true`:
    /// all is written, or there is none.
    ///
    /// # Errors
    /// When a key cannot be encoded, or the disk cannot be read.
    pub(crate) fn write(
        &mut self,
        snapshot: &mut TaskSnapshot,
        operator: &str,
        subtask: u32,
        budget: &mut usize,
    ) -> Result<bool> {
        match self {
            Self::Memory(timers) => timers.write(snapshot, operator, subtask, budget),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.write(snapshot, operator, subtask),
        }
    }

    /// Takes the timers of this task's key groups out of a checkpoint. Blocks while the disk is written.
    ///
    /// # Errors
    /// When a row cannot be read, or the disk cannot be written.
    pub(crate) fn restore(
        &mut self,
        restore: &Restore,
        operator: &str,
        (subtask, parallelism): (u32, u32),
    ) -> Result<()> {
        let groups = KeyGroup::range_of(subtask, parallelism);
        let mut failed = None;
        restore.rows(operator, self.name(), Some(&groups), |_, (key, at): (K, i64)| {
            if failed.is_none() && groups.contains(&u32::from(KeyGroup::of(key.key_hash()).0)) {
                self.set(at, &key);
                failed = self.catch_up().err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Memory(timers) => timers.name(),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.name(),
        }
    }

    /// Writes what waits to be written, on this thread.
    fn catch_up(&mut self) -> Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.catch_up(),
        }
    }

    /// Those in memory, for people and tests.
    pub(crate) fn list(&self) -> Vec<(i64, K)> {
        match self {
            Self::Memory(timers) => timers.list(),
            #[cfg(feature = "disk")]
            Self::Disk(timers) => timers.list(),
        }
    }
}

#[cfg(test)]
mod tests;
