//! `async_map` under a clock that stands still until nothing else can run: bounds, order, watermarks,
//! retries, timeouts, checkpoints.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use afflux_actor::{Clock, Threads};
use afflux_stream::job::{LocalRun, run_local, start_local};
use afflux_stream::{
    AsyncMap, Backoff, Batch, BoundedOutOfOrder, DeadReason, Errors, Flow, IoContext, JobSettings, Late,
    Plan, ROUND, Result, Sink, SinkWriter, TaskReading, Timestamp, Tumbling, Window, fold, generate,
    millis_of, secs,
};
use afflux_wire::{Code, Status};
use proptest::prelude::*;

/// Collects rows; its state is what it has collected, so that a restore goes on from there.
#[derive(Clone)]
struct Collect<T>(Arc<Mutex<Vec<T>>>);

struct Collector<T> {
    all: Collect<T>,
    mine: Vec<T>,
}

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

trait Row: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + 'static {}
impl<T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + 'static> Row for T {}

impl<T: Row> Sink<T> for Collect<T> {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let mine = state.map(|s| serde_json::from_slice(s).unwrap()).unwrap_or_default();
        Ok(Box::new(Collector { all: self.clone(), mine }))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}

impl<T: Row> SinkWriter<T> for Collector<T> {
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

impl<T: Clone> Collect<T> {
    fn rows(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort_unstable();
    rows
}

fn flow(parallelism: u32) -> Flow {
    Flow::new("p", JobSettings { parallelism, ..JobSettings::default() })
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline_slots(2).unwrap())
}

fn run(flow: Flow) -> Result<Vec<TaskReading>> {
    let plan = flow.finish()?;
    afflux_actor::test::paused(|| async move { run_local(&plan, threads(), clock()).await })
}

fn mix(i: u64, seed: u64) -> u64 {
    (i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
}

/// How many questions are on their way, and how many were at most.
#[derive(Clone, Default)]
struct Traffic {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

struct OnTheWay(Traffic);

impl Traffic {
    fn enter(&self) -> OnTheWay {
        self.asked.fetch_add(1, SeqCst);
        self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        OnTheWay(self.clone())
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_record_has_its_answer_in_order_where_asked_and_never_late(
        count in 0_u64..3_000, parallelism in 1_u32..4, in_flight in 1_usize..200, ordered in any::<bool>(),
        seed in any::<u64>(), spread in any::<bool>(),
    ) {
        let how = if ordered { AsyncMap::ordered() } else { AsyncMap::unordered() };
        let traffic = Traffic::default();
        let seen = traffic.clone();
        let flow = flow(parallelism);
        // Records out of order by less than the bound, answers after 0 to 50 ms.
        let at = move |i: u64| i as i64 - (mix(i, seed) % 30) as i64;
        let numbers = flow
            .source("numbers", generate(count, |i| i))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(30 * 4)), move |i| Timestamp::from_millis(at(*i)));
        let numbers = if spread { numbers.rebalance() } else { numbers.flat_map(|i| [i]) };
        let squares = numbers.async_map("square", how.in_flight(in_flight), move |_, i| {
            let seen = seen.clone();
            async move {
                let _on = seen.enter();
                tokio::time::sleep(Duration::from_millis(mix(i, seed + 1) % 50)).await;
                Ok((i, i * i))
            }
        });
        let out = Collect::default();
        let sums = Collect::default();
        let (squares, again) = squares.tee();
        squares.sink("out", out.clone());
        again
            .key_by(|r| r.0 % 3)
            .window(Tumbling::of(millis_of(100)))
            .late(Late::Drop)
            .aggregate("sum", fold(|| 0_u64, |s, r: &(u64, u64)| *s += r.1, |k, w: Window, s| (w.start.millis(), k, s)))
            .sink("sums", sums.clone());
        let readings = run(flow).unwrap();

        let rows = out.rows();
        prop_assert_eq!(sorted(rows.clone()), (0..count).map(|i| (i, i * i)).collect::<Vec<_>>());
        if ordered && !spread {
            for task in 0..u64::from(parallelism) {
                let mine = rows.iter().map(|r| r.0).filter(|i| i % u64::from(parallelism) == task);
                prop_assert!(mine.collect::<Vec<_>>().is_sorted(), "what one split gave stays in its order");
            }
        }
        prop_assert!(traffic.most.load(SeqCst) <= in_flight * parallelism as usize);
        let late: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.late).sum();
        prop_assert_eq!(late, 0, "no result crosses its watermark");
        let mut expected = BTreeMap::new();
        for i in 0..count {
            *expected.entry((at(i).div_euclid(100) * 100, i % 3)).or_insert(0) += i * i;
        }
        let expected: Vec<(i64, u64, u64)> = expected.into_iter().map(|((w, k), s)| (w, k, s)).collect();
        prop_assert_eq!(sorted(sums.rows()), expected);
    }

    #[test]
    fn a_checkpoint_does_not_wait_for_answers_and_a_restore_asks_again(
        parallelism in 1_u32..4, ordered in any::<bool>(), seed in any::<u64>(), wait in 1_u64..200,
    ) {
        let count = 4_000;
        let out = Collect::default();
        let keys: Arc<Mutex<BTreeMap<u64, BTreeSet<String>>>> = Arc::default();
        let plan = |traffic: Traffic| -> Plan {
            let keys = Arc::clone(&keys);
            let how = if ordered { AsyncMap::ordered() } else { AsyncMap::unordered() };
            let flow = flow(parallelism);
            flow.source("numbers", generate(count, |i| i))
                .watermarks_by(BoundedOutOfOrder::by(millis_of(9)), |i| Timestamp::from_millis(*i as i64))
                .async_map("double", how.in_flight(50), move |cx, i| {
                    let (traffic, keys) = (traffic.clone(), Arc::clone(&keys));
                    async move {
                        let _on = traffic.enter();
                        keys.lock().unwrap().entry(i).or_default().insert(cx.idempotency_key().to_string());
                        tokio::time::sleep(Duration::from_millis(50 + mix(i, seed) % 100)).await;
                        Ok(i * 2)
                    }
                })
                .sink("out", out.clone());
            flow.finish().unwrap()
        };
        let before = Traffic::default();
        let first = plan(before.clone());
        let unanswered = Arc::new(AtomicUsize::new(0));
        let at_barrier = Arc::clone(&unanswered);
        let restore = afflux_actor::test::paused(|| async move {
            let mut run = start_local(&first, threads(), clock(), None, None).unwrap();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let restore = run.checkpoint(1).await.unwrap();
            at_barrier.store(before.now.load(SeqCst), SeqCst);
            restore
        });
        prop_assert!(unanswered.load(SeqCst) > 0, "the checkpoint came with questions on their way");
        prop_assert!(out.rows().is_empty(), "what was stopped must not have committed");
        let asked = keys.lock().unwrap().len();

        let after = Traffic::default();
        let second = plan(after.clone());
        afflux_actor::test::paused(|| async move {
            start_local(&second, threads(), clock(), None, Some(restore)).unwrap().finish().await.unwrap()
        });
        prop_assert_eq!(sorted(out.rows()), (0..count).map(|i| i * 2).collect::<Vec<_>>());
        prop_assert!(after.asked.load(SeqCst) >= count as usize - asked);
        let keys = keys.lock().unwrap();
        let distinct: BTreeSet<&String> = keys.values().flatten().collect();
        prop_assert_eq!(distinct.len(), keys.values().map(BTreeSet::len).sum::<usize>(), "no two records share a key");
        if parallelism == 1 {
            // What the first run still read behind the barrier is read again, by another attempt.
            let twice: Vec<_> = keys.values().filter(|k| k.len() > 1).collect();
            prop_assert!(
                twice.len() < unanswered.load(SeqCst) && twice.iter().all(|k| k.iter().any(|k| k.contains("/2/"))),
                "a record that is asked about again keeps its key: {twice:?}"
            );
        }
    }
}

#[test]
fn what_had_an_answer_at_the_barrier_is_not_asked_again() {
    // Ordered, the first answer is slow: those behind it are finished when the barrier comes.
    let asked: Arc<Mutex<Vec<u64>>> = Arc::default();
    let out = Collect::default();
    let plan = || {
        let asked = Arc::clone(&asked);
        // A record a millisecond.
        let flow = Flow::new("p", JobSettings { replay: Some(1.0), ..JobSettings::default() });
        flow.source("numbers", generate(3_000, |i| i))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(9)), |i| Timestamp::from_millis(*i as i64))
            .async_map("slow-first", AsyncMap::ordered().in_flight(2_000), move |_, i| {
                let asked = Arc::clone(&asked);
                async move {
                    asked.lock().unwrap().push(i);
                    tokio::time::sleep(Duration::from_millis(if i == 0 { 1_000 } else { 1 })).await;
                    Ok(i)
                }
            })
            .sink("out", out.clone());
        flow.finish().unwrap()
    };
    let first = plan();
    let restore = afflux_actor::test::paused(|| async move {
        let mut run = start_local(&first, threads(), clock(), None, None).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        run.checkpoint(1).await.unwrap()
    });
    type Entry = (Option<String>, u64, Option<i64>, Option<u64>, Option<u64>);
    let parts = restore.get::<(String, u64, Vec<Entry>)>("slow-first", "unanswered").unwrap();
    let saved = &parts[0].1.2;
    assert!(saved[0].3 == Some(0) && saved[0].4.is_none(), "the first is a question: {:?}", saved[0]);
    asked.lock().unwrap().clear();
    let questions: BTreeSet<u64> = saved.iter().filter_map(|e| e.3).collect();
    let results: BTreeSet<u64> = saved.iter().filter_map(|e| e.4).collect();
    let second = plan();
    afflux_actor::test::paused(|| async move {
        start_local(&second, threads(), clock(), None, Some(restore)).unwrap().finish().await.unwrap()
    });
    let asked = asked.lock().unwrap();
    assert!(results.len() > 300, "{} results", results.len());
    assert!(questions.iter().all(|q| asked.contains(q)));
    assert!(!results.iter().any(|r| asked.contains(r)), "an answer is not asked for twice");
    assert_eq!(out.rows(), (0..3_000).collect::<Vec<_>>());
}

#[test]
fn more_or_fewer_tasks_after_a_restore_ask_about_all_that_had_no_answer() {
    for (before, after) in [(3, 1), (1, 3), (4, 2), (2, 3)] {
        let out = Collect::default();
        let plan = |tasks: u32| {
            // A record a millisecond, read by one task, written by one.
            let flow = Flow::new("p", JobSettings { replay: Some(1.0), ..JobSettings::default() });
            flow.source("numbers", generate(2_000, |i| i))
                .watermarks_by(BoundedOutOfOrder::by(millis_of(9)), |i| Timestamp::from_millis(*i as i64))
                .parallelism(tasks)
                .rebalance()
                .async_map("slow", AsyncMap::ordered().in_flight(1_000), |_, i| async move {
                    tokio::time::sleep(Duration::from_millis(200 + mix(i, 1) % 300)).await;
                    Ok(i)
                })
                .gather()
                .sink("out", out.clone());
            flow.finish().unwrap()
        };
        let (first, second) = (plan(before), plan(after));
        let restore = afflux_actor::test::paused(|| async move {
            let mut run = start_local(&first, threads(), clock(), None, None).unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            run.checkpoint(1).await.unwrap()
        });
        afflux_actor::test::paused(|| async move {
            start_local(&second, threads(), clock(), None, Some(restore)).unwrap().finish().await.unwrap()
        });
        assert_eq!(sorted(out.rows()), (0..2_000).collect::<Vec<u64>>(), "{before} → {after}");
    }
}

#[test]
fn records_of_a_key_are_asked_about_in_turn_and_keys_at_once_over_a_rescale_too() {
    for (before, after, ordered) in [(1, 1, false), (2, 2, true), (3, 1, false), (1, 3, false)] {
        let out = Collect::default();
        // What is being asked about now, by key, and all that was asked about last by a task.
        let now: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
        let most = Arc::new(AtomicUsize::new(0));
        let plan = |tasks: u32| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            now.lock().unwrap().clear();
            let how = if ordered { AsyncMap::ordered() } else { AsyncMap::unordered() };
            let flow = Flow::new("p", JobSettings { replay: Some(1.0), ..JobSettings::default() });
            flow.source("numbers", generate(2_000, |i| (mix(i, 3) % 20, i)))
                .watermarks_by(BoundedOutOfOrder::by(millis_of(9)), |r| Timestamp::from_millis(r.1 as i64))
                .parallelism(tasks)
                .key_by(|r| r.0)
                .async_map("book", how.in_flight(1_500), move |_, (key, i)| {
                    let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                    async move {
                        let before = now.lock().unwrap().insert(key, i);
                        assert_eq!(before, None, "{i} of {key} is asked about beside another");
                        most.fetch_max(now.lock().unwrap().len(), SeqCst);
                        tokio::time::sleep(Duration::from_millis(mix(i, 1) % 30)).await;
                        now.lock().unwrap().remove(&key);
                        Ok((key, i))
                    }
                })
                .gather()
                .sink("out", out.clone());
            flow.finish().unwrap()
        };
        let first = plan(before);
        let restore = afflux_actor::test::paused(|| async move {
            let mut run = start_local(&first, threads(), clock(), None, None).unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            run.checkpoint(1).await.unwrap()
        });
        let second = plan(after);
        afflux_actor::test::paused(|| async move {
            start_local(&second, threads(), clock(), None, Some(restore)).unwrap().finish().await.unwrap()
        });
        assert!(most.load(SeqCst) > 5, "keys are asked about at once");
        let rows: Vec<(u64, u64)> = out.rows();
        for key in 0..20 {
            let got: Vec<u64> = rows.iter().filter(|r| r.0 == key).map(|r| r.1).collect();
            let all: Vec<u64> = (0..2_000).filter(|i| mix(*i, 3) % 20 == key).collect();
            assert_eq!(got, all, "key {key}, {before} → {after}");
        }
    }
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_given_up_as_the_policy_says() {
    let tries: Arc<Mutex<BTreeMap<u64, Vec<u32>>>> = Arc::default();
    let noted = Arc::clone(&tries);
    let flow = flow(2);
    let backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_millis(80) };
    let how = AsyncMap::ordered().retries(2, backoff).timeout(secs(1)).errors(Errors::DeadLetter);
    let (good, dead) =
        flow.source("numbers", generate(60, |i| i)).untimed().async_map("ask", how, move |cx, i| {
            noted.lock().unwrap().entry(i).or_default().push(cx.attempt());
            async move {
                match i % 6 {
                    0 => Err(Status::invalid("wrong for good")),
                    1 if cx.attempt() < 3 => Err(Status::unavailable("not yet")),
                    2 => Err(Status::new(Code::ResourceExhausted, "never")),
                    3 => std::future::pending().await,
                    _ => Ok(i),
                }
            }
        });
    let (out, letters) = (Collect::default(), Collect::default());
    good.sink("out", out.clone());
    dead.sink("dead", letters.clone());
    let readings = run(flow).unwrap();
    assert_eq!(sorted(out.rows()), (0..60).filter(|i| matches!(i % 6, 1 | 4 | 5)).collect::<Vec<u64>>());
    for (i, tries) in &*tries.lock().unwrap() {
        let expected: &[u32] = if matches!(i % 6, 1..=3) { &[1, 2, 3] } else { &[1] };
        assert_eq!(tries, expected, "tries of {i}");
    }
    let rows = letters.rows();
    assert_eq!(rows.len(), 30);
    for letter in rows {
        let expected = match letter.record % 6 {
            0 => ("wrong for good", DeadReason::Error, 1),
            2 => ("never", DeadReason::Error, 3),
            _ => ("no answer within 1000 ms", DeadReason::Timeout, 3),
        };
        assert_eq!((letter.error.as_str(), letter.reason, letter.attempt), expected);
    }
    let sums = readings.iter().flat_map(|t| &t.operators).filter(|o| o.name == "ask");
    let (errors, timeouts) = sums.fold((0, 0), |s, o| (s.0 + o.dead_errors, s.1 + o.dead_timeouts));
    assert_eq!((errors, timeouts), (20, 10));
}

#[test]
fn an_error_fails_the_job_with_operator_tries_and_record() {
    let flow = flow(1);
    let how = AsyncMap::unordered().retries(1, Backoff::default());
    flow.source("numbers", generate(60, |i| i))
        .untimed()
        .async_map("ask", how, |_, i| async move {
            if i == 41 { Err(Status::unavailable("nobody is there")) } else { Ok(i) }
        })
        .count("n");
    let error = run(flow).unwrap_err();
    assert!(
        error.message.ends_with("operator ask: nobody is there after 2 tries; the record: 41"),
        "{error}"
    );
    assert_eq!(error.code, Code::Unavailable);
}

#[test]
fn a_panic_in_a_question_names_the_operator() {
    let flow = flow(1);
    flow.source("numbers", generate(60, |i| i))
        .untimed()
        .async_map("ask", AsyncMap::unordered(), |_, i: u64| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(i < 41, "{i} is too much");
            Ok(i)
        })
        .count("n");
    let error = run(flow).unwrap_err().message;
    assert!(error.contains("operator ask panicked: 41 is too much"), "{error}");
}

#[test]
fn a_full_set_closes_the_gate() {
    // Nobody answers: the source must not be read to its end.
    let flow = flow(1);
    flow.source("numbers", generate(1_000_000, |i| i))
        .untimed()
        .async_map("never", AsyncMap::ordered().in_flight(10), |_, _| std::future::pending::<Result<u64>>())
        .count("n");
    let plan = flow.finish().unwrap();
    let readings = afflux_actor::test::paused(|| async move {
        let run = start_local(&plan, threads(), clock(), None, None).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        run.readings()
    });
    let read: u64 =
        readings.iter().flat_map(|t| &t.operators).filter(|o| o.name == "never").map(|o| o.records_in).sum();
    assert!((10..=10 + 1_024).contains(&read), "{read} records were taken in");
}

#[test]
fn a_wrong_bound_is_refused_when_the_pipeline_is_built() {
    let flow = flow(1);
    let numbers = flow.source("numbers", generate(1, |i| i)).untimed();
    numbers.async_map("ask", AsyncMap::ordered().in_flight(0), |_, i| async move { Ok(i) }).count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("`ask`") && error.contains("ASYNC_IN_FLIGHT_MAX"), "{error}");
}

#[test]
fn a_round_of_confirmations_waits_for_every_answer() {
    let left = Arc::new(Mutex::new(BTreeSet::new()));
    let answered = Arc::clone(&left);
    let flow = Flow::new("p", JobSettings { replay: Some(1.0), ..JobSettings::default() });
    flow.source("numbers", generate(3_000, |i| i))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(9)), |i| Timestamp::from_millis(*i as i64))
        .async_map("slow", AsyncMap::unordered().in_flight(2_000), move |_, i| {
            let answered = Arc::clone(&answered);
            async move {
                tokio::time::sleep(Duration::from_millis(700)).await;
                answered.lock().unwrap().insert(i);
                Ok(i)
            }
        })
        .count("n");
    let plan = flow.finish().unwrap();
    afflux_actor::test::paused(|| async move {
        let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(left.lock().unwrap().is_empty(), "nothing has an answer yet");
        let asked = |run: &LocalRun| {
            let readings = run.readings();
            readings.iter().flat_map(|t| &t.operators).find(|o| o.name == "slow").unwrap().records_in
        };
        let before = asked(&run);
        assert!(before >= 400, "{before} records were taken in");
        run.checkpoint(ROUND | 1).await.unwrap();
        let left = left.lock().unwrap();
        assert!((0..before).all(|i| left.contains(&i)), "all that came before the round is done");
    });
}
