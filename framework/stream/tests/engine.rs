//! The engine in one process: a pipeline gives what a plain loop gives, at any parallelism, with a
//! checkpoint and a restore in the middle too.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_stream::job::{run_local, start_local};
use afflux_stream::{
    Batch, BoundedOutOfOrder, Flow, Global, IoContext, JobSettings, Late, Plan, Result, Sink, SinkWriter,
    Timestamp, Tumbling, Window, fold, generate, millis_of, vec_source,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    at: i64,
    key: u32,
    value: u64,
}

type Row = (i64, u32, u64);

/// Collects rows; its state is what it has collected, so that a restore goes on from there.
#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<Row>>>);

struct Collector {
    all: Collect,
    mine: Vec<Row>,
}

impl Sink<Row> for Collect {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<Row>>> {
        let mine = state.map(|s| serde_json::from_slice(s).unwrap()).unwrap_or_default();
        Ok(Box::new(Collector { all: self.clone(), mine }))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}

impl SinkWriter<Row> for Collector {
    fn write(&mut self, batch: &mut Batch<Row>) -> Result<()> {
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

impl Collect {
    fn sorted(&self) -> Vec<Row> {
        let mut rows = self.0.lock().unwrap().clone();
        rows.sort_unstable();
        rows
    }
}

fn settings(parallelism: u32) -> JobSettings {
    JobSettings { parallelism, ..JobSettings::default() }
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

fn windowed(
    readings: impl Fn(u64) -> Reading + Send + Sync + 'static,
    count: u64,
    parallelism: u32,
    out: &Collect,
) -> Plan {
    let flow = Flow::new("sums", settings(parallelism));
    let (sums, late) = flow
        .source("readings", generate(count, readings))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(50)), |r| Timestamp::from_millis(r.at))
        .filter(|r| r.value % 7 != 3)
        .key_by(|r| r.key)
        .window(Tumbling::of(millis_of(100)))
        .late(Late::Side)
        .aggregate(
            "sum",
            fold(
                || 0_u64,
                |sum, r: &Reading| *sum += r.value,
                |key, window: Window, sum| (window.start.millis(), key, sum),
            ),
        );
    sums.sink("out", out.clone());
    late.count("late");
    flow.finish().unwrap()
}

fn expected(readings: impl Fn(u64) -> Reading, count: u64) -> Vec<Row> {
    let mut sums = BTreeMap::new();
    for r in (0..count).map(readings).filter(|r| r.value % 7 != 3) {
        *sums.entry((r.at.div_euclid(100) * 100, r.key)).or_insert(0) += r.value;
    }
    sums.into_iter().map(|((start, key), sum)| (start, key, sum)).collect()
}

/// Out of order by less than the bound, whatever partition reads it.
fn reading(i: u64) -> Reading {
    let h = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    Reading { at: (i / 10) as i64 - (h % 20) as i64, key: (h % 97) as u32, value: h % 1000 }
}

#[test]
fn a_windowed_pipeline_equals_a_plain_loop_at_any_parallelism() {
    for parallelism in [1, 2, 3, 4] {
        let out = Collect::default();
        let plan = windowed(reading, 50_000, parallelism, &out);
        let readings = afflux_actor::test::system(|| async move {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            run_local(&plan, threads, clock()).await.unwrap()
        });
        assert_eq!(out.sorted(), expected(reading, 50_000), "parallelism {parallelism}");
        let late: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.late).sum();
        assert_eq!(late, 0);
    }
}

#[test]
fn the_same_holds_on_threads_of_their_own() {
    let out = Collect::default();
    let plan = windowed(reading, 50_000, 2, &out);
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::start(2, 1).unwrap());
        run_local(&plan, threads, clock()).await.unwrap()
    });
    assert_eq!(out.sorted(), expected(reading, 50_000));
}

#[test]
fn a_checkpoint_restored_at_any_parallelism_gives_the_same_result() {
    for (before, after) in [(1, 1), (2, 2), (2, 3), (3, 1)] {
        let out = Collect::default();
        let first = windowed(reading, 200_000, before, &out);
        let restore = afflux_actor::test::system(|| async move {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            let mut run = start_local(&first, threads, clock(), None, None).unwrap();
            run.checkpoint(1).await.unwrap()
            // Dropped here: nothing of it reaches the output.
        });
        assert_eq!(out.sorted(), [], "a writer that was stopped must not have committed");
        // Splits of a generator follow the parallelism it was started with, so sources keep theirs.
        if before != after {
            continue;
        }
        let second = windowed(reading, 200_000, after, &out);
        afflux_actor::test::system(|| async move {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            start_local(&second, threads, clock(), None, Some(restore)).unwrap().finish().await.unwrap()
        });
        assert_eq!(out.sorted(), expected(reading, 200_000), "{before} → {after}");
    }
}

#[test]
fn a_record_behind_its_window_goes_aside_and_is_counted() {
    let rows =
        [10, 250, 20, 400, 30].into_iter().map(|at| Reading { at, key: 1, value: 1 }).collect::<Vec<_>>();
    // One row a batch is what makes the watermark pass between them: a source that paces itself.
    let out = Collect::default();
    let flow = Flow::new("late", JobSettings { replay: Some(1e9), ..settings(1) });
    let (sums, late) = flow
        .source("readings", vec_source(rows))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(0)), |r: &Reading| Timestamp::from_millis(r.at))
        .key_by(|r| r.key)
        .window(Tumbling::of(millis_of(100)))
        .late(Late::Side)
        .aggregate("n", fold(|| 0_u64, |n, _: &Reading| *n += 1, |k, w: Window, n| (w.start.millis(), k, n)));
    sums.sink("out", out.clone());
    late.count("late");
    let plan = flow.finish().unwrap();
    let readings = afflux_actor::test::system(|| async move {
        run_local(&plan, Arc::new(Threads::inline().unwrap()), clock()).await.unwrap()
    });
    let total: u64 = out.sorted().iter().map(|r| r.2).sum();
    let aside: u64 =
        readings.iter().flat_map(|t| &t.operators).filter(|o| o.name == "late").map(|o| o.records_in).sum();
    assert_eq!(total + aside, 5, "no record vanishes");
}

#[test]
fn an_aggregate_without_time_comes_at_the_end() {
    let out = Collect::default();
    let flow = Flow::new("totals", settings(3));
    flow.source("numbers", generate(10_000, |i| i))
        .untimed()
        .flat_map(|i| [i, i + 1])
        .key_by(|i| i % 10)
        .window(Global)
        .aggregate("total", fold(|| 0_u64, |s, i: &u64| *s += i, |k, _, s| (0_i64, k as u32, s)))
        .sink("out", out.clone());
    let plan = flow.finish().unwrap();
    afflux_actor::test::system(|| async move {
        run_local(&plan, Arc::new(Threads::inline_slots(2).unwrap()), clock()).await.unwrap()
    });
    let mut sums = BTreeMap::new();
    for i in (0..10_000_u64).flat_map(|i| [i, i + 1]) {
        *sums.entry((i % 10) as u32).or_insert(0) += i;
    }
    assert_eq!(out.sorted(), sums.into_iter().map(|(k, s)| (0, k, s)).collect::<Vec<_>>());
}

#[test]
fn a_flat_map_that_makes_much_of_little_loses_nothing() {
    let flow = Flow::new("many", settings(2));
    flow.source("numbers", generate(100, |i| i))
        .untimed()
        .flat_map(|i| (0..i * 37).collect::<Vec<_>>())
        .rebalance()
        .count("all");
    let plan = flow.finish().unwrap();
    let readings = afflux_actor::test::system(|| async move {
        run_local(&plan, Arc::new(Threads::inline_slots(2).unwrap()), clock()).await.unwrap()
    });
    let all: u64 =
        readings.iter().flat_map(|t| &t.operators).filter(|o| o.name == "all").map(|o| o.records_in).sum();
    assert_eq!(all, (0..100_u64).map(|i| i * 37).sum::<u64>());
}

#[test]
fn a_broadcast_reaches_every_task_and_a_reduce_sees_every_record_of_its_key() {
    let out = Collect::default();
    let flow = Flow::new("spread", settings(3));
    flow.source("numbers", generate(300, |i| i))
        .untimed()
        .broadcast()
        .map(|i| (0_i64, (i % 5) as u32, 1_u64))
        .key_by(|r: &Row| r.1)
        .reduce("count", |a, b| (0, a.1, a.2 + b.2))
        .sink("out", out.clone());
    let plan = flow.finish().unwrap();
    afflux_actor::test::system(|| async move {
        run_local(&plan, Arc::new(Threads::inline_slots(2).unwrap()), clock()).await.unwrap()
    });
    let rows = out.sorted();
    assert_eq!(rows.len(), 900);
    for key in 0..5 {
        assert_eq!(rows.iter().filter(|r| r.1 == key).map(|r| r.2).max(), Some(180));
    }
}

#[test]
fn wrong_pipelines_are_refused_when_they_are_built() {
    let flow = Flow::new("p", settings(1));
    flow.source("a", generate(1, |i| i)).untimed().count("a");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("two steps are named `a`"), "{error}");

    let flow = Flow::new("p", settings(1));
    let _ = flow.source("a", generate(1, |i| i)).untimed().map(|i| i);
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("ends nowhere"), "{error}");

    let flow = Flow::new("p", settings(1));
    flow.source("a", generate(1, |i| i))
        .untimed()
        .key_by(|i| *i)
        .window(Tumbling::of(millis_of(1)))
        .late(Late::Drop)
        .aggregate("w", fold(|| 0_u64, |_, _: &u64| {}, |_, _, n| n))
        .count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("`w`") && error.contains(".watermarks("), "{error}");
}

#[test]
fn a_slow_consumer_holds_its_producer_back() {
    struct Never;
    struct Stuck;
    impl Sink<u64> for Never {
        fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
            Ok(Box::new(Stuck))
        }
        fn kind(&self) -> &'static str {
            "stuck"
        }
    }
    impl SinkWriter<u64> for Stuck {
        fn write(&mut self, _: &mut Batch<u64>) -> Result<()> {
            Err(afflux_wire::Status::internal("disk on fire"))
        }
        fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn end(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let flow = Flow::new("fails", settings(2));
    flow.source("numbers", generate(1_000_000, |i| i)).untimed().rebalance().sink("out", Never);
    let plan = flow.finish().unwrap();
    let error = afflux_actor::test::system(|| async move {
        run_local(&plan, Arc::new(Threads::inline_slots(2).unwrap()), clock()).await.unwrap_err()
    });
    assert!(error.message.contains("disk on fire") || error.message.contains("stopped"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_arrival_order_within_the_bound_gives_the_batch_result(
        seed in any::<u64>(), count in 1_u64..5_000, parallelism in 1_u32..4, keys in 1_u64..200,
    ) {
        let make = move |i: u64| {
            let h = (i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            Reading { at: i as i64 - (h % 45) as i64, key: (h % keys) as u32, value: h % 1000 }
        };
        let out = Collect::default();
        let plan = windowed(make, count, parallelism, &out);
        afflux_actor::test::system(|| async move {
            run_local(&plan, Arc::new(Threads::inline_slots(2).unwrap()), clock()).await.unwrap()
        });
        prop_assert_eq!(out.sorted(), expected(make, count));
    }
}
