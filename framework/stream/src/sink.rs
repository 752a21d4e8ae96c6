//! Where records go.
//!
//! [`TwoPhaseSink`](crate::TwoPhaseSink) is the short way to a sink with transactions.

use std::task::{Context, Poll};

use crate::Result;
use crate::batch::Batch;
use crate::guarantee::Delivery;
use crate::reach::Reaching;
use crate::snapshot::ROUND;
use crate::source::IoContext;
use crate::time::Timestamp;
use afflux_wire::Status;

/// The epoch that stands for whichever completes behind the end of a writer's input: given to
/// [`SinkWriter::snapshot`] and [`SinkWriter::completed`] in place of a number. It is greater than that of
/// every checkpoint.
pub const LAST_EPOCH: u64 = ROUND - 1;

/// An output. One value serves all tasks; each task opens a writer.
pub trait Sink<T>: Send + Sync + 'static {
    /// Opens a writer, at its beginning or at the state that [`SinkWriter::snapshot`] gave.
    ///
    /// # Errors
    /// When the output cannot be written: names it and says what to do.
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>>;

    /// Opens a writer from a checkpoint. `states` is what the writers of *all* tasks of that time saved, by
    /// the number of the task, rising; every task of now is shown the same. A sink whose states can be dealt
    /// out over another number of tasks overrides this; the others are refused where a state would be lost.
    ///
    /// # Errors
    /// As [`Sink::open`]; `FAILED_PRECONDITION` where there are fewer tasks than states.
    fn restore(&self, states: &[(u32, Vec<u8>)], cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        if let Some((lost, _)) =
            states.iter().find(|(task, state)| *task >= cx.parallelism && !state.is_empty())
        {
            return Err(Status::precondition(format!(
                "the checkpoint has the state of its task {lost}, and it runs in {} tasks now: what a `{}` sink \
                 saved cannot be dealt out over fewer tasks; restore with at least {} tasks, or write by one \
                 task (`.gather()`)",
                cx.parallelism,
                self.kind(),
                lost + 1
            )));
        }
        let mine = states.iter().find(|(task, _)| *task == cx.subtask);
        self.open(mine.map(|(_, state)| state.as_slice()), cx)
    }

    /// What becomes of a record that is written again after a failure. It decides, with the sources, what
    /// the pipeline [guarantees](crate::Plan::guarantees).
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    /// Asks whether what it talks to answers; see [`Source::reach`](crate::Source::reach).
    fn reach(&self, _cx: &IoContext) -> Option<Reaching> {
        None
    }

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

    /// A round of confirmations passes, which saves nothing and after which sources forget: ready when the
    /// output has all that was written for good. The same as [`SinkWriter::poll_flush`] but for a writer
    /// that holds output back until an epoch is durable.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn poll_confirm(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_flush(cx)
    }

    /// Makes what was written so far recoverable, and returns what [`Sink::open`] needs to go on
    /// from exactly here. Where the job takes checkpoints by itself it is also called behind the end of the
    /// input, with [`LAST_EPOCH`].
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn snapshot(&mut self, epoch: u64) -> Result<Vec<u8>>;

    /// The epoch is durable everywhere: its output, and that of every earlier one, may be committed.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn completed(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    /// Works off what completed epochs allow to commit. Polled behind [`SinkWriter::completed`] and whenever
    /// the task works; ready when nothing is left to be committed. New rows come meanwhile, unless
    /// [`SinkWriter::poll_ready`] says otherwise.
    ///
    /// # Errors
    /// As [`SinkWriter::write`].
    fn poll_commit(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing comes any more: commits the rest. Where the job takes checkpoints by itself it is called
    /// when an epoch is durable that has what the writer saved for [`LAST_EPOCH`]; otherwise at once.
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
