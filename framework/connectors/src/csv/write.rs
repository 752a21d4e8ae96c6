//! Writes one CSV file: beside its place first, at its place when it is whole.
//!
//! What makes a restore exact: a checkpoint has the length and CRC-32 of what was written, and the
//! rows that wait for their window. A new attempt copies that much into a file of its own and goes
//! on there, so an old attempt that is still alive writes into a file nobody has a name for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use afflux_stream::{Batch, Result, SinkWriter, Timestamp};
use afflux_wire::{Code, Status};
use csv::WriterBuilder;
use flate2::Crc;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::header::columns_of;
use crate::file::{refused, shown};

/// Rows of an ordered file that wait for the watermark, at most.
pub const HELD_ROWS_MAX: usize = 1 << 24;

/// Text that is written to the file at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Bytes copied at once by a restore.
const COPY_BYTES: usize = 256 * 1024;

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
    part: PathBuf,
    rows: csv::Writer<Output>,
    abandoned: Arc<AtomicBool>,
    empty: bool,
    /// Present for an ordered file.
    sort: Option<Sort<T>>,
    held: BTreeMap<i64, Vec<T>>,
    held_rows: usize,
}

/// The unfinished file.
struct Output {
    file: File,
    bytes: u64,
    crc: Crc,
    abandoned: Arc<AtomicBool>,
}

impl Write for Output {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.abandoned.load(Relaxed) {
            return Ok(buffer.len());
        }
        let bytes = self.file.write(buffer)?;
        self.crc.update(buffer.get(..bytes).unwrap_or_default());
        self.bytes += bytes as u64;
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<T> Drop for CsvWriter<T> {
    fn drop(&mut self) {
        // A writer that did not come to its end must not touch the file any more.
        self.abandoned.store(true, Relaxed);
    }
}

impl<T: Serialize + DeserializeOwned> CsvWriter<T> {
    /// Begins a file, or goes on where a checkpoint was.
    pub(super) fn open(path: PathBuf, sort: Option<Sort<T>>, state: Option<&[u8]>) -> Result<Self> {
        if path.is_dir() {
            return Err(Status::invalid(format!(
                "{} is a directory; name the file to write in it",
                shown(&path)
            )));
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|e| refused("make the directory", parent, &e))?;
        }
        let part = with_suffix(&path, ".part");
        let saved: Option<Saved<Vec<T>>> = match state {
            None => None,
            Some(bytes) => Some(rmp_serde::from_slice(bytes).map_err(|e| {
                let what = format!("the checkpoint's rows of {} have another type now: {e}", shown(&path));
                Status::new(Code::DataLoss, what)
            })?),
        };
        // A new file under the old name, so that an earlier attempt does not write into this one.
        let fresh = with_suffix(&path, ".part-new");
        let mut file = File::create(&fresh).map_err(|e| refused("write", &fresh, &e))?;
        let mut crc = Crc::new();
        let mut bytes = 0;
        let mut held = BTreeMap::new();
        if let Some(saved) = saved {
            copy_written(&part, &path, &mut file, &mut crc, (saved.bytes, saved.crc))?;
            bytes = saved.bytes;
            held = saved.held.into_iter().collect();
        }
        fs::rename(&fresh, &part).map_err(|e| refused("rename", &fresh, &e))?;
        let abandoned = Arc::new(AtomicBool::new(false));
        let output = Output { file, bytes, crc, abandoned: Arc::clone(&abandoned) };
        Ok(Self {
            path,
            part,
            rows: WriterBuilder::new()
                .has_headers(bytes == 0)
                .buffer_capacity(BUFFER_BYTES)
                .from_writer(output),
            abandoned,
            empty: bytes == 0,
            sort,
            held_rows: held.values().map(Vec::len).sum(),
            held,
        })
    }

    fn put(&mut self, row: &T) -> Result<()> {
        self.empty = false;
        self.rows.serialize(row).map_err(|error| match error.kind() {
            csv::ErrorKind::Io(error) => refused("write", &self.part, error),
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

    /// Brings what was written to the disk; gives its length and checksum.
    fn persist(&mut self) -> Result<(u64, u32)> {
        self.rows.flush().map_err(|e| refused("write", &self.part, &e))?;
        let output = self.rows.get_ref();
        output.file.sync_data().map_err(|e| refused("write", &self.part, &e))?;
        self.still_ours(&output.file)?;
        Ok((output.bytes, output.crc.sum()))
    }

    /// Whether the unfinished file's name still means the file in hand.
    #[cfg(unix)]
    fn still_ours(&self, file: &File) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let ours = file.metadata().map_err(|e| refused("write", &self.part, &e))?;
        match fs::metadata(&self.part) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => Ok(()),
            _ => Err(Status::new(
                Code::Aborted,
                format!(
                    "{} was replaced or removed while it was written: a newer attempt or another \
                     job has the same output",
                    shown(&self.part)
                ),
            )),
        }
    }

    #[cfg(not(unix))]
    fn still_ours(&self, _: &File) -> Result<()> {
        Ok(())
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
        let (bytes, crc) = self.persist()?;
        let held: Vec<(i64, &Vec<T>)> = self.held.iter().map(|(time, rows)| (*time, rows)).collect();
        rmp_serde::to_vec_named(&Saved { bytes, crc, held })
            .map_err(|e| Status::internal(format!("the rows of {} cannot be saved: {e}", shown(&self.path))))
    }

    fn end(&mut self) -> Result<()> {
        self.release(None)?;
        if self.empty {
            let columns = columns_of::<T>();
            if !columns.is_empty() {
                self.rows.write_record(columns).map_err(|e| refused("write", &self.part, &e.into()))?;
            }
        }
        self.persist()?;
        fs::rename(&self.part, &self.path).map_err(|e| refused("rename", &self.part, &e))?;
        self.abandoned.store(true, Relaxed);
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The name is durable with its directory; some systems cannot open one, and need not.
        match File::open(parent) {
            Ok(directory) => directory.sync_all().map_err(|e| refused("write", parent, &e)),
            Err(_) => Ok(()),
        }
    }
}

/// `out/x.csv` and `.part` give `out/x.csv.part`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Copies what a checkpoint had seen written, from the unfinished file, or from the finished one
/// when the failure came after the end.
fn copy_written(
    part: &Path,
    path: &Path,
    to: &mut File,
    crc: &mut Crc,
    (bytes, expected): (u64, u32),
) -> Result<()> {
    let (name, file) = match File::open(part) {
        Err(error) if error.kind() == ErrorKind::NotFound && bytes > 0 => (path, File::open(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => (part, opened),
    };
    let mut from = file.map_err(|e| refused("go on with", name, &e))?.take(bytes);
    let mut buffer = vec![0; COPY_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = from.read(&mut buffer).map_err(|e| refused("read", name, &e))?;
        let text = buffer.get(..count).unwrap_or_default();
        if text.is_empty() {
            break;
        }
        crc.update(text);
        to.write_all(text).map_err(|e| refused("write", part, &e))?;
        left = left.saturating_sub(count as u64);
    }
    if left > 0 || crc.sum() != expected {
        return Err(Status::new(
            Code::DataLoss,
            format!(
                "the first {bytes} bytes of {} are not those that the checkpoint saw; start without \
                 the checkpoint, or bring the file back",
                shown(name)
            ),
        ));
    }
    Ok(())
}
