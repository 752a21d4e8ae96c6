//! The running reduction of a keyed stream: every record yields the new value of its key.

use std::sync::Arc;
use std::task::{Poll, ready};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::meter::Meter;
use crate::snapshot::Restore;
use crate::state::{Backend, KeyedState};

/// State name of the values.
pub(crate) const VALUES: &str = "values";

/// Folds each record into the value of its key and emits the value.
pub(crate) struct Reduce<T, F: KeyOf<T>, R> {
    operator: String,
    subtask: u32,
    key: Arc<F>,
    reduce: Arc<R>,
    state: KeyedState<F::Key, T>,
    meter: Arc<Meter>,
    next: Next<T>,
    /// A batch whose values are being fetched.
    held: Batch<T>,
}

impl<T, F, R> Reduce<T, F, R>
where
    T: Clone + Serialize + DeserializeOwned,
    F: KeyOf<T>,
    R: Fn(T, T) -> T,
{
    #[allow(clippy::too_many_arguments)] // one call site, each a part of the stage
    pub(crate) fn new(
        operator: String,
        (subtask, parallelism): (u32, u32),
        key: Arc<F>,
        reduce: Arc<R>,
        (backend, restore): (&Backend, Option<&Restore>),
        meter: Arc<Meter>,
        next: Next<T>,
    ) -> Result<Self> {
        let mut state = KeyedState::new(VALUES, backend);
        if let Some(restore) = restore {
            state.restore(restore, &operator, (subtask, parallelism))?;
        }
        Ok(Self { operator, subtask, key, reduce, state, meter, next, held: Batch::default() })
    }
}

impl<T, F, R> Reduce<T, F, R>
where
    T: Clone,
    F: KeyOf<T>,
    R: Fn(T, T) -> T,
{
    /// Takes in rows whose values are at hand.
    fn take_in(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        let _at = self.meter.enter();
        for row in &mut batch.rows {
            let key = self.key.key(row);
            let hash = key.key_hash();
            let mut first = false;
            let mut entry = self.state.entry(hash, key, || {
                first = true;
                row.clone()
            });
            let (_, value) = entry.parts();
            if !first {
                *value = (self.reduce)(value.clone(), row.clone());
                *row = value.clone();
            }
        }
        self.meter.records_out(batch.len());
        self.next.batch(batch, turn)
    }
}

impl<T, F, R> Stage<T> for Reduce<T, F, R>
where
    T: Clone + Serialize + DeserializeOwned + 'static,
    F: KeyOf<T>,
    R: Fn(T, T) -> T,
{
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        if self.state.poll_prepare_rows(turn.task, &batch.rows, &*self.key)?.is_pending() {
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
        self.next.mark(mark, turn)
    }
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.next.poll_ready(turn)
    }
    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.next.resume(turn) {
            Poll::Ready(Ok(false)) if !self.held.is_empty() => {}
            other => return other,
        }
        ready!(self.state.poll_prepare_rows(turn.task, &self.held.rows, &*self.key))?;
        let mut held = std::mem::take(&mut self.held);
        Poll::Ready(self.take_in(&mut held, turn).map(|()| true))
    }
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.flush(turn)
    }
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        if let Some(snapshot) = &mut turn.snapshot
            && !self.state.write(snapshot, &self.operator, self.subtask, budget)?
        {
            return Ok(false);
        }
        self.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.completed(epoch, turn)
    }
}
