//! The running aggregate of a keyed stream: every record yields the new result of its key.

use std::mem::take;
use std::sync::Arc;
use std::task::{Poll, ready};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::keyed::KeyOf;
use crate::meter::Meter;
use crate::snapshot::Restore;
use crate::state::{Backend, KeyedState};

/// State name of the accumulators.
pub(crate) const ACCUMULATORS: &str = "accumulators";

/// How a running aggregate goes: shared by its tasks.
pub(crate) struct Running<C, A, E> {
    pub(crate) create: C,
    pub(crate) add: A,
    pub(crate) emit: E,
}

/// Takes each record into the accumulator of its key and emits the result.
pub(crate) struct RunningStage<T, F: KeyOf<T>, R, Acc, Out> {
    pub(crate) parts: RunningParts<F, R, Out>,
    state: KeyedState<F::Key, Acc>,
    out: Batch<Out>,
    /// A batch whose values are being fetched.
    held: Batch<T>,
}

/// What a [`RunningStage`] is made of.
pub(crate) struct RunningParts<F, R, Out> {
    pub(crate) operator: String,
    pub(crate) subtask: u32,
    pub(crate) key: Arc<F>,
    pub(crate) running: Arc<R>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) backend: Backend,
    pub(crate) next: Next<Out>,
}

impl<T, F: KeyOf<T>, R, Acc: Serialize + DeserializeOwned, Out> RunningStage<T, F, R, Acc, Out> {
    pub(crate) fn new(
        parts: RunningParts<F, R, Out>,
        parallelism: u32,
        restore: Option<&Restore>,
    ) -> Result<Self> {
        let mut state = KeyedState::new(ACCUMULATORS, &parts.backend);
        if let Some(restore) = restore {
            state.restore(restore, &parts.operator, (parts.subtask, parallelism))?;
        }
        Ok(Self { parts, state, out: Batch::default(), held: Batch::default() })
    }
}

impl<T, F, C, A, E, Acc, Out> RunningStage<T, F, Running<C, A, E>, Acc, Out>
where
    F: KeyOf<T>,
    C: Fn() -> Acc,
    A: Fn(&mut Acc, &T),
    E: Fn(&F::Key, &Acc) -> Out,
{
    /// Takes in rows whose values are at hand.
    fn take_in(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        let RunningParts { key: keys, running, meter, next, .. } = &mut self.parts;
        meter.records_out(batch.len());
        let at = meter.enter();
        for row in &batch.rows {
            use crate::key::Key as _;
            let key = keys.key(row);
            let mut entry = self.state.entry(key.key_hash(), key, &running.create);
            let (key, acc) = entry.parts();
            (running.add)(acc, row);
            self.out.rows.push((running.emit)(key, acc));
        }
        self.out.times = take(&mut batch.times);
        batch.clear();
        drop(at);
        next.batch(&mut self.out, turn)
    }
}

impl<T, F, C, A, E, Acc, Out> Stage<T> for RunningStage<T, F, Running<C, A, E>, Acc, Out>
where
    F: KeyOf<T>,
    Acc: Serialize + 'static,
    C: Fn() -> Acc,
    A: Fn(&mut Acc, &T),
    E: Fn(&F::Key, &Acc) -> Out,
{
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.parts.meter.records_in(batch.len());
        if self.state.poll_prepare_rows(turn.task, &batch.rows, &*self.parts.key)?.is_pending() {
            std::mem::swap(&mut self.held, batch);
            turn.full = true;
            return Ok(());
        }
        self.take_in(batch, turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let (Mark::Barrier(_), Some(snapshot)) = (mark, &turn.snapshot) {
            self.state.begin(snapshot)?;
        }
        self.parts.next.mark(mark, turn)
    }
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.parts.next.poll_ready(turn)
    }
    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.parts.next.resume(turn) {
            Poll::Ready(Ok(false)) if !self.held.is_empty() => {}
            other => return other,
        }
        ready!(self.state.poll_prepare_rows(turn.task, &self.held.rows, &*self.parts.key))?;
        let mut held = take(&mut self.held);
        Poll::Ready(self.take_in(&mut held, turn).map(|()| true))
    }
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.parts.next.flush(turn)
    }
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        if let Some(snapshot) = &mut turn.snapshot
            && !self.state.write(snapshot, &self.parts.operator, self.parts.subtask, budget)?
        {
            return Ok(false);
        }
        self.parts.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.parts.next.completed(epoch, turn)
    }
}
