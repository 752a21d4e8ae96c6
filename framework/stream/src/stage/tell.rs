//! Telling a service about every record, on the way to the next operator.
//!
//! At least once: what was not yet acknowledged at a barrier is in the snapshot and is told again
//! after a restore, so the receiver must take a repetition without harm (an upsert does).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;
use crate::poison::{Doing, while_doing};
use crate::snapshot::is_round;
use afflux_wire::contract::Caller;

/// State name of what was not yet acknowledged.
pub(crate) const UNANSWERED: &str = "unanswered";
/// Requests of one task that wait for their acknowledgement; a full set closes the gate.
pub const TELL_IN_FLIGHT_MAX: usize = 8;
/// Records that go into one request at most.
pub const TELL_ROWS_MAX: usize = 256;

/// An acknowledgement on its way.
pub(crate) type Telling = Pin<Box<dyn Future<Output = Result<()>>>>;
/// Makes the request for some records.
pub(crate) type TellFn<T> = Arc<dyn Fn(&Arc<dyn Caller>, Vec<T>) -> Telling + Send + Sync>;

/// The stage that tells.
pub(crate) struct Tell<T> {
    pub(crate) operator: String,
    pub(crate) subtask: u32,
    pub(crate) caller: Arc<dyn Caller>,
    pub(crate) send: TellFn<T>,
    pub(crate) in_flight: VecDeque<(Telling, Vec<T>)>,
    pub(crate) waiting: Vec<T>,
    pub(crate) ending: bool,
    /// A round of confirmations waits for every acknowledgement.
    pub(crate) round: bool,
    pub(crate) meter: Arc<Meter>,
    pub(crate) next: Next<T>,
}

impl<T: Clone + Serialize + DeserializeOwned> Tell<T> {
    /// Takes in what was acknowledged.
    fn settle(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        let mut index = 0;
        while index < self.in_flight.len() {
            let poll = match self.in_flight.get_mut(index) {
                Some((telling, _)) => telling.as_mut().poll(turn.task),
                None => break,
            };
            match poll {
                Poll::Pending => index += 1,
                Poll::Ready(Ok(())) => {
                    if let Some((_, rows)) = self.in_flight.remove(index) {
                        self.meter.records_out(rows.len());
                    }
                }
                Poll::Ready(Err(mut status)) => {
                    status.message = format!("operator {}: {}", self.operator, status.message);
                    return Err(status);
                }
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, all: bool) {
        let _at = self.meter.enter();
        while self.in_flight.len() < TELL_IN_FLIGHT_MAX
            && (self.waiting.len() >= TELL_ROWS_MAX || (all && !self.waiting.is_empty()))
        {
            let rest = self.waiting.split_off(self.waiting.len().min(TELL_ROWS_MAX));
            let rows = std::mem::replace(&mut self.waiting, rest);
            let doing = while_doing(|| Doing::batch("a request about", &rows));
            let telling = (self.send)(&self.caller, rows.clone());
            drop(doing);
            self.in_flight.push_back((telling, rows));
        }
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Stage<T> for Tell<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        self.waiting.extend_from_slice(&batch.rows);
        self.dispatch(false);
        if self.waiting.len() >= TELL_ROWS_MAX {
            turn.full = true;
        }
        self.next.batch(batch, turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        match mark {
            Mark::Barrier(epoch) => {
                if is_round(epoch) {
                    self.round = true;
                }
                if let Some(snapshot) = &mut turn.snapshot {
                    let rows: Vec<&T> =
                        self.in_flight.iter().flat_map(|(_, rows)| rows).chain(&self.waiting).collect();
                    snapshot.put(&self.operator, UNANSWERED, self.subtask, rows.len() as u64, &rows)?;
                }
                self.next.mark(mark, turn)
            }
            // Passed on by `resume` when everything is acknowledged.
            Mark::End => {
                self.ending = true;
                self.dispatch(true);
                Ok(())
            }
            other => self.next.mark(other, turn),
        }
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.settle(turn)?;
        self.dispatch(false);
        self.settle(turn)?;
        if self.waiting.len() >= TELL_ROWS_MAX {
            return Poll::Pending;
        }
        self.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.next.resume(turn) {
            Poll::Ready(Ok(false)) => {}
            other => return other,
        }
        if !self.ending && !self.round {
            return Poll::Ready(Ok(false));
        }
        loop {
            self.dispatch(true);
            let before = self.in_flight.len();
            self.settle(turn)?;
            if self.in_flight.is_empty() && self.waiting.is_empty() {
                if std::mem::take(&mut self.round) {
                    return Poll::Ready(Ok(true));
                }
                self.ending = false;
                self.next.mark(Mark::End, turn)?;
                return Poll::Ready(Ok(true));
            }
            if self.in_flight.len() == before {
                return Poll::Pending;
            }
        }
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.dispatch(true);
        self.settle(turn)?;
        self.next.flush(turn)
    }
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        self.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.completed(epoch, turn)
    }
}
