//! Where a reader of a file stands, as a checkpoint keeps it.

use afflux_stream::Result;
use afflux_wire::{Code, Status};

/// Counted in rows, since a compressed file cannot be entered in its middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Rows behind it, the header not counted and skipped rows counted.
    pub(crate) rows: u64,
    /// Rows of these that were skipped, so that the count survives a restore.
    pub(crate) skipped: u64,
}

impl Position {
    /// Two `u64`, little-endian.
    pub(crate) fn encode(self) -> Vec<u8> {
        [self.rows.to_le_bytes(), self.skipped.to_le_bytes()].concat()
    }

    /// The position in a checkpoint's bytes; `split` is named when they are something else.
    pub(crate) fn decode(bytes: &[u8], split: &str) -> Result<Self> {
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            bytes.try_into().ok().map(u64::from_le_bytes)
        };
        match (number(0), number(8), bytes.len()) {
            (Some(rows), Some(skipped), 16) if skipped <= rows => Ok(Self { rows, skipped }),
            _ => Err(Status::new(
                Code::DataLoss,
                format!(
                    "the checkpoint's position in {split} is not one of a CSV reader (16 bytes, \
                     got {}); start without it or from an older checkpoint",
                    bytes.len()
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_a_checkpoint() {
        let position = Position { rows: 336_776, skipped: 3 };
        assert_eq!(Position::decode(&position.encode(), "f").unwrap(), position);
    }

    #[test]
    fn foreign_bytes_are_refused_with_the_split() {
        for bytes in [&b""[..], &[0; 8], &[0; 17], &[[0; 8], [1; 8]].concat()] {
            let status = Position::decode(bytes, "data/f.csv").unwrap_err();
            assert_eq!(status.code, Code::DataLoss);
            assert!(status.message.contains("data/f.csv"), "{status}");
        }
    }
}
