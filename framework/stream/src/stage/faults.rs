//! What an operator does with records it cannot process, as its policy says.

use std::fmt::Debug;
use std::sync::Arc;
use std::task::Poll;

use afflux_wire::Status;

use super::{Next, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::errors::{DeadLetter, DeadReason, ErrorAction, error_text, record_text};
use crate::meter::Meter;
use crate::time::Timestamp;

/// A record that could not be processed.
pub(crate) struct Fault<T> {
    pub(crate) record: T,
    pub(crate) time: Option<i64>,
    pub(crate) status: Status,
    pub(crate) reason: DeadReason,
    pub(crate) attempt: u32,
}

/// The policy at work, with the side stream where there is one.
pub(crate) struct Faults<T> {
    operator: String,
    action: ErrorAction,
    describe: fn(&T) -> String,
    letters: Option<Next<DeadLetter<T>>>,
    batch: Batch<DeadLetter<T>>,
    /// The first of a task is logged for people; the rest would fill the log.
    logged: bool,
    meter: Arc<Meter>,
}

impl<T: Debug> Faults<T> {
    pub(crate) fn new(
        operator: String,
        action: ErrorAction,
        letters: Option<Next<DeadLetter<T>>>,
        meter: Arc<Meter>,
    ) -> Self {
        let describe = record_text::<T>;
        Self { operator, action, describe, letters, batch: Batch::default(), logged: false, meter }
    }
}

impl<T> Faults<T> {
    /// Does with one record what the policy says.
    pub(crate) fn take(&mut self, fault: Fault<T>) -> Result<()> {
        let Fault { record, time, mut status, reason, attempt } = fault;
        match self.action {
            ErrorAction::Fail => {
                let tries = if attempt > 1 { format!(" after {attempt} tries") } else { String::new() };
                status.message = format!(
                    "operator {}: {}{tries}; the record: {}",
                    self.operator,
                    error_text(&status.message),
                    (self.describe)(&record)
                );
                return Err(status);
            }
            ErrorAction::Skip => {
                self.meter.errors(1);
                if !std::mem::replace(&mut self.logged, true) {
                    tracing::warn!(
                        operator = %self.operator, error = %error_text(&status.message), record = %(self.describe)(&record),
                        "a record is skipped; further ones of this task are counted only (operator_errors_total)"
                    );
                }
            }
            ErrorAction::Letter => {
                self.meter.dead_letter(reason);
                let letter = DeadLetter {
                    record,
                    operator: self.operator.clone(),
                    error: error_text(&status.message),
                    reason,
                    at: time.map(Timestamp::from_millis),
                    attempt,
                };
                self.batch.push(letter, time);
            }
        }
        Ok(())
    }

    /// Hands letters on.
    pub(crate) fn push(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        match &mut self.letters {
            Some(letters) if !self.batch.is_empty() => letters.batch(&mut self.batch, turn),
            _ => Ok(()),
        }
    }

    pub(crate) fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.letters.as_mut().map_or(Ok(()), |letters| letters.mark(mark, turn))
    }

    pub(crate) fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.letters.as_mut().map_or(Poll::Ready(Ok(())), |letters| letters.poll_ready(turn))
    }

    pub(crate) fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.letters.as_mut().map_or(Ok(()), |letters| letters.flush(turn))
    }

    pub(crate) fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        self.letters.as_mut().map_or(Ok(true), |letters| letters.poll_snapshot(turn, budget))
    }
    pub(crate) fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.letters.as_mut().map_or(Ok(()), |letters| letters.completed(epoch, turn))
    }
}
