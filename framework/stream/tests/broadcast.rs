//! Rules beside a keyed stream: every task has all of them, over a restore at any parallelism too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;
#[path = "common/halting.rs"]
mod halting;

use std::collections::BTreeMap;

use afflux_stream::{
    BoundedOutOfOrder, BroadcastOperator, Flow, Late, OperatorCx, Output, Plan, Result, Timestamp, Tumbling,
    fold, millis_of, vec_source,
};
use common::{Collect, run, run_over_a_restore, settings};
use halting::{Halting, through};
use proptest::prelude::*;

type Row = (u32, u64);
type Rule = (u64, u64);
type Priced = (u32, u64, Option<u64>);

/// Prices each row by the rules, once all rows and rules are there.
struct AtTheEnd;

impl BroadcastOperator for AtTheEnd {
    type Key = u32;
    type Input = Row;
    type Rule = Rule;
    type Output = Priced;
    type Rules = BTreeMap<u64, u64>;
    type State = Vec<u64>;

    fn rule(&mut self, rules: &mut BTreeMap<u64, u64>, (item, price): Rule) -> Result<()> {
        // Of two prices of an item the greater counts, so that the order of rules does not matter.
        let place = rules.entry(item).or_insert(0);
        *place = price.max(*place);
        Ok(())
    }

    fn process(
        &mut self,
        _: &BTreeMap<u64, u64>,
        items: &mut Vec<u64>,
        row: Row,
        cx: &mut OperatorCx<'_, u32>,
        _: &mut Output<Priced>,
    ) -> Result<()> {
        items.push(row.1);
        cx.timer_at(Timestamp::MAX);
        Ok(())
    }

    fn on_timer(
        &mut self,
        rules: &BTreeMap<u64, u64>,
        items: &mut Vec<u64>,
        _: Timestamp,
        cx: &mut OperatorCx<'_, u32>,
        out: &mut Output<Priced>,
    ) -> Result<()> {
        for item in std::mem::take(items) {
            out.emit((*cx.key(), item, rules.get(&item).copied()));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Input {
    seed: u64,
    rows: u64,
    rules: u64,
}

impl Input {
    fn row(self, i: u64) -> Row {
        let h = (i + self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        ((h % 53) as u32, (h >> 8) % 40)
    }

    fn rule(self, i: u64) -> Rule {
        let h = (i + self.seed).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33;
        (h % 50, (h >> 8) % 1_000)
    }

    fn plan(self, parallelism: u32, halt: bool, out: &Collect<Priced>) -> Plan {
        let flow = Flow::new("prices", settings(parallelism));
        let source = Halting { halt, ..through(self.rules, self.seed, move |i| self.rule(i)) };
        let rules = flow.source("rules", source).untimed();
        let source = Halting { halt, ..through(self.rows, self.seed, move |i| self.row(i)) };
        flow.source("rows", source)
            .untimed()
            .key_by(|row| row.0)
            .connect_broadcast(rules)
            .operate("price", "prices at the end", || AtTheEnd)
            .sink("out", out.clone());
        flow.finish().unwrap()
    }

    fn expected(self) -> Vec<Priced> {
        let mut prices = BTreeMap::new();
        for (item, price) in (0..self.rules).map(|i| self.rule(i)) {
            let place = prices.entry(item).or_insert(0);
            *place = price.max(*place);
        }
        let rows = (0..self.rows).map(|i| self.row(i));
        let mut rows: Vec<_> = rows.map(|row| (row.0, row.1, prices.get(&row.1).copied())).collect();
        rows.sort_unstable();
        rows
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_task_has_all_rules_over_a_restore_too(
        seed in 0_u64..1_000_000, rows in 0_u64..1_500, rules in 0_u64..120, parallelism in 1_u32..5,
    ) {
        let input = Input { seed, rows, rules };
        let out = Collect::default();
        run(input.plan(parallelism, false, &out));
        prop_assert_eq!(out.sorted(), input.expected());
        let out = Collect::default();
        run_over_a_restore(input.plan(parallelism, true, &Collect::default()), input.plan(parallelism, false, &out));
        prop_assert_eq!(out.sorted(), input.expected(), "over a restore");
    }
}

#[test]
fn rules_without_time_hold_no_window_back_and_meet_the_rows_behind_them() {
    for parallelism in [1, 3] {
        let flow = Flow::new("windows", settings(parallelism));
        let rules = flow.source("rules", vec_source(vec![(1_u64, 10_u64), (2, 20)])).untimed();
        let rows = flow
            .source("rows", vec_source((0..1_000_i64).map(|i| (i % 7, i)).collect()))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(10)), |row| Timestamp::from_millis(row.1));
        let out = Collect::default();
        rows.key_by(|row| row.0)
            .broadcast_join(
                "join",
                rules,
                |prices: &mut BTreeMap<u64, u64>, rule| {
                    prices.insert(rule.0, rule.1);
                },
                |prices, row| {
                    assert!(prices.len() <= 2 && prices.iter().all(|(item, price)| item * 10 == *price));
                    Some(row)
                },
            )
            .key_by(|row| row.0)
            .window(Tumbling::of(millis_of(100)))
            .late(Late::Drop)
            .aggregate(
                "count",
                fold(|| 0_u64, |n, _: &(i64, i64)| *n += 1, |key, window, n| (window.start.millis(), key, n)),
            )
            .sink("out", out.clone());
        run(flow.finish().unwrap());
        let mut expected = BTreeMap::new();
        (0..1_000_i64).for_each(|i| *expected.entry((i / 100 * 100, i % 7)).or_insert(0_u64) += 1);
        let expected: Vec<_> = expected.into_iter().map(|((start, key), n)| (start, key, n)).collect();
        assert_eq!(out.sorted(), expected, "parallelism {parallelism}");
    }
}
