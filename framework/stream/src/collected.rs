//! The rows of a stream in memory, for tests and small programs.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use afflux_wire::{Code, Status};

use crate::Result;
use crate::batch::Batch;
use crate::guarantee::Delivery;
use crate::sink::{Sink, SinkWriter};
use crate::source::IoContext;
use crate::stage::fused::Step;
use crate::stream::{Record, Stream};

/// The rows that came out of a stream of this process; see [`Stream::collect`]. A clone is the same
/// collection.
///
/// A task hands its rows over when its input has ended, and keeps them in its snapshots until then:
/// a run that was given up leaves nothing behind.
pub struct Collected<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Collected<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Collected<T> {
    /// Takes the rows out, in the order in which they came; between tasks that order means nothing.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Takes the rows out, sorted.
    pub fn take_sorted(&self) -> Vec<T>
    where
        T: Ord,
    {
        let mut rows = self.take();
        rows.sort();
        rows
    }
}

struct Writer<T> {
    all: Collected<T>,
    mine: Vec<T>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Sink<T> for Collected<T> {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let mine = match state {
            None => Vec::new(),
            Some(state) => decode(state)?,
        };
        Ok(Box::new(Writer { all: self.clone(), mine }))
    }
    fn restore(&self, states: &[(u32, Vec<u8>)], cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let mut mine = Vec::new();
        for (_, state) in states.iter().filter(|(task, _)| task % cx.parallelism.max(1) == cx.subtask) {
            mine.extend(decode(state)?);
        }
        Ok(Box::new(Writer { all: self.clone(), mine }))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
    fn delivery(&self) -> Delivery {
        Delivery::Whole
    }
}

fn decode<T: DeserializeOwned>(state: &[u8]) -> Result<Vec<T>> {
    rmp_serde::from_slice(state)
        .map_err(|e| Status::new(Code::DataLoss, format!("the checkpoint holds rows of another type: {e}")))
}

impl<T: Serialize + Send> SinkWriter<T> for Writer<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.mine.append(&mut batch.rows);
        batch.clear();
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        rmp_serde::to_vec(&self.mine).map_err(|e| Status::internal(format!("a row cannot be encoded: {e}")))
    }
    fn end(&mut self) -> Result<()> {
        self.all.0.lock().append(&mut self.mine);
        Ok(())
    }
}

impl<T: Record, P: Step<Out = T>> Stream<T, P> {
    /// Ends the stream in memory: for tests and small programs, whose tasks are all in this process.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("evens", JobSettings::default());
    /// let evens = flow.source("numbers", generate(10, |i| i)).untimed().filter(|x| x % 2 == 0).collect("evens");
    /// // … when the pipeline has run: evens.take_sorted() == [0, 2, 4, 6, 8]
    /// ```
    pub fn collect(self, name: &str) -> Collected<T> {
        let rows = Collected::default();
        self.sink(name, rows.clone());
        rows
    }
}
