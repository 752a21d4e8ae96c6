//! Partitioned files: each row in one committed file, whatever dies, and markers where nothing comes any more.
#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use afflux_actor::test::system;
use afflux_actor::{Clock, Threads};
use afflux_connectors::{PartitionedFiles, SUCCESS_MARKER};
use afflux_stream::job::start_attempt;
use afflux_stream::{
    Batch, BoundedOutOfOrder, Flow, IoContext, JobSettings, LAST_EPOCH, Plan, Restore, Sink, SinkWriter,
    Timestamp, hours, vec_source,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Sale {
    at: i64,
    id: u64,
}

const HOUR: i64 = 3_600_000;

/// Every file below a directory that does not begin with a dot, with its text; and those that do.
fn files(root: &Path) -> (BTreeMap<PathBuf, String>, Vec<PathBuf>) {
    let (mut open, mut seen, mut hidden) = (vec![root.to_owned()], BTreeMap::new(), Vec::new());
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if !name.starts_with('.') {
                    open.push(path);
                }
            } else if name.starts_with('.') {
                hidden.push(path);
            } else if name.ends_with(".gz") {
                use std::io::Read;
                let mut text = String::new();
                flate2::read::MultiGzDecoder::new(fs::File::open(&path).unwrap())
                    .read_to_string(&mut text)
                    .unwrap();
                seen.insert(path, text);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                seen.insert(path, text);
            }
        }
    }
    (seen, hidden)
}

/// The ids in the committed files, sorted; each row in the directory of its hour.
fn ids(root: &Path) -> Vec<u64> {
    let mut ids = Vec::new();
    for (path, text) in files(root).0 {
        if path.ends_with(SUCCESS_MARKER) {
            assert_eq!(text, "");
            continue;
        }
        let csv = path.to_str().unwrap().contains(".csv");
        let header = if csv { Some("at,id") } else { None };
        let mut lines = text.lines();
        assert!(!csv || lines.next() == header, "{}", path.display());
        for line in lines {
            let sale: Sale = if csv {
                let (at, id) = line.split_once(',').unwrap();
                Sale { at: at.parse().unwrap(), id: id.parse().unwrap() }
            } else {
                serde_json::from_str(line).unwrap()
            };
            let at = Timestamp::from_millis(sale.at).to_string();
            let directory = format!("dt={}/hour={}", &at[..10], &at[11..13]);
            assert!(path.parent().unwrap().ends_with(&directory), "{} in {}", at, path.display());
            ids.push(sale.id);
        }
    }
    ids.sort_unstable();
    ids
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline().unwrap())
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

const ROWS: u64 = 3_000;

fn plan(sink: PartitionedFiles<Sale>, parallelism: u32) -> Plan {
    let settings = JobSettings { parallelism, checkpoint_interval_ms: 1_000, ..JobSettings::default() };
    let flow = Flow::new("sales", settings);
    // Twelve hours; one of them is empty.
    let sale = |id: u64| {
        let at = id as i64 * 12 * HOUR / ROWS as i64;
        Sale { at: if at / HOUR == 5 { at + HOUR } else { at }, id }
    };
    flow.source("sales", vec_source((0..ROWS).map(sale).collect()))
        .watermarks_by(BoundedOutOfOrder::by(hours(1)), |sale| Timestamp::from_millis(sale.at))
        .rebalance()
        .sink("out", sink);
    flow.finish().unwrap()
}

/// Runs until a checkpoint after some of the rows, and dies before anybody commits.
async fn half(plan: &Plan, restore: Option<Restore>, attempt: u64, rows: u64) -> Restore {
    let mut run = start_attempt(plan, threads(), clock(), None, restore, attempt).unwrap();
    for _ in 0..1_000_000 {
        let read: u64 =
            run.readings().iter().flat_map(|t| &t.operators).map(|o| o.records_in).max().unwrap_or(0);
        if read >= rows {
            break;
        }
        tokio::task::yield_now().await;
    }
    run.save(attempt).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn each_row_is_in_one_committed_file_whatever_dies_at_any_parallelism(
        widths in prop::collection::vec((1_u32..4, 1_u64..ROWS), 0..4),
        last in 1_u32..4,
        roll_rows in prop_oneof![Just(u64::MAX), 150_u64..600],
        roll_at_once in any::<bool>(),
        form in 0_u8..3,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let sink = || {
            let path = |name: &str| dir.path().join("out").join(name);
            let sink = match form {
                0 => PartitionedFiles::csv(path("rows.csv")),
                1 => PartitionedFiles::csv(path("rows.csv.gz")),
                _ => PartitionedFiles::json(path("rows.jsonl")),
            };
            let age = if roll_at_once { Duration::ZERO } else { Duration::from_secs(900) };
            sink.roll_at_rows(roll_rows).roll_after(age).success_marker(hours(1))
        };
        let mut restore = None;
        let mut attempt = 0;
        for (parallelism, rows) in widths {
            let plan = plan(sink(), parallelism);
            attempt += 1;
            restore = Some(system(|| async { half(&plan, restore, attempt, rows).await }));
        }
        let plan = plan(sink(), last);
        system(|| async {
            let run = start_attempt(&plan, threads(), clock(), None, restore, attempt + 1).unwrap();
            run.finish().await.unwrap();
        });
        let root = dir.path().join("out");
        let ids = ids(&root);
        prop_assert!(ids == (0..ROWS).collect::<Vec<_>>(), "{} rows of {}", ids.len(), ROWS);
        let (seen, hidden) = files(&root);
        prop_assert!(hidden.is_empty(), "left behind: {:?}", hidden);
        let marked = seen.keys().filter(|path| path.ends_with(SUCCESS_MARKER)).count();
        prop_assert_eq!(marked, 11, "every hour with rows is marked");
    }
}

/// A writer without a pipeline around it.
struct Alone {
    writer: Box<dyn SinkWriter<Sale>>,
}

fn poll(
    mut f: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<afflux_stream::Result<()>>,
) -> afflux_stream::Result<()> {
    match f(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("files wait for nothing"),
    }
}

impl Alone {
    fn open(sink: &PartitionedFiles<Sale>, cx: &IoContext, states: &[(u32, Vec<u8>)]) -> Self {
        let mut writer = Sink::restore(sink, states, cx).unwrap();
        poll(|cx| writer.poll_ready(cx)).unwrap();
        Self { writer }
    }

    fn write(&mut self, hour: i64, ids: std::ops::Range<u64>) {
        let rows: Vec<Sale> = ids.map(|id| Sale { at: hour * HOUR + id as i64, id }).collect();
        let times = rows.iter().map(|sale| sale.at).collect();
        self.writer.write(&mut Batch { rows, times }).unwrap();
    }

    fn commit(&mut self, epoch: u64) -> afflux_stream::Result<()> {
        self.writer.completed(epoch)?;
        poll(|cx| self.writer.poll_commit(cx))
    }
}

fn context(attempt: u64, subtask: u32, parallelism: u32) -> IoContext {
    IoContext {
        job: "sales-1".into(),
        attempt,
        subtask,
        parallelism,
        clock: clock(),
        ..IoContext::new("sales", "out")
    }
}

#[test]
fn a_marker_waits_for_the_commit_of_every_task_whose_watermark_has_passed_partition_and_lateness() {
    let dir = tempfile::tempdir().unwrap();
    let sink =
        PartitionedFiles::json(dir.path().join("rows.jsonl")).success_marker(hours(1)).empty_partitions();
    let marker = |hour: u32| dir.path().join(format!("dt=1970-01-01/hour={hour:02}/{SUCCESS_MARKER}"));
    let mut tasks = [0, 1].map(|task| Alone::open(&sink, &context(1, task, 2), &[]));
    tasks[0].write(0, 0..5);
    tasks[1].write(3, 5..9);
    let hour = |n: i64| Timestamp::from_millis(n * HOUR);
    for (epoch, first, second) in [(1, 2, 1), (2, 2, 2)] {
        tasks[0].writer.watermark(hour(first)).unwrap();
        tasks[1].writer.watermark(hour(second)).unwrap();
        for task in &mut tasks {
            task.writer.snapshot(epoch).unwrap();
        }
        assert!(!marker(0).exists(), "epoch {epoch} is not durable yet");
        tasks[0].commit(epoch).unwrap();
        assert!(!marker(0).exists(), "the second task has not committed epoch {epoch}");
        tasks[1].commit(epoch).unwrap();
        assert_eq!(marker(0).exists(), epoch == 2, "the second task was at hour {second}");
    }
    assert_eq!(ids(dir.path()), (0..5).collect::<Vec<_>>(), "the other partition is open");
    for task in &mut tasks {
        task.writer.snapshot(LAST_EPOCH).unwrap();
    }
    for task in &mut tasks {
        task.commit(LAST_EPOCH).unwrap();
    }
    assert_eq!(ids(dir.path()), (0..9).collect::<Vec<_>>());
    // Hours 1 and 2 had no rows.
    assert!((0..4).all(|hour| marker(hour).exists()) && !marker(4).exists());
}

#[test]
fn what_was_written_behind_the_checkpoint_is_removed_and_what_the_checkpoint_has_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let sink = PartitionedFiles::csv(dir.path().join("rows.csv"));
    let mut first = Alone::open(&sink, &context(1, 0, 1), &[]);
    first.write(0, 0..10);
    let saved = vec![(0, first.writer.snapshot(1).unwrap())];
    // Behind the checkpoint: more rows of the same file, and a file of its own.
    first.write(0, 10..500);
    first.write(1, 500..600);
    drop(first);
    // Twice, since the second attempt may die before it has a checkpoint of its own.
    for attempt in [2, 3] {
        let mut again = Alone::open(&sink, &context(attempt, 0, 1), &saved);
        assert_eq!(files(dir.path()).1.len(), 2, "the file of the checkpoint and its copy");
        again.write(0, 10..20);
        if attempt == 3 {
            again.writer.snapshot(2).unwrap();
            again.commit(2).unwrap();
            assert_eq!(files(dir.path()).1.len(), 1, "the first is needed no more");
            poll(|cx| again.writer.poll_end(cx)).unwrap();
        }
    }
    assert_eq!(ids(dir.path()), (0..20).collect::<Vec<_>>());
    assert!(files(dir.path()).1.is_empty());
}

#[test]
fn a_file_that_is_gone_is_an_error_unless_readers_may_take_it_away() {
    let dir = tempfile::tempdir().unwrap();
    let sink = PartitionedFiles::json(dir.path().join("rows.jsonl")).roll_after(Duration::ZERO);
    let mut first = Alone::open(&sink, &context(1, 0, 1), &[]);
    first.write(0, 0..10);
    let saved = vec![(0, first.writer.snapshot(1).unwrap())];
    first.commit(1).unwrap();
    for path in files(dir.path()).0.into_keys() {
        fs::remove_file(path).unwrap();
    }
    let mut again = Sink::<Sale>::restore(&sink, &saved, &context(2, 0, 1)).unwrap();
    let status = poll(|cx| again.poll_ready(cx)).unwrap_err();
    assert_eq!(status.code, afflux_wire::Code::DataLoss);
    assert!(status.message.contains("is gone") && status.message.contains("may_be_moved"), "{status}");
    Alone::open(&sink.may_be_moved(), &context(2, 0, 1), &saved);
}

#[test]
fn a_commit_of_an_attempt_that_does_not_know_it_is_dead_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sink = PartitionedFiles::json(dir.path().join("rows.jsonl"));
    let mut old = Alone::open(&sink, &context(1, 0, 1), &[]);
    old.write(0, 0..10);
    let saved = vec![(0, old.writer.snapshot(1).unwrap())];
    old.commit(1).unwrap();
    let mut new = Alone::open(&sink, &context(2, 0, 1), &saved);
    // The old one writes on into its own file, and commits an epoch that the new one does not have.
    old.write(0, 10..20);
    let refused = old.writer.snapshot(2);
    new.write(0, 10..20);
    new.writer.snapshot(LAST_EPOCH).unwrap();
    new.commit(LAST_EPOCH).unwrap();
    drop(refused);
    assert_eq!(ids(dir.path()), (0..20).collect::<Vec<_>>());
}

#[test]
fn records_without_event_time_are_refused_or_dealt_by_a_closure() {
    let dir = tempfile::tempdir().unwrap();
    let by_time = PartitionedFiles::json(dir.path().join("rows.jsonl"));
    let mut alone = Alone::open(&by_time, &context(1, 0, 1), &[]);
    let row = || Batch::untimed(vec![Sale { at: 0, id: 7 }]);
    let status = alone.writer.write(&mut row()).unwrap_err();
    assert!(status.message.contains("`.partition_by(…)`"), "{status}");
    let by_id = |sale: &Sale| format!("id={}", sale.id);
    let mut alone =
        Alone::open(&by_time.clone().partition_by(by_id).success_marker(hours(0)), &context(2, 0, 1), &[]);
    alone.writer.write(&mut row()).unwrap();
    poll(|cx| alone.writer.poll_end(cx)).unwrap();
    let seen: Vec<String> = files(dir.path())
        .0
        .keys()
        .map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string())
        .collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0] == "id=7/_SUCCESS" && seen[1].starts_with("id=7/rows-"), "{seen:?}");
    let outside = |_: &Sale| "../elsewhere".to_owned();
    let mut alone = Alone::open(&by_time.partition_by(outside), &context(3, 0, 1), &[]);
    assert!(alone.writer.write(&mut row()).unwrap_err().message.contains("../elsewhere"));
}

#[test]
fn a_task_has_a_bounded_number_of_files_open() {
    let dir = tempfile::tempdir().unwrap();
    let sink = PartitionedFiles::json(dir.path().join("rows.jsonl")).by_minute();
    let mut alone = Alone::open(&sink, &context(1, 0, 1), &[]);
    for minute in 0..300_i64 {
        let row = Sale { at: minute * 60_000, id: minute as u64 };
        alone.writer.write(&mut Batch { times: vec![row.at], rows: vec![row] }).unwrap();
    }
    assert_eq!(files(dir.path()).1.len(), 300, "closed ones wait for their epoch");
    poll(|cx| alone.writer.poll_end(cx)).unwrap();
    assert_eq!(files(dir.path()).0.len(), 300);
}
