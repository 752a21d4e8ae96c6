//! One record in, any number out.

use std::sync::Arc;
use std::task::Poll;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::meter::Meter;

/// Runs a closure that gives an iterator for each record, at most one batch ahead of its output.
pub(crate) struct FlatMap<T, U, I, F> {
    f: Arc<F>,
    kept: Batch<T>,
    /// Rows of `kept` that are done; kept from the front so that the buffer is reused.
    rows: std::vec::IntoIter<T>,
    times: std::vec::IntoIter<i64>,
    open: Option<(I, Option<i64>)>,
    out: Batch<U>,
    meter: Arc<Meter>,
    next: Next<U>,
}

impl<T, U, I, F> FlatMap<T, U, I::IntoIter, F>
where
    I: IntoIterator<Item = U>,
    F: Fn(T) -> I,
{
    pub(crate) fn new(f: Arc<F>, meter: Arc<Meter>, next: Next<U>) -> Self {
        Self {
            f,
            kept: Batch::default(),
            rows: Vec::new().into_iter(),
            times: Vec::new().into_iter(),
            open: None,
            out: Batch::default(),
            meter,
            next,
        }
    }

    /// Goes on until all is done (`false`) or the output is full (`true`).
    fn run(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        let _at = self.meter.enter();
        loop {
            if let Some((rest, time)) = &mut self.open {
                let room = BATCH_ROWS_MAX.saturating_sub(self.out.len());
                let before = self.out.len();
                self.out.rows.extend(rest.by_ref().take(room));
                if let Some(time) = time {
                    let made = self.out.len() - before;
                    self.out.times.extend(std::iter::repeat_n(*time, made));
                }
                if self.out.len() < BATCH_ROWS_MAX {
                    self.open = None;
                } else {
                    self.push(turn)?;
                    if turn.full {
                        return Ok(true);
                    }
                }
            }
            if self.open.is_none() {
                match self.rows.next() {
                    Some(row) => self.open = Some(((self.f)(row).into_iter(), self.times.next())),
                    None => break,
                }
            }
        }
        self.push(turn)?;
        Ok(false)
    }

    fn push(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.meter.records_out(self.out.len());
        self.next.batch(&mut self.out, turn)
    }
}

impl<T, U, I, F> Stage<T> for FlatMap<T, U, I::IntoIter, F>
where
    I: IntoIterator<Item = U>,
    F: Fn(T) -> I,
{
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        std::mem::swap(&mut self.kept, batch);
        self.rows = std::mem::take(&mut self.kept.rows).into_iter();
        self.times = std::mem::take(&mut self.kept.times).into_iter();
        self.run(turn).map(|_| ())
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.mark(mark, turn)
    }
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.next.poll_ready(turn)
    }
    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.next.resume(turn) {
            Poll::Ready(Ok(false)) => {}
            other => return other,
        }
        if self.open.is_none() && self.rows.len() == 0 {
            return Poll::Ready(Ok(false));
        }
        Poll::Ready(self.run(turn).map(|_| true))
    }
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.flush(turn)
    }
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        self.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.completed(epoch, turn)
    }
}
