//! The end of a stream that is only counted.

use std::sync::Arc;
use std::task::Poll;

use super::{Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;

/// Counts rows and drops them.
pub(crate) struct Count {
    meter: Arc<Meter>,
}

impl Count {
    pub(crate) fn new(meter: Arc<Meter>) -> Self {
        Self { meter }
    }
}

impl<T> Stage<T> for Count {
    fn batch(&mut self, batch: &mut Batch<T>, _: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        batch.clear();
        Ok(())
    }
    fn mark(&mut self, _: Mark, _: &mut Turn<'_, '_>) -> Result<()> {
        Ok(())
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
    fn poll_snapshot(&mut self, _: &mut Turn<'_, '_>, _: &mut usize) -> Result<bool> {
        Ok(true)
    }
    fn completed(&mut self, _: u64, _: &mut Turn<'_, '_>) -> Result<()> {
        Ok(())
    }
}
