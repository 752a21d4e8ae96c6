//! Writes lines to an open file that may be a terminal or a pipe, without blocking.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::task::{Context, Poll, ready};

use afflux_stream::{Batch, Result, SinkWriter};
use afflux_wire::{Code, Status};
use nix::poll::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::read::{is_ready_now, waiting};
use crate::lines::Encode;

/// Bytes of lines that wait for whoever reads stdout; above it the pipeline waits. One batch more may be
/// in hand.
pub const STDOUT_BYTES_MAX: usize = 256 * 1024;

/// Bytes that a pipe takes without blocking when it says that it takes some: PIPE_BUF of Linux; that of
/// POSIX is 512, and others let a write of more block.
const PIECE_BYTES: usize = if cfg!(target_os = "linux") { 4_096 } else { 512 };

enum Output {
    /// Not opened yet: the runtime is known from the first poll on.
    Closed(Option<File>),
    /// A file, which is always ready.
    Ready(File),
    /// What lets somebody wait.
    Waits(AsyncFd<File>),
}

pub(super) struct StdoutWriter<T> {
    output: Output,
    encode: Encode<T>,
    text: Vec<u8>,
    written: usize,
}

impl<T> StdoutWriter<T> {
    pub(super) fn new(file: File, encode: Encode<T>) -> Self {
        Self { output: Output::Closed(Some(file)), encode, text: Vec::new(), written: 0 }
    }

    /// Writes until at most so many bytes are left.
    fn poll_drain(&mut self, cx: &mut Context<'_>, left_max: usize) -> Poll<Result<()>> {
        if let Output::Closed(file) = &mut self.output
            && let Some(file) = file.take()
        {
            self.output = match waiting(file, Interest::WRITABLE) {
                Ok(waits) => Output::Waits(waits),
                Err(file) => Output::Ready(file),
            };
        }
        while self.text.len() - self.written > left_max {
            let rest = self.text.get(self.written..).unwrap_or_default();
            let count = match &mut self.output {
                Output::Closed(_) => return Poll::Ready(Ok(())),
                Output::Ready(file) => file.write(rest),
                Output::Waits(waits) => {
                    let mut ready = ready!(waits.poll_write_ready(cx)).map_err(|e| refused(&e))?;
                    if !is_ready_now(waits.get_ref(), PollFlags::POLLOUT).map_err(|e| refused(&e))? {
                        ready.clear_ready();
                        continue;
                    }
                    let piece = rest.get(..rest.len().min(PIECE_BYTES)).unwrap_or_default();
                    let count = waits.get_ref().write(piece);
                    if matches!(&count, Err(e) if e.kind() == ErrorKind::WouldBlock) {
                        ready.clear_ready();
                        continue;
                    }
                    count
                }
            };
            match count {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(refused(&error))),
            }
        }
        if self.written == self.text.len() {
            self.text.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}

fn refused(error: &std::io::Error) -> Status {
    let cure = if error.kind() == ErrorKind::BrokenPipe { ": who read it has gone" } else { "" };
    Status::new(Code::Unavailable, format!("stdout cannot be written: {error}{cure}"))
}

impl<T: Send> SinkWriter<T> for StdoutWriter<T> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_drain(cx, STDOUT_BYTES_MAX)
    }

    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        for row in &batch.rows {
            (self.encode)(row, &mut self.text)
                .map_err(|what| Status::invalid(format!("a record cannot be a line of stdout: {what}")))?;
            self.text.push(b'\n');
        }
        batch.clear();
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_drain(cx, 0)
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_drain(cx, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{encode_json, encode_text};
    use std::future::poll_fn;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_pipe_that_nobody_reads_holds_the_pipeline_back_and_loses_nothing() {
        afflux_actor::test::system(|| async {
            let (mut input, output) = std::io::pipe().unwrap();
            let mut writer = StdoutWriter::new(File::from(OwnedFd::from(output)), encode_json::<u64>);
            let mut count = 0;
            while poll_fn(|cx| Poll::Ready(writer.poll_ready(cx).map_err(|s| panic!("{s}")))).await.is_ready()
            {
                writer.write(&mut Batch::untimed((count..count + 1000).collect())).unwrap();
                count += 1000;
                assert!(writer.text.len() - writer.written <= STDOUT_BYTES_MAX + 8_000);
            }
            let mut text = Vec::new();
            let mut buffer = vec![0; 50_000];
            let mut flushed = false;
            while !flushed {
                if is_ready_now(&input, PollFlags::POLLIN).unwrap() {
                    let count = input.read(&mut buffer).unwrap();
                    text.extend_from_slice(&buffer[..count]);
                }
                flushed = poll_fn(|cx| Poll::Ready(writer.poll_flush(cx))).await.is_ready();
                tokio::task::yield_now().await;
            }
            assert!(poll_fn(|cx| writer.poll_end(cx)).await.is_ok());
            drop(writer);
            input.read_to_end(&mut text).unwrap();
            let expected: String = (0..count).map(|n| format!("{n}\n")).collect();
            assert!(text == expected.as_bytes(), "{} of {} bytes", text.len(), expected.len());
        });
    }

    #[test]
    fn a_reader_that_has_gone_is_an_error() {
        afflux_actor::test::system(|| async {
            let (input, output) = std::io::pipe().unwrap();
            drop(input);
            let mut writer = StdoutWriter::new(File::from(OwnedFd::from(output)), encode_text);
            writer.write(&mut Batch::untimed(vec!["x".to_owned()])).unwrap();
            let status = poll_fn(|cx| writer.poll_flush(cx)).await.unwrap_err();
            assert!(status.message.contains("who read it has gone"), "{status}");
        });
    }
}
