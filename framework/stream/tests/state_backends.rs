//! One suite over both backends of state: what a pipeline gives does not depend on where its state lies,
//! a snapshot of one is restored in the other, and with other tasks.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;
#[path = "common/halting.rs"]
mod halting;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use afflux_actor::{ActorMetrics, Threads};
use afflux_stream::job::{Deployment, Executor, place, run_local};
use afflux_stream::{
    BoundedOutOfOrder, Flow, Global, JobSettings, KeyedOperator, Late, OperatorCx, Output, Plan, Result,
    State, StateBackend, StateRoot, TaskEvent, Timestamp, Tumbling, fold, millis_of,
};
use afflux_wire::{Attempt, NodeId};
use common::{Collect, clock, run, run_over_a_restore};
use halting::{Halting, through};
use serde::{Deserialize, Serialize};

/// Memory for values: far fewer rows than there are keys.
const CACHE_BYTES: u64 = 128 << 10;
/// Keys: a hundred times what the cache holds of most states; for restores, some times that.
const MANY: u64 = 100_000;
const SOME: u64 = 12_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    key: u64,
    value: u64,
    at: i64,
}

fn row(i: u64, keys: u64) -> Row {
    let h = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    // One row in four belongs to a few keys that are used all the time.
    let key = if h.is_multiple_of(4) { h % 97 } else { h % keys };
    Row { key, value: h % 1_000, at: (i / 50) as i64 - (h % 20) as i64 }
}

/// Counts a key's rows since it was last forgotten; forgets it by itself, or when it was silent for long.
struct Visits;

#[derive(Default, Serialize, Deserialize)]
struct Seen {
    count: u64,
    names: Vec<String>,
    until: i64,
}

impl State for Seen {
    const EXPIRES: bool = true;
    fn is_empty(&self) -> bool {
        self.count == 0
    }
    fn expire(&mut self, now: i64) {
        if self.until <= now {
            *self = Self::default();
        }
    }
    fn expires_at(&self) -> Option<i64> {
        (self.count > 0).then_some(self.until)
    }
}

impl KeyedOperator for Visits {
    type Key = String;
    type Input = Row;
    type Output = (String, u64);
    type State = Seen;

    fn process(
        &mut self,
        state: &mut Seen,
        row: Row,
        cx: &mut OperatorCx<'_, String>,
        out: &mut Output<(String, u64)>,
    ) -> Result<()> {
        state.count += 1;
        state.names.push(format!("row {}", row.value));
        state.until = row.at + 1_500;
        if row.value.is_multiple_of(7) {
            cx.timer_at(Timestamp::from_millis(row.at + 100));
        }
        out.emit((cx.key().clone(), state.names.iter().map(|n| n.len() as u64).sum()));
        if row.value.is_multiple_of(5) {
            *state = Seen::default();
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: &mut Seen,
        at: Timestamp,
        cx: &mut OperatorCx<'_, String>,
        out: &mut Output<(String, u64)>,
    ) -> Result<()> {
        out.emit((cx.key().clone(), 1_000_000 + at.millis() as u64));
        Ok(())
    }
}

/// Which pipeline.
#[derive(Clone, Copy, Debug)]
enum Of {
    Reduce,
    Fold,
    AllTime,
    Tumbling,
    Operator,
}

const ALL: [Of; 5] = [Of::Reduce, Of::Fold, Of::AllTime, Of::Tumbling, Of::Operator];

type Results = Collect<(String, u64)>;

/// Where its state lies, and how many tasks have a share of it.
type Kept = (StateBackend, u32);

fn plan(of: Of, keys: u64, (backend, tasks): Kept, halt: bool, directory: &Path, out: &Results) -> Plan {
    let settings = JobSettings {
        state_backend: backend,
        state_dir: Some(directory.to_string_lossy().into_owned()),
        state_cache_bytes: Some(CACHE_BYTES),
        ..JobSettings::default()
    };
    let flow = Flow::new("backends", settings);
    let keyed = flow
        .source("rows", Halting { halt, ..through(keys + keys / 2, 7, move |i| row(i, keys)) })
        .watermarks_by(BoundedOutOfOrder::by(millis_of(20)), |r| Timestamp::from_millis(r.at))
        .parallelism(tasks);
    let text = |key: u64| key.to_string();
    let sum = || {
        fold(
            || 0_u64,
            |sum, r: &Row| *sum += r.value,
            |key: u64, w: afflux_stream::Window, sum| (format!("{key} from {}", w.start.millis()), sum),
        )
    };
    match of {
        Of::Reduce => keyed
            .key_by(|r: &Row| r.key)
            .reduce("max", |a, b| if a.value >= b.value { a } else { b })
            .map(move |r| (text(r.key), r.value))
            .parallelism(1)
            .rebalance()
            .sink("out", out.clone()),
        Of::Fold => keyed
            .key_by(|r: &Row| r.key)
            .fold("sums", || 0_u64, |sum, r: &Row| *sum += r.value)
            .map(move |(key, sum)| (text(key), sum))
            .parallelism(1)
            .rebalance()
            .sink("out", out.clone()),
        Of::AllTime => {
            keyed
                .key_by(|r: &Row| r.key)
                .window(Global)
                .aggregate("sum", sum())
                .parallelism(1)
                .rebalance()
                .sink("out", out.clone());
        }
        Of::Tumbling => keyed
            .key_by(|r: &Row| r.key)
            .window(Tumbling::of(millis_of(1_000)))
            .late(Late::Drop)
            .aggregate("sum", sum())
            .parallelism(1)
            .rebalance()
            .sink("out", out.clone()),
        Of::Operator => keyed
            .key_by(move |r: &Row| text(r.key))
            .operate("visits", "visits", || Visits)
            .parallelism(1)
            .rebalance()
            .sink("out", out.clone()),
    }
    flow.finish().unwrap()
}

fn whole(of: Of, keys: u64, kept: Kept) -> Vec<(String, u64)> {
    let (directory, out) = (tempfile::tempdir().unwrap(), Results::default());
    run(plan(of, keys, kept, false, directory.path(), &out));
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "{of:?} left files of state behind");
    out.sorted()
}

#[test]
fn state_on_disk_gives_what_state_in_memory_gives_with_a_hundred_times_the_keys_that_memory_holds() {
    for of in ALL {
        let expected = whole(of, MANY, (StateBackend::Memory, 1));
        assert!(expected.len() as u64 > MANY / 3, "{of:?} is no test with {} rows", expected.len());
        let found = whole(of, MANY, (StateBackend::Disk, 2));
        assert_eq!(found.len(), expected.len(), "{of:?}");
        assert!(found == expected, "{of:?}: the backends differ");
    }
}

#[test]
fn a_snapshot_of_either_backend_is_restored_in_the_other_by_more_and_by_fewer_tasks() {
    use StateBackend::{Disk, Memory};
    for of in ALL {
        let expected = whole(of, SOME, (Memory, 1));
        for (before, after) in [((Memory, 1), (Disk, 2)), ((Disk, 3), (Memory, 2)), ((Disk, 2), (Disk, 1))] {
            let (directory, out) = (tempfile::tempdir().unwrap(), Results::default());
            let first = plan(of, SOME, before, true, directory.path(), &Results::default());
            run_over_a_restore(first, plan(of, SOME, after, true, directory.path(), &out));
            let found = out.sorted();
            // Rows that were collected before the checkpoint are in the sink's state.
            assert_eq!(found.len(), expected.len(), "{of:?} from {before:?} to {after:?}");
            assert!(found == expected, "{of:?} from {before:?} to {after:?}: results differ");
        }
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let plan =
        plan(Of::Fold, SOME, (StateBackend::Disk, 1), false, &file.path().join("state"), &Results::default());
    let error = afflux_actor::test::system(|| async move {
        run_local(&plan, Arc::new(Threads::inline().unwrap()), clock()).await.unwrap_err()
    });
    assert!(error.message.contains("state.dir"), "{error}");
    assert!(error.message.contains(&*file.path().to_string_lossy()), "{error}");
}

/// Bytes that a disk has which is not full.
const ENOUGH: u64 = 1 << 40;
/// Looks of a test at what it waits for, 10 ms of the played clock apart.
const LOOKS_MAX: u32 = 10_000;

async fn until(what: &str, seen: impl Fn() -> bool) {
    for _ in 0..LOOKS_MAX {
        if seen() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not seen: {what}");
}

#[test]
fn a_full_disk_stops_the_input_of_a_job_which_stays_up_and_goes_on_by_itself() {
    let expected = whole(Of::Fold, MANY, (StateBackend::Memory, 1));
    let (directory, out) = (tempfile::tempdir().unwrap(), Results::default());
    let plan = plan(Of::Fold, MANY, (StateBackend::Disk, 1), false, directory.path(), &out);
    let free = Arc::new(AtomicU64::new(0));
    let asked = Arc::clone(&free);
    let root = StateRoot::default().reserve_bytes(1).free_with(move |_| Ok(asked.load(Relaxed)));
    let counters = Arc::clone(root.counters());
    afflux_actor::test::system(|| async move {
        let node = NodeId::new("local");
        let deployment = Deployment {
            job: "full".into(),
            pipeline: plan.graph().pipeline.clone(),
            attempt: Attempt(1),
            settings: (**plan.settings()).clone(),
            build: String::new(),
            fingerprint: plan.graph().fingerprint(),
            graph: plan.graph().clone(),
            placement: place(&plan.widths(), std::slice::from_ref(&node)),
            splits: plan.splits().unwrap(),
            restore: None,
            restore_from: None,
            allow_orphaned_state: false,
            listed_parallelism: 0,
            started_ms: 0,
            poison: afflux_stream::Ledger::default(),
        };
        let executor = Executor {
            threads: Arc::new(Threads::inline_slots(2).unwrap()),
            node,
            mesh: None,
            caller: None,
            clock: clock(),
            metrics: ActorMetrics::unregistered(),
            state: root,
        };
        let (sender, mut events) = tokio::sync::mpsc::channel(64);
        let told = Arc::new(move |id, event| sender.try_send((id, event)).unwrap());
        let running = executor.deploy(&plan, Arc::new(deployment), None, told).unwrap();
        let taken_in = || -> u64 {
            let operators = running.tasks.iter().flat_map(|task| task.meter.read().operators);
            operators.filter(|operator| operator.name == "sums").map(|operator| operator.records_in).sum()
        };
        until("the job that stops", || counters.reading().stopped == 1).await;
        until("that it looks again and again", || counters.reading().no_room > 5).await;
        let before = taken_in();
        assert!(before > 0 && before < MANY, "{before} rows were taken in");
        until("that it goes on looking", || counters.reading().no_room > 10).await;
        assert_eq!(taken_in(), before, "it takes input");
        assert!(events.try_recv().is_err(), "a task ended or failed");
        free.store(ENOUGH, Relaxed);
        for _ in 0..running.tasks.len() {
            let (id, event) = events.recv().await.unwrap();
            assert!(matches!(event, TaskEvent::Finished(_)), "{id}: {event:?}");
        }
        assert_eq!(counters.reading().stopped, 0);
    });
    assert!(out.sorted() == expected);
}
