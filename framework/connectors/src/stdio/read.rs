//! Reads the lines of an open file that may be a terminal or a pipe, without a thread.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use afflux_stream::{Batch, OnError, ReadState, Result, SplitReader};
use afflux_wire::{Code, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::lines::{CURE, Decode, Found, LINE_BYTES_MAX, LineSplitter, too_long};
use crate::waiting::caught_up;

/// How many lines were read and skipped, as a checkpoint has it: two `u64`, little-endian.
pub(super) fn count_of(position: &[u8]) -> Result<(u64, u64)> {
    let number = |at: usize| position.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    number(0).zip(number(8)).ok_or_else(|| {
        Status::new(
            Code::DataLoss,
            format!(
                "the checkpoint's position in stdin has {} bytes, not 16; start without it",
                position.len()
            ),
        )
    })
}

/// Where the bytes come from.
enum Input {
    /// Not opened yet: the runtime is known from the first poll on.
    Closed(Option<File>),
    /// A file, which is always ready.
    Ready(File),
    /// What lets somebody wait.
    Waits(AsyncFd<File>),
}

pub(super) struct StdinReader<T> {
    input: Input,
    lines: LineSplitter,
    decode: Decode<T>,
    on_error: OnError,
    skipped: u64,
    ended: bool,
    told: bool,
}

/// Whether a descriptor has something for `flags` now. One that is shared with other processes must not
/// be made non-blocking, so it is asked in front of every read and write.
pub(super) fn is_ready_now(file: &impl AsFd, flags: PollFlags) -> io::Result<bool> {
    let mut asked = [PollFd::new(file.as_fd(), flags)];
    match poll(&mut asked, PollTimeout::ZERO) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Registers an open file with the reactor; gives it back where it cannot be waited for.
#[allow(deprecated, reason = "its heir is unsafe for types that may close their descriptor; a File does not")]
pub(super) fn waiting(file: File, interest: Interest) -> std::result::Result<AsyncFd<File>, File> {
    AsyncFd::try_with_interest(file, interest).map_err(|error| error.into_parts().0)
}

impl Input {
    /// Registers with the reactor, or finds that there is nothing to wait for.
    fn open(&mut self) {
        if let Input::Closed(file) = self
            && let Some(file) = file.take()
        {
            *self = match waiting(file, Interest::READABLE) {
                Ok(waits) => Input::Waits(waits),
                // A file: it cannot be waited for and need not be.
                Err(file) => Input::Ready(file),
            };
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, lines: &mut LineSplitter) -> Poll<io::Result<usize>> {
        self.open();
        loop {
            let count = match self {
                Input::Closed(_) => return Poll::Ready(Ok(0)),
                Input::Ready(file) => lines.fill(|into| file.read(into)),
                Input::Waits(waits) => {
                    let mut ready = ready!(waits.poll_read_ready(cx))?;
                    if !is_ready_now(waits.get_ref(), PollFlags::POLLIN)? {
                        ready.clear_ready();
                        continue;
                    }
                    let count = lines.fill(|into| waits.get_ref().read(into));
                    if matches!(&count, Err(e) if e.kind() == ErrorKind::WouldBlock) {
                        ready.clear_ready();
                        continue;
                    }
                    count
                }
            };
            match count {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                count => return Poll::Ready(count),
            }
        }
    }
}

impl<T> StdinReader<T> {
    pub(super) fn new(file: File, lines: u64, skipped: u64, decode: Decode<T>, on_error: OnError) -> Self {
        Self {
            input: Input::Closed(Some(file)),
            // A byte order mark may only stand at the very beginning.
            lines: LineSplitter::new(LINE_BYTES_MAX).at(0, lines),
            decode,
            on_error,
            skipped,
            ended: false,
            told: false,
        }
    }

    #[cold]
    fn bad(&mut self, what: &str, line: u64) -> Result<()> {
        if self.on_error == OnError::Skip {
            self.skipped += 1;
            return Ok(());
        }
        Err(Status::invalid(format!("stdin line {line}, {what}; {CURE}")))
    }

    /// Reads what is there into the batch; `Pending` when nothing is.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let mut lines_left = rows_max;
        while lines_left > 0 {
            let found = match self.lines.next() {
                Found::Nothing if self.ended => self.lines.last(),
                found => found,
            };
            match found {
                Found::Line(line) => {
                    lines_left -= 1;
                    match (self.decode)(line) {
                        Ok(record) => batch.rows.extend(record),
                        Err(what) => self.bad(&what, self.lines.lines())?,
                    }
                }
                Found::TooLong => self.bad(&too_long(LINE_BYTES_MAX), self.lines.lines())?,
                Found::Nothing if self.ended => return Poll::Ready(Ok(ReadState::End)),
                Found::Nothing => {
                    if self.lines.is_overlong() && self.on_error == OnError::Fail {
                        self.bad(&too_long(LINE_BYTES_MAX), self.lines.lines() + 1)?;
                    }
                    let count = ready!(self.input.poll_fill(cx, &mut self.lines))
                        .map_err(|error| Status::unavailable(format!("stdin cannot be read: {error}")))?;
                    self.ended = count == 0;
                }
            }
        }
        Poll::Ready(Ok(ReadState::More))
    }
}

impl<T: Send> SplitReader<T> for StdinReader<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let before = batch.rows.len();
        let state = self.read(cx, batch, rows_max);
        caught_up(state, batch.rows.len() > before, &mut self.told, cx)
    }

    fn position(&self) -> Vec<u8> {
        [self.lines.lines().to_le_bytes(), self.skipped.to_le_bytes()].concat()
    }

    fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::decode_text;
    use std::future::poll_fn;
    use std::io::Write;

    fn reader(file: impl Into<std::os::fd::OwnedFd>) -> StdinReader<String> {
        StdinReader::new(File::from(file.into()), 0, 0, decode_text, OnError::Fail)
    }

    async fn next(reader: &mut StdinReader<String>) -> (Vec<String>, ReadState) {
        let mut batch = Batch::default();
        let state = poll_fn(|cx| reader.poll_read(cx, &mut batch, 100)).await.unwrap();
        (batch.rows, state)
    }

    #[test]
    fn a_pipe_is_read_as_it_comes_and_its_end_is_the_end() {
        afflux_actor::test::system(|| async {
            let (input, mut output) = std::io::pipe().unwrap();
            let mut reader = reader(input);
            assert_eq!(next(&mut reader).await, (vec![], ReadState::CaughtUp));
            output.write_all(b"one\ntw").unwrap();
            assert_eq!(next(&mut reader).await, (vec!["one".into()], ReadState::CaughtUp));
            // Nothing is there now, and a read that blocked would never come back.
            let waits =
                poll_fn(|cx| Poll::Ready(reader.poll_read(cx, &mut Batch::default(), 9).is_pending()));
            assert!(waits.await);
            output.write_all(b"o\nthree").unwrap();
            assert_eq!(next(&mut reader).await, (vec!["two".into()], ReadState::CaughtUp));
            drop(output);
            assert_eq!(next(&mut reader).await, (vec!["three".into()], ReadState::End));
            assert_eq!(count_of(&reader.position()).unwrap(), (3, 0));
        });
    }

    #[test]
    fn a_file_is_read_at_once() {
        afflux_actor::test::system(|| async {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"a\nb\n").unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            let mut reader = reader(file);
            assert_eq!(next(&mut reader).await, (vec!["a".into(), "b".into()], ReadState::End));
        });
    }

    #[test]
    fn a_line_that_is_no_text_is_named() {
        afflux_actor::test::system(|| async {
            let (input, mut output) = std::io::pipe().unwrap();
            output.write_all(b"good\nb\xff\n").unwrap();
            let mut reader = reader(input);
            let mut batch = Batch::default();
            let status = loop {
                match poll_fn(|cx| reader.poll_read(cx, &mut batch, 100)).await {
                    Ok(state) => assert_eq!(state, ReadState::CaughtUp),
                    Err(status) => break status,
                }
            };
            assert!(status.message.starts_with("stdin line 2, column 2: not UTF-8"), "{status}");
        });
    }
}
