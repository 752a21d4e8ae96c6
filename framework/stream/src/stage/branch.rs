//! A second consumer: one stream becomes several.
//!
//! The first of them goes on in this chain, each other one in a chain behind a forward edge. A slow
//! one holds the others back: nothing is kept for it but what its queue takes.

use std::sync::Arc;
use std::task::Poll;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;
use afflux_wire::Status;

/// Which of the streams get a record.
pub(crate) enum Deal<T> {
    /// All of them.
    Copy(fn(&T) -> T),
    /// The one of this number.
    Pick(Arc<dyn Fn(&T) -> usize + Send + Sync>),
}

impl<T> Clone for Deal<T> {
    fn clone(&self) -> Self {
        match self {
            Deal::Copy(copy) => Deal::Copy(*copy),
            Deal::Pick(pick) => Deal::Pick(Arc::clone(pick)),
        }
    }
}

/// Deals rows out to several stages.
pub(crate) struct Branch<T> {
    operator: String,
    deal: Deal<T>,
    outs: Vec<(Next<T>, Batch<T>)>,
    meter: Arc<Meter>,
}

impl<T> Branch<T> {
    pub(crate) fn new(operator: String, deal: Deal<T>, outs: Vec<Next<T>>, meter: Arc<Meter>) -> Self {
        let outs = outs.into_iter().map(|out| (out, Batch::default())).collect();
        Self { operator, deal, outs, meter }
    }

    fn pick(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let Deal::Pick(pick) = &self.deal else { return Ok(()) };
        let _at = self.meter.enter();
        let count = self.outs.len();
        let mut times = batch.times.drain(..);
        for row in batch.rows.drain(..) {
            let index = pick(&row);
            let Some((_, part)) = self.outs.get_mut(index) else {
                return Err(Status::invalid(format!(
                    "operator {}: its closure chose stream {index} for a record, but it has streams 0 to {}",
                    self.operator,
                    count.saturating_sub(1)
                )));
            };
            part.push(row, times.next());
        }
        Ok(())
    }
}

impl<T> Stage<T> for Branch<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        match &self.deal {
            Deal::Copy(copy) => {
                self.meter.records_out(batch.len() * self.outs.len());
                let Some(((first, _), others)) = self.outs.split_first_mut() else { return Ok(()) };
                for (out, part) in others {
                    {
                        let _at = self.meter.enter();
                        part.rows.extend(batch.rows.iter().map(copy));
                    }
                    part.times.extend_from_slice(&batch.times);
                    out.batch(part, turn)?;
                }
                first.batch(batch, turn)
            }
            Deal::Pick(_) => {
                self.meter.records_out(batch.len());
                self.pick(batch)?;
                for (out, part) in self.outs.iter_mut().filter(|(_, part)| !part.is_empty()) {
                    out.batch(part, turn)?;
                }
                Ok(())
            }
        }
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.outs.iter_mut().try_for_each(|(out, _)| out.mark(mark, turn))
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        for (out, _) in &mut self.outs {
            if out.poll_ready(turn)?.is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        for (out, _) in &mut self.outs {
            match out.resume(turn) {
                Poll::Ready(Ok(false)) => {}
                other => return other,
            }
        }
        Poll::Ready(Ok(false))
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.outs.iter_mut().try_for_each(|(out, _)| out.flush(turn))
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        for (out, _) in &mut self.outs {
            if !out.poll_snapshot(turn, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.outs.iter_mut().try_for_each(|(out, _)| out.completed(epoch, turn))
    }
}
