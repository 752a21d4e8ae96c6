//! The end of a stream in a sink.

use std::sync::Arc;
use std::task::Poll;

use super::{Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;
use crate::sink::SinkWriter;

/// State name of a sink's writer.
pub(crate) const WRITER: &str = "writer";

/// Hands rows to a [`SinkWriter`].
pub(crate) struct Write<T> {
    pub(crate) operator: String,
    pub(crate) subtask: u32,
    pub(crate) writer: Box<dyn SinkWriter<T>>,
    pub(crate) meter: Arc<Meter>,
}

impl<T> Stage<T> for Write<T> {
    fn batch(&mut self, batch: &mut Batch<T>, _: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        self.meter.records_out(batch.len());
        let _at = self.meter.enter();
        self.writer.write(batch)?;
        batch.clear();
        Ok(())
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        let _at = self.meter.enter();
        match mark {
            Mark::Watermark(t) => self.writer.watermark(t),
            Mark::Idle => Ok(()),
            Mark::Barrier(epoch) => {
                let state = self.writer.snapshot(epoch)?;
                match &mut turn.snapshot {
                    Some(s) => s.put(&self.operator, WRITER, self.subtask, 1, &state),
                    None => Ok(()),
                }
            }
            Mark::End => self.writer.end(),
        }
    }
    fn poll_ready(&mut self, _: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn resume(&mut self, _: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        Poll::Ready(Ok(false))
    }
    fn flush(&mut self, _: &mut Turn<'_, '_>) -> Result<()> {
        Ok(())
    }
    fn completed(&mut self, epoch: u64, _: &mut Turn<'_, '_>) -> Result<()> {
        self.writer.completed(epoch)
    }
}
