//! The end of a stream in a sink.

use std::sync::Arc;
use std::task::{Poll, ready};

use super::{Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;
use crate::sink::SinkWriter;

/// State name of a sink's writer.
pub(crate) const WRITER: &str = "writer";

/// Hands rows to a [`SinkWriter`].
pub(crate) struct Write<T> {
    operator: String,
    subtask: u32,
    writer: Box<dyn SinkWriter<T>>,
    meter: Arc<Meter>,
    /// A barrier or the end, until the output has confirmed what came before it.
    held: Option<Mark>,
}

impl<T> Write<T> {
    pub(crate) fn new(
        operator: String,
        subtask: u32,
        writer: Box<dyn SinkWriter<T>>,
        meter: Arc<Meter>,
    ) -> Self {
        Self { operator, subtask, writer, meter, held: None }
    }

    fn poll_flush(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        let _at = self.meter.enter();
        let polled = self.writer.poll_flush(turn.task);
        self.meter.set_errors(self.writer.refused());
        polled
    }
}

impl<T> Stage<T> for Write<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        self.meter.records_out(batch.len());
        let _at = self.meter.enter();
        self.writer.write(batch)?;
        batch.clear();
        if self.writer.poll_ready(turn.task)?.is_pending() {
            turn.full = true;
        }
        Ok(())
    }

    fn mark(&mut self, mark: Mark, _: &mut Turn<'_, '_>) -> Result<()> {
        let _at = self.meter.enter();
        match mark {
            Mark::Watermark(t) => self.writer.watermark(t),
            Mark::Idle => Ok(()),
            // Taken up by `resume`, which the task calls before anything else.
            Mark::Barrier(_) | Mark::End => {
                self.held = Some(mark);
                Ok(())
            }
        }
    }
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.writer.poll_ready(turn.task)
    }
    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        let Some(mark) = self.held else { return Poll::Ready(Ok(false)) };
        ready!(self.poll_flush(turn))?;
        match mark {
            Mark::Barrier(epoch) => {
                if let Some(snapshot) = &mut turn.snapshot {
                    let state = self.writer.snapshot(epoch)?;
                    snapshot.put(&self.operator, WRITER, self.subtask, 1, &state)?;
                }
            }
            _ => ready!(self.writer.poll_end(turn.task))?,
        }
        self.held = None;
        Poll::Ready(Ok(false))
    }
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.poll_flush(turn)?.is_ready();
        Ok(())
    }
    fn poll_snapshot(&mut self, _: &mut Turn<'_, '_>, _: &mut usize) -> Result<bool> {
        Ok(true)
    }
    fn completed(&mut self, epoch: u64, _: &mut Turn<'_, '_>) -> Result<()> {
        self.writer.completed(epoch)
    }
}
