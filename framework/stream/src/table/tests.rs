use super::segment::SEGMENT_ROWS_MAX;
use super::*;
use crate::keyed::{ByRef, ByValue};
use crate::snapshot::{Restore, TaskSnapshot};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::marker::PhantomData;

fn first(row: &(u64, u32)) -> &u64 {
    &row.0
}

proptest! {
    #[test]
    fn it_holds_what_a_map_holds(rows in proptest::collection::vec((0_u64..500, any::<u32>()), 0..3000)) {
        let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
        for (key, value) in &rows {
            *expected.entry(*key).or_default() += u64::from(*value);
        }
        let by_ref = ByRef { f: first, key: PhantomData };
        let mut batched = Table::new();
        batched.upsert_all(&rows, &by_ref, || 0, |sum, r| *sum += u64::from(r.1));
        let mut single = Table::new();
        for (key, value) in &rows {
            *single.upsert(key.key_hash(), Cow::Borrowed(key), || 0) += u64::from(*value);
        }
        let by_text = ByValue { f: |r: &(u64, u32)| r.0.to_string(), key: PhantomData };
        let mut texts = Table::new();
        texts.upsert_all(&rows, &by_text, || 0_u64, |sum, r| *sum += u64::from(r.1));
        prop_assert_eq!(batched.len(), expected.len());
        prop_assert_eq!(batched.into_entries().collect::<BTreeMap<_, _>>(), expected.clone());
        prop_assert_eq!(single.into_entries().collect::<BTreeMap<_, _>>(), expected.clone());
        let texts: BTreeMap<u64, u64> = texts.into_entries().map(|(k, v)| (k.parse().unwrap(), v)).collect();
        prop_assert_eq!(texts, expected);
    }
}

/// A table of these keys, each with its double.
fn table(keys: u64) -> Table<u64, u64> {
    let mut table = Table::new();
    for key in 0..keys {
        table.insert(key, key * 2);
    }
    table
}

fn rows(mut blocks: Blocks) -> Vec<(u64, u64)> {
    let mut snapshot = TaskSnapshot::default();
    blocks.hand_over(true, &mut snapshot, ("op", "state", 0)).unwrap();
    let mut rows = Vec::new();
    Restore::new([snapshot]).rows("op", "state", None, |_, row| rows.push(row)).unwrap();
    rows
}

#[test]
fn a_table_of_many_segments_finds_every_key_and_keeps_none_that_was_removed() {
    let keys = 100_000;
    let mut table = table(keys);
    assert!(table.segments.len() >= 200);
    assert!(table.segments.iter().all(|s| s.table.len() <= SEGMENT_ROWS_MAX));
    assert!(table.directory.len().is_power_of_two());
    assert_eq!(table.len() as u64, keys);
    for key in 0..keys {
        assert_eq!(table.get(key.key_hash(), &key), Some(&(key * 2)));
    }
    for key in (0..keys).step_by(3) {
        table.find(key.key_hash(), &key).unwrap().remove();
    }
    for key in 0..keys {
        assert_eq!(table.get(key.key_hash(), &key).is_some(), key % 3 != 0);
    }
    let left = table.into_entries();
    assert_eq!(left.len() as u64, keys - keys.div_ceil(3));
    assert_eq!(left.count() as u64, keys - keys.div_ceil(3));
}

#[derive(Clone, Debug)]
enum Step {
    Add(u64, u64),
    Batch(Vec<(u64, u32)>),
    Remove(u64),
    Write(usize),
}

fn step(keys: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..keys, any::<u32>()).prop_map(|(k, n)| Step::Add(k, u64::from(n))),
        2 => proptest::collection::vec((0..keys, any::<u32>()), 0..200).prop_map(Step::Batch),
        3 => (0..keys).prop_map(Step::Remove),
        3 => (0_usize..4_000).prop_map(Step::Write),
    ]
}

/// Whatever is done while a snapshot is written, it has each row once, as it was at the barrier.
fn check(mut table: Table<u64, u64>, steps: &[Step]) {
    let barrier: BTreeMap<u64, u64> = table.iter().copied().collect();
    let mut now = barrier.clone();
    table.begin(WriteRow::pairs(), 0).unwrap();
    let mut saved = None;
    for step in steps {
        match step {
            Step::Add(key, n) => {
                let value = table.upsert(key.key_hash(), Cow::Borrowed(key), || 0);
                *value = value.wrapping_add(*n);
                let value = now.entry(*key).or_default();
                *value = value.wrapping_add(*n);
            }
            Step::Batch(rows) => {
                let by_ref = ByRef { f: first, key: PhantomData };
                table.upsert_all(rows, &by_ref, || 0, |v, r| *v = v.wrapping_add(u64::from(r.1)));
                for (key, n) in rows {
                    let value = now.entry(*key).or_default();
                    *value = value.wrapping_add(u64::from(*n));
                }
            }
            Step::Remove(key) => {
                let removed = table.find(key.key_hash(), key).map(Row::remove);
                assert_eq!(removed, now.remove(key));
            }
            Step::Write(budget) => {
                if let Some(blocks) = table.write(&mut budget.clone()) {
                    assert!(saved.is_none(), "written twice");
                    saved = Some(blocks);
                }
            }
        }
    }
    let saved = saved.or_else(|| table.write(&mut { usize::MAX })).expect("written to its end");
    let saved = rows(saved);
    assert_eq!(saved.len(), barrier.len(), "each row once");
    assert_eq!(saved.into_iter().collect::<BTreeMap<_, _>>(), barrier);
    assert!(table.write(&mut { usize::MAX }).is_none());
    assert_eq!(table.into_entries().collect::<BTreeMap<_, _>>(), now);
}

proptest! {
    #[test]
    fn a_snapshot_has_what_was_there_at_the_barrier(
        keys in 0_u64..3_600,
        steps in proptest::collection::vec(step(5_000), 0..120),
    ) {
        check(table(keys), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_snapshot_has_what_was_there_at_the_barrier_when_segments_split_meanwhile(
        keys in 25_000_u64..30_000,
        steps in proptest::collection::vec(step(60_000), 0..120),
    ) {
        // About as many as 64 segments have room for.
        let new: Vec<(u64, u32)> = (0..3_000).map(|n| (1_000_000 + n, 1)).collect();
        let steps: Vec<Step> = steps.into_iter().chain([Step::Batch(new), Step::Write(100)]).collect();
        check(table(keys), &steps);
    }
}

#[test]
fn a_second_barrier_is_refused_while_the_first_is_written() {
    let mut table = table(10);
    table.begin(WriteRow::pairs(), 0).unwrap();
    assert!(table.begin(WriteRow::pairs(), 0).is_err());
    assert_eq!(rows(table.write(&mut { usize::MAX }).unwrap()).len(), 10);
    table.begin(WriteRow::pairs(), 0).unwrap();
}
