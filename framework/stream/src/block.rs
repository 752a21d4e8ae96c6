//! Rows of a snapshot on their way out: gathered into blocks of bounded size while the task works.

use serde::Serialize;

use crate::Result;
use crate::snapshot::{Block, BlockWriter, LaterRows, ReadRows, Role, TaskSnapshot};
use crate::spare;
use afflux_wire::Status;

/// A block is closed when it has this many bytes; the row that crosses the line still belongs to it.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

/// Rows of one state, in blocks.
#[derive(Default)]
pub(crate) struct Blocks {
    open: BlockWriter,
    /// Keys that are gone.
    gone: Option<Box<BlockWriter>>,
    closed: Vec<Block>,
    failed: Option<Status>,
    /// Blocks of the present snapshot that have been handed over.
    handed: u64,
    /// Tables whose rows are read when the snapshot is stored.
    later: Vec<Box<dyn ReadRows>>,
}

impl Blocks {
    /// Adds a row; returns its bytes.
    #[inline]
    pub(crate) fn push<R: Serialize>(&mut self, row: &R) -> usize {
        if self.open.is_empty() {
            self.begin();
        }
        let before = self.open.len();
        if let Err(status) = self.open.push(row) {
            self.fail(status);
        }
        let after = self.open.len();
        if after >= BLOCK_BYTES {
            self.close();
        }
        after - before
    }

    #[cold]
    fn begin(&mut self) {
        self.open.begin(spare::buffer());
    }

    #[cold]
    fn close(&mut self) {
        self.closed.push(self.open.finish(0, None));
    }

    #[cold]
    fn fail(&mut self, status: Status) {
        self.failed.get_or_insert(status);
    }

    /// Adds a key that is gone; returns its bytes.
    pub(crate) fn push_gone<K: Serialize>(&mut self, key: &K) -> usize {
        let gone = self.gone.get_or_insert_default();
        let before = gone.len();
        if let Err(status) = gone.push(key) {
            self.failed.get_or_insert(status);
        }
        let bytes = gone.len() - before;
        if gone.len() >= BLOCK_BYTES {
            let block = gone.finish(0, None);
            self.closed.push(Block { role: Role::Gone, ..block });
        }
        bytes
    }

    /// Takes all blocks of another table that are part of the same state.
    pub(crate) fn append(&mut self, mut other: Blocks) {
        other.close_open();
        self.closed.append(&mut other.closed);
        self.later.append(&mut other.later);
        self.failed = self.failed.take().or(other.failed);
    }

    fn close_open(&mut self) {
        if let Some(mut gone) = self.gone.take().filter(|gone| !gone.is_empty()) {
            self.closed.push(Block { role: Role::Gone, ..gone.finish(0, None) });
        }
        if !self.open.is_empty() {
            self.closed.push(self.open.finish(0, None));
        }
    }

    /// Adds the rows of a table that are read when the snapshot is stored, behind all others.
    #[cfg(feature = "disk")]
    pub(crate) fn read_later(&mut self, table: Box<dyn ReadRows>) {
        self.later.push(table);
    }

    /// Takes closed blocks out; at the end the open one too, and where there was none an empty one, so that
    /// a snapshot names every state.
    ///
    /// # Errors
    /// When a row could not be encoded.
    pub(crate) fn take(&mut self, last: bool) -> Result<Vec<Block>> {
        if let Some(status) = self.failed.take() {
            return Err(status);
        }
        if last {
            self.close_open();
            if self.closed.is_empty() && self.handed == 0 {
                self.closed.push(self.open.finish(0, None));
            }
        }
        let mut blocks = std::mem::take(&mut self.closed);
        for block in &mut blocks {
            block.id = self.handed;
            self.handed += 1;
        }
        Ok(blocks)
    }

    /// Hands closed blocks over; at the end all that is left, to be read later where it is on disk.
    ///
    /// # Errors
    /// When a row could not be encoded.
    pub(crate) fn hand_over(
        &mut self,
        last: bool,
        snapshot: &mut TaskSnapshot,
        (operator, state, subtask): (&str, &str, u32),
    ) -> Result<()> {
        let later = last && !self.later.is_empty();
        let blocks = self.take(last && !later).map_err(|mut status| {
            status.message = format!("{operator}/{state}: {}", status.message);
            status
        })?;
        for block in blocks {
            snapshot.block(operator, state, subtask, block);
        }
        if later {
            let tables = std::mem::take(&mut self.later);
            let rows = LaterRows::new(std::mem::take(self), tables);
            snapshot.later((operator, state, subtask), rows);
        } else if last {
            self.handed = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Restore;

    #[test]
    fn rows_come_back_from_blocks_of_bounded_size() {
        let mut blocks = Blocks::default();
        let mut snapshot = TaskSnapshot::default();
        let name = ("op", "rows", 3);
        for row in 0..100_000_u64 {
            blocks.push(&(row, "x"));
            if row == 50_000 {
                blocks.hand_over(false, &mut snapshot, name).unwrap();
            }
        }
        blocks.hand_over(true, &mut snapshot, name).unwrap();
        let blocks = &snapshot.parts[0].blocks;
        assert!(blocks.len() > 2 && blocks.iter().map(|b| b.id).eq(0..blocks.len() as u64));
        assert!(blocks.iter().all(|b| b.len() < BLOCK_BYTES as u64 + 32));
        let (mut rows, restore) = (Vec::new(), Restore::new([snapshot]));
        restore.rows("op", "rows", None, |_, (row, _): (u64, String)| rows.push(row)).unwrap();
        assert!(rows.into_iter().eq(0..100_000));
    }

    #[test]
    fn a_state_without_rows_has_a_block_and_a_row_that_cannot_be_encoded_is_an_error() {
        let mut snapshot = TaskSnapshot::default();
        Blocks::default().hand_over(true, &mut snapshot, ("op", "none", 0)).unwrap();
        assert_eq!((snapshot.parts[0].state.as_str(), snapshot.parts[0].rows()), ("none", 0));
        struct Bad;
        impl Serialize for Bad {
            fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        let mut blocks = Blocks::default();
        blocks.push(&Bad);
        let error = blocks.hand_over(true, &mut TaskSnapshot::default(), ("op", "bad", 0)).unwrap_err();
        assert!(error.message.contains("op/bad"), "{error}");
    }
}
