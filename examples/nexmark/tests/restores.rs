//! A query that is stopped half-way and goes on from a checkpoint gives the answer of one that was not.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_nexmark::queries::{QUERIES, build};
use afflux_nexmark::{Log, Tally};
use afflux_stream::job::{LocalRun, start_local};
use afflux_stream::{Flow, JobSettings, Plan, Restore, StateBackend, TaskReading};

static LOG: LazyLock<Log> = LazyLock::new(|| Log::new(20_000, 500));

/// Times the speed of the events' time, so that there is time for checkpoints: 40 ms in all.
const PACE: f64 = 1_000.0;

/// The rows of q12 depend on when bids come; q10 has a test of its own.
const OTHERS: [&str; 2] = ["q10", "q12"];

fn plan(query: &str, (parallelism, kept): Kept<'_>, replay: Option<f64>, tally: &Tally) -> Plan {
    let settings = JobSettings {
        parallelism,
        replay,
        state_backend: if kept.is_some() { StateBackend::Disk } else { StateBackend::Memory },
        state_dir: kept.map(|directory| directory.to_string_lossy().into_owned()),
        state_cache_bytes: Some(1),
        ..JobSettings::default()
    };
    let flow = Flow::new(query, settings);
    build(query, &flow, &LOG, tally.clone(), Path::new("")).unwrap();
    flow.finish().unwrap()
}

/// In how many tasks, and where on disk state is kept; none: in memory.
type Kept<'a> = (u32, Option<&'a Path>);

/// Starts a plan, lets `work` do something with the run, and returns what it makes of it.
fn with_run<R>(plan: Plan, from: Option<Restore>, work: impl AsyncFnOnce(LocalRun) -> R) -> R {
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
        work(start_local(&plan, threads, clock, None, from).unwrap()).await
    })
}

/// The last checkpoint before a third has been read.
async fn half_way(mut run: LocalRun) -> Restore {
    let mut saved = run.checkpoint(1).await.unwrap();
    for epoch in 2.. {
        let read = run.readings();
        let sum = |of: fn(&TaskReading) -> u64| read.iter().map(of).sum::<u64>();
        if sum(|task| task.input_done) > sum(|task| task.input_total) / 3 {
            break;
        }
        match run.checkpoint(epoch).await {
            // One that was complete only when all had been read holds nothing of tasks that have ended.
            Ok(later) if run.readings().iter().all(|task| task.input_done < task.input_total.max(1)) => {
                saved = later;
            }
            _ => break,
        }
    }
    saved
}

/// Rows that the sources of a run have read.
async fn rows_read(run: LocalRun) -> u64 {
    let readings = run.finish().await.unwrap();
    let sources =
        readings.iter().filter(|task| task.input_total > 0).filter_map(|task| task.operators.last());
    sources.map(|source| source.records_in).sum()
}

/// Every query but some: whole, and stopped and taken up again elsewhere.
fn check(runs: &[(Kept<'_>, Kept<'_>)]) {
    let mut gone_on = 0;
    for query in QUERIES.iter().filter(|query| !OTHERS.contains(query)) {
        for (before, after) in runs {
            let (lost, kept, whole) = (Tally::default(), Tally::default(), Tally::default());
            let all = with_run(plan(query, *after, None, &whole), None, rows_read);
            let saved = with_run(plan(query, *before, Some(PACE), &lost), None, half_way);
            let rest = with_run(plan(query, *after, None, &kept), Some(saved), rows_read);
            assert_eq!(kept.digest(), whole.digest(), "{query} from {before:?} to {after:?}");
            gone_on += usize::from(rest > 0 && rest < all);
        }
    }
    assert!(gone_on > QUERIES.len() * runs.len() / 2, "only {gone_on} runs went on from the middle");
}

#[test]
fn every_answer_survives_a_restore() {
    check(&[((1, None), (1, None)), ((3, None), (3, None))]);
}

#[test]
fn every_answer_survives_a_restore_from_memory_to_disk_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Some(directory.path());
    check(&[((2, None), (2, disk)), ((2, disk), (2, None))]);
}
