use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::aggregate::MergeAggregate;
use crate::harness::Harness;
use crate::window::Every;

/// Start, end, how many, the sum.
type Sum = (i64, i64, u64, u64);

struct Sums;

impl Aggregate<u32, u64> for Sums {
    type Acc = (u64, u64);
    type Output = Sum;
    fn create(&self) -> (u64, u64) {
        (0, 0)
    }
    fn add(&self, acc: &mut (u64, u64), row: &u64) {
        acc.0 += 1;
        acc.1 += row;
    }
    fn finish(&self, _: u32, w: Window, acc: (u64, u64)) -> Sum {
        (w.start.millis(), w.end.millis(), acc.0, acc.1)
    }
}

impl MergeAggregate<u32, u64> for Sums {
    fn merge(&self, into: &mut (u64, u64), from: &(u64, u64)) {
        into.0 += from.0;
        into.1 += from.1;
    }
}

fn rules(assign: Assign, trigger: Trigger, lateness: i64) -> WindowRules {
    WindowRules { assign, by_clock: false, trigger, lateness, aside: true }
}

fn operator(rules: WindowRules) -> WindowOperator<u32, u64, Sums, (Firing, Sum)> {
    WindowOperator {
        aggregate: Arc::new(Sums),
        rules,
        merge: Some(Merge { merge: MergeAggregate::<u32, u64>::merge }),
        result: |firing, sum| (firing, sum),
        types: PhantomData,
    }
}

fn tumbling(size: i64) -> Assign {
    Assign::Fixed(Panes::new(size, size))
}

#[test]
fn a_window_fires_early_on_time_and_late_and_is_forgotten_when_its_lateness_is_over() {
    let trigger = Trigger::event_time().early(Every::count(2));
    let mut windows = Harness::of(operator(rules(tumbling(100), trigger, 50)));
    windows.keep_side(&late_tag::<u64>());
    for (at, row) in [(10, 1), (20, 2), (30, 4)] {
        windows.push(7, row, at).unwrap();
    }
    let firing = |timing, index| Firing { timing, index };
    assert_eq!(windows.take_timed(), [((firing(Timing::Early, 0), (0, 100, 2, 3)), 99)]);
    windows.watermark(100).unwrap();
    assert_eq!(windows.take(), [(firing(Timing::OnTime, 1), (0, 100, 3, 7))]);
    windows.push(7, 8, 99).unwrap();
    assert_eq!(windows.take(), [(firing(Timing::Late, 2), (0, 100, 4, 15))]);
    windows.watermark(149).unwrap();
    windows.push(7, 16, 0).unwrap();
    assert_eq!(windows.take(), [(firing(Timing::Late, 3), (0, 100, 5, 31))]);
    windows.watermark(150).unwrap();
    assert!(windows.state(&7).is_none(), "no state outlives its purge");
    windows.push(7, 32, 99).unwrap();
    assert_eq!(windows.take(), []);
    assert_eq!(windows.take_side(&late_tag::<u64>()), [32]);
    assert!(windows.timers().is_empty());
}

#[test]
fn purging_results_are_of_new_records_only_and_silence_gives_none() {
    let trigger = Trigger::processing_time(Duration::from_millis(10)).purging();
    let mut windows = Harness::of(operator(rules(Assign::Global, trigger, 0)));
    for row in [1, 2] {
        windows.push(7, row, 0).unwrap();
    }
    windows.advance(Duration::from_millis(9)).unwrap();
    assert_eq!(windows.take(), []);
    windows.advance(Duration::from_millis(1)).unwrap();
    assert_eq!(windows.take().iter().map(|r| r.1.3).collect::<Vec<_>>(), [3]);
    windows.advance(Duration::from_millis(100)).unwrap();
    assert_eq!(windows.take(), []);
    windows.push(7, 4, 0).unwrap();
    windows.end().unwrap();
    assert_eq!(windows.take().iter().map(|r| (r.0.timing, r.1.3)).collect::<Vec<_>>(), [(Timing::OnTime, 4)]);
    assert!(windows.state(&7).is_none());
}

#[test]
fn windows_of_the_clock_fire_by_the_clock_and_pending_ones_at_the_end() {
    let rules = WindowRules { by_clock: true, ..rules(tumbling(10), Trigger::event_time(), 0) };
    let mut windows = Harness::of(operator(rules));
    windows.push(7, 1, 1_000_000).unwrap();
    windows.watermark(2_000_000).unwrap();
    assert_eq!(windows.take(), []);
    windows.advance(Duration::from_millis(10)).unwrap();
    assert_eq!(windows.take().iter().map(|r| r.1).collect::<Vec<_>>(), [(0, 10, 1, 1)]);
    windows.push(7, 2, 5).unwrap();
    windows.end().unwrap();
    assert_eq!(windows.take().iter().map(|r| r.1).collect::<Vec<_>>(), [(10, 20, 1, 2)]);
    assert!(windows.state(&7).is_none());
}

#[test]
fn a_late_record_joins_two_sessions_that_are_kept() {
    let mut windows = Harness::of(operator(rules(Assign::Session(10), Trigger::event_time(), 100)));
    windows.push(7, 1, 0).unwrap();
    windows.push(7, 2, 15).unwrap();
    windows.watermark(40).unwrap();
    assert_eq!(windows.take().iter().map(|r| r.1).collect::<Vec<_>>(), [(0, 10, 1, 1), (15, 25, 1, 2)]);
    windows.push(7, 4, 8).unwrap();
    let joined = windows.take();
    assert_eq!(joined, [(Firing { timing: Timing::Late, index: 1 }, (0, 25, 3, 7))]);
    windows.watermark(124).unwrap();
    assert!(windows.state(&7).is_some());
    windows.watermark(125).unwrap();
    assert!(windows.state(&7).is_none());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Row(u32, i64),
    Watermark(i64),
    Advance(u64),
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_u32..3, -20_i64..60).prop_map(|(key, at)| Step::Row(key, at)),
        3 => (0_i64..30).prop_map(Step::Watermark),
        2 => (0_u64..10).prop_map(Step::Advance),
        1 => Just(Step::Restore),
    ]
}

fn trigger() -> impl Strategy<Value = Trigger> {
    let base = prop_oneof![
        Just(Trigger::event_time()),
        Just(Trigger::event_time().early(Every::count(3))),
        Just(Trigger::event_time().early(Every::time(Duration::from_millis(4))).late(Every::count(2))),
        Just(Trigger::event_time().late(Every::time(Duration::from_millis(3)))),
        Just(Trigger::count(4)),
        Just(Trigger::processing_time(Duration::from_millis(5))),
    ];
    (base, any::<bool>()).prop_map(|(t, purging)| if purging { t.purging() } else { t })
}

/// Rows with their keys, and the late ones.
type Ran = (Vec<(u32, Firing, Sum)>, BTreeSet<u64>);

/// Runs the steps; rows are told apart by their place among the steps. Rows' times are relative to
/// the watermark. `seen` is told each row and the watermark that it met.
fn drive(rules: WindowRules, steps: &[Step], mut seen: impl FnMut(u32, i64, u64, i64)) -> Ran {
    let (mut results, mut late) = (Vec::new(), BTreeSet::new());
    let mut windows: Vec<_> = (0..3).map(|_| Harness::of(operator(rules))).collect();
    windows.iter_mut().for_each(|w| {
        w.keep_side(&late_tag::<u64>());
        w.watermark(0).unwrap();
    });
    let mut watermark = 0;
    for (i, step) in steps.iter().enumerate() {
        match *step {
            Step::Row(key, after) => {
                let row = 1_u64 << (i % 64);
                seen(key, watermark + after, row, watermark);
                windows[key as usize].push(key, row, watermark + after).unwrap();
            }
            Step::Watermark(by) => {
                watermark += by;
                windows.iter_mut().for_each(|w| w.watermark(watermark).unwrap());
            }
            Step::Advance(by) => {
                windows.iter_mut().for_each(|w| w.advance(Duration::from_millis(by)).unwrap());
            }
            Step::Restore => {
                for w in &mut windows {
                    let (snapshot, now) = (w.snapshot(1).unwrap(), w.now());
                    let mut again = Harness::of(operator(rules)).restored(snapshot).unwrap();
                    again.advance(Duration::from_millis(now as u64)).unwrap();
                    again.keep_side(&late_tag::<u64>());
                    assert!(again.take().is_empty());
                    *w = again;
                }
            }
        }
        for (key, w) in windows.iter_mut().enumerate() {
            results.extend(w.take().into_iter().map(|r| (key as u32, r.0, r.1)));
            late.extend(w.take_side(&late_tag::<u64>()));
        }
    }
    for (key, w) in windows.iter_mut().enumerate() {
        w.end().unwrap();
        results.extend(w.take().into_iter().map(|r| (key as u32, r.0, r.1)));
        assert!(w.state(&(key as u32)).is_none() && w.timers().is_empty());
    }
    (results, late)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn results_of_any_trigger_and_lateness_are_of_all_records_that_are_not_late(
        steps in proptest::collection::vec(step(), 0..60), trigger in trigger(), lateness in 0_i64..40,
        (size, slide) in prop_oneof![Just((20, 20)), Just((20, 5)), Just((14, 10))],
    ) {
        let panes = Panes::new(size, slide);
        let mut expected = BTreeMap::<(u32, i64), u64>::new();
        let mut expected_late = BTreeSet::new();
        let mut before_end = BTreeSet::new();
        let (results, late) = drive(rules(Assign::Fixed(panes), trigger, lateness), &steps, |key, at, row, watermark| {
            let mut is_late = true;
            let mut start = at.div_euclid(slide) * slide;
            while start + size > at {
                if start + size + lateness > watermark {
                    is_late = false;
                    *expected.entry((key, start)).or_default() += row;
                    if start + size > watermark {
                        before_end.insert((key, start));
                    }
                }
                start -= slide;
            }
            if is_late {
                expected_late.insert(row);
            }
        });
        prop_assert_eq!(late, expected_late);
        let mut by_window = BTreeMap::<(u32, i64), Vec<(Firing, Sum)>>::new();
        for (key, firing, sum) in results {
            by_window.entry((key, sum.0)).or_default().push((firing, sum));
        }
        prop_assert_eq!(by_window.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (window, results) in by_window {
            let all = expected[&window];
            if trigger.purging {
                prop_assert_eq!(results.iter().map(|r| r.1.3).sum::<u64>(), all);
                prop_assert!(results.iter().all(|r| r.1.2 > 0));
            } else {
                prop_assert_eq!(results.last().map(|r| r.1.3), Some(all));
                prop_assert!(results.is_sorted_by_key(|r| r.1.2));
            }
            prop_assert!(results.iter().enumerate().all(|(i, r)| r.0.index == i as u32));
            prop_assert!(results.is_sorted_by_key(|r| r.0.timing));
            let on_time = results.iter().filter(|r| r.0.timing == Timing::OnTime).count();
            prop_assert!(on_time <= 1);
            if trigger.at_end && !trigger.purging {
                prop_assert_eq!(on_time == 1, before_end.contains(&window));
            }
        }
    }

    #[test]
    fn sessions_that_are_kept_long_enough_end_as_the_batch_has_them(
        steps in proptest::collection::vec(step(), 0..60), trigger in trigger(), gap in 1_i64..20,
    ) {
        let mut rows = BTreeMap::<u32, Vec<(i64, u64)>>::new();
        let rules = rules(Assign::Session(gap), trigger, 1_000_000);
        let (results, late) = drive(rules, &steps, |key, at, row, _| rows.entry(key).or_default().push((at, row)));
        prop_assert!(late.is_empty());
        let mut expected = BTreeSet::new();
        for (key, mut rows) in rows.clone() {
            rows.sort_unstable();
            let mut open: Option<(i64, i64, u64)> = None;
            for (at, row) in rows {
                open = match open {
                    Some((start, end, sum)) if at < end => Some((start, at + gap, sum + row)),
                    other => {
                        expected.extend(other.map(|o| (key, o)));
                        Some((at, at + gap, row))
                    }
                };
            }
            expected.extend(open.map(|o| (key, o)));
        }
        if trigger.purging {
            let all: u64 = rows.values().flatten().map(|r| r.1).sum();
            prop_assert_eq!(results.iter().map(|r| r.2.3).sum::<u64>(), all);
        } else {
            let results: BTreeSet<_> = results.iter().map(|r| (r.0, (r.2.0, r.2.1, r.2.3))).collect();
            prop_assert!(results.is_superset(&expected), "{expected:?} not all in {results:?}");
        }
    }

    #[test]
    fn a_window_over_all_of_time_loses_nothing_whatever_its_trigger(
        steps in proptest::collection::vec(step(), 0..60), trigger in trigger(),
    ) {
        let mut expected = BTreeMap::<u32, u64>::new();
        let rules = rules(Assign::Global, trigger, 0);
        let (results, late) = drive(rules, &steps, |key, _, row, _| *expected.entry(key).or_default() += row);
        prop_assert!(late.is_empty());
        let mut found = BTreeMap::<u32, u64>::new();
        for (key, _, sum) in results {
            let all = found.entry(key).or_default();
            *all = if trigger.purging { *all + sum.3 } else { sum.3 };
        }
        prop_assert_eq!(found, expected);
    }
}
