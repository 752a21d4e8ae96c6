//! Records of two kinds in one stream, taken apart.

use std::sync::Arc;
use std::task::Poll;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::merge::Either;
use crate::meter::Meter;

/// Gives left records to the next stage and right ones to a side stream.
pub(crate) struct Divide<L, R, F> {
    f: Arc<F>,
    left: Batch<L>,
    right: Batch<R>,
    aside: Next<R>,
    meter: Arc<Meter>,
    next: Next<L>,
}

impl<L, R, F> Divide<L, R, F> {
    pub(crate) fn new(f: Arc<F>, aside: Next<R>, meter: Arc<Meter>, next: Next<L>) -> Self {
        Self { f, left: Batch::default(), right: Batch::default(), aside, meter, next }
    }
}

impl<T, L, R, F: Fn(T) -> Either<L, R>> Stage<T> for Divide<L, R, F> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        self.meter.records_out(batch.len());
        {
            let _at = self.meter.enter();
            let mut times = batch.times.drain(..);
            for row in batch.rows.drain(..) {
                let time = times.next();
                match (self.f)(row) {
                    Either::Left(row) => self.left.push(row, time),
                    Either::Right(row) => self.right.push(row, time),
                }
            }
        }
        if !self.right.is_empty() {
            self.aside.batch(&mut self.right, turn)?;
        }
        if self.left.is_empty() {
            return Ok(());
        }
        self.next.batch(&mut self.left, turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.aside.mark(mark, turn)?;
        self.next.mark(mark, turn)
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        if self.aside.poll_ready(turn)?.is_pending() {
            return Poll::Pending;
        }
        self.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        self.next.resume(turn)
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.aside.flush(turn)?;
        self.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        Ok(self.aside.poll_snapshot(turn, budget)? && self.next.poll_snapshot(turn, budget)?)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.aside.completed(epoch, turn)?;
        self.next.completed(epoch, turn)
    }
}
