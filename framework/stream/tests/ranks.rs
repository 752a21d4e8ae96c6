//! Deduplication, rankings and distinct counts against plain loops: any parallelism, any order within
//! the bound, over a checkpoint and a restore too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;
#[path = "common/halting.rs"]
mod halting;

use std::collections::{BTreeMap, BTreeSet};

use afflux_stream::{
    BoundedOutOfOrder, Change, Flow, Late, Plan, Stream, Timestamp, Tumbling, distinct, millis_of, top_n,
};
use common::{Collect, run, run_over_a_restore, settings};
use halting::{Halting, through};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    key: u32,
    value: u64,
    at: i64,
}

/// How far out of order rows are at most, in milliseconds.
const BOUND: i64 = 40;

#[derive(Clone, Copy, Debug)]
struct Input {
    seed: u64,
    count: u64,
    keys: u32,
    parallelism: u32,
    /// Waits half-way for a barrier.
    halt: bool,
}

impl Input {
    fn row(self, i: u64) -> Row {
        let h = (i + self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        let at = i as i64 - (h % BOUND as u64) as i64;
        Row { key: ((h >> 8) % u64::from(self.keys)) as u32, value: (h >> 12) % 100, at }
    }

    /// Rows of each key, in order of time, then of value.
    fn by_key(self) -> BTreeMap<u32, Vec<Row>> {
        let mut rows = BTreeMap::<u32, Vec<Row>>::new();
        (0..self.count).map(|i| self.row(i)).for_each(|row| rows.entry(row.key).or_default().push(row));
        rows.values_mut().for_each(|rows| rows.sort_unstable_by_key(|row| (row.at, row.value)));
        rows
    }

    fn stream(self, flow: &Flow) -> Stream<Row> {
        let source = Halting { halt: self.halt, ..through(self.count, self.seed, move |i| self.row(i)) };
        flow.source("rows", source).watermarks_by(BoundedOutOfOrder::by(millis_of(BOUND as u64)), |row| {
            Timestamp::from_millis(row.at)
        })
    }

    fn plan(self, build: impl FnOnce(Stream<Row>)) -> Plan {
        let flow = Flow::new("ranks", settings(self.parallelism));
        build(self.stream(&flow));
        flow.finish().unwrap()
    }
}

fn input() -> impl Strategy<Value = Input> {
    (0_u64..1_000_000, 0_u64..3_000, 1_u32..200, 1_u32..5)
        .prop_map(|(seed, count, keys, parallelism)| Input { seed, count, keys, parallelism, halt: false })
}

/// Runs it straight, and over a restore from half-way; both have to give what is expected.
fn check<T>(input: Input, plan: impl Fn(Input, &Collect<T>) -> Plan, mut expected: Vec<T>)
where
    T: Ord + Clone + std::fmt::Debug + Serialize + DeserializeOwned + Send + 'static,
{
    expected.sort_unstable();
    let out = Collect::default();
    run(plan(input, &out));
    assert_eq!(out.sorted(), expected);
    let out = Collect::default();
    run_over_a_restore(plan(Input { halt: true, ..input }, &Collect::default()), plan(input, &out));
    assert_eq!(out.sorted(), expected, "over a restore");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_first_of_a_key_is_the_earliest_and_those_within_its_time_to_live_are_duplicates(
        input in input(), ttl in proptest::option::of(1_i64..500),
    ) {
        let mut expected = Vec::new();
        for rows in input.by_key().into_values() {
            let mut until = i64::MIN;
            for row in rows {
                if row.at >= until {
                    until = ttl.map_or(i64::MAX, |ttl| row.at + ttl);
                    expected.push(row);
                }
            }
        }
        let plan = |input: Input, out: &Collect<Row>| {
            input.plan(|rows| {
                let dedupe = rows.key_by(|row| row.key).deduplicate().ties(|a, b| a.value.cmp(&b.value));
                let dedupe = match ttl {
                    Some(ttl) => dedupe.ttl(millis_of(ttl as u64)),
                    None => dedupe,
                };
                dedupe.first("first").sink("out", out.clone());
            })
        };
        check(input, plan, expected);
    }

    #[test]
    fn the_last_of_a_key_is_the_latest_before_a_silence_or_the_end(
        input in input(), ttl in proptest::option::of(1_i64..500),
    ) {
        let mut expected = Vec::new();
        for rows in input.by_key().into_values() {
            for (index, row) in rows.iter().enumerate() {
                let next = rows.get(index + 1);
                if next.is_none_or(|next| ttl.is_some_and(|ttl| next.at >= row.at + ttl)) {
                    expected.push(row.clone());
                }
            }
        }
        let plan = |input: Input, out: &Collect<Row>| {
            input.plan(|rows| {
                let dedupe = rows.key_by(|row| row.key).deduplicate().ties(|a, b| a.value.cmp(&b.value));
                let dedupe = match ttl {
                    Some(ttl) => dedupe.ttl(millis_of(ttl as u64)),
                    None => dedupe,
                };
                dedupe.last("last").sink("out", out.clone());
            })
        };
        check(input, plan, expected);
    }

    #[test]
    fn a_ranking_has_the_greatest_of_each_key(input in input(), n in 0_usize..20) {
        let expected = input.by_key().into_iter().filter(|_| n > 0).map(|(key, mut rows)| {
            rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.value, row.at)));
            rows.truncate(n);
            (key, rows)
        });
        let plan = |input: Input, out: &Collect<(u32, Vec<Row>)>| {
            input.plan(|rows| {
                rows.key_by(|row| row.key)
                    .top(n, |row| (row.value, row.at))
                    .ranking("top")
                    .map(|ranking| (ranking.key, ranking.rows))
                    .sink("out", out.clone());
            })
        };
        check(input, plan, expected.collect());
    }

    #[test]
    fn changes_applied_in_order_give_the_ranking(input in input(), n in 1_usize..20) {
        let out = Collect::default();
        run(input.plan(|rows| {
            rows.key_by(|row| row.key).top(n, |row| (row.value, row.at)).changes("top").sink("out", out.clone());
        }));
        let mut entered = Vec::new();
        let mut left = Vec::new();
        for change in out.sorted() {
            match change {
                Change::Entered(row) => entered.push(row),
                Change::Left(row) => left.push(row),
            }
        }
        for row in left {
            let place = entered.iter().position(|other| *other == row);
            entered.remove(place.unwrap());
        }
        let expected = input.by_key().into_values().flat_map(|mut rows| {
            rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.value, row.at)));
            rows.truncate(n);
            rows
        });
        let mut expected: Vec<_> = expected.collect();
        expected.sort_unstable();
        entered.sort_unstable();
        prop_assert_eq!(entered, expected);
    }

    #[test]
    fn different_values_and_the_greatest_of_windows_are_exact(input in input(), n in 1_usize..5) {
        type Found = (u32, i64, u64, Vec<u64>);
        let mut windows = BTreeMap::<(u32, i64), Vec<u64>>::new();
        for row in input.by_key().into_values().flatten() {
            windows.entry((row.key, row.at.div_euclid(100) * 100)).or_default().push(row.value);
        }
        let different = |values: &[u64]| values.iter().collect::<BTreeSet<_>>().len() as u64;
        let expected: Vec<Found> = windows
            .iter()
            .flat_map(|((key, start), values)| {
                let mut greatest = values.clone();
                greatest.sort_unstable_by(|a, b| b.cmp(a));
                greatest.truncate(n);
                [(*key, *start, different(values), vec![]), (*key, *start, 0, greatest)]
            })
            .collect();
        let plan = |input: Input, out: &Collect<Found>| {
            input.plan(|rows| {
                let (first, second) = rows.tee();
                let counts = first
                    .key_by(|row| row.key)
                    .window(Tumbling::of(millis_of(100)))
                    .late(Late::Drop)
                    .aggregate("different", distinct(|row: &Row| row.value))
                    .map(|(key, window, count)| (key, window.start.millis(), count, Vec::new()));
                let greatest = second
                    .key_by(|row| row.key)
                    .window(Tumbling::of(millis_of(100)))
                    .late(Late::Drop)
                    .aggregate("greatest", top_n(n, |row: &Row| row.value))
                    .map(|r| {
                        let values = r.rows.iter().map(|row| row.value).collect();
                        (r.key, r.window.start.millis(), 0, values)
                    });
                counts.union([greatest.filter(|_| true).forward()]).sink("out", out.clone());
            })
        };
        check(input, plan, expected);
    }
}

#[test]
fn what_remembers_keys_for_ever_is_warned_about() {
    let input = Input { seed: 1, count: 1, keys: 1, parallelism: 1, halt: false };
    let warnings = |build: &dyn Fn(Stream<Row>) -> Stream<Row>| {
        input.plan(|rows| build(rows).count("n")).warnings().join("\n")
    };
    let first = warnings(&|rows| rows.key_by(|row| row.key).deduplicate().first("first"));
    assert!(first.contains("`first`: remembers every key") && first.contains(".ttl(…)"), "{first}");
    let last = warnings(&|rows| rows.key_by(|row| row.key).deduplicate().last("last"));
    assert!(last.contains("`last`: keeps one record for every key"), "{last}");
    let bounded = warnings(&|rows| rows.key_by(|row| row.key).deduplicate().ttl(millis_of(9)).first("first"));
    assert_eq!(bounded, "");
}
