use std::collections::BTreeSet;
use std::time::SystemTime;

use afflux_actor::Clock;
use proptest::prelude::*;

use super::*;
use crate::context::JobSettings;
use crate::state::{StateBackend, StateRoot};

/// Timers in memory before some go to disk.
const NEAR_MAX: usize = 16;

/// Timers in memory, and on disk with little memory.
fn both(directory: &tempfile::TempDir) -> [Timers<u64>; 2] {
    [Timers::new("timers", &Backend::Memory), on_disk(directory)]
}

fn on_disk(directory: &tempfile::TempDir) -> Timers<u64> {
    let settings = JobSettings { state_backend: StateBackend::Disk, ..JobSettings::default() };
    let root = StateRoot::below(directory.path()).reserve_bytes(0);
    let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
    match Backend::open(&settings, &root, "job", 1, &clock).unwrap() {
        Backend::Disk(store) => Timers::Disk(Box::new(DiskTimers::with_near_max("timers", &store, NEAR_MAX))),
        Backend::Memory => unreachable!(),
    }
}

fn restored(mut timers: Timers<u64>, mut snapshot: TaskSnapshot) -> Timers<u64> {
    snapshot.gather().unwrap();
    timers.restore(&Restore::new([snapshot]), "op", (0, 1)).unwrap();
    timers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn each_fires_once_in_order_of_time_unless_it_was_taken_back_and_wherever_it_was_kept(
        asked in proptest::collection::vec((-20_i64..50, 0_u64..20), 0..300),
        back in proptest::collection::vec((-20_i64..50, 0_u64..20), 0..100),
        until in -20_i64..60,
    ) {
        let directory = tempfile::tempdir().unwrap();
        for (from, mut timers) in both(&directory).into_iter().enumerate() {
            let mut expected = BTreeSet::new();
            for (at, key) in &asked {
                timers.set(*at, key);
                expected.insert((*at, *key));
            }
            for (at, key) in &back {
                timers.remove(*at, key);
                expected.remove(&(*at, *key));
            }
            let mut snapshot = TaskSnapshot::default();
            timers.begin().unwrap();
            let through = timers.write(&mut snapshot, "op", 0, &mut { usize::MAX }).unwrap();
            prop_assert!(through);
            // Into the other kind.
            let other = both(&directory).into_iter().nth(1 - from).unwrap();
            let mut timers = restored(other, snapshot);
            prop_assert_eq!(timers.first().unwrap(), expected.first().map(|t| t.0));
            let mut fired = Vec::new();
            while let Some(timer) = timers.pop(until).unwrap() {
                fired.push(timer);
            }
            prop_assert!(fired.is_sorted_by_key(|t| t.0));
            let due: BTreeSet<_> = expected.iter().filter(|t| t.0 <= until).copied().collect();
            prop_assert_eq!(fired.len(), due.len());
            prop_assert_eq!(fired.into_iter().collect::<BTreeSet<_>>(), due);
            let mut rest = BTreeSet::new();
            while let Some(timer) = timers.pop(i64::MAX).unwrap() {
                prop_assert!(rest.insert(timer));
            }
            prop_assert_eq!(rest, expected.into_iter().filter(|t| t.0 > until).collect::<BTreeSet<_>>());
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(i64, u64),
    Remove(i64, u64),
    Pop(i64),
    First,
    Upcoming(i64),
    Begin,
    Write(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (at, key) = (0_i64..40, 0_u64..30);
    prop_oneof![
        8 => (at.clone(), key.clone()).prop_map(|(at, key)| Step::Set(at, key)),
        4 => (at.clone(), key).prop_map(|(at, key)| Step::Remove(at, key)),
        6 => at.clone().prop_map(Step::Pop),
        1 => Just(Step::First),
        1 => at.prop_map(Step::Upcoming),
        1 => Just(Step::Begin),
        3 => (0_usize..500).prop_map(Step::Write),
    ]
}

fn saved(mut snapshot: TaskSnapshot) -> Vec<(i64, u64)> {
    let mut saved = Vec::new();
    snapshot.gather().unwrap();
    Restore::new([snapshot]).rows("op", "timers", None, |_, (key, at)| saved.push((at, key))).unwrap();
    saved
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn timers_on_disk_are_those_of_a_set_and_a_snapshot_has_those_of_its_barrier(
        steps in proptest::collection::vec(step(), 0..600),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut timers = on_disk(&directory);
        let mut now: BTreeSet<(i64, u64)> = BTreeSet::new();
        let mut snapshot = TaskSnapshot::default();
        let mut barrier: Option<BTreeSet<(i64, u64)>> = None;
        for step in steps.into_iter().chain([Step::Write(usize::MAX), Step::Begin, Step::Write(usize::MAX)]) {
            match step {
                Step::Set(at, key) => {
                    timers.set(at, &key);
                    now.insert((at, key));
                }
                Step::Remove(at, key) => {
                    timers.remove(at, &key);
                    now.remove(&(at, key));
                }
                Step::Pop(until) => match timers.pop(until).unwrap() {
                    Some(timer) => {
                        prop_assert_eq!(Some(timer.0), now.first().map(|t| t.0));
                        prop_assert!(timer.0 <= until && now.remove(&timer));
                    }
                    None => prop_assert!(now.first().is_none_or(|t| t.0 > until)),
                },
                Step::First => prop_assert_eq!(timers.first().unwrap(), now.first().map(|t| t.0)),
                Step::Upcoming(until) => {
                    let next = timers.upcoming(until, 4).unwrap();
                    prop_assert_eq!(next.is_empty(), now.first().is_none_or(|t| t.0 > until));
                    prop_assert!(next.iter().all(|key| now.iter().any(|t| t.1 == *key && t.0 <= until)));
                }
                Step::Begin if barrier.is_none() => {
                    timers.begin().unwrap();
                    barrier = Some(now.clone());
                }
                Step::Begin => prop_assert!(timers.begin().is_err()),
                Step::Write(mut budget) => {
                    if timers.write(&mut snapshot, "op", 0, &mut budget).unwrap()
                        && let Some(barrier) = barrier.take()
                    {
                        let rows = saved(std::mem::take(&mut snapshot));
                        prop_assert_eq!(rows.len(), barrier.len(), "each once");
                        prop_assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), barrier);
                    }
                }
            }
            prop_assert!(timers.list().len() <= NEAR_MAX, "{} in memory", timers.list().len());
        }
    }
}

#[test]
fn timers_that_fire_long_after_each_other_leave_memory_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut timers = on_disk(&directory);
    for key in 0..5_000_u64 {
        timers.set((key * 37 % 5_000) as i64, &key);
    }
    assert!(timers.list().len() <= NEAR_MAX);
    for at in 0..5_000 {
        assert_eq!(timers.pop(at).unwrap().map(|t| t.0), Some(at));
        // One for the past and one for later, in between.
        timers.set(at - 1, &7);
        timers.set(at + 10_000, &7);
        assert_eq!(timers.pop(at).unwrap(), Some((at - 1, 7)));
        assert_eq!(timers.pop(at).unwrap(), None);
    }
    assert_eq!(timers.first().unwrap(), Some(10_000));
}
