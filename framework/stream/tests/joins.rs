//! Joins against nested loops: any parallelism, any order within the bound, over a checkpoint and a
//! restore too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;
#[path = "common/halting.rs"]
mod halting;

use std::time::Duration;

use afflux_stream::{
    BoundedOutOfOrder, Flow, Late, Offset, Plan, Sliding, Stream, Timestamp, Tumbling, millis_of, vec_source,
};
use common::{Collect, run, run_over_a_restore, settings};
use halting::{Halting, through};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Key, number, time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    key: u32,
    id: u64,
    at: i64,
}

/// How far out of order rows are at most, in milliseconds.
const BOUND: i64 = 40;

#[derive(Clone, Copy, Debug)]
struct Side {
    seed: u64,
    count: u64,
    keys: u32,
    /// Waits half-way for a barrier.
    halt: bool,
}

impl Side {
    fn row(self, id: u64) -> Row {
        let h = (id + self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        let at = (id * 3) as i64 - (h % BOUND as u64) as i64;
        Row { key: ((h >> 8) % u64::from(self.keys)) as u32, id, at }
    }

    fn rows(self) -> Vec<Row> {
        (0..self.count).map(|id| self.row(id)).collect()
    }

    fn stream(self, flow: &Flow, name: &str) -> Stream<Row> {
        let source = Halting { halt: self.halt, ..through(self.count, self.seed, move |id| self.row(id)) };
        flow.source(name, source).watermarks_by(BoundedOutOfOrder::by(millis_of(BOUND as u64)), |row| {
            Timestamp::from_millis(row.at)
        })
    }
}

type Pair = (Option<u64>, Option<u64>);

fn side() -> impl Strategy<Value = Side> {
    (0_u64..1_000_000, 0_u64..800, 1_u32..60).prop_map(|(seed, count, keys)| Side {
        seed,
        count,
        keys,
        halt: false,
    })
}

/// The definition: all pairs that meet, and those of a side that meet none where they are wanted.
fn nested_loops(
    left: &[Row],
    right: &[Row],
    (alone_left, alone_right): (bool, bool),
    meet: impl Fn(&Row, &Row) -> bool,
) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let meet = |l: &Row, r: &Row| l.key == r.key && meet(l, r);
    for l in left {
        let before = pairs.len();
        pairs.extend(right.iter().filter(|r| meet(l, r)).map(|r| (Some(l.id), Some(r.id))));
        if alone_left && pairs.len() == before {
            pairs.push((Some(l.id), None));
        }
    }
    if alone_right {
        let alone = right.iter().filter(|r| !left.iter().any(|l| meet(l, r)));
        pairs.extend(alone.map(|r| (None, Some(r.id))));
    }
    pairs.sort_unstable();
    pairs
}

/// Which of the four kinds, and what comes out alone.
const KINDS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// Runs it straight, and over a restore from half-way; both have to give what is expected.
fn check<T: Ord + Clone + std::fmt::Debug + Serialize + serde::de::DeserializeOwned + Send + 'static>(
    sides: (Side, Side),
    plan: impl Fn((Side, Side), &Collect<T>) -> Plan,
    mut expected: Vec<T>,
) {
    expected.sort_unstable();
    let out = Collect::default();
    run(plan(sides, &out));
    assert_eq!(out.sorted(), expected);
    let out = Collect::default();
    let halting = (Side { halt: true, ..sides.0 }, Side { halt: true, ..sides.1 });
    run_over_a_restore(plan(halting, &Collect::default()), plan(sides, &out));
    assert_eq!(out.sorted(), expected, "over a restore");
}

fn pair(l: Option<&Row>, r: Option<&Row>) -> Pair {
    (l.map(|l| l.id), r.map(|r| r.id))
}

fn unbounded(
    ttl: Option<Duration>,
    kind: usize,
    parallelism: u32,
    (left, right): (Side, Side),
    out: &Collect<Pair>,
) -> Plan {
    let flow = Flow::new("unbounded", settings(parallelism));
    let (l, r) = (left.stream(&flow, "left"), right.stream(&flow, "right"));
    let join = l.key_by(|row| row.key).join(r.key_by(|row| row.key)).unbounded();
    let join = match ttl {
        Some(ttl) => join.ttl(ttl),
        None => join,
    };
    let pairs = match kind {
        0 => join.inner("join", |l, r| pair(Some(l), Some(r))),
        1 => join.left("join", |l, r| pair(Some(l), r)),
        2 => join.right("join", |l, r| pair(l, Some(r))),
        _ => join.full("join", pair),
    };
    pairs.sink("out", out.clone());
    flow.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_unbounded_join_gives_each_pair_once(
        left in side(), right in side(), parallelism in 1_u32..5, kind in 0_usize..4,
    ) {
        let expected = nested_loops(&left.rows(), &right.rows(), KINDS[kind], |_, _| true);
        check((left, right), |sides, out| unbounded(None, kind, parallelism, sides, out), expected);
    }

    #[test]
    fn with_a_time_to_live_those_meet_that_are_less_than_it_apart(
        left in side(), right in side(), parallelism in 1_u32..5, kind in 0_usize..4, ttl in 1_i64..600,
    ) {
        // Less out of order than they live: nothing comes too late.
        let ttl = ttl + BOUND;
        let near = |l: &Row, r: &Row| (l.at - r.at).abs() < ttl;
        let expected = nested_loops(&left.rows(), &right.rows(), KINDS[kind], near);
        let ttl = Some(millis_of(ttl as u64));
        check((left, right), |sides, out| unbounded(ttl, kind, parallelism, sides, out), expected);
    }
}

#[test]
fn an_unbounded_join_without_a_time_to_live_is_warned_about() {
    let side = Side { seed: 1, count: 10, keys: 3, halt: false };
    let plan = unbounded(None, 0, 1, (side, side), &Collect::default());
    assert!(plan.warnings()[0].contains("`join`: keeps every record of both sides"), "{:?}", plan.warnings());
    let plan = unbounded(Some(millis_of(5)), 0, 1, (side, side), &Collect::default());
    assert!(plan.warnings().is_empty());
}

fn offset(at: i64) -> Offset {
    if at < 0 { Offset::before(millis_of(at.unsigned_abs())) } else { Offset::after(millis_of(at as u64)) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn in_an_interval_join_those_meet_that_are_within_both_bounds(
        left in side(), right in side(), parallelism in 1_u32..5, kind in 0_usize..4,
        lower in -300_i64..300, length in 2_i64..300, exclusive: (bool, bool),
    ) {
        let upper = lower + length;
        let meet = |l: &Row, r: &Row| {
            let (from, to) = (l.at + lower, l.at + upper);
            (if exclusive.0 { r.at > from } else { r.at >= from }) && (if exclusive.1 { r.at < to } else { r.at <= to })
        };
        let expected = nested_loops(&left.rows(), &right.rows(), KINDS[kind], meet);
        let plan = |(left, right): (Side, Side), out: &Collect<Pair>| {
            let flow = Flow::new("interval", settings(parallelism));
            let (l, r) = (left.stream(&flow, "left"), right.stream(&flow, "right"));
            let join = l.key_by(|row| row.key).join(r.key_by(|row| row.key)).between(offset(lower), offset(upper));
            let join = if exclusive.0 { join.exclusive_lower() } else { join };
            let join = if exclusive.1 { join.exclusive_upper() } else { join };
            let join = join.late(Late::Drop);
            let pairs = match kind {
                0 => join.inner("join", |l, r| pair(Some(l), Some(r))),
                1 => join.left("join", |l, r| pair(Some(l), r)),
                2 => join.right("join", |l, r| pair(l, Some(r))),
                _ => join.full("join", pair),
            };
            pairs.sink("out", out.clone());
            flow.finish().unwrap()
        };
        check((left, right), plan, expected);
    }

    #[test]
    fn in_a_window_join_those_meet_that_share_a_window_once_in_each(
        left in side(), right in side(), parallelism in 1_u32..5, kind in 0_usize..4,
        step in 10_i64..100, extra in 0_i64..150, tumbling: bool,
    ) {
        let size = if tumbling { step } else { step + extra };
        let (l, r) = (left.rows(), right.rows());
        let earliest = l.iter().chain(&r).map(|row| row.at).min().unwrap_or(0) - size;
        let latest = l.iter().chain(&r).map(|row| row.at).max().unwrap_or(0);
        let mut expected: Vec<(i64, Pair)> = Vec::new();
        for start in (earliest.div_euclid(step)..=latest.div_euclid(step)).map(|n| n * step) {
            let of = |rows: &[Row]| -> Vec<Row> {
                rows.iter().filter(|row| (start..start + size).contains(&row.at)).cloned().collect()
            };
            let pairs = nested_loops(&of(&l), &of(&r), KINDS[kind], |_, _| true);
            expected.extend(pairs.into_iter().map(|pair| (start, pair)));
        }
        let plan = |(left, right): (Side, Side), out: &Collect<(i64, Pair)>| {
            let flow = Flow::new("window", settings(parallelism));
            let (l, r) = (left.stream(&flow, "left"), right.stream(&flow, "right"));
            let join = l.key_by(|row| row.key).join(r.key_by(|row| row.key));
            let join = if tumbling {
                join.window(Tumbling::of(millis_of(size as u64)))
            } else {
                join.window(Sliding::of(millis_of(size as u64)).every(millis_of(step as u64)))
            };
            let join = join.late(Late::Drop);
            let pairs = match kind {
                0 => join.inner("join", |w, l, r| (w.start.millis(), pair(Some(l), Some(r)))),
                1 => join.left("join", |w, l, r| (w.start.millis(), pair(Some(l), r))),
                2 => join.right("join", |w, l, r| (w.start.millis(), pair(l, Some(r)))),
                _ => join.full("join", |w, l, r| (w.start.millis(), pair(l, r))),
            };
            pairs.sink("out", out.clone());
            flow.finish().unwrap()
        };
        check((left, right), plan, expected);
    }

    #[test]
    fn a_co_group_has_all_of_a_key_in_a_window_in_order_of_time(
        left in side(), right in side(), parallelism in 1_u32..5, step in 10_i64..100, extra in 0_i64..150,
    ) {
        type Group = (u32, i64, Vec<(i64, u64)>, Vec<(i64, u64)>);
        let size = step + extra;
        let mut groups = std::collections::BTreeMap::<(u32, i64), (Vec<(i64, u64)>, Vec<(i64, u64)>)>::new();
        for (side, rows) in [(0, left.rows()), (1, right.rows())] {
            for row in rows {
                let mut start = row.at.div_euclid(step) * step;
                while start + size > row.at {
                    let group = groups.entry((row.key, start)).or_default();
                    if side == 0 { &mut group.0 } else { &mut group.1 }.push((row.at, row.id));
                    start -= step;
                }
            }
        }
        let expected: Vec<Group> = groups
            .into_iter()
            .map(|((key, start), (mut l, mut r))| {
                l.sort_unstable();
                r.sort_unstable();
                (key, start, l, r)
            })
            .collect();
        let plan = |(left, right): (Side, Side), out: &Collect<Group>| {
            let flow = Flow::new("co-group", settings(parallelism));
            let (l, r) = (left.stream(&flow, "left"), right.stream(&flow, "right"));
            l.key_by(|row| row.key)
                .join(r.key_by(|row| row.key))
                .window(Sliding::of(millis_of(size as u64)).every(millis_of(step as u64)))
                .late(Late::Drop)
                .co_group("group", |key, window, l, r| {
                    assert!(l.is_sorted_by_key(|row| row.at) && r.is_sorted_by_key(|row| row.at));
                    let of = |rows: &[Row]| {
                        let mut rows: Vec<_> = rows.iter().map(|row| (row.at, row.id)).collect();
                        // Rows of one moment stand in the order in which they came.
                        rows.sort_unstable();
                        rows
                    };
                    Some((*key, window.start.millis(), of(l), of(r)))
                })
                .sink("out", out.clone());
            flow.finish().unwrap()
        };
        check((left, right), plan, expected);
    }

    #[test]
    fn as_of_finds_the_latest_version_that_is_not_too_old(
        left in side(), right in side(), parallelism in 1_u32..5, inner: bool,
        max_age in proptest::option::of(0_i64..400),
    ) {
        let versions = right.rows();
        let expected: Vec<Pair> = left
            .rows()
            .into_iter()
            .map(|l| {
                let of_key = versions.iter().filter(|r| r.key == l.key && r.at <= l.at);
                let valid = of_key.filter(|r| max_age.is_none_or(|age| l.at - r.at <= age));
                (Some(l.id), valid.max_by_key(|r| (r.at, r.id)).map(|r| r.id))
            })
            .filter(|(_, version)| !inner || version.is_some())
            .collect();
        let plan = |(left, right): (Side, Side), out: &Collect<Pair>| {
            let flow = Flow::new("as-of", settings(parallelism));
            let (l, r) = (left.stream(&flow, "left"), right.stream(&flow, "right"));
            let join = l.key_by(|row| row.key).join(r.key_by(|row| row.key)).as_of();
            let join = join.ties(|a, b| a.id.cmp(&b.id));
            let join = match max_age {
                Some(age) => join.max_age(millis_of(age as u64)),
                None => join,
            };
            let join = join.late(Late::Drop);
            let pairs = if inner {
                join.inner("join", |l, r| pair(Some(l), Some(r)))
            } else {
                join.left("join", |l, r| pair(Some(l), r))
            };
            pairs.sink("out", out.clone());
            flow.finish().unwrap()
        };
        check((left, right), plan, expected);
    }
}

#[test]
fn joins_in_time_refuse_a_side_without_time_and_name_the_sources_and_the_cure() {
    let side = Side { seed: 1, count: 10, keys: 3, halt: false };
    let flow = Flow::new("p", settings(2));
    let left = side.stream(&flow, "orders").filter(|row| row.id > 3);
    let right = flow.source("rates", vec_source(side.rows())).untimed();
    left.key_by(|row| row.key)
        .join(right.key_by(|row| row.key))
        .between(Offset::ZERO, offset(5))
        .late(Late::Drop)
        .inner("join", |l, r| (l.id, r.id))
        .count("n");
    let error = flow.finish().err().unwrap().message;
    for part in ["`join`", "`orders` with event time", "`rates` without", ".watermarks(…)"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn bounds_between_which_there_is_nothing_and_windows_with_holes_are_refused() {
    let side = Side { seed: 1, count: 10, keys: 3, halt: false };
    let flow = Flow::new("p", settings(1));
    let (l, r) = (side.stream(&flow, "l"), side.stream(&flow, "r"));
    let join = l.key_by(|row| row.key).join(r.key_by(|row| row.key)).between(offset(5), offset(-5));
    join.late(Late::Drop).inner("join", |l, r| (l.id, r.id)).count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("`join`") && error.contains("5 ms and -5 ms"), "{error}");
    let flow = Flow::new("p", settings(1));
    let (l, r) = (side.stream(&flow, "l"), side.stream(&flow, "r"));
    let windows = Sliding::of(millis_of(5)).every(millis_of(6));
    let join = l.key_by(|row| row.key).join(r.key_by(|row| row.key)).window(windows);
    join.late(Late::Drop).inner("join", |_, l, r| (l.id, r.id)).count("n");
    let error = flow.finish().err().unwrap().message;
    assert!(error.contains("`join`") && error.contains("slides by 6 ms over windows of 5 ms"), "{error}");
}
