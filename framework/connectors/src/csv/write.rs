//! Writes one CSV file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use afflux_stream::{Batch, Result, SinkWriter, Timestamp};
use afflux_wire::{Code, Status};
use csv::WriterBuilder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::header::columns_of;
use crate::file::{Output, shown};

/// Rows of an ordered file that wait for the watermark, at most.
pub const HELD_ROWS_MAX: usize = 1 << 24;

/// Text that is written to the file at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Sorts the rows of one event time.
pub(super) type Sort<T> = fn(&mut [T]);

/// What a checkpoint keeps of a writer, as MessagePack with names.
#[derive(Serialize, Deserialize)]
struct Saved<R> {
    /// Of the unfinished file.
    bytes: u64,
    /// CRC-32 of these bytes.
    crc: u32,
    /// Rows that wait, by event time in milliseconds.
    held: Vec<(i64, R)>,
}

/// A writer of one file.
pub(super) struct CsvWriter<T> {
    path: PathBuf,
    rows: csv::Writer<Output>,
    empty: bool,
    /// Present for an ordered file.
    sort: Option<Sort<T>>,
    held: BTreeMap<i64, Vec<T>>,
    held_rows: usize,
}

impl<T> Drop for CsvWriter<T> {
    fn drop(&mut self) {
        // The rows' own buffer is flushed when it is dropped.
        self.rows.get_ref().abandon();
    }
}

impl<T: Serialize + DeserializeOwned> CsvWriter<T> {
    /// Begins a file, or goes on where a checkpoint was.
    pub(super) fn open(path: PathBuf, sort: Option<Sort<T>>, state: Option<&[u8]>) -> Result<Self> {
        let saved: Option<Saved<Vec<T>>> = match state {
            None => None,
            Some(bytes) => Some(rmp_serde::from_slice(bytes).map_err(|e| {
                let what = format!("the checkpoint's rows of {} have another type now: {e}", shown(&path));
                Status::new(Code::DataLoss, what)
            })?),
        };
        let (written, held) = match saved {
            Some(saved) => (Some((saved.bytes, saved.crc)), saved.held.into_iter().collect()),
            None => (None, BTreeMap::new()),
        };
        let output = Output::open(path.clone(), written)?;
        let empty = output.bytes() == 0;
        Ok(Self {
            path,
            rows: WriterBuilder::new().has_headers(empty).buffer_capacity(BUFFER_BYTES).from_writer(output),
            empty,
            sort,
            held_rows: held.values().map(Vec::len).sum(),
            held,
        })
    }

    fn put(&mut self, row: &T) -> Result<()> {
        self.empty = false;
        self.rows.serialize(row).map_err(|error| match error.kind() {
            csv::ErrorKind::Io(error) => self.rows.get_ref().refusal(error),
            _ => Status::invalid(format!("a record cannot be a row of {}: {error}", shown(&self.path))),
        })
    }

    /// Keeps rows until their time is over.
    fn hold(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.held_rows += batch.len();
        if self.held_rows > HELD_ROWS_MAX {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "{}: {} rows wait for their window to close, at most {HELD_ROWS_MAX} may; give \
                     the stream watermarks that rise, smaller windows, or write it unordered",
                    shown(&self.path),
                    self.held_rows
                ),
            ));
        }
        // Without event time nothing is over before the end.
        let times = batch.times.drain(..).chain(std::iter::repeat(i64::MAX));
        let mut rows = batch.rows.drain(..).zip(times).peekable();
        while let Some((row, time)) = rows.next() {
            let held = self.held.entry(time).or_default();
            held.push(row);
            while let Some((row, _)) = rows.next_if(|(_, next)| *next == time) {
                held.push(row);
            }
        }
        Ok(())
    }

    /// Writes the rows before a time, or all.
    fn release(&mut self, before: Option<i64>) -> Result<()> {
        while let Some(entry) = self.held.first_entry() {
            if before.is_some_and(|before| *entry.key() >= before) {
                break;
            }
            let mut rows = entry.remove();
            self.held_rows -= rows.len();
            if let Some(sort) = self.sort {
                sort(&mut rows);
            }
            for row in &rows {
                self.put(row)?;
            }
        }
        Ok(())
    }

    /// Hands on what the rows' own buffer has.
    fn flush(&mut self) -> Result<()> {
        self.rows.flush().map_err(|e| self.rows.get_ref().refusal(&e))
    }
}

impl<T: Serialize + DeserializeOwned + Send> SinkWriter<T> for CsvWriter<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        if self.sort.is_some() {
            return self.hold(batch);
        }
        for row in &batch.rows {
            self.put(row)?;
        }
        batch.clear();
        Ok(())
    }

    fn watermark(&mut self, watermark: Timestamp) -> Result<()> {
        self.release(Some(watermark.millis()))
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        self.flush()?;
        let (bytes, crc) = self.rows.get_ref().persist()?;
        let held: Vec<(i64, &Vec<T>)> = self.held.iter().map(|(time, rows)| (*time, rows)).collect();
        rmp_serde::to_vec_named(&Saved { bytes, crc, held })
            .map_err(|e| Status::internal(format!("the rows of {} cannot be saved: {e}", shown(&self.path))))
    }

    fn end(&mut self) -> Result<()> {
        self.release(None)?;
        if self.empty {
            let columns = columns_of::<T>();
            if !columns.is_empty() {
                self.rows.write_record(columns).map_err(|e| self.rows.get_ref().refusal(&e.into()))?;
            }
        }
        self.flush()?;
        self.rows.get_ref().finish()
    }
}
