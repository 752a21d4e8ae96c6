//! Every operator with state over a checkpoint half-way and a restore at another parallelism: what comes
//! out is what comes out of one run of one task.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;
#[path = "common/spread.rs"]
mod spread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afflux_actor::Threads;
use afflux_stream::job::{LocalRun, start_local};
use afflux_stream::{
    AfterMatch, AsyncMap, AtEnd, BoundedOutOfOrder, BroadcastOperator, CountWindow, Every, Evict, Firing,
    Flow, Global, KeyedOperator, Late, ListState, MapState, Offset, OperatorCx, Output, Pattern, Plan,
    Process, Processing, Result, Session, Sliding, Source, Stream, Timestamp, Timing, Trigger, Tumbling,
    ValueState, Window, distinct, fold, millis_of, top_n,
};
use common::{Collect, clock, run, settings};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spread::{SPLITS, Spread};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    at: i64,
    key: u32,
    value: u64,
    id: u64,
}

/// How far out of order the rows of a split are at most, in milliseconds.
const BOUND: u64 = 40;

/// Tasks before the checkpoint and after it.
const RESCALES: [(u32, u32); 4] = [(2, 3), (2, 1), (2, 2), (1, 4)];

#[derive(Clone, Copy, Debug)]
struct Input {
    seed: u64,
    /// Of each split.
    rows: u64,
    /// Of each split: rows of one key are all in one split, so they have an order.
    keys: u32,
    halt: bool,
}

impl Input {
    fn row(self, split: u64, i: u64) -> Row {
        let h = (i * SPLITS + split + self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        Row {
            at: (i * 2) as i64 - (h % BOUND) as i64,
            key: split as u32 * self.keys + ((h >> 8) % u64::from(self.keys)) as u32,
            value: (h >> 12) % 100,
            id: split * 1_000_000 + i,
        }
    }

    fn spread(self) -> impl Source<Item = Row> {
        let row = Arc::new(move |split, i| self.row(split, i));
        Spread { rows: self.rows, seed: self.seed, halt: self.halt, row }
    }

    fn stream(self, flow: &Flow, name: &str) -> Stream<Row> {
        flow.source(name, self.spread())
            .watermarks_by(BoundedOutOfOrder::by(millis_of(BOUND)), |row| Timestamp::from_millis(row.at))
    }

    /// Keys that all splits have.
    fn shared(self, flow: &Flow, name: &str) -> Stream<Row> {
        self.stream(flow, name).map(|row| Row { key: row.key % 7, ..row }).filter(|_| true).forward()
    }
}

fn input() -> impl Strategy<Value = Input> {
    (0_u64..1_000_000, 2_u64..300, 1_u32..12).prop_map(|(seed, rows, keys)| Input {
        seed,
        rows,
        keys,
        halt: false,
    })
}

/// Waits until the sources wait: nothing moves any more, and something has come.
async fn half_way(run: &LocalRun) {
    let begun = Instant::now();
    let (mut before, mut still) = (0, 0);
    while still < 200 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the sources never came half-way");
        tokio::task::yield_now().await;
        let readings = run.readings();
        let now = readings.iter().flat_map(|task| &task.operators).map(|o| o.records_in).sum();
        still = if now == before && now > 0 { still + 1 } else { 0 };
        before = now;
    }
}

/// Runs it straight in one task, and over a restore from half-way at other widths.
fn check<T>(input: Input, build: impl Fn(&Flow, Input, &Collect<T>))
where
    T: Ord + Clone + std::fmt::Debug + Serialize + DeserializeOwned + Send + 'static,
{
    let plan = |parallelism: u32, halt: bool, out: &Collect<T>| -> Plan {
        let flow = Flow::new("rescaled", settings(parallelism));
        build(&flow, Input { halt, ..input }, out);
        flow.finish().unwrap()
    };
    let whole = Collect::default();
    run(plan(1, false, &whole));
    let expected = whole.sorted();
    for (before, after) in RESCALES {
        let first = plan(before, true, &Collect::default());
        let restore = afflux_actor::test::system(|| async move {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            let mut run = start_local(&first, threads, clock(), None, None).unwrap();
            half_way(&run).await;
            run.checkpoint(1).await.unwrap()
        });
        let out = Collect::default();
        let second = plan(after, false, &out);
        afflux_actor::test::system(|| async move {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            start_local(&second, threads, clock(), None, Some(restore)).unwrap().finish().await.unwrap()
        });
        let found = out.sorted();
        let differs = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert!(
            differs.is_none() && found.len() == expected.len(),
            "{before} tasks before, {after} after: {} rows instead of {}, first {differs:?}",
            found.len(),
            expected.len(),
        );
    }
}

type Summed = (i64, i64, u32, u64, u64);

macro_rules! sums {
    () => {
        fold(
            || (0_u64, 0_u64),
            |acc, r: &Row| {
                acc.0 += r.value;
                acc.1 += 1;
            },
            |key: u32, w: Window, acc| (w.start.millis(), w.end.millis(), key, acc.0, acc.1),
        )
        .merging(|into, from| {
            into.0 += from.0;
            into.1 += from.1;
        })
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn tumbling_windows(input in input()) {
        check(input, |flow, input, out: &Collect<Summed>| {
            let rows = input.stream(flow, "in").key_by(|r| r.key).window(Tumbling::of(millis_of(70)));
            rows.late(Late::Drop).aggregate("sum", sums!()).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn sliding_windows(input in input()) {
        check(input, |flow, input, out: &Collect<Summed>| {
            let rows = input.stream(flow, "in").key_by(|r| r.key);
            let rows = rows.window(Sliding::of(millis_of(90)).every(millis_of(20)));
            rows.late(Late::Drop).aggregate("sum", sums!()).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn sessions(input in input(), gap in 1_u64..60) {
        check(input, |flow, input, out: &Collect<Summed>| {
            let rows = input.stream(flow, "in").key_by(|r| r.key).window(Session::gap(millis_of(gap)));
            rows.late(Late::Drop).aggregate("sum", sums!()).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn windows_by_count(input in input(), (size, every) in prop_oneof![Just((5, 5)), Just((7, 3)), Just((2, 1))]) {
        check(input, |flow, input, out: &Collect<(u32, Vec<u64>)>| {
            input.stream(flow, "in")
                .key_by(|r| r.key)
                .window(CountWindow::of(size).every(every).at_end(AtEnd::Emit))
                .process("windows", |key, _, rows| Some((key, rows.iter().map(|r| r.id).collect::<Vec<_>>())))
                .gather()
                .sink("out", out.clone());
        });
    }

    #[test]
    fn windows_of_all_time_and_what_an_evictor_keeps(input in input()) {
        check(input, |flow, input, out: &Collect<(u32, Vec<u64>)>| {
            let (first, second) = input.stream(flow, "in").tee();
            let sums = first.key_by(|r| r.key).window(Global).aggregate("sum", sums!());
            let sums = sums.map(|(_, _, key, sum, count)| (key, vec![sum, count]));
            let last = second.key_by(|r| r.key).window(Global).evict(Evict::count(3));
            let last = last.process("last", |key, _, rows| Some((key, rows.iter().map(|r| r.id).collect())));
            sums.union([last]).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn triggers_that_fire_early(input in input(), early in 1_u64..9, purging: bool) {
        check(input, |flow, input, out: &Collect<(bool, Summed)>| {
            let trigger = Trigger::event_time().early(Every::count(early));
            input.stream(flow, "in")
                .key_by(|r| r.key)
                .window(Tumbling::of(millis_of(100)))
                .late(Late::Drop)
                .trigger(if purging { trigger.purging() } else { trigger })
                .allowed_lateness(millis_of(10))
                .firings()
                .aggregate("sum", sums!())
                .map(|(firing, row): (Firing, Summed)| (firing.timing == Timing::OnTime, row))
                .gather()
                .sink("out", out.clone());
        });
    }

    #[test]
    fn a_global_window_with_a_trigger(input in input(), every in 1_u64..9) {
        check(input, |flow, input, out: &Collect<Summed>| {
            let rows = input.stream(flow, "in").key_by(|r| r.key).window(Global);
            rows.trigger(Trigger::count(every)).aggregate("sum", sums!()).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn running_aggregates(input in input()) {
        check(input, |flow, input, out: &Collect<(u32, u64)>| {
            let rows = |name| input.stream(flow, name).key_by(|r: &Row| r.key);
            let all = [
                rows("in-sum").sum("sum", |r| r.value),
                rows("in-min").min("min", |r| r.value),
                rows("in-max").max("max", |r| r.value),
                rows("in-count").count("count"),
                rows("in-fold").fold("fold", || 7_u64, |acc, r: &Row| *acc = acc.wrapping_mul(31) + r.value),
            ];
            let reduced = rows("in-reduce").reduce("reduce", |a, b| Row { value: a.value * 3 % 1009 + b.value, ..b });
            reduced.map(|r| (r.key, r.value)).filter(|_| true).forward().union(all).gather().sink("out", out.clone());
        });
    }
}

type Pair = (Option<u64>, Option<u64>);

fn pair(l: Option<&Row>, r: Option<&Row>) -> Pair {
    (l.map(|l| l.id), r.map(|r| r.id))
}

macro_rules! sides {
    ($flow:expr, $input:expr) => {{
        let left = $input.shared($flow, "in-left");
        let right = Input { seed: $input.seed + 17, ..$input }.shared($flow, "in-right");
        left.key_by(|row| row.key).join(right.key_by(|row| row.key))
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn window_joins_and_co_groups(input in input()) {
        let input = Input { rows: input.rows / 3 + 2, ..input };
        check(input, |flow, input, out: &Collect<(i64, Pair)>| {
            let join = sides!(flow, input).window(Tumbling::of(millis_of(30))).late(Late::Drop);
            let pairs = join.full("join", |w, l, r| (w.start.millis(), pair(l, r)));
            pairs.gather().sink("out", out.clone());
        });
        check(input, |flow, input, out: &Collect<(u32, i64, Vec<u64>, Vec<u64>)>| {
            let join = sides!(flow, input).window(Sliding::of(millis_of(30)).every(millis_of(10)));
            let groups = join.late(Late::Drop).co_group("group", |key, window, l, r| {
                let of = |rows: &[Row]| {
                    let mut ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
                    ids.sort_unstable();
                    ids
                };
                Some((*key, window.start.millis(), of(l), of(r)))
            });
            groups.gather().sink("out", out.clone());
        });
    }

    #[test]
    fn interval_joins(input in input()) {
        let input = Input { rows: input.rows / 3 + 2, ..input };
        check(input, |flow, input, out: &Collect<Pair>| {
            let join = sides!(flow, input).between(Offset::before(millis_of(15)), Offset::after(millis_of(5)));
            join.late(Late::Drop).full("join", pair).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn unbounded_joins(input in input(), kept: bool) {
        let input = Input { rows: input.rows / 6 + 2, ..input };
        check(input, |flow, input, out: &Collect<Pair>| {
            let join = sides!(flow, input).unbounded();
            // Longer than rows are out of order: nothing comes too late.
            let join = if kept { join } else { join.ttl(millis_of(2 * BOUND)) };
            join.full("join", pair).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn temporal_joins(input in input(), max_age in proptest::option::of(1_u64..100)) {
        check(input, |flow, input, out: &Collect<Pair>| {
            let join = sides!(flow, input).as_of().ties(|a, b| a.id.cmp(&b.id));
            let join = match max_age {
                Some(age) => join.max_age(millis_of(age)),
                None => join,
            };
            let pairs = join.late(Late::Drop).left("join", |l, r| pair(Some(l), r));
            pairs.gather().sink("out", out.clone());
        });
    }
}

/// Prices each row by the rules, once all rows and rules are there.
struct AtTheEnd;

impl BroadcastOperator for AtTheEnd {
    type Key = u32;
    type Input = Row;
    type Rule = Row;
    type Output = (u64, Option<u64>);
    type Rules = BTreeMap<u32, u64>;
    type State = Vec<Row>;

    fn rule(&mut self, rules: &mut BTreeMap<u32, u64>, rule: Row) -> Result<()> {
        let place = rules.entry(rule.key).or_insert(0);
        *place = rule.value.max(*place);
        Ok(())
    }

    fn process(
        &mut self,
        _: &BTreeMap<u32, u64>,
        rows: &mut Vec<Row>,
        row: Row,
        cx: &mut OperatorCx<'_, u32>,
        _: &mut Output<(u64, Option<u64>)>,
    ) -> Result<()> {
        rows.push(row);
        cx.timer_at(Timestamp::MAX);
        Ok(())
    }

    fn on_timer(
        &mut self,
        rules: &BTreeMap<u32, u64>,
        rows: &mut Vec<Row>,
        _: Timestamp,
        _: &mut OperatorCx<'_, u32>,
        out: &mut Output<(u64, Option<u64>)>,
    ) -> Result<()> {
        for row in std::mem::take(rows) {
            out.emit((row.id, rules.get(&row.key).copied()));
        }
        Ok(())
    }
}

/// Sums a key's values in stretches of 60 ms from its first record, whatever the order of arrival.
struct Stretches;

impl KeyedOperator for Stretches {
    type Key = u32;
    type Input = Row;
    type Output = (u32, i64, u64);
    type State = Vec<(i64, u64)>;

    fn process(
        &mut self,
        state: &mut Vec<(i64, u64)>,
        row: Row,
        cx: &mut OperatorCx<'_, u32>,
        _: &mut Output<(u32, i64, u64)>,
    ) -> Result<()> {
        let start = row.at.div_euclid(60) * 60;
        match state.iter_mut().find(|stretch| stretch.0 == start) {
            Some(stretch) => stretch.1 += row.value,
            None => state.push((start, row.value)),
        }
        cx.timer_at(Timestamp::from_millis(start + 60));
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Vec<(i64, u64)>,
        at: Timestamp,
        cx: &mut OperatorCx<'_, u32>,
        out: &mut Output<(u32, i64, u64)>,
    ) -> Result<()> {
        let start = at.millis() - 60;
        let at = state.iter().position(|stretch| stretch.0 == start);
        let sum = at.map_or(u64::MAX, |at| state.swap_remove(at).1);
        out.emit((*cx.key(), start, sum));
        Ok(())
    }
}

/// What the derive finds the framework by, here.
mod framework {
    pub(crate) use afflux_stream as stream;
}

/// Remembers in each of its states, and tells what it remembers when a key is silent and at the end.
#[derive(afflux_macros::Operator)]
#[operator(input = Row, output = Told, key = u32, crate = "crate::framework")]
struct Remembers {
    #[state]
    latest: ValueState<i64>,
    #[state]
    ids: ListState<u64>,
    #[state]
    by_value: MapState<u64, u64>,
}

type Told = (u32, i64, Vec<u64>, Vec<(u64, u64)>);

impl Process for Remembers {
    fn process(&mut self, row: Row, cx: &mut OperatorCx<'_, u32>, _: &mut Output<Told>) -> Result<()> {
        self.ids.add(row.id);
        *self.by_value.or_insert_with(row.value % 5, || 0) += 1;
        let latest = self.latest.get().copied();
        if latest.is_none_or(|latest| latest < row.at) {
            if let Some(latest) = latest {
                cx.delete_timer(Timestamp::from_millis(latest + 1_000_000));
            }
            self.latest.set(row.at);
            cx.timer_at(Timestamp::from_millis(row.at + 1_000_000));
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        at: Timestamp,
        cx: &mut OperatorCx<'_, u32>,
        out: &mut Output<Told>,
    ) -> Result<()> {
        let mut counts: Vec<(u64, u64)> = self.by_value.iter().map(|(value, n)| (*value, *n)).collect();
        counts.sort_unstable();
        out.emit((*cx.key(), at.millis(), self.ids.get().to_vec(), counts));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn broadcast_state(input in input()) {
        check(input, |flow, input, out: &Collect<(u64, Option<u64>)>| {
            // Rules hold no watermark back: that all have come when the rows end is for lack of rules.
            let rules = Input { seed: input.seed + 3, rows: 2, ..input }.spread();
            let rules = flow.source("in-rules", rules).untimed();
            let rows = flow.source("in-rows", Input { rows: input.rows + 300, ..input }.spread()).untimed();
            let rows = rows.key_by(|r| r.key).connect_broadcast(rules);
            rows.operate("price", "prices at the end", || AtTheEnd).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn operators_with_timers(input in input()) {
        check(input, |flow, input, out: &Collect<(u32, i64, u64)>| {
            let rows = input.stream(flow, "in").key_by(|r| r.key);
            rows.operate("stretches", "sums", || Stretches).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn derived_operators(input in input()) {
        check(input, |flow, input, out: &Collect<Told>| {
            let remembers = || {
                Processing::of(Remembers {
                    latest: ValueState::default(),
                    ids: ListState::default(),
                    by_value: MapState::default(),
                })
            };
            let rows = input.stream(flow, "in").key_by(|r| r.key);
            rows.operate("remembers", "remembers", remembers).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn deduplication(input in input(), ttl in proptest::option::of(1_u64..60)) {
        check(input, |flow, input, out: &Collect<(bool, Row)>| {
            let (first, second) = input.stream(flow, "in").tee();
            let dedupe = |rows: Stream<Row>| {
                let dedupe = rows.key_by(|r| r.key).deduplicate().ties(|a, b| a.id.cmp(&b.id));
                match ttl {
                    Some(ttl) => dedupe.ttl(millis_of(ttl)),
                    None => dedupe,
                }
            };
            let first = dedupe(first).first("first").map(|row| (true, row)).filter(|_| true).forward();
            let last = dedupe(second).last("last").map(|row| (false, row)).filter(|_| true).forward();
            first.union([last]).gather().sink("out", out.clone());
        });
    }

    #[test]
    fn rankings_and_distinct_values(input in input(), n in 1_usize..6) {
        check(input, |flow, input, out: &Collect<(u8, u32, i64, Vec<u64>)>| {
            let (first, rest) = input.stream(flow, "in").tee();
            let (second, third) = rest.tee();
            let top = first.key_by(|r| r.key).top(n, |r| (r.value, r.id)).ranking("top");
            let top = top.map(|ranking| (0, ranking.key, 0, ranking.rows.iter().map(|r| r.id).collect()));
            let windows = second.key_by(|r| r.key).window(Tumbling::of(millis_of(100))).late(Late::Drop);
            let different = windows.aggregate("different", distinct(|r: &Row| r.value));
            let different = different.map(|(key, w, n)| (1, key, w.start.millis(), vec![n]));
            let windows = third.key_by(|r| r.key).window(Tumbling::of(millis_of(100))).late(Late::Drop);
            let greatest = windows.aggregate("greatest", top_n(n, |r: &Row| r.value));
            let greatest = greatest.map(|r| {
                let values = r.rows.iter().map(|row| row.value).collect();
                (2, r.key, r.window.start.millis(), values)
            });
            top.filter(|_| true)
                .forward()
                .union([different.filter(|_| true).forward(), greatest.filter(|_| true).forward()])
                .gather()
                .sink("out", out.clone());
        });
    }

    #[test]
    fn patterns(input in input()) {
        check(input, |flow, input, out: &Collect<(u32, Vec<u64>)>| {
            let pattern = Pattern::begin("low", |r: &Row, _| r.value < 40)
                .followed_by("high", |r, m| m.last_taken().is_some_and(|last| last.value + 20 < r.value))
                .within(millis_of(60))
                .after_match(AfterMatch::PastLast)
                .order_by(|r: &Row| r.id);
            input.stream(flow, "in")
                .key_by(|r| r.key)
                .pattern(pattern)
                .late(Late::Drop)
                .select("match", |key, m| (*key, m.iter().map(|(_, r)| r.id).collect::<Vec<_>>()))
                .gather()
                .sink("out", out.clone());
        });
    }

    #[test]
    fn questions_without_an_answer(input in input(), ordered: bool, keyed: bool) {
        check(input, |flow, input, out: &Collect<(u64, u64)>| {
            let halt = input.halt;
            let ask = move |row: Row| async move {
                // Before the restore some never have an answer.
                if halt && row.id.is_multiple_of(3) {
                    std::future::pending::<()>().await;
                }
                Ok((row.id, row.value * 2))
            };
            let how = if ordered { AsyncMap::ordered() } else { AsyncMap::unordered() }.in_flight(4_000);
            let rows = input.stream(flow, "in");
            let answers = if keyed {
                rows.key_by(|r| r.key).async_map("ask", how, move |_, row| ask(row))
            } else {
                rows.async_map("ask", how, move |_, row| ask(row))
            };
            answers.gather().sink("out", out.clone());
        });
    }
}
