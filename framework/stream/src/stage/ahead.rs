//! The guard of a source: records from the future are dropped or go aside, and are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::Poll;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;

/// Diverts rows whose event time is beyond the limit that held when they were read.
pub(crate) struct AheadStage<T> {
    /// Set by the input whenever it reads.
    limit: Arc<AtomicI64>,
    meter: Arc<Meter>,
    next: Next<T>,
    aside: Option<Next<T>>,
    rows: Batch<T>,
}

impl<T> AheadStage<T> {
    pub(crate) fn new(
        limit: Arc<AtomicI64>,
        meter: Arc<Meter>,
        next: Next<T>,
        aside: Option<Next<T>>,
    ) -> Self {
        Self { limit, meter, next, aside, rows: Batch::default() }
    }
}

impl<T> Stage<T> for AheadStage<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        let limit = self.limit.load(Relaxed);
        let ahead = batch.times.iter().filter(|t| **t > limit).count();
        self.meter.records_out(batch.len() - ahead);
        if ahead == 0 {
            return self.next.batch(batch, turn);
        }
        self.meter.future(ahead);
        let mut kept =
            Batch { rows: Vec::with_capacity(batch.len()), times: Vec::with_capacity(batch.len()) };
        for (row, time) in batch.rows.drain(..).zip(batch.times.drain(..)) {
            if time > limit { &mut self.rows } else { &mut kept }.push(row, Some(time));
        }
        *batch = kept;
        if let Some(aside) = &mut self.aside {
            aside.batch(&mut self.rows, turn)?;
        }
        self.rows.clear();
        if batch.is_empty() { Ok(()) } else { self.next.batch(batch, turn) }
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let Some(aside) = &mut self.aside {
            aside.mark(mark, turn)?;
        }
        self.next.mark(mark, turn)
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        if let Some(aside) = &mut self.aside
            && aside.poll_ready(turn)?.is_pending()
        {
            return Poll::Pending;
        }
        self.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        self.next.resume(turn)
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let Some(aside) = &mut self.aside {
            aside.flush(turn)?;
        }
        self.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        if let Some(aside) = &mut self.aside
            && !aside.poll_snapshot(turn, budget)?
        {
            return Ok(false);
        }
        self.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let Some(aside) = &mut self.aside {
            aside.completed(epoch, turn)?;
        }
        self.next.completed(epoch, turn)
    }
}
