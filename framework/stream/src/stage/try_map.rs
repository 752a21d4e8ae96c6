//! A closure that may fail on a record.

use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Poll;

use afflux_wire::Status;

use super::faults::{Fault, Faults};
use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::errors::DeadReason;
use crate::meter::Meter;

/// Runs the closure; what fails goes to [`Faults`].
pub(crate) struct TryMap<T, U, E, F> {
    f: Arc<F>,
    out: Batch<U>,
    faults: Faults<T>,
    meter: Arc<Meter>,
    next: Next<U>,
    error: PhantomData<fn() -> E>,
}

impl<T, U, E, F> TryMap<T, U, E, F> {
    pub(crate) fn new(f: Arc<F>, faults: Faults<T>, meter: Arc<Meter>, next: Next<U>) -> Self {
        Self { f, out: Batch::default(), faults, meter, next, error: PhantomData }
    }
}

impl<T, U, E: Display, F: Fn(&T) -> std::result::Result<U, E>> Stage<T> for TryMap<T, U, E, F> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        {
            let _at = self.meter.enter();
            let mut times = batch.times.drain(..);
            for record in batch.rows.drain(..) {
                let time = times.next();
                match (self.f)(&record) {
                    Ok(row) => self.out.push(row, time),
                    Err(error) => {
                        // The same record would fail again: nothing that another try mends.
                        let status = Status::invalid(error.to_string());
                        self.faults.take(Fault {
                            record,
                            time,
                            status,
                            reason: DeadReason::Error,
                            attempt: 1,
                        })?;
                    }
                }
            }
        }
        self.faults.push(turn)?;
        self.meter.records_out(self.out.len());
        if self.out.is_empty() {
            return Ok(());
        }
        self.next.batch(&mut self.out, turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.faults.mark(mark, turn)?;
        self.next.mark(mark, turn)
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        if self.faults.poll_ready(turn)?.is_pending() {
            return Poll::Pending;
        }
        self.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        self.next.resume(turn)
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.faults.flush(turn)?;
        self.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        Ok(self.faults.poll_snapshot(turn, budget)? && self.next.poll_snapshot(turn, budget)?)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.faults.completed(epoch, turn)?;
        self.next.completed(epoch, turn)
    }
}
