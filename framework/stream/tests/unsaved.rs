//! How many records a source would read again if its job failed now.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;
#[path = "common/halting.rs"]
mod halting;

use std::sync::Arc;

use afflux_actor::Threads;
use afflux_stream::job::{LocalRun, start_local};
use afflux_stream::{Flow, JobSettings, TaskReading};
use common::{Collect, clock};
use halting::{Halting, through};

const ROWS: u64 = 2_000;

/// Until the source has read and not saved so many.
async fn until(run: &LocalRun, taken: u64, unsaved: u64) {
    for _ in 0..1_000_000 {
        let rows =
            |task: &TaskReading| task.operators.iter().any(|o| o.name == "rows" && o.records_out == taken);
        if run.readings().iter().any(|task| rows(task) && task.unsaved == unsaved) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?}", run.readings());
}

#[test]
fn what_came_behind_the_last_durable_epoch_is_what_is_read_again() {
    let settings = JobSettings { checkpoint_interval_ms: 1_000, ..JobSettings::default() };
    let flow = Flow::new("p", settings);
    flow.source("rows", Halting { halt: true, ..through(ROWS, 3, |i| i) })
        .untimed()
        .sink("out", Collect::<u64>::default());
    let plan = flow.finish().unwrap();
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(1).unwrap());
        let mut run = start_local(&plan, threads, clock(), None, None).unwrap();
        until(&run, ROWS / 2, ROWS / 2).await;
        // Its barrier is half-way.
        run.checkpoint(1).await.unwrap();
        until(&run, ROWS, ROWS / 2).await;
        run.checkpoint(2).await.unwrap();
        until(&run, ROWS, 0).await;
        run.finish().await.unwrap();
    });
}
