//! A keyed operator beside rules that every task has: rows and rules in one order.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::process::{ProcessParts, ProcessStage};
use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::join::BroadcastOperator;
use crate::keyed::KeyOf;
use crate::merge::Either;
use crate::meter::Meter;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::snapshot::Restore;
use crate::time::Timestamp;

/// State name of what is remembered of the rules.
pub(crate) const RULES: &str = "rules";

/// The operator and what it remembers of the rules: used by the rows and by the rules in turn.
struct Shared<O: BroadcastOperator> {
    work: O,
    rules: O::Rules,
}

/// The operator as one of keyed rows.
pub(crate) struct OfRows<O: BroadcastOperator>(Rc<RefCell<Shared<O>>>);

impl<O: BroadcastOperator> KeyedOperator for OfRows<O> {
    type Key = O::Key;
    type Input = O::Input;
    type Output = O::Output;
    type State = O::State;

    fn process(
        &mut self,
        state: &mut O::State,
        row: O::Input,
        cx: &mut OperatorCx<'_, O::Key>,
        out: &mut Output<O::Output>,
    ) -> Result<()> {
        let Shared { work, rules } = &mut *self.0.borrow_mut();
        work.process(rules, state, row, cx, out)
    }

    fn on_timer(
        &mut self,
        state: &mut O::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, O::Key>,
        out: &mut Output<O::Output>,
    ) -> Result<()> {
        let Shared { work, rules } = &mut *self.0.borrow_mut();
        work.on_timer(rules, state, at, cx, out)
    }

    fn on_clock(
        &mut self,
        state: &mut O::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, O::Key>,
        out: &mut Output<O::Output>,
    ) -> Result<()> {
        let Shared { work, rules } = &mut *self.0.borrow_mut();
        work.on_clock(rules, state, at, cx, out)
    }
}

/// Runs a [`BroadcastOperator`].
pub(crate) struct BroadcastStage<O: BroadcastOperator, F: KeyOf<O::Input, Key = O::Key>> {
    operator: String,
    subtask: u32,
    shared: Rc<RefCell<Shared<O>>>,
    rows: ProcessStage<O::Input, F, OfRows<O>>,
    /// What is left of a batch.
    kept: std::vec::IntoIter<Either<O::Input, O::Rule>>,
    times: std::vec::IntoIter<i64>,
    /// Rows up to the next rule.
    run: Batch<O::Input>,
    meter: Arc<Meter>,
}

/// What a [`BroadcastStage`] is made of, but for the operator.
pub(crate) type Parts<F, O> = ProcessParts<<O as BroadcastOperator>::Input, F, OfRows<O>>;

impl<O: BroadcastOperator, F: KeyOf<O::Input, Key = O::Key>> BroadcastStage<O, F> {
    pub(crate) fn new(
        work: O,
        parts: impl FnOnce(OfRows<O>) -> Parts<F, O>,
        restore: Option<&Restore>,
    ) -> Result<Self> {
        let shared = Rc::new(RefCell::new(Shared { work, rules: O::Rules::default() }));
        let parts = parts(OfRows(Rc::clone(&shared)));
        let (operator, subtask, meter) = (parts.operator.clone(), parts.subtask, Arc::clone(&parts.meter));
        if let Some(restore) = restore
            && let Some((_, rules)) = restore.get::<O::Rules>(&operator, RULES)?.into_iter().next()
        {
            shared.borrow_mut().rules = rules;
        }
        Ok(Self {
            operator,
            subtask,
            shared,
            rows: ProcessStage::new(parts, restore)?,
            kept: Vec::new().into_iter(),
            times: Vec::new().into_iter(),
            run: Batch::default(),
            meter,
        })
    }

    /// Goes on with what is kept until nothing is left or the output is full.
    fn go_on(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        loop {
            match self.kept.as_slice().first() {
                Some(Either::Left(_)) => {
                    if let Some(Either::Left(row)) = self.kept.next() {
                        self.run.push(row, self.times.next());
                    }
                }
                // The rows in front of a rule are done before it.
                _ if !self.run.is_empty() => {
                    self.rows.batch(&mut self.run, turn)?;
                    self.run.clear();
                    if turn.full {
                        return Ok(());
                    }
                }
                Some(Either::Right(_)) => {
                    self.times.next();
                    if let Some(Either::Right(rule)) = self.kept.next() {
                        self.rule(rule)?;
                    }
                }
                None => return Ok(()),
            }
        }
    }

    fn rule(&mut self, rule: O::Rule) -> Result<()> {
        self.meter.records_in(1);
        let _at = self.meter.enter();
        let Shared { work, rules } = &mut *self.shared.borrow_mut();
        work.rule(rules, rule).map_err(|mut status| {
            status.message = format!("operator {}: {}", self.operator, status.message);
            status
        })
    }
}

impl<O: BroadcastOperator, F: KeyOf<O::Input, Key = O::Key>> Stage<Either<O::Input, O::Rule>>
    for BroadcastStage<O, F>
{
    fn batch(&mut self, batch: &mut Batch<Either<O::Input, O::Rule>>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.kept = std::mem::take(&mut batch.rows).into_iter();
        self.times = std::mem::take(&mut batch.times).into_iter();
        self.go_on(turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        // All tasks remember the same: one saves it, all take it up again.
        if let Mark::Barrier(_) = mark
            && self.subtask == 0
            && let Some(snapshot) = &mut turn.snapshot
        {
            snapshot.put(&self.operator, RULES, self.subtask, 1, &self.shared.borrow().rules)?;
        }
        self.rows.mark(mark, turn)
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.rows.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.rows.resume(turn) {
            Poll::Ready(Ok(false)) => {}
            other => return other,
        }
        if self.kept.len() == 0 {
            return Poll::Ready(Ok(false));
        }
        Poll::Ready(self.go_on(turn).map(|()| true))
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.rows.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        self.rows.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.rows.completed(epoch, turn)
    }
}

/// Takes the time out of a stream: its records have none, and it holds no watermark back.
pub(crate) struct Timeless<T> {
    told: bool,
    next: Next<T>,
}

impl<T> Timeless<T> {
    pub(crate) fn new(next: Next<T>) -> Self {
        Self { told: false, next }
    }

    fn tell(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(());
        }
        self.next.mark(Mark::Watermark(Timestamp::MAX), turn)
    }
}

impl<T> Stage<T> for Timeless<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.tell(turn)?;
        batch.times.clear();
        self.next.batch(batch, turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.tell(turn)?;
        match mark {
            Mark::Watermark(_) | Mark::Idle => Ok(()),
            Mark::Barrier(_) | Mark::End => self.next.mark(mark, turn),
        }
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        self.next.resume(turn)
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.tell(turn)?;
        self.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        self.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.completed(epoch, turn)
    }
}
