//! Exchanges and second consumers: every record comes exactly once to each place it belongs to, in
//! the order its producer sent it.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_stream::job::{LocalRun, run_local, start_local};
use afflux_stream::{
    Batch, BoundedOutOfOrder, Either, Flow, IoContext, JobSettings, Key, KeyGroup, Partitioning, Plan,
    Result, Sink, SinkWriter, TaskReading, Timestamp, generate, millis_of,
};
use proptest::prelude::*;

/// What each task of a sink got, in order: `(task, record)`.
#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<(u32, u64)>>>);

struct Collector {
    all: Collect,
    subtask: u32,
}

impl Sink<u64> for Collect {
    fn open(&self, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(Collector { all: self.clone(), subtask: cx.subtask }))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}

impl SinkWriter<u64> for Collector {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        let subtask = self.subtask;
        self.all.0.lock().unwrap().extend(batch.rows.drain(..).map(|row| (subtask, row)));
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Collect {
    fn rows(&self) -> Vec<(u32, u64)> {
        self.0.lock().unwrap().clone()
    }
    fn sorted(&self) -> Vec<u64> {
        let mut rows: Vec<u64> = self.rows().into_iter().map(|(_, row)| row).collect();
        rows.sort_unstable();
        rows
    }
}

fn flow(parallelism: u32) -> Flow {
    Flow::new("p", JobSettings { parallelism, ..JobSettings::default() })
}

fn run(plan: Plan) -> Vec<TaskReading> {
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        run_local(&plan, threads, Clock::starting_at(SystemTime::UNIX_EPOCH)).await.unwrap()
    })
}

/// Runs `0..count` through a partitioning.
fn dealt(count: u64, parallelism: u32, partitioning: Partitioning<u64>) -> (Collect, Plan) {
    let out = Collect::default();
    let flow = flow(parallelism);
    flow.source("numbers", generate(count, |i| i)).untimed().partition(partitioning).sink("out", out.clone());
    let plan = flow.finish().unwrap();
    run(plan.clone());
    assert_eq!(out.sorted(), (0..count).collect::<Vec<_>>(), "each record exactly once");
    (out, plan)
}

/// In each task, what one of `producers` sent is in its order.
fn order_is_kept(rows: &[(u32, u64)], producers: u32) {
    for task in rows.iter().map(|r| r.0).max().into_iter().flat_map(|last| 0..=last) {
        for producer in 0..producers {
            let sent: Vec<u64> = rows
                .iter()
                .filter(|(t, row)| *t == task && row % u64::from(producers) == u64::from(producer))
                .map(|r| r.1)
                .collect();
            assert!(sent.is_sorted(), "task {task} got what producer {producer} sent out of order");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_range_goes_to_its_task(
        count in 0_u64..4_000, parallelism in 1_u32..5,
        mut boundaries in proptest::collection::btree_set(0_u64..5_000, 0..6).prop_map(Vec::from_iter),
    ) {
        boundaries.sort_unstable();
        let (out, plan) = dealt(count, parallelism, Partitioning::range(|x| *x, boundaries.clone()));
        let widths = plan.widths();
        let tasks = if parallelism == 1 && boundaries.is_empty() { vec![1] }
            else { vec![parallelism, boundaries.len() as u32 + 1] };
        prop_assert_eq!(widths, tasks);
        for (task, row) in out.rows() {
            let range = boundaries.iter().filter(|b| **b <= row).count() as u32;
            prop_assert_eq!(task, range);
        }
        order_is_kept(&out.rows(), parallelism);
    }

    #[test]
    fn a_key_goes_to_the_task_that_owns_its_group(count in 0_u64..4_000, parallelism in 1_u32..5) {
        let (out, _) = dealt(count, parallelism, Partitioning::hash(|x| x % 97));
        for (task, row) in out.rows() {
            prop_assert_eq!(task, KeyGroup::of((row % 97).key_hash()).owner(parallelism));
        }
        order_is_kept(&out.rows(), parallelism);
    }

    #[test]
    fn weights_hold_exactly_for_whole_rounds(rounds in 0_u64..200, weights in proptest::collection::vec(0_u32..6, 1..5)) {
        prop_assume!(weights.iter().any(|w| *w > 0));
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let (out, _) = dealt(rounds * sum, 1, Partitioning::weighted(weights.clone()));
        for (task, weight) in weights.iter().enumerate() {
            let got = out.rows().iter().filter(|r| r.0 as usize == task).count() as u64;
            prop_assert_eq!(got, rounds * u64::from(*weight));
        }
        order_is_kept(&out.rows(), 1);
    }

    #[test]
    fn chance_and_turns_lose_nothing(count in 0_u64..4_000, parallelism in 1_u32..5, seed in any::<u64>()) {
        let (random, _) = dealt(count, parallelism, Partitioning::random(seed));
        order_is_kept(&random.rows(), parallelism);
        let (turns, _) = dealt(count, parallelism, Partitioning::round_robin());
        order_is_kept(&turns.rows(), parallelism);
        let (custom, _) = dealt(count, parallelism, Partitioning::by(|x, n| (*x as u32 / 7) % n));
        for (task, row) in custom.rows() {
            prop_assert_eq!(task, (row as u32 / 7) % parallelism);
        }
    }

    #[test]
    fn branches_hold_what_was_chosen_for_them_and_copies_all(
        count in 0_u64..4_000, parallelism in 1_u32..5, chaining in any::<bool>(),
    ) {
        let settings = JobSettings { parallelism, chaining, ..JobSettings::default() };
        let flow = Flow::new("p", settings);
        let (outs, numbers) = (<[Collect; 6]>::default(), flow
            .source("numbers", generate(count, |i| i))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(5)), |i| Timestamp::from_millis(*i as i64)));
        let [a, b, c] = numbers.fork();
        a.sink("all", outs[0].clone());
        b.forward().flat_map(|i| [i, i]).sink("twice", outs[1].clone());
        let [zero, one, two] = c.split(|i| (i % 3) as usize);
        zero.sink("zero", outs[2].clone());
        one.rebalance().sink("one", outs[3].clone());
        let (rest, large) = two.side(|i| *i > 100);
        rest.map(|i| i).isolate().sink("rest", outs[4].clone());
        large.sink("large", outs[5].clone());
        run(flow.finish().unwrap());
        let all: Vec<u64> = (0..count).collect();
        let of = |keep: &dyn Fn(&u64) -> bool| all.iter().copied().filter(keep).collect::<Vec<_>>();
        prop_assert_eq!(outs[0].sorted(), all.clone());
        prop_assert_eq!(outs[1].sorted(), all.iter().flat_map(|i| [*i, *i]).collect::<Vec<_>>());
        prop_assert_eq!(outs[2].sorted(), of(&|i| i % 3 == 0));
        prop_assert_eq!(outs[3].sorted(), of(&|i| i % 3 == 1));
        prop_assert_eq!(outs[4].sorted(), of(&|i| i % 3 == 2 && *i <= 100));
        prop_assert_eq!(outs[5].sorted(), of(&|i| i % 3 == 2 && *i > 100));
        for out in &outs {
            order_is_kept(&out.rows(), parallelism);
        }
    }
}

/// Collects rows; its state is what it has collected, so that a restore goes on from there.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u64>>>);

struct Keeper {
    all: Kept,
    mine: Vec<u64>,
}

impl Sink<u64> for Kept {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
        let mine = state.map(|s| serde_json::from_slice(s).unwrap()).unwrap_or_default();
        Ok(Box::new(Keeper { all: self.clone(), mine }))
    }
    fn kind(&self) -> &'static str {
        "kept"
    }
}

impl SinkWriter<u64> for Keeper {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
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

#[test]
fn branches_that_meet_again_are_consistent_over_a_checkpoint() {
    let count = 150_000_u64;
    for (parallelism, chaining) in [(1, true), (1, false), (2, true), (3, true), (4, false)] {
        let out = Kept::default();
        let plan = || {
            let flow = Flow::new("p", JobSettings { parallelism, chaining, ..JobSettings::default() });
            let numbers = flow
                .source("numbers", generate(count, |i| i))
                .watermarks_by(BoundedOutOfOrder::by(millis_of(5)), |i| Timestamp::from_millis(*i as i64));
            let [a, b, c] = numbers.fork();
            let (halves, odd) = a.divide(|i| if i % 2 == 0 { Either::Left(i / 2) } else { Either::Right(i) });
            let tens = b.filter_map(|i| (i % 10 == 0).then_some(i)).partition(Partitioning::random(7));
            let slow = c.flat_map(|i| [i, i]).forward().partition(Partitioning::by(|i, _| *i as u32));
            halves.union([odd, tens, slow]).sink("out", out.clone());
            flow.finish().unwrap()
        };
        let first = plan();
        let clock = || Clock::starting_at(SystemTime::UNIX_EPOCH);
        let threads = || Arc::new(Threads::inline_slots(2).unwrap());
        let restore = afflux_actor::test::system(|| async move {
            let mut run = start_local(&first, threads(), clock(), None, None).unwrap();
            let read = |run: &LocalRun| -> u64 {
                run.readings()
                    .iter()
                    .flat_map(|t| &t.operators)
                    .filter(|o| o.name == "numbers")
                    .map(|o| o.records_in)
                    .sum()
            };
            while read(&run) < count / 10 {
                tokio::task::yield_now().await;
            }
            let restore = run.checkpoint(1).await.unwrap();
            assert!(read(&run) < count, "in the middle");
            restore
        });
        assert!(out.0.lock().unwrap().is_empty(), "what was stopped must not have committed");
        let second = plan();
        afflux_actor::test::system(|| async move {
            start_local(&second, threads(), clock(), None, Some(restore)).unwrap().finish().await.unwrap()
        });
        let mut rows = std::mem::take(&mut *out.0.lock().unwrap());
        rows.sort_unstable();
        let mut expected: Vec<u64> = (0..count)
            .flat_map(|i| {
                [Some(if i % 2 == 0 { i / 2 } else { i }), (i % 10 == 0).then_some(i), Some(i), Some(i)]
            })
            .flatten()
            .collect();
        expected.sort_unstable();
        assert!(rows == expected, "parallelism {parallelism}: {} rows, not {}", rows.len(), expected.len());
    }
}

#[test]
fn a_random_deal_is_the_same_for_the_same_seed_and_even() {
    let tasks = |seed| {
        let mut rows = dealt(9_000, 3, Partitioning::random(seed)).0.rows();
        rows.sort_unstable_by_key(|r| r.1);
        rows
    };
    assert_eq!(tasks(1), tasks(1));
    assert_ne!(tasks(1), tasks(2));
    let first = tasks(1).iter().filter(|r| r.0 == 0).count();
    assert!((2_700..3_300).contains(&first), "{first} of 9,000");
}

#[test]
fn a_number_of_tasks_holds_for_the_next_exchange_only() {
    let flow = flow(2);
    flow.source("numbers", generate(10, |i| i))
        .parallelism(3)
        .untimed()
        .parallelism(4)
        .map(|i| i)
        .rebalance()
        .key_by(|i| *i)
        .reduce("max", u64::max)
        .parallelism(1)
        .broadcast()
        .count("n");
    assert_eq!(flow.finish().unwrap().widths(), [3, 4, 2, 1]);
}

#[test]
fn a_number_of_tasks_that_would_change_nothing_is_refused() {
    let flow = flow(2);
    flow.source("numbers", generate(10, |i| i)).untimed().parallelism(4).map(|i| i).count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("`.parallelism(4)`") && error.contains(".rebalance()"), "{error}");

    let flow = self::flow(2);
    flow.source("numbers", generate(10, |i| i)).untimed().parallelism(0).rebalance().count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("behind `numbers`: from 1 to 1024"), "{error}");
}

#[test]
fn a_partitioning_that_cannot_be_is_refused_where_it_stands() {
    let flow = flow(2);
    let numbers = flow.source("numbers", generate(10, |i| i)).untimed();
    numbers.partition(Partitioning::range(|i| *i, [5, 2])).count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("behind `numbers`") && error.contains("have to rise"), "{error}");
}

#[test]
fn without_chaining_each_named_step_has_a_chain_of_its_own() {
    let chains = |chaining| {
        let flow = Flow::new("p", JobSettings { chaining, ..JobSettings::default() });
        let numbers = flow.source("numbers", generate(10, |i| i)).untimed();
        numbers
            .map(|i| i + 1)
            .named("next")
            .key_by(|i| *i)
            .reduce("max", u64::max)
            .sink("out", Collect::default());
        let plan = flow.finish().unwrap();
        plan.graph().chains.iter().map(|c| c.operators.join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(chains(true), ["numbers next max out"]);
    assert_eq!(chains(false), ["numbers next", "max", "out"]);
}

#[test]
fn a_name_without_closures_to_name_is_refused() {
    let flow = flow(1);
    flow.source("numbers", generate(10, |i| i)).untimed().named("nothing").count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains(".named(\"nothing\")"), "{error}");
}

#[test]
fn a_branch_that_ends_nowhere_is_refused() {
    let flow = flow(1);
    let (rest, _aside) = flow.source("numbers", generate(10, |i| i)).untimed().side(|i| *i > 3);
    rest.count("rest");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("ends nowhere"), "{error}");
}

fn failure(flow: Flow) -> String {
    let plan = flow.finish().unwrap();
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        run_local(&plan, threads, Clock::starting_at(SystemTime::UNIX_EPOCH)).await.unwrap_err().message
    })
}

#[test]
fn a_split_beyond_its_streams_names_the_operator() {
    let flow = flow(1);
    let [a, b] = flow.source("numbers", generate(10, |i| i)).untimed().split(|i| *i as usize);
    a.count("a");
    b.count("b");
    let error = failure(flow);
    assert!(error.contains("operator split-1") && error.contains("chose stream 2"), "{error}");
}

#[test]
fn a_panic_in_a_closure_fails_the_task_and_names_the_operator() {
    let numbers = |flow: &Flow| flow.source("numbers", generate(5_000, |i| i)).untimed();
    let boom = |i: u64| if i == 4_321 { panic!("{i} is too much") } else { i };

    let flow = self::flow(1);
    numbers(&flow).filter(|_| true).map(boom).named("risky").rebalance().count("n");
    assert!(failure(flow).contains("operator risky panicked: 4321 is too much"));

    let flow = self::flow(2);
    numbers(&flow).flat_map(move |i| [boom(i)]).key_by(|i| *i).reduce("max", u64::max).count("n");
    assert!(failure(flow).contains("operator flat_map-1 panicked: 4321 is too much"));

    let flow = self::flow(1);
    numbers(&flow).key_by(|i| i % 2).reduce("max", move |a, b| boom(b).max(a)).count("n");
    assert!(failure(flow).contains("operator max panicked: 4321 is too much"));

    let flow = self::flow(1);
    flow.source("numbers", generate(5_000, boom)).untimed().map(|i| i).count("n");
    assert!(failure(flow).contains("operator numbers panicked: 4321 is too much"));
}
