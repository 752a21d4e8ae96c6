//! Reads one CSV file.

use std::io::{self, BufReader, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use afflux_stream::{Batch, OnError, ReadState, Result, SplitReader};
use afflux_wire::{Code, Status};
use csv::{ByteRecord, ErrorKind, ReaderBuilder, StringRecord};
use serde::de::DeserializeOwned;

use super::error::{RowError, names, quoted};
use super::row::Row;
use crate::file;
use crate::position::Position;

/// Longest row of a file, in bytes: a quote that is never closed must not fill the memory.
pub const ROW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Text that is parsed at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// A reader of one file.
pub(super) struct CsvReader<T> {
    path: PathBuf,
    csv: csv::Reader<Metered>,
    header: StringRecord,
    row: StringRecord,
    position: Position,
    taken: Arc<AtomicU64>,
    on_error: OnError,
    record: PhantomData<fn() -> T>,
}

/// The text of the file, which ends in an error when one row takes too much of it.
struct Metered {
    bytes: Box<dyn Read + Send>,
    left: u64,
}

impl Metered {
    /// Allows another row.
    fn refill(&mut self) {
        // What the parser has buffered of the next rows was paid for by this one.
        self.left = ROW_BYTES_MAX + BUFFER_BYTES as u64;
    }
}

/// The error of [`Metered`].
#[derive(Debug)]
struct RowTooLong;

impl std::fmt::Display for RowTooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the row is longer than {ROW_BYTES_MAX} bytes; is there a quote that is never closed?")
    }
}

impl std::error::Error for RowTooLong {}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(RowTooLong));
        }
        let bytes = self.bytes.read(buffer)?;
        self.left = self.left.saturating_sub(bytes as u64);
        Ok(bytes)
    }
}

/// Why there is no record.
enum Trouble {
    /// The row's fault: what is wrong, behind file and line, and where the row begins.
    Row { what: String, begins: csv::Position },
    /// The file's fault.
    File(Status),
}

impl<T: DeserializeOwned> CsvReader<T> {
    /// Opens a file at its beginning or behind the rows of a position.
    pub(super) fn open(path: &Path, position: Option<&[u8]>, on_error: OnError) -> Result<Self> {
        let opened = file::open(path, 0)?;
        let mut text = Metered { bytes: opened.bytes, left: 0 };
        text.refill();
        let mut reader = Self {
            path: path.to_owned(),
            // A row with too few or too many fields is this reader's to report.
            csv: ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .buffer_capacity(BUFFER_BYTES)
                .from_reader(text),
            header: StringRecord::new(),
            row: StringRecord::new(),
            position: Position::default(),
            taken: opened.taken,
            on_error,
            record: PhantomData,
        };
        match reader.csv.read_record(&mut reader.header) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Status::invalid(format!(
                    "{} is empty: expected a header row with the names of the columns",
                    file::shown(path)
                )));
            }
            Err(error) => {
                let trouble = reader.trouble(&error);
                return Err(reader.status(trouble));
            }
        }
        if let Some(position) = position {
            reader.seek(Position::decode(position, &file::shown(path).to_string())?)?;
        }
        Ok(reader)
    }

    /// Reads rows again and drops them until the position.
    fn seek(&mut self, to: Position) -> Result<()> {
        let mut row = ByteRecord::new();
        for passed in 0..to.rows {
            self.csv.get_mut().refill();
            match self.csv.read_byte_record(&mut row) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(Status::new(
                        Code::DataLoss,
                        format!(
                            "{} has {passed} rows, but {} of it had been read at the checkpoint; \
                             bring the file back or start without the checkpoint",
                            file::shown(&self.path),
                            to.rows
                        ),
                    ));
                }
                Err(error) => return Err(self.status(self.trouble(&error))),
            }
        }
        self.position = to;
        Ok(())
    }

    /// The next record; nothing at the end.
    fn next(&mut self) -> std::result::Result<Option<T>, Trouble> {
        self.csv.get_mut().refill();
        match self.csv.read_record(&mut self.row) {
            Ok(false) => return Ok(None),
            Ok(true) => self.position.rows += 1,
            Err(error) => {
                let trouble = self.trouble(&error);
                if matches!(trouble, Trouble::Row { .. }) {
                    self.position.rows += 1;
                }
                return Err(trouble);
            }
        }
        if self.row.len() != self.header.len() {
            return Err(self.row(self.wrong_length()));
        }
        match T::deserialize(Row { header: &self.header, fields: &self.row }) {
            Ok(record) => Ok(Some(record)),
            Err(error) => Err(self.no_record(&error)),
        }
    }

    fn row(&self, what: String) -> Trouble {
        let begins = self.row.position().unwrap_or_else(|| self.csv.position()).clone();
        Trouble::Row { what, begins }
    }

    /// The error that stops the pipeline.
    #[cold]
    fn status(&self, trouble: Trouble) -> Status {
        match trouble {
            Trouble::File(status) => status,
            Trouble::Row { what, begins } => {
                let line = line_at(&self.path, begins.byte()).unwrap_or_else(|_| begins.line());
                Status::invalid(format!("{} line {line}, {what}", self.path.display()))
            }
        }
    }

    #[cold]
    fn no_record(&self, error: &RowError) -> Trouble {
        let what = error.describe(&self.header, &self.row);
        if error.concerns_all_rows() {
            Trouble::File(Status::invalid(format!("{}: {what}", self.path.display())))
        } else {
            self.row(what)
        }
    }

    #[cold]
    fn wrong_length(&self) -> String {
        let (has, wants) = (self.row.len(), self.header.len());
        match (self.header.get(has), self.row.get(wants)) {
            (Some(name), _) => format!(
                "column {name} ({}): missing; the row has {has} fields, expected {wants}: {}",
                has + 1,
                names(&self.header)
            ),
            (None, extra) => format!(
                "column {} has no name: {} is one field too many; the row has {has}, expected {wants}: {}",
                wants + 1,
                quoted(extra.unwrap_or_default()),
                names(&self.header)
            ),
        }
    }

    #[cold]
    fn trouble(&self, error: &csv::Error) -> Trouble {
        let begins = error.position().unwrap_or_else(|| self.csv.position()).clone();
        match error.kind() {
            ErrorKind::Utf8 { err, .. } => {
                let column = self.header.get(err.field()).unwrap_or("?");
                let what = format!(
                    "column {column} ({}): not UTF-8 text from byte {} of the field on",
                    err.field() + 1,
                    err.valid_up_to() + 1
                );
                Trouble::Row { what, begins }
            }
            ErrorKind::Io(error) => {
                let taken = self.taken.load(Relaxed);
                Trouble::File(file::unreadable(&self.path, Some(begins.line()), error, taken))
            }
            _ => Trouble::File(Status::invalid(format!(
                "{} near line {}: {error}",
                self.path.display(),
                begins.line()
            ))),
        }
    }
}

/// The line of the row that begins at this byte of the text, or behind line ends there.
///
/// The parser's own count stands before the line end of the row before where lines end in CR LF,
/// and before blank lines; an error is worth reading the file again.
fn line_at(path: &Path, byte: u64) -> Result<u64> {
    let text = BufReader::new(file::open(path, 0)?.bytes);
    let mut line = 1;
    for (at, next) in (0_u64..).zip(text.bytes()) {
        match next.map_err(|e| file::refused("read", path, &e))? {
            b'\n' => line += 1,
            b'\r' => {}
            _ if at >= byte => break,
            _ => {}
        }
    }
    Ok(line)
}

impl<T: DeserializeOwned> SplitReader<T> for CsvReader<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let before = batch.rows.len();
        for _ in 0..rows_max {
            match self.next() {
                Ok(Some(record)) => batch.rows.push(record),
                Ok(None) => return Poll::Ready(Ok(ReadState::End)),
                Err(Trouble::Row { .. }) if self.on_error == OnError::Skip => self.position.skipped += 1,
                Err(trouble) => return Poll::Ready(Err(self.status(trouble))),
            }
        }
        if batch.rows.len() == before {
            // Bad rows only: others have their turn, then it goes on.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(ReadState::More))
    }

    fn position(&self) -> Vec<u8> {
        self.position.encode()
    }

    fn progress(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    fn skipped(&self) -> u64 {
        self.position.skipped
    }
}
