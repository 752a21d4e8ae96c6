//! Rows in the form of a file.

use std::io::Write;

use afflux_stream::Result;
use afflux_wire::Status;
use csv::WriterBuilder;
use serde::Serialize;

use crate::file::{Output, shown};
use crate::lines::Encode;

/// Text that is written to the file at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Adds a row to a CSV file.
type Put<T> = fn(&mut csv::Writer<Output>, &T) -> csv::Result<()>;

/// The form of a file's rows.
pub(super) enum Format<T> {
    Csv(Put<T>),
    Lines(Encode<T>),
}

impl<T> Clone for Format<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Format<T> {}

impl<T: Serialize> Format<T> {
    pub(super) fn csv() -> Self {
        Format::Csv(|writer, row| writer.serialize(row))
    }
}

/// The rows of one file.
pub(super) enum Rows<T> {
    Csv(Box<csv::Writer<Output>>, Put<T>),
    Lines(Output, Vec<u8>, Encode<T>),
}

impl<T> Drop for Rows<T> {
    fn drop(&mut self) {
        // What a buffer still has is flushed when it is dropped, and belongs nowhere any more.
        self.output().abandon();
    }
}

impl<T> Rows<T> {
    /// The first row of an empty file is its header, where there is one.
    pub(super) fn new(output: Output, format: Format<T>) -> Self {
        match format {
            Format::Csv(put) => {
                let mut builder = WriterBuilder::new();
                builder.has_headers(output.bytes() == 0).buffer_capacity(BUFFER_BYTES);
                Rows::Csv(Box::new(builder.from_writer(output)), put)
            }
            Format::Lines(encode) => Rows::Lines(output, Vec::new(), encode),
        }
    }

    pub(super) fn output(&self) -> &Output {
        match self {
            Rows::Csv(rows, _) => rows.get_ref(),
            Rows::Lines(output, ..) => output,
        }
    }

    pub(super) fn put(&mut self, row: &T) -> Result<()> {
        match self {
            Rows::Csv(rows, put) => put(rows, row).map_err(|error| match error.kind() {
                csv::ErrorKind::Io(error) => rows.get_ref().refusal(error),
                _ => Status::invalid(format!(
                    "a record cannot be a row of {}: {error}",
                    shown(rows.get_ref().path())
                )),
            }),
            Rows::Lines(output, text, encode) => {
                encode(row, text).map_err(|what| {
                    Status::invalid(format!("a record cannot be a line of {}: {what}", shown(output.path())))
                })?;
                text.push(b'\n');
                if text.len() >= BUFFER_BYTES {
                    output.write_all(text).map_err(|e| output.refusal(&e))?;
                    text.clear();
                }
                Ok(())
            }
        }
    }

    /// Brings all rows to the disk; gives length and checksum of the file.
    pub(super) fn persist(&mut self) -> Result<(u64, u32)> {
        match self {
            Rows::Csv(rows, _) => rows.flush().map_err(|e| rows.get_ref().refusal(&e))?,
            Rows::Lines(output, text, _) => {
                output.write_all(text).map_err(|e| output.refusal(&e))?;
                text.clear();
                output.flush().map_err(|e| output.refusal(&e))?;
            }
        }
        self.output().persist()
    }
}
