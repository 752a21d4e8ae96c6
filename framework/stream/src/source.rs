//! Where records come from: splits that are read independently and can be read again.

use std::task::{Context, Poll};
use std::time::SystemTime;

use afflux_actor::Clock;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::batch::Batch;
use crate::guarantee::Recall;
use crate::reach::Reaching;

/// A part of an input that one task reads by itself: a file, a partition, a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Unique in its source and stable over restarts.
    pub id: String,
    /// What the reader needs to know, in the source's own encoding.
    pub payload: Vec<u8>,
    /// Size in the source's own unit (bytes, records), when known: for progress only.
    pub size: Option<u64>,
}

/// What a source or sink may know of the job it works for.
#[derive(Clone, Debug)]
pub struct IoContext {
    /// The job's id: another for each submission, the same for all its attempts.
    pub job: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The step's name.
    pub operator: String,
    /// Which of the parallel tasks this is.
    pub subtask: u32,
    /// How many there are.
    pub parallelism: u32,
    /// The job's attempt.
    pub attempt: u64,
    /// What to do with an input that cannot be read as a record.
    pub on_error: OnError,
    /// Whether the job goes on from a checkpoint that knows this step. A split without a position is then
    /// one that the checkpoint did not know.
    pub restored: bool,
    /// Milliseconds between two checkpoints; 0: only when somebody asks. For a sink that holds output
    /// back until then.
    pub checkpoint_interval_ms: u64,
    /// The node's clock, for whoever waits: a poll of a directory, another try to connect. Where
    /// splits are listed its calendar stands still.
    pub clock: Clock,
}

impl IoContext {
    /// The first of one task of a step, with a clock whose calendar stands still: what the tests of
    /// a connector open it with.
    ///
    /// ```
    /// use afflux_stream::IoContext;
    /// let cx = IoContext::new("shop", "orders");
    /// assert_eq!((cx.subtask, cx.parallelism), (0, 1));
    /// ```
    pub fn new(pipeline: &str, operator: &str) -> Self {
        Self {
            job: format!("{pipeline}-1"),
            pipeline: pipeline.to_owned(),
            operator: operator.to_owned(),
            subtask: 0,
            parallelism: 1,
            attempt: 1,
            on_error: OnError::Fail,
            restored: false,
            checkpoint_interval_ms: 0,
            clock: Clock::new(|| SystemTime::UNIX_EPOCH),
        }
    }
}

/// What to do with an input that cannot be read as a record: setting `source.on_error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Stop the pipeline with the error.
    #[default]
    Fail,
    /// Count it and go on.
    Skip,
}

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// There is, or may at once be, more.
    More,
    /// All there is for now has been read; more may come. Only a split that has said so can be idle.
    /// A reader that says it without rows is asked again when it wakes the task, or after 20 ms.
    CaughtUp,
    /// There will never be more.
    End,
}

/// An input that can be read, and read again from a position. One value serves all tasks.
///
/// To write one: say which splits there are, open a reader on one, let the reader fill batches and
/// tell its position. The engine does the rest (assignment, watermarks, barriers, pacing).
pub trait Source: Send + Sync + 'static {
    /// The records.
    type Item: Send + 'static;

    /// The splits there are now. Called once by whoever starts the job.
    ///
    /// # Errors
    /// When the input is not there: names it and says what to do.
    fn splits(&self, cx: &IoContext) -> Result<Vec<Split>>;

    /// Opens a split at its beginning or at a position that [`SplitReader::position`] gave.
    ///
    /// # Errors
    /// When it cannot be opened or the position is not one of its own.
    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<Self::Item>>>;

    /// Kind of source, shown in graphs, such as `csv`.
    fn kind(&self) -> &'static str;

    /// Whether somebody outside waits to hear that a record is done with: a broker that keeps a message
    /// until it is acknowledged. The job then tells [`SplitReader::completed`] again and again without
    /// being asked: with every checkpoint where `checkpoint.interval_ms` says so; otherwise by rounds of
    /// confirmations, which save nothing: all tasks are done with what was read before
    /// [`SplitReader::barrier`], and all sinks have confirmed it ([`SinkWriter::poll_flush`]).
    ///
    /// [`SinkWriter::poll_flush`]: crate::SinkWriter::poll_flush
    fn acknowledges(&self) -> bool {
        false
    }

    /// Asks whether what it talks to answers, such as a broker; nothing for a source that talks to nobody.
    /// For `check --connect`, which runs it without a job: it reads no record and changes nothing.
    fn reach(&self, _cx: &IoContext) -> Option<Reaching> {
        None
    }

    /// What it gives again after a failure. It decides, with the sinks, what the pipeline
    /// [guarantees](crate::Plan::guarantees).
    fn recall(&self) -> Recall {
        if self.acknowledges() { Recall::Acknowledged } else { Recall::Replayable }
    }
}

/// Reads one split.
pub trait SplitReader<T>: Send {
    /// Appends at most `rows_max` rows. `Pending` means the waker is registered.
    ///
    /// # Errors
    /// Names the place, the value and what was expected.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>>;

    /// The position after the last row handed out, for a checkpoint.
    fn position(&self) -> Vec<u8>;

    /// How far it is, in the unit of [`Split::size`].
    fn progress(&self) -> u64 {
        0
    }

    /// Splits that have appeared since the job began and that this reader's task is to read from now
    /// on, such as a new partition. Each is told once, and by one reader of the source only; from
    /// the next checkpoint on it is one like the others, and [`Source::splits`] has to list it then.
    /// Asked in front of each [`SplitReader::poll_read`], so it must cost nothing.
    fn found(&mut self) -> Vec<Split> {
        Vec::new()
    }

    /// Records that are there and have not been handed out, when known.
    fn lag(&self) -> Option<u64> {
        None
    }

    /// Inputs that were skipped under [`OnError::Skip`].
    fn skipped(&self) -> u64 {
        0
    }

    /// A barrier goes out behind the last row handed out: [`SplitReader::completed`] with this epoch
    /// will speak of the rows so far. An epoch may be given up without a word; a later one covers it.
    fn barrier(&mut self, _epoch: u64) {}

    /// The epoch is durable everywhere, or confirmed where nothing is saved: what lies before its
    /// barrier is no longer needed.
    fn completed(&mut self, _epoch: u64) {}
}
