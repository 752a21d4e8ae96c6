//! Files in directories by event time or by a closure, committed with the epoch.
//!
//! ```text
//! DIR/dt=2013-01-01/hour=05/rows-5f1c09aa-2-0-000004.csv.gz        committed: it never changes again
//! DIR/dt=2013-01-01/hour=05/.rows-5f1c09aa-2-0-000005.csv.gz.part  being written, or not yet durable
//! DIR/dt=2013-01-01/hour=04/_SUCCESS                               no file comes into this partition any more
//! ```
//!
//! The number behind the name is that of the job, then come attempt, task and file: no two writers ever
//! mean the same file, so that an attempt that is dead and does not know it harms nobody.

mod commit;
mod place;
mod rows;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use afflux_stream::{
    Committer, Delivery, IoContext, Result, Sink, SinkWriter, TwoPhase, TwoPhaseSink, TwoPhaseWriter,
};
use afflux_wire::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::commit::FileCommitter;
use self::place::{By, Place};
use self::rows::Format;
use self::writer::Writer;
use crate::lines::{encode_json, encode_text};

pub use self::place::PARTITION_BYTES_MAX;
pub use self::writer::{OPEN_FILES_MAX, Pending, SavedFile, SavedWriter};

/// The name of the marker.
pub const SUCCESS_MARKER: &str = "_SUCCESS";
/// Empty partitions that are made and marked at once.
pub const EMPTY_PARTITIONS_MAX: u64 = 100_000;

/// A file is closed when it has so many bytes on the disk, when nothing is said.
const ROLL_BYTES: u64 = 128 << 20;
/// A file is closed when it is so old, when nothing is said.
const ROLL_AFTER: Duration = Duration::from_secs(15 * 60);

/// A transactional [`Sink`] of files in a directory for each hour, day or minute of event time, or for whatever
/// a closure says.
///
/// **Exactly once**: a file appears under its name when the epoch in which it was closed is durable, by
/// renaming; until then its name begins with a dot, so that who lists the directory does not see it. Its bytes
/// and its name are on the disk (`fsync` of file and directory) before the checkpoint that holds it. After a
/// failure the files of the checkpoint are committed by whoever is restored, also in another number of
/// tasks; what was written behind it is removed.
///
/// A file is closed, and a new one begun, at 128 MiB ([`roll_at_bytes`](Self::roll_at_bytes)), after 15 minutes
/// ([`roll_after`](Self::roll_after)), at a number of rows ([`roll_at_rows`](Self::roll_at_rows)), when its
/// partition is over, or when a task has more than [`OPEN_FILES_MAX`] open. Size and age are looked at when
/// rows come and at each checkpoint; so rows are visible after that time and one checkpoint at latest.
///
/// The last part of the path gives the files' name and form: `out/flights/rows.csv.gz` writes
/// `out/flights/dt=2013-01-01/hour=05/rows-….csv.gz`. `.gz` and `.zst` are compressed.
///
/// ```
/// use afflux_connectors::PartitionedFiles;
/// use afflux_stream::{Flow, JobSettings, Timestamp, BoundedOutOfOrder, hours, minutes, generate};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Sale { at: Timestamp, cents: u64 }
///
/// let flow = Flow::new("sales", JobSettings { checkpoint_interval_ms: 10_000, ..JobSettings::default() });
/// flow.source("sales", generate(9, |i| Sale { at: Timestamp::from_millis(i as i64), cents: i }))
///     .watermarks_by(BoundedOutOfOrder::by(minutes(1)), |sale| sale.at)
///     .sink("out", PartitionedFiles::csv("out/sales/rows.csv.gz").by_hour().success_marker(hours(1)));
/// assert!(flow.finish().is_ok());
/// ```
pub struct PartitionedFiles<T> {
    path: PathBuf,
    format: Format<T>,
    by: By<T>,
    roll_bytes: u64,
    roll_rows: u64,
    roll_after: Duration,
    /// How late a row may be for a partition that is marked then.
    lateness: Option<Duration>,
    fill: bool,
    may_be_moved: bool,
}

impl<T> Clone for PartitionedFiles<T> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), format: self.format, by: self.by.clone(), ..*self }
    }
}

impl<T: Serialize> PartitionedFiles<T> {
    /// CSV files (RFC 4180), each with a header: the names of `T`'s fields.
    pub fn csv(path: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), Format::csv())
    }

    /// Files of JSON lines: a value a line.
    pub fn json(path: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), Format::Lines(encode_json))
    }
}

impl PartitionedFiles<String> {
    /// Files of text: a line each.
    pub fn text(path: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), Format::Lines(encode_text))
    }
}

impl<T> PartitionedFiles<T> {
    fn new(path: PathBuf, format: Format<T>) -> Self {
        Self {
            path,
            format,
            by: By::Hour,
            roll_bytes: ROLL_BYTES,
            roll_rows: u64::MAX,
            roll_after: ROLL_AFTER,
            lateness: None,
            fill: false,
            may_be_moved: false,
        }
    }

    /// `dt=2013-01-01`, in UTC.
    #[must_use]
    pub fn by_day(mut self) -> Self {
        self.by = By::Day;
        self
    }

    /// `dt=2013-01-01/hour=05`, in UTC: what it is when nothing is said.
    #[must_use]
    pub fn by_hour(mut self) -> Self {
        self.by = By::Hour;
        self
    }

    /// `dt=2013-01-01/hour=05/minute=07`, in UTC.
    #[must_use]
    pub fn by_minute(mut self) -> Self {
        self.by = By::Minute;
        self
    }

    /// The directory that the closure says, such as `origin=EWR`, with `/` between its parts. No part may be
    /// empty or begin with `.` or `_`, and all of it has at most [`PARTITION_BYTES_MAX`] bytes.
    #[must_use]
    pub fn partition_by(mut self, partition: impl Fn(&T) -> String + Send + Sync + 'static) -> Self {
        self.by = By::Row(Arc::new(partition));
        self
    }

    /// Closes a file that has so many bytes on the disk, give or take what its buffers hold.
    #[must_use]
    pub fn roll_at_bytes(mut self, bytes: u64) -> Self {
        self.roll_bytes = bytes.max(1);
        self
    }

    /// Closes a file that has so many rows.
    #[must_use]
    pub fn roll_at_rows(mut self, rows: u64) -> Self {
        self.roll_rows = rows.max(1);
        self
    }

    /// Closes a file that is so old, by the node's clock. Zero closes every file at every checkpoint.
    #[must_use]
    pub fn roll_after(mut self, age: Duration) -> Self {
        self.roll_after = age;
        self
    }

    /// Puts an empty file `_SUCCESS` into each partition that is complete: when the files of the epoch are
    /// committed whose watermark, in all tasks, had passed the end of the partition by `lateness`; all that are
    /// left when the input has ended. Rows that are later still are written, into further files, and said in the
    /// log. Partitions of a closure are marked at the end of the input.
    #[must_use]
    pub fn success_marker(mut self, lateness: Duration) -> Self {
        self.lateness = Some(lateness);
        self
    }

    /// Makes, and marks, the partitions without a row between the first and the last that have some, so that
    /// who waits for an hour does not wait for ever; at most [`EMPTY_PARTITIONS_MAX`] at once.
    #[must_use]
    pub fn empty_partitions(mut self) -> Self {
        self.fill = true;
        self
    }

    /// Whoever reads committed files may move or remove them. Without this a file that a restored job finds
    /// neither under its name nor waiting for it is an error, since it may have been lost.
    #[must_use]
    pub fn may_be_moved(mut self) -> Self {
        self.may_be_moved = true;
        self
    }

    fn place(&self, cx: &IoContext) -> Result<Place> {
        Place::new(&self.path, cx)
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> TwoPhaseSink<T> for PartitionedFiles<T> {
    type Committable = Pending;
    type State = SavedWriter;

    fn writer(
        &self,
        states: Vec<SavedWriter>,
        cx: &IoContext,
    ) -> Result<Box<dyn TwoPhaseWriter<T, Pending, SavedWriter>>> {
        Ok(Box::new(Writer::open(self.clone(), self.place(cx)?, states, cx)?))
    }

    fn committer(&self, cx: &IoContext) -> Result<Box<dyn Committer<Pending>>> {
        let lateness = self.lateness.unwrap_or_default();
        let marks = self.by.length().map(|length| (length, lateness));
        Ok(Box::new(FileCommitter::new(self.place(cx)?, marks, self.fill, self.may_be_moved)))
    }

    fn kind(&self) -> &'static str {
        "partitioned files"
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Sink<T> for PartitionedFiles<T> {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        TwoPhase::of(Arc::new(self.clone())).open(state, cx)
    }

    fn restore(&self, states: &[(u32, Vec<u8>)], cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        TwoPhase::of(Arc::new(self.clone())).restore(states, cx)
    }

    fn kind(&self) -> &'static str {
        TwoPhaseSink::kind(self)
    }

    fn target(&self) -> Option<String> {
        self.path.parent().map(|directory| directory.display().to_string())
    }

    fn delivery(&self) -> Delivery {
        Delivery::Transactional
    }
}

/// The error for a path that names no file.
fn no_name(path: &Path) -> Status {
    Status::invalid(format!(
        "`{}` does not say how files are named: give a directory and a name, such as `out/sales/rows.csv.gz`",
        path.display()
    ))
}
