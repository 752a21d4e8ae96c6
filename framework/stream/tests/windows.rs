//! Windows of each kind give what a batch definition gives: at any parallelism, in any order of
//! arrival within the bound, over a checkpoint and a restore too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;

use std::collections::BTreeMap;

use afflux_stream::{
    BoundedOutOfOrder, Flow, Late, Plan, Session, Sliding, Timestamp, Window, fold, generate, millis_of,
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
