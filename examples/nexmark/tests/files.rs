//! q10 writes each bid into one committed file of its minute, whatever happens on the way.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use afflux::prelude::*;
use afflux_actor::{Clock, Threads};
use afflux_nexmark::events::{Bid, Entry};
use afflux_nexmark::files::{MARKER, PartitionedFiles, files_below, partition_of};
use afflux_nexmark::queries::{q10, q10_written};
use afflux_nexmark::{Log, answer, run};
use afflux_stream::job::start_local;
use afflux_stream::{JobSettings, Partitioning, Plan, secs};

/// By partition: its bids, sorted as text.
type Partitions = BTreeMap<String, Vec<String>>;

fn expected(log: &Log) -> Partitions {
    let mut partitions = Partitions::new();
    for bid in log.entries().iter().filter_map(Entry::bid) {
        let minute = partition_of(bid.date_time).to_string();
        let name = format!("day={}/minute={}", &minute[..10], minute[11..16].replace(':', "-"));
        partitions.entry(name).or_default().push(serde_json::to_string(&bid).unwrap());
    }
    partitions.values_mut().for_each(|rows| rows.sort_unstable());
    partitions
}

/// What stands below a directory, where every partition must be marked and nothing be open.
fn written(directory: &Path, rows_max: usize) -> Partitions {
    let mut partitions = Partitions::new();
    let mut marked = Vec::new();
    for file in files_below(directory).unwrap() {
        let partition = file.parent().unwrap().strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if name == MARKER {
            marked.push(partition);
            continue;
        }
        assert!(!name.ends_with(".open"), "{name} was left");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!((1..=rows_max).contains(&text.lines().count()), "{name}");
        partitions.entry(partition).or_default().extend(text.lines().map(str::to_owned));
    }
    marked.sort_unstable();
    assert!(marked.iter().eq(partitions.keys()), "{marked:?}");
    partitions.values_mut().for_each(|rows| rows.sort_unstable());
    partitions
}

fn plan(log: &Log, parallelism: u32, replay: Option<f64>, directory: &Path, rows_max: u64) -> Plan {
    let flow = Flow::new("q10", JobSettings { parallelism, replay, ..JobSettings::default() });
    flow.source("bids", log.bids())
        .watermarks(BoundedOutOfOrder::by(secs(4)))
        .partition(Partitioning::hash(|bid: &Arc<Bid>| partition_of(bid.date_time)))
        .sink("files", PartitionedFiles::below(directory, rows_max));
    flow.finish().unwrap()
}

#[test]
fn every_bid_stands_in_a_file_of_its_minute_and_every_minute_is_marked() {
    let log = Log::new(20_000, 100);
    for parallelism in [1, 2, 4] {
        let directory = tempfile::tempdir().unwrap();
        run(plan(&log, parallelism, None, directory.path(), 700)).unwrap();
        assert_eq!(written(directory.path(), 700), expected(&log), "parallelism {parallelism}");
    }
}

#[test]
fn what_q10_writes_has_the_digest_of_all_bids() {
    let log = Log::new(20_000, 100);
    let directory = tempfile::tempdir().unwrap();
    let flow = Flow::new("q10", JobSettings::default());
    q10(&flow, &log, directory.path());
    run(flow.finish().unwrap()).unwrap();
    assert_eq!(q10_written(directory.path()).unwrap(), answer("q0", &log, 1).unwrap());
}

#[test]
fn a_run_that_goes_on_from_a_checkpoint_writes_each_bid_once() {
    let log = Log::new(20_000, 100);
    for parallelism in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        // 200 s of the events' time in 100 ms.
        let first = plan(&log, parallelism, Some(2_000.0), directory.path(), 300);
        let second = plan(&log, parallelism, None, directory.path(), 300);
        let restore = afflux_actor::test::paused(|| async move {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
            let mut run = start_local(&first, threads, clock, None, None).unwrap();
            let mut saved = run.checkpoint(1).await.unwrap();
            let read = |run: &afflux_stream::job::LocalRun| -> u64 {
                run.meters().iter().map(|meter| meter.read().input_done).sum()
            };
            for epoch in 2.. {
                if read(&run) > 10_000 {
                    break;
                }
                saved = run.checkpoint(epoch).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // It writes on behind the checkpoint before it is stopped.
            let at = read(&run);
            while read(&run) < at + 2_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(read(&run) < 19_000, "it was not stopped half-way");
            saved
        });
        assert!(files_below(directory.path()).unwrap().len() > 10, "nothing was written half-way");
        afflux_actor::test::system(|| async move {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
            start_local(&second, threads, clock, None, Some(restore)).unwrap().finish().await.unwrap()
        });
        assert_eq!(written(directory.path(), 300), expected(&log), "parallelism {parallelism}");
    }
}
