//! Writes one file of lines.

use std::io::Write;
use std::path::PathBuf;

use afflux_stream::{Batch, Result, SinkWriter};
use afflux_wire::{Code, Status};

use super::format::Encode;
use crate::file::{Output, shown};

/// Text that is written to the file at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// A writer of one file.
pub(crate) struct LineWriter<T> {
    output: Output,
    text: Vec<u8>,
    encode: Encode<T>,
}

impl<T> LineWriter<T> {
    /// Begins a file, or goes on where a checkpoint was.
    pub(crate) fn open(path: PathBuf, encode: Encode<T>, state: Option<&[u8]>) -> Result<Self> {
        let saved = match state {
            None => None,
            Some(state) => Some(decode_state(state, &path)?),
        };
        Ok(Self { output: Output::open(path, saved)?, text: Vec::new(), encode })
    }

    fn hand_on(&mut self) -> Result<()> {
        self.output.write_all(&self.text).map_err(|e| self.output.refusal(&e))?;
        self.text.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.hand_on()?;
        self.output.flush().map_err(|e| self.output.refusal(&e))
    }
}

/// A `u64` and a `u32`, little-endian: length of the file and CRC-32 of it.
fn decode_state(state: &[u8], path: &std::path::Path) -> Result<(u64, u32)> {
    let parts = state.split_at_checked(8);
    let parts = parts.and_then(|(a, b)| Some((a.try_into().ok()?, b.try_into().ok()?)));
    let (bytes, crc) = parts.ok_or_else(|| {
        Status::new(
            Code::DataLoss,
            format!(
                "the checkpoint's state of {} is not one of a writer of lines (12 bytes, got {}); \
                 start without it or from an older checkpoint",
                shown(path),
                state.len()
            ),
        )
    })?;
    Ok((u64::from_le_bytes(bytes), u32::from_le_bytes(crc)))
}

impl<T: Send> SinkWriter<T> for LineWriter<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        for row in &batch.rows {
            (self.encode)(row, &mut self.text).map_err(|what| {
                Status::invalid(format!("a record cannot be a line of {}: {what}", shown(self.output.path())))
            })?;
            self.text.push(b'\n');
            if self.text.len() >= BUFFER_BYTES {
                self.hand_on()?;
            }
        }
        batch.clear();
        Ok(())
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        self.flush()?;
        let (bytes, crc) = self.output.persist()?;
        Ok([&bytes.to_le_bytes()[..], &crc.to_le_bytes()].concat())
    }

    fn end(&mut self) -> Result<()> {
        self.flush()?;
        self.output.finish()
    }
}
