//! Where records go.

use std::task::{Context, Poll};

use crate::Result;
use crate::batch::Batch;
use crate::source::IoContext;
use crate::time::Timestamp;

/// An output. One value serves all tasks; each task opens a writer.
pub trait Sink<T>: Send + Sync + 'static {
    /// Opens a writer, at its beginning or at the state that [`SinkWriter::snapshot`] gave.
    ///
    /// # Errors
    /// When the output cannot be written: names it and says what to do.
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>>;

    /// Kind of sink, shown in graphs, such as `csv`.
    fn kind(&self) -> &'static str;

    /// What is written to, such as a path: shown in graphs and summaries.
    fn target(&self) -> Option<String> {
        None
    }

    /// Whether all records must reach one task.
    fn single(&self) -> bool {
        false
    }
}

/// Writes the records of one task.
///
/// A file needs `write`, `snapshot` and `end`. An output that answers later (a broker, a socket) takes
/// rows into a buffer of its own in `write`, works it off whenever it is polled, and says by
/// `poll_ready` when that buffer has no room and by `poll_flush` when all of it is confirmed. Nothing
/// here may block: it runs on a thread that other tasks share.
pub trait SinkWriter<T>: Send {
    /// Whether there is room for another batch. Until it is ready the task reads nothing, which
    /// holds the sources back. Registers the waker when it is `Pending`.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Takes all rows out of the batch.
    ///
    /// # Errors
    /// Names the output and what failed.
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()>;

    /// No later record has an event time before `watermark`.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn watermark(&mut self, _watermark: Timestamp) -> Result<()> {
        Ok(())
    }

    /// Hands on what was written, and is ready when the output has confirmed all of it. Polled while
    /// nothing comes in, and until it is ready before [`SinkWriter::snapshot`], before a round of
    /// confirmations (see [`Source::acknowledges`](crate::Source::acknowledges)) and before the end.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Makes what was written so far recoverable, and returns what [`Sink::open`] needs to go on
    /// from exactly here.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn snapshot(&mut self, epoch: u64) -> Result<Vec<u8>>;

    /// The epoch is durable everywhere: its output may be committed.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn completed(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    /// Nothing comes any more: commits the rest.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn end(&mut self) -> Result<()>;

    /// The same for an output that answers later: polled until it is ready, in place of `end`, which
    /// it calls unless it is overridden.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn poll_end(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(self.end())
    }

    /// Records that the output has refused so far, each of them said in the log.
    fn refused(&self) -> u64 {
        0
    }
}
