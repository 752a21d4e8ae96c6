//! Operators of one's own: state, timers, side outputs, two inputs, at any parallelism, over a
//! checkpoint and a restore too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;

use std::collections::BTreeMap;

use afflux_stream::{
    BoundedOutOfOrder, Either, Flow, KeyedOperator, OperatorCx, Output, Plan, Result, SideTag, Timestamp,
    generate, millis_of,
};
use common::{Collect, run, run_over_a_restore, settings};
use proptest::prelude::*;

const ODD: SideTag<(u32, u64)> = SideTag::new("odd");

/// Sums the values of a key in stretches of 100 ms from its first record; odd values go aside.
struct Stretches;

impl KeyedOperator for Stretches {
    type Key = u32;
    type Input = (u32, u64, i64);
    type Output = (u32, u64);
    type State = Option<u64>;

    fn process(
        &mut self,
        state: &mut Option<u64>,
        row: Self::Input,
        cx: &mut OperatorCx<'_, u32>,
        _: &mut Output<(u32, u64)>,
    ) -> Result<()> {
        if row.1 % 2 == 1 {
            cx.side(&ODD, (row.0, row.1));
        }
        let sum = state.unwrap_or_else(|| {
            cx.timer_at(Timestamp::MAX);
            0
        });
        *state = Some(sum + row.1);
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Option<u64>,
        _: Timestamp,
        cx: &mut OperatorCx<'_, u32>,
        out: &mut Output<(u32, u64)>,
    ) -> Result<()> {
        out.emit((*cx.key(), state.take().unwrap_or(0)));
        Ok(())
    }
}

fn reading(seed: u64, i: u64) -> (u32, u64, i64) {
    let h = (i + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    ((h % 53) as u32, h % 1000, (i / 10) as i64 - (h % 20) as i64)
}

fn sums_and_odds(
    seed: u64,
    count: u64,
    parallelism: u32,
    out: &Collect<(u32, u64)>,
    odd: &Collect<(u32, u64)>,
) -> Plan {
    let flow = Flow::new("stretches", settings(parallelism));
    let (sums, sides) = flow
        .source("readings", generate(count, move |i| reading(seed, i)))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(50)), |r| Timestamp::from_millis(r.2))
        .key_by(|r| r.0)
        .operate_with_sides("sum", "sum", || Stretches);
    sides.get(&ODD).sink("odd", odd.clone());
    sums.sink("out", out.clone());
    flow.finish().unwrap()
}

type Rows = Vec<(u32, u64)>;

fn expected(seed: u64, count: u64) -> (Rows, Rows) {
    let mut sums = BTreeMap::new();
    let mut odd = Vec::new();
    for r in (0..count).map(|i| reading(seed, i)) {
        *sums.entry(r.0).or_insert(0) += r.1;
        if r.1 % 2 == 1 {
            odd.push((r.0, r.1));
        }
    }
    odd.sort_unstable();
    (sums.into_iter().collect(), odd)
}

/// Joins what has the same key by listing both sides, once both have ended.
struct Both;

impl KeyedOperator for Both {
    type Key = u32;
    type Input = Either<(u32, u64), (u32, i64)>;
    type Output = (u32, Vec<u64>, Vec<i64>);
    type State = (Vec<u64>, Vec<i64>);

    fn process(
        &mut self,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, u32>,
        _: &mut Output<Self::Output>,
    ) -> Result<()> {
        cx.timer_at(Timestamp::MAX);
        match row {
            Either::Left(row) => state.0.push(row.1),
            Either::Right(row) => state.1.push(row.1),
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Self::State,
        _: Timestamp,
        cx: &mut OperatorCx<'_, u32>,
        out: &mut Output<Self::Output>,
    ) -> Result<()> {
        let (mut left, mut right) = std::mem::take(state);
        left.sort_unstable();
        right.sort_unstable();
        out.emit((*cx.key(), left, right));
        Ok(())
    }
}

fn both(count: u64, parallelism: u32, out: &Collect<(u32, Vec<u64>, Vec<i64>)>) -> Plan {
    let flow = Flow::new("both", settings(parallelism));
    let left = flow.source("left", generate(count, |i| ((i % 7) as u32, i))).untimed();
    let right = flow.source("right", generate(count / 2, |i| ((i % 11) as u32, -(i as i64)))).untimed();
    left.key_by(|r| r.0)
        .connect(right.key_by(|r| r.0))
        .operate("both", "both sides", || Both)
        .sink("out", out.clone());
    flow.finish().unwrap()
}

#[test]
fn two_streams_with_one_key_meet_in_one_task() {
    for parallelism in [1, 2, 3] {
        let out = Collect::default();
        run(both(1_000, parallelism, &out));
        let mut expected = BTreeMap::<u32, (Vec<u64>, Vec<i64>)>::new();
        (0..1_000_u64).for_each(|i| expected.entry((i % 7) as u32).or_default().0.push(i));
        (0..500_i64).rev().for_each(|i| expected.entry((i % 11) as u32).or_default().1.push(-i));
        let expected: Vec<_> = expected.into_iter().map(|(k, (l, r))| (k, l, r)).collect();
        assert_eq!(out.sorted(), expected, "parallelism {parallelism}");
    }
}

#[test]
fn a_union_has_the_records_of_all_whatever_their_parallelism() {
    let out = Collect::default();
    let flow = Flow::new("union", settings(3));
    let few = flow.source("few", generate(100, |i| i)).untimed().gather();
    let many = flow.source("many", generate(1_000, |i| i)).untimed().map(|i| i + 1_000);
    let more = flow.source("more", generate(10, |i| i + 5_000)).untimed();
    few.union([many.filter(|_| true).rebalance(), more]).sink("out", out.clone());
    run(flow.finish().unwrap());
    let expected: Vec<u64> = (0..100).chain(1_000..2_000).chain(5_000..5_010).collect();
    assert_eq!(out.sorted(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn sums_and_side_outputs_equal_a_plain_loop_over_a_restore_too(
        seed in 0_u64..1_000_000, count in 1_u64..20_000, parallelism in 1_u32..4,
    ) {
        let (out, odd) = (Collect::default(), Collect::default());
        run(sums_and_odds(seed, count, parallelism, &out, &odd));
        prop_assert_eq!((out.sorted(), odd.sorted()), expected(seed, count));
        let (out, odd) = (Collect::default(), Collect::default());
        run_over_a_restore(
            sums_and_odds(seed, count, parallelism, &Collect::default(), &Collect::default()),
            sums_and_odds(seed, count, parallelism, &out, &odd),
        );
        prop_assert_eq!((out.sorted(), odd.sorted()), expected(seed, count));
    }
}

#[test]
fn a_side_output_that_nobody_reads_is_counted() {
    let flow = Flow::new("unread", settings(1));
    flow.source("readings", generate(1_000, |i| reading(1, i)))
        .untimed()
        .key_by(|r| r.0)
        .operate("sum", "sum", || Stretches)
        .count("n");
    let readings = run(flow.finish().unwrap());
    let unread: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.unread).sum();
    assert_eq!(unread, expected(1, 1_000).1.len() as u64);
}
