//! Windows of each kind give what a batch definition gives: at any parallelism, in any order of
//! arrival within the bound, over a checkpoint and a restore too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;

use std::collections::BTreeMap;

use afflux_stream::{
    AtEnd, BoundedOutOfOrder, CountWindow, Every, Evict, Firing, Flow, Global, Late, Plan, Session, Sliding,
    Timestamp, Timing, Trigger, Tumbling, Window, fold, generate, millis_of, vec_source,
};
use common::{Collect, run, run_over_a_restore, settings};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Reading {
    at: i64,
    key: u32,
    value: u64,
}

/// Start, end, key, what was added up, how many.
type Row = (i64, i64, u32, u64, u64);

/// Out of order by at most 40 ms, whatever partition reads it.
fn reading(seed: u64, keys: u64, i: u64) -> Reading {
    let h = (i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Reading { at: (i / 4) as i64 - (h % 20) as i64, key: (h % keys) as u32, value: h % 1000 }
}

const BOUND_MS: u64 = 50;

macro_rules! readings {
    ($flow:expr, $seed:expr, $keys:expr, $count:expr) => {{
        let (seed, keys) = ($seed, $keys);
        $flow
            .source("readings", generate($count, move |i| reading(seed, keys, i)))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(BOUND_MS)), |r| Timestamp::from_millis(r.at))
            .key_by(|r| r.key)
    }};
}

macro_rules! sums {
    () => {
        fold(
            || (0_u64, 0_u64),
            |acc, r: &Reading| {
                acc.0 += r.value;
                acc.1 += 1;
            },
            |key, w: Window, acc| (w.start.millis(), w.end.millis(), key, acc.0, acc.1),
        )
        .merging(|into, from| {
            into.0 += from.0;
            into.1 += from.1;
        })
    };
}

fn sliding(
    seed: u64,
    keys: u64,
    count: u64,
    (size, slide): (u64, u64),
    tasks: u32,
    out: &Collect<Row>,
) -> Plan {
    let flow = Flow::new("sliding", settings(tasks));
    let (sums, late) = readings!(flow, seed, keys, count)
        .window(Sliding::of(millis_of(size)).every(millis_of(slide)))
        .late(Late::Side)
        .aggregate("sum", sums!());
    sums.sink("out", out.clone());
    late.count("late");
    flow.finish().unwrap()
}

fn sliding_expected(seed: u64, keys: u64, count: u64, (size, slide): (i64, i64)) -> Vec<Row> {
    let mut windows = BTreeMap::<(i64, u32), (u64, u64)>::new();
    for r in (0..count).map(|i| reading(seed, keys, i)) {
        let mut start = r.at.div_euclid(slide) * slide;
        while start + size > r.at {
            let acc = windows.entry((start, r.key)).or_default();
            acc.0 += r.value;
            acc.1 += 1;
            start -= slide;
        }
    }
    windows.into_iter().map(|((s, k), acc)| (s, s + size, k, acc.0, acc.1)).collect()
}

fn sessions(seed: u64, keys: u64, count: u64, gap: u64, tasks: u32, out: &Collect<Row>) -> Plan {
    let flow = Flow::new("sessions", settings(tasks));
    let (sums, late) = readings!(flow, seed, keys, count)
        .window(Session::gap(millis_of(gap)))
        .late(Late::Side)
        .aggregate("sum", sums!());
    sums.sink("out", out.clone());
    late.count("late");
    flow.finish().unwrap()
}

fn sessions_expected(seed: u64, keys: u64, count: u64, gap: i64) -> Vec<Row> {
    let mut by_key = BTreeMap::<u32, Vec<(i64, u64)>>::new();
    for r in (0..count).map(|i| reading(seed, keys, i)) {
        by_key.entry(r.key).or_default().push((r.at, r.value));
    }
    let mut rows = Vec::<Row>::new();
    for (key, mut readings) in by_key {
        readings.sort_unstable();
        let mut open: Option<Row> = None;
        for (at, value) in readings {
            open = match open {
                Some((s, e, k, sum, n)) if at < e => Some((s, at + gap, k, sum + value, n + 1)),
                other => {
                    rows.extend(other);
                    Some((at, at + gap, key, value, 1))
                }
            };
        }
        rows.extend(open);
    }
    rows.sort_unstable();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn sliding_windows_equal_a_plain_loop_over_a_restore_too(
        seed in 0_u64..1_000_000, keys in 1_u64..100, count in 1_u64..20_000, tasks in 1_u32..5,
        (size, slide) in prop_oneof![Just((100, 20)), Just((90, 60)), Just((7, 7)), Just((35, 10)), Just((60, 5))],
    ) {
        let expected = sliding_expected(seed, keys, count, (size as i64, slide as i64));
        let out = Collect::default();
        run(sliding(seed, keys, count, (size, slide), tasks, &out));
        prop_assert_eq!(out.sorted(), expected.clone());
        let out = Collect::default();
        let plan = |out| sliding(seed, keys, count, (size, slide), tasks, out);
        run_over_a_restore(plan(&Collect::default()), plan(&out));
        prop_assert_eq!(out.sorted(), expected);
    }

    #[test]
    fn sessions_equal_a_plain_loop_over_a_restore_too(
        seed in 0_u64..1_000_000, keys in 1_u64..400, count in 1_u64..20_000, tasks in 1_u32..5, gap in 1_u64..80,
    ) {
        let expected = sessions_expected(seed, keys, count, gap as i64);
        let out = Collect::default();
        run(sessions(seed, keys, count, gap, tasks, &out));
        prop_assert_eq!(out.sorted(), expected.clone());
        let out = Collect::default();
        let plan = |out| sessions(seed, keys, count, gap, tasks, out);
        run_over_a_restore(plan(&Collect::default()), plan(&out));
        prop_assert_eq!(out.sorted(), expected);
    }
}

#[test]
fn windows_with_gaps_between_them_are_refused() {
    let flow = Flow::new("gaps", settings(1));
    readings!(flow, 1, 1, 1)
        .window(Sliding::of(millis_of(10)).every(millis_of(11)))
        .late(Late::Drop)
        .aggregate("sum", sums!())
        .count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("`sum` slides by 11 ms over windows of 10 ms"), "{error}");
}

/// Start, end, key, sum, least, greatest, count, reduced, folded: each asked for by its method.
fn every_method(seed: u64, count: u64, tasks: u32, out: &[Collect<(u32, i64, u64)>]) -> Plan {
    let flow = Flow::new("methods", settings(tasks));
    let row = |(key, w, value): (u32, Window, u64)| (key, w.start.millis(), value);
    macro_rules! windows {
        ($i:expr) => {
            flow.source(&format!("readings-{}", $i), generate(count, move |i| reading(seed, 50, i)))
                .watermarks_by(BoundedOutOfOrder::by(millis_of(BOUND_MS)), |r| Timestamp::from_millis(r.at))
                .key_by(|r| r.key)
                .window(Sliding::of(millis_of(100)).every(millis_of(50)))
                .late(Late::Drop)
        };
    }
    windows!(0).sum("sum", |r| r.value).map(row).sink("out-0", out[0].clone());
    windows!(1).min("min", |r| r.value).map(row).sink("out-1", out[1].clone());
    windows!(2).max("max", |r| r.value).map(row).sink("out-2", out[2].clone());
    windows!(3).count("count").map(row).sink("out-3", out[3].clone());
    let reduced = windows!(4).reduce("reduce", |a, b| Reading { value: a.value ^ b.value, ..a });
    reduced.map(move |(k, w, r)| row((k, w, r.value))).sink("out-4", out[4].clone());
    let rows =
        windows!(5).process("process", |key, w, rows| rows.into_iter().map(move |r| (key, w, r.value)));
    rows.map(row).sink("out-5", out[5].clone());
    flow.finish().unwrap()
}

#[test]
fn each_method_of_windows_gives_what_a_plain_loop_gives() {
    for tasks in [1, 3] {
        let out: Vec<Collect<(u32, i64, u64)>> = (0..6).map(|_| Collect::default()).collect();
        run(every_method(5, 3_000, tasks, &out));
        let mut windows = BTreeMap::<(u32, i64), Vec<u64>>::new();
        for r in (0..3_000).map(|i| reading(5, 50, i)) {
            let start = r.at.div_euclid(50) * 50;
            for start in [start, start - 50] {
                windows.entry((r.key, start)).or_default().push(r.value);
            }
        }
        let expect = |of: &dyn Fn(&[u64]) -> u64| -> Vec<_> {
            windows.iter().map(|((k, s), values)| (*k, *s, of(values))).collect()
        };
        assert_eq!(out[0].sorted(), expect(&|v| v.iter().sum()));
        assert_eq!(out[1].sorted(), expect(&|v| v.iter().copied().min().unwrap()));
        assert_eq!(out[2].sorted(), expect(&|v| v.iter().copied().max().unwrap()));
        assert_eq!(out[3].sorted(), expect(&|v| v.len() as u64));
        assert_eq!(out[4].sorted(), expect(&|v| v.iter().fold(0, |a, b| a ^ b)));
        let mut rows: Vec<_> =
            windows.iter().flat_map(|((k, s), v)| v.iter().map(move |v| (*k, *s, *v))).collect();
        rows.sort_unstable();
        assert_eq!(out[5].sorted(), rows);
    }
}

fn running(rows: &[(u32, u64)], tasks: u32, out: &[Collect<(u32, u64)>]) -> Plan {
    let flow = Flow::new("running", settings(tasks));
    let mut outs = out.iter();
    macro_rules! keyed {
        ($name:literal, $work:expr) => {{
            let keyed =
                flow.source(concat!($name, "-rows"), vec_source(rows.to_vec())).untimed().key_by(|r| r.0);
            $work(keyed).sink(concat!($name, "-out"), outs.next().unwrap().clone());
        }};
    }
    keyed!("sum", |k: afflux_stream::KeyedStream<(u32, u64), _>| k.sum("sum", |r| r.1));
    keyed!("min", |k: afflux_stream::KeyedStream<(u32, u64), _>| k.min("min", |r| r.1));
    keyed!("max", |k: afflux_stream::KeyedStream<(u32, u64), _>| k.max("max", |r| r.1));
    keyed!("count", |k: afflux_stream::KeyedStream<(u32, u64), _>| k.count("count"));
    keyed!("fold", |k: afflux_stream::KeyedStream<(u32, u64), _>| {
        k.fold("fold", || 7_u64, |acc, r: &(u32, u64)| *acc = acc.wrapping_mul(31) + r.1)
    });
    keyed!("aggregate", |k: afflux_stream::KeyedStream<(u32, u64), _>| {
        k.aggregate(
            "aggregate",
            fold(|| 0_u64, |acc, r: &(u32, u64)| *acc += r.1, |k, _: Window, acc| (k, acc))
                .merging(|into, from| *into += from),
        )
    });
    flow.finish().unwrap()
}

/// The windows of each key's records, in the order in which they come.
fn counted(rows: &[(u32, u64)], size: usize, every: usize, emit: bool) -> Vec<(u32, Vec<u64>)> {
    let mut keys = BTreeMap::<u32, Vec<u64>>::new();
    rows.iter().for_each(|r| keys.entry(r.0).or_default().push(r.1));
    let mut windows = Vec::new();
    for (key, values) in keys {
        for start in (0..values.len()).step_by(every) {
            let end = (start + size).min(values.len());
            if emit || end - start == size {
                windows.push((key, values[start..end].to_vec()));
            }
        }
    }
    windows.sort_unstable();
    windows
}

fn by_count(
    rows: &[(u32, u64)],
    windows: CountWindow<AtEnd>,
    tasks: u32,
    out: &Collect<(u32, Vec<u64>)>,
) -> Plan {
    let flow = Flow::new("counts", settings(tasks));
    flow.source("rows", vec_source(rows.to_vec()))
        .untimed()
        .key_by(|r| r.0)
        .window(windows)
        .process("windows", |key, _, rows| Some((key, rows.into_iter().map(|r| r.1).collect::<Vec<_>>())))
        .sink("out", out.clone());
    flow.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn running_results_equal_a_plain_loop(
        rows in proptest::collection::vec((0_u32..20, 0_u64..1000), 0..2_000), tasks in 1_u32..5,
    ) {
        let outs = || (0..6).map(|_| Collect::default()).collect::<Vec<Collect<(u32, u64)>>>();
        let expect = |start: u64, of: &dyn Fn(u64, u64) -> u64| {
            let mut state = BTreeMap::new();
            let mut results: Vec<(u32, u64)> = rows
                .iter()
                .map(|(key, value)| {
                    let acc = state.entry(*key).or_insert(start);
                    *acc = of(*acc, *value);
                    (*key, *acc)
                })
                .collect();
            results.sort_unstable();
            results
        };
        let (whole, restored) = (outs(), outs());
        run(running(&rows, tasks, &whole));
        run_over_a_restore(running(&rows, tasks, &outs()), running(&rows, tasks, &restored));
        for out in [whole, restored] {
            prop_assert_eq!(out[0].sorted(), expect(0, &|a, v| a + v));
            prop_assert_eq!(out[1].sorted(), expect(u64::MAX, &|a, v| a.min(v)));
            prop_assert_eq!(out[2].sorted(), expect(0, &|a, v| a.max(v)));
            prop_assert_eq!(out[3].sorted(), expect(0, &|a, _| a + 1));
            prop_assert_eq!(out[4].sorted(), expect(7, &|a, v| a.wrapping_mul(31) + v));
            prop_assert_eq!(out[5].sorted(), expect(0, &|a, v| a + v));
        }
    }

    #[test]
    fn count_windows_equal_a_plain_loop_over_a_restore_too(
        rows in proptest::collection::vec((0_u32..20, 0_u64..1000), 0..5_000), tasks in 1_u32..5,
        (size, every) in prop_oneof![Just((1_usize, 1_usize)), Just((5, 5)), Just((2, 1)), Just((7, 3))],
        emit in any::<bool>(),
    ) {
        let at_end = if emit { AtEnd::Emit } else { AtEnd::Drop };
        let windows = CountWindow::of(size as u64).every(every as u64).at_end(at_end);
        let expected = counted(&rows, size, every, emit);
        let out = Collect::default();
        let readings = run(by_count(&rows, windows, tasks, &out));
        prop_assert_eq!(out.sorted(), expected.clone());
        let unread: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.unread).sum();
        if size == every {
            let emitted: usize = expected.iter().map(|w| w.1.len()).sum();
            prop_assert_eq!(unread as usize, rows.len() - emitted, "what is in no result is counted");
        }
        let out = Collect::default();
        let plan = |out| by_count(&rows, windows, tasks, out);
        run_over_a_restore(plan(&Collect::default()), plan(&out));
        prop_assert_eq!(out.sorted(), expected);
    }

    #[test]
    fn windows_with_a_trigger_end_with_what_the_batch_has(
        seed in 0_u64..1_000_000, count in 1_u64..10_000, tasks in 1_u32..5, early in 1_u64..50,
    ) {
        let firings = |out: &Collect<(Row, bool)>| {
            let flow = Flow::new("early", settings(tasks));
            readings!(flow, seed, 100, count)
                .window(Sliding::of(millis_of(100)).every(millis_of(20)))
                .late(Late::Drop)
                .trigger(Trigger::event_time().early(Every::count(early)))
                .allowed_lateness(millis_of(10))
                .firings()
                .aggregate("sum", sums!())
                .map(|(firing, row): (Firing, Row)| (row, firing.timing == Timing::OnTime))
                .sink("out", out.clone());
            flow.finish().unwrap()
        };
        let expected = sliding_expected(seed, 100, count, (100, 20));
        let check = |rows: Vec<(Row, bool)>| {
            let earlier: u64 = expected.iter().map(|r| r.4 / early).sum();
            assert_eq!(rows.iter().filter(|r| !r.1).count() as u64, earlier);
            assert_eq!(rows.into_iter().filter(|r| r.1).map(|r| r.0).collect::<Vec<_>>(), expected);
        };
        let out = Collect::default();
        run(firings(&out));
        check(out.sorted());
        let out = Collect::default();
        run_over_a_restore(firings(&Collect::default()), firings(&out));
        check(out.sorted());
    }
}

#[test]
fn windows_of_the_clock_have_every_record_once() {
    let out = Collect::default();
    let flow = Flow::new("clock", settings(2));
    flow.source("numbers", generate(10_000, |i| i))
        .untimed()
        .key_by(|i| i % 10)
        .window(Tumbling::of(millis_of(10_000)).processing_time())
        .sum("sums", |i| *i)
        .map(|(key, _, sum)| (key, sum))
        .sink("out", out.clone());
    run(flow.finish().unwrap());
    let mut sums = BTreeMap::<u64, u64>::new();
    out.sorted().into_iter().for_each(|(key, sum)| *sums.entry(key).or_default() += sum);
    let expected = (0..10_u64).map(|k| (k, (0..1_000).map(|n| n * 10 + k).sum())).collect();
    assert_eq!(sums, expected);
}

#[test]
fn the_last_records_of_all_time_are_what_an_evictor_keeps() {
    let out = Collect::default();
    let flow = Flow::new("last", settings(3));
    let rows: Vec<(u32, u64)> = (0..1_000_u64).map(|i| ((i % 7) as u32, i)).collect();
    flow.source("rows", vec_source(rows))
        .untimed()
        .key_by(|r| r.0)
        .window(Global)
        .evict(Evict::count(2))
        .process("last", |_, _, rows| rows)
        .sink("out", out.clone());
    run(flow.finish().unwrap());
    let mut expected: Vec<_> = (986..1_000_u64).map(|i| ((i % 7) as u32, i)).collect();
    expected.sort_unstable();
    assert_eq!(out.sorted(), expected);
}
