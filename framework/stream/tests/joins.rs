//! Joins against nested loops: any parallelism, any order within the bound, over a checkpoint and a
//! restore too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;

use std::time::Duration;

use afflux_stream::{BoundedOutOfOrder, Flow, Plan, Stream, Timestamp, generate, millis_of};
use common::{Collect, run, run_over_a_restore, settings};
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
        flow.source(name, generate(self.count, move |id| self.row(id)))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(BOUND as u64)), |row| {
                Timestamp::from_millis(row.at)
            })
    }
}

type Pair = (Option<u64>, Option<u64>);

fn side() -> impl Strategy<Value = Side> {
    (0_u64..1_000_000, 0_u64..800, 1_u32..60).prop_map(|(seed, count, keys)| Side { seed, count, keys })
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

/// Runs it straight and over a restore; both have to give what is expected.
fn check<T: Ord + Clone + std::fmt::Debug + Serialize + serde::de::DeserializeOwned + Send + 'static>(
    plan: impl Fn(&Collect<T>) -> Plan,
    expected: &[T],
) {
    let out = Collect::default();
    run(plan(&out));
    assert_eq!(out.sorted(), expected);
    let out = Collect::default();
    run_over_a_restore(plan(&Collect::default()), plan(&out));
    assert_eq!(out.sorted(), expected, "over a restore");
}

fn pair(l: Option<&Row>, r: Option<&Row>) -> Pair {
    (l.map(|l| l.id), r.map(|r| r.id))
}

fn unbounded(
    (left, right): (Side, Side),
    ttl: Option<Duration>,
    kind: usize,
    parallelism: u32,
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
        check(|out| unbounded((left, right), None, kind, parallelism, out), &expected);
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
        check(|out| unbounded((left, right), ttl, kind, parallelism, out), &expected);
    }
}

#[test]
fn an_unbounded_join_without_a_time_to_live_is_warned_about() {
    let side = Side { seed: 1, count: 10, keys: 3 };
    let plan = unbounded((side, side), None, 0, 1, &Collect::default());
    assert!(plan.warnings()[0].contains("`join`: keeps every record of both sides"), "{:?}", plan.warnings());
    let plan = unbounded((side, side), Some(millis_of(5)), 0, 1, &Collect::default());
    assert!(plan.warnings().is_empty());
}
