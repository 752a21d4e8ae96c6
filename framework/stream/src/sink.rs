//! Where records go.

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
pub trait SinkWriter<T>: Send {
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
}
