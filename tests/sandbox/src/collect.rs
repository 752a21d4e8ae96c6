//! A sink that a test can look into.

use std::sync::{Arc, Mutex};

use afflux_stream::{Batch, IoContext, Result, Sink, SinkWriter};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Collects the records of every task of every node of this process; a clone is the same collection.
///
/// A writer hands its records over at its end, and keeps them in its snapshots until then: what a task
/// that died had written is seen only if the task was restored.
///
/// ```
/// let rows = afflux_sandbox::Collect::<u64>::default();
/// assert!(rows.take().is_empty());
/// ```
pub struct Collect<T>(Arc<Mutex<Vec<Collected<T>>>>);

/// A record and the task that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collected<T> {
    /// The record.
    pub row: T,
    /// Which of the sink's tasks.
    pub subtask: u32,
}

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Ord> Collect<T> {
    /// Takes out what was collected, sorted.
    pub fn take(&self) -> Vec<Collected<T>> {
        let mut rows = std::mem::take(&mut *self.0.lock().unwrap());
        rows.sort_unstable();
        rows
    }

    /// The same without the tasks.
    pub fn take_rows(&self) -> Vec<T> {
        self.take().into_iter().map(|collected| collected.row).collect()
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Sink<T> for Collect<T> {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let mine = state.map(|state| serde_json::from_slice(state).unwrap()).unwrap_or_default();
        Ok(Box::new(Writer { all: self.clone(), mine, subtask: cx.subtask }))
    }

    fn kind(&self) -> &'static str {
        "collect"
    }
}

/// The same in one task, whatever the pipeline's parallelism: what it collects has an order of its own.
#[derive(Clone)]
pub struct Single<T>(pub Collect<T>);

impl<T> Sink<T> for Single<T>
where
    Collect<T>: Sink<T>,
{
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        self.0.open(state, cx)
    }

    fn kind(&self) -> &'static str {
        "single"
    }

    fn single(&self) -> bool {
        true
    }
}

struct Writer<T> {
    all: Collect<T>,
    mine: Vec<T>,
    subtask: u32,
}

impl<T: Serialize + Send> SinkWriter<T> for Writer<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.mine.append(&mut batch.rows);
        Ok(())
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&self.mine).unwrap())
    }

    fn end(&mut self) -> Result<()> {
        let subtask = self.subtask;
        let rows = self.mine.drain(..).map(|row| Collected { row, subtask });
        self.all.0.lock().unwrap().extend(rows);
        Ok(())
    }
}
