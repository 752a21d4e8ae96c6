//! Snapshots of what has changed since the one before.
//!
//! A table that is asked to ([`Table::begin_tracked`]) notes by a bit for each bucket which rows may have
//! changed, and which keys are gone. Its next snapshot is then of those alone, unless they are so many
//! that a whole one costs little more. Rows that move when the table grows count as changed.

use hashbrown::hash_table::OccupiedEntry;

use super::segment::Pen;
use super::{Blocks, Table, WriteRow};
use crate::Result;
use crate::key::Key;
use afflux_wire::Status;

/// Keys that are gone are noted while they are at most this many more than there are rows.
const GONE_MORE_MAX: usize = 1_024;
/// Snapshots of changes behind a whole one, at most: a restore reads as many files.
pub(crate) const CHANGES_MAX: u32 = 32;

/// What a table that is asked for changes knows beside the bits of its segments.
pub(super) struct Asked<K> {
    /// The epoch of the last snapshot.
    since: u64,
    /// Keys that are gone since then.
    gone: Vec<K>,
    gone_max: usize,
    /// Keys that are gone were too many to be noted.
    lost: bool,
    /// Snapshots of changes since the last whole one, and their rows.
    snapshots: u32,
    rows: usize,
}

/// What a snapshot that has begun is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All rows.
    All,
    /// What has changed since this epoch; with what was before there are so many rows.
    Since(u64, usize),
}

impl<K: Key, V> Table<K, V> {
    /// As [`Table::begin`] for a table whose next snapshot may be of what has changed since this `epoch`.
    /// This one is of what has changed since the epoch `since`, if that was the last and it is worth it.
    ///
    /// # Errors
    /// While the snapshot before is being written.
    pub(crate) fn begin_tracked(
        &mut self,
        write: WriteRow<K, V>,
        epoch: u64,
        since: Option<u64>,
    ) -> Result<Extent> {
        if self.pen.is_some() {
            return Err(Status::internal("a barrier came while the snapshot of the one before was written"));
        }
        let left = self.len();
        let last = self.asked.take();
        let last =
            last.filter(|last| since == Some(last.since) && !last.lost && last.snapshots < CHANGES_MAX);
        let rows = |last: &Asked<K>| {
            let changed: usize = self.segments.iter().map(|segment| segment.changes()).sum();
            last.rows + changed + last.gone.len()
        };
        // A restore reads half as much again at most.
        let alone = last.map(|last| (rows(&last), last)).filter(|(rows, _)| *rows <= left / 2);
        for segment in &mut self.segments {
            segment.begin(alone.is_some());
        }
        let gone_max = left + GONE_MORE_MAX;
        let mut asked =
            Asked { since: epoch, gone: Vec::new(), gone_max, lost: false, snapshots: 0, rows: 0 };
        let (mut gone, mut extent) = (Vec::new(), Extent::All);
        if let Some((rows, last)) = alone {
            (asked.snapshots, asked.rows) = (last.snapshots + 1, rows);
            (gone, extent) = (last.gone, Extent::Since(last.since, left));
        }
        self.asked = Some(asked);
        self.pen = Some(Box::new(Pen { write, tag: 0, segment: 0, gone, blocks: Blocks::default() }));
        Ok(extent)
    }
}

/// A row in its place.
pub(crate) struct Row<'a, K, V> {
    entry: OccupiedEntry<'a, (K, V)>,
    asked: Option<&'a mut Asked<K>>,
}

impl<'a, K, V> Row<'a, K, V> {
    #[inline(always)]
    pub(super) const fn new(entry: OccupiedEntry<'a, (K, V)>, asked: Option<&'a mut Asked<K>>) -> Self {
        Self { entry, asked }
    }

    /// The key and its value.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&K, &mut V) {
        let (key, value) = self.entry.get_mut();
        (key, value)
    }

    /// The value, for as long as the table is borrowed.
    #[inline]
    pub(crate) fn into_value(self) -> &'a mut V {
        &mut self.entry.into_mut().1
    }

    /// Forgets the key.
    pub(crate) fn remove(self) -> V {
        let ((key, value), _) = self.entry.remove();
        if let Some(asked) = self.asked {
            asked.remove(key);
        }
        value
    }
}

impl<K> Asked<K> {
    fn remove(&mut self, key: K) {
        if self.gone.len() < self.gone_max {
            self.gone.push(key);
        } else if !self.lost {
            // The next snapshot is a whole one.
            self.lost = true;
            self.gone = Vec::new();
        }
    }
}
