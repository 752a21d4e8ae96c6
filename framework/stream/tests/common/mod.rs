//! What the suites of operators share: a sink that collects, and ways to run a plan.

#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each suite uses some of it"
)]

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_stream::job::{run_local, start_local};
use afflux_stream::{Batch, IoContext, JobSettings, Plan, Result, Sink, SinkWriter, TaskReading};

/// Collects rows; its state is what it has collected.
#[derive(Clone)]
pub struct Collect<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

struct Collector<T> {
    all: Collect<T>,
    mine: Vec<T>,
}

impl<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> Sink<T> for Collect<T> {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let mine = state.map(|s| serde_json::from_slice(s).unwrap()).unwrap_or_default();
        Ok(Box::new(Collector { all: Collect(Arc::clone(&self.0)), mine }))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}

impl<T: serde::Serialize + Send> SinkWriter<T> for Collector<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.mine.append(&mut batch.rows);
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&self.mine).unwrap())
    }
    fn end(&mut self) -> Result<()> {
        self.all.0.lock().unwrap().append(&mut self.mine);
        Ok(())
    }
}

impl<T: Ord + Clone> Collect<T> {
    pub fn sorted(&self) -> Vec<T> {
        let mut rows = self.0.lock().unwrap().clone();
        rows.sort_unstable();
        rows
    }
}

pub fn settings(parallelism: u32) -> JobSettings {
    JobSettings { parallelism, ..JobSettings::default() }
}

pub fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Vec<TaskReading> {
    afflux_actor::test::system(|| async move {
        run_local(&plan, Arc::new(Threads::inline_slots(2).unwrap()), clock()).await.unwrap()
    })
}

/// Starts `plan`, takes a checkpoint, throws all else away, and runs `again` from the checkpoint
/// to its end. Both must be the same pipeline, but for the sinks: a short input may have ended
/// before the checkpoint, so what the first collects is not to be looked at.
pub fn run_over_a_restore(plan: Plan, again: Plan) -> Vec<TaskReading> {
    let restore = afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        let mut run = start_local(&plan, threads, clock(), None, None).unwrap();
        run.checkpoint(1).await.unwrap()
    });
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        start_local(&again, threads, clock(), None, Some(restore)).unwrap().finish().await.unwrap()
    })
}
