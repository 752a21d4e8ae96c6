//! Reads the lines of one file.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use afflux_stream::{Batch, OnError, ReadState, Result, SplitReader};
use afflux_wire::{Code, Status};

use super::format::{CURE, Decode};
use super::splitter::{Found, LINE_BYTES_MAX, LineSplitter};
use crate::file;

/// A reader of one file.
pub(crate) struct LineReader<T> {
    path: PathBuf,
    bytes: Box<dyn Read + Send>,
    taken: Arc<AtomicU64>,
    lines: LineSplitter,
    decode: Decode<T>,
    skipped: u64,
    ended: bool,
    on_error: OnError,
}

/// What a line was.
enum Next<T> {
    Record(T),
    /// Blank, or bad and counted.
    Passed,
    End,
}

/// Where it stands: bytes of text and lines behind it, and how many of these lines were skipped.
struct Position {
    bytes: u64,
    lines: u64,
    skipped: u64,
}

impl Position {
    /// Three `u64`, little-endian.
    fn encode(&self) -> Vec<u8> {
        [self.bytes.to_le_bytes(), self.lines.to_le_bytes(), self.skipped.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self> {
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            bytes.try_into().ok().map(u64::from_le_bytes)
        };
        match (number(0), number(8), number(16), bytes.len()) {
            (Some(bytes), Some(lines), Some(skipped), 24) if skipped <= lines && lines <= bytes => {
                Ok(Self { bytes, lines, skipped })
            }
            _ => Err(Status::new(
                Code::DataLoss,
                format!(
                    "the checkpoint's position in {} is not one of a reader of lines (24 bytes, got \
                     {}); start without it or from an older checkpoint",
                    file::shown(path),
                    bytes.len()
                ),
            )),
        }
    }
}

impl<T> LineReader<T> {
    /// Opens a file at its beginning or behind the lines of a position.
    pub(crate) fn open(
        path: &Path,
        position: Option<&[u8]>,
        on_error: OnError,
        decode: Decode<T>,
    ) -> Result<Self> {
        let at = match position {
            Some(position) => Position::decode(position, path)?,
            None => Position { bytes: 0, lines: 0, skipped: 0 },
        };
        let opened = file::open(path, at.bytes)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: opened.bytes,
            taken: opened.taken,
            lines: LineSplitter::new(LINE_BYTES_MAX).at(at.bytes, at.lines),
            decode,
            skipped: at.skipped,
            ended: false,
            on_error,
        })
    }

    #[cold]
    fn bad(&mut self, what: &str, line: u64) -> Result<()> {
        if self.on_error == OnError::Skip {
            self.skipped += 1;
            return Ok(());
        }
        Err(Status::invalid(format!("{} line {line}, {what}; {CURE}", self.path.display())))
    }

    /// The next line.
    fn next(&mut self) -> Result<Next<T>> {
        loop {
            let found = match self.lines.next() {
                Found::Nothing if self.ended => self.lines.last(),
                found => found,
            };
            match found {
                Found::Line(line) => match (self.decode)(line) {
                    Ok(Some(record)) => return Ok(Next::Record(record)),
                    Ok(None) => return Ok(Next::Passed),
                    Err(what) => {
                        self.bad(&what, self.lines.lines())?;
                        return Ok(Next::Passed);
                    }
                },
                Found::TooLong => {
                    self.bad(&too_long(LINE_BYTES_MAX), self.lines.lines())?;
                    return Ok(Next::Passed);
                }
                Found::Nothing if self.ended => return Ok(Next::End),
                Found::Nothing => {
                    if self.lines.is_overlong() && self.on_error == OnError::Fail {
                        self.bad(&too_long(LINE_BYTES_MAX), self.lines.lines() + 1)?;
                    }
                    match self.lines.fill(|into| self.bytes.read(into)) {
                        Ok(count) => self.ended = count == 0,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            let line = Some(self.lines.lines() + 1);
                            return Err(file::unreadable(&self.path, line, &error, self.taken.load(Relaxed)));
                        }
                    }
                }
            }
        }
    }
}

/// What is wrong with a line that is too long.
pub(crate) fn too_long(bytes_max: usize) -> String {
    format!("longer than {bytes_max} bytes; is a line end missing?")
}

impl<T: Send> SplitReader<T> for LineReader<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let before = batch.rows.len();
        for _ in 0..rows_max {
            match self.next() {
                Ok(Next::Record(record)) => batch.rows.push(record),
                Ok(Next::Passed) => {}
                Ok(Next::End) => return Poll::Ready(Ok(ReadState::End)),
                Err(status) => return Poll::Ready(Err(status)),
            }
        }
        if batch.rows.len() == before {
            // Bad lines only: others have their turn, then it goes on.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(ReadState::More))
    }

    fn position(&self) -> Vec<u8> {
        let (bytes, lines) = (self.lines.consumed(), self.lines.lines());
        Position { bytes, lines, skipped: self.skipped }.encode()
    }

    fn progress(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    fn skipped(&self) -> u64 {
        self.skipped
    }
}
