//! Rows of a snapshot on their way out: gathered into blocks of bounded size while the task works.

use serde::Serialize;

use crate::Result;
use crate::snapshot::TaskSnapshot;
use afflux_wire::Status;

/// A block is closed when it has this many bytes; the row that crosses the line still belongs to it.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes before the rows: the head of a MessagePack array whose length is known at the end.
const HEAD: usize = 5;

/// Rows of one state, as MessagePack arrays.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    open: Vec<u8>,
    rows: u32,
    closed: Vec<(u32, Vec<u8>)>,
    failed: Option<String>,
    /// Whether a block of the present snapshot has been handed over.
    any: bool,
}

impl Blocks {
    /// Adds a row; returns its bytes.
    pub(crate) fn push<R: Serialize>(&mut self, row: &R) -> usize {
        if self.open.is_empty() {
            self.open.reserve(BLOCK_BYTES + BLOCK_BYTES / 8);
            self.open.extend_from_slice(&[0xdd, 0, 0, 0, 0]);
        }
        let before = self.open.len();
        match rmp_serde::encode::write(&mut self.open, row) {
            Ok(()) => self.rows += 1,
            Err(error) => {
                self.open.truncate(before);
                self.failed.get_or_insert_with(|| error.to_string());
            }
        }
        let bytes = self.open.len() - before;
        if self.open.len() >= BLOCK_BYTES {
            self.close();
        }
        bytes
    }

    fn close(&mut self) {
        let mut bytes = std::mem::take(&mut self.open);
        let rows = std::mem::take(&mut self.rows);
        if let Some(head) = bytes.get_mut(1..HEAD) {
            head.copy_from_slice(&rows.to_be_bytes());
            self.closed.push((rows, bytes));
        }
    }

    /// Takes all blocks of another table that are part of the same state.
    pub(crate) fn append(&mut self, mut other: Blocks) {
        other.close_open();
        self.closed.append(&mut other.closed);
        self.failed = self.failed.take().or(other.failed);
    }

    fn close_open(&mut self) {
        if !self.open.is_empty() {
            self.close();
        }
    }

    /// Hands closed blocks over; at the end the open one too, and where there was none an empty one, so
    /// that a snapshot names every state.
    ///
    /// # Errors
    /// When a row could not be encoded.
    pub(crate) fn hand_over(
        &mut self,
        last: bool,
        snapshot: &mut TaskSnapshot,
        (operator, state, subtask): (&str, &str, u32),
    ) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(Status::internal(format!("state {operator}/{state} cannot be encoded: {error}")));
        }
        if last {
            self.close_open();
        }
        for (rows, bytes) in self.closed.drain(..) {
            self.any = true;
            snapshot.block(operator, state, subtask, u64::from(rows), bytes);
        }
        if last && !std::mem::take(&mut self.any) {
            snapshot.block(operator, state, subtask, 0, vec![0x90]);
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
        assert!(snapshot.parts.len() > 2);
        assert!(snapshot.parts.iter().all(|p| p.bytes.len() < BLOCK_BYTES + 32));
        let back = Restore::new([snapshot]).get::<Vec<(u64, String)>>("op", "rows").unwrap();
        let rows: Vec<u64> = back.into_iter().flat_map(|(_, rows)| rows).map(|r| r.0).collect();
        assert!(rows.into_iter().eq(0..100_000));
    }

    #[test]
    fn a_state_without_rows_has_a_block_and_a_row_that_cannot_be_encoded_is_an_error() {
        let mut snapshot = TaskSnapshot::default();
        Blocks::default().hand_over(true, &mut snapshot, ("op", "none", 0)).unwrap();
        assert_eq!(Restore::new([snapshot]).get::<Vec<u64>>("op", "none").unwrap(), [(0, vec![])]);
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
