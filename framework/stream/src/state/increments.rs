//! Whatever is done between checkpoints: a chain of increments restores what whole snapshots restore.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use object_store::memory::InMemory;
use proptest::prelude::*;

use super::{Backend, KeyedState};
use crate::job::{Manifest, Storage, TaskId};
use crate::key::{Key, KeyGroup};
use crate::keyed::ByRef;
use crate::snapshot::{Increment, TaskSnapshot};

const NAME: (&str, &str) = ("op", "values");
const KEYS: u64 = 6_000;

/// A task with one state, its checkpoints, and what should be in it.
struct Play {
    storage: Storage,
    state: KeyedState<u64, u64>,
    now: BTreeMap<u64, u64>,
    epoch: u64,
    increment: Increment,
    /// Bytes of each file.
    bytes: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Keys from, so many, this far apart.
    Set(u64, u64, u64),
    /// The same as rows of one batch.
    SetAll(u64, u64, u64),
    Remove(u64, u64, u64),
    /// A checkpoint; other steps are done while it is written, this many bytes after each.
    Checkpoint(Vec<Step>, usize),
    /// A checkpoint that could not be stored.
    Unstored,
}

impl Play {
    fn new(increment: Increment) -> Self {
        Self {
            storage: Storage::on(Arc::new(InMemory::new()), "memory"),
            state: KeyedState::new(NAME.1, &Backend::Memory),
            now: BTreeMap::new(),
            epoch: 0,
            increment,
            bytes: Vec::new(),
        }
    }

    fn change(&mut self, step: &Step) {
        match step {
            Step::Set(from, keys, apart) => {
                for n in 0..*keys {
                    let key = (from + n * apart) % KEYS;
                    let value = self.epoch * 1_000_000 + n;
                    *self.state.entry(key.key_hash(), Cow::Owned(key), || 0).parts().1 = value;
                    self.now.insert(key, value);
                }
            }
            Step::SetAll(from, keys, apart) => {
                let row = |n| ((from + n * apart) % KEYS, self.epoch * 1_000_000 + n);
                let rows: Vec<(u64, u64)> = (0..*keys).map(row).collect();
                let by_ref = ByRef { f: key_of, key: PhantomData };
                self.state.upsert_all(&rows, &by_ref, || 0, |value, row| *value = row.1);
                self.now.extend(rows);
            }
            Step::Remove(from, keys, apart) => {
                for n in 0..*keys {
                    let key = (from + n * apart) % KEYS;
                    if let Some(entry) = self.state.find(key.key_hash(), &key) {
                        entry.remove();
                    }
                    self.now.remove(&key);
                }
            }
            Step::Checkpoint(..) | Step::Unstored => {}
        }
    }

    fn snapshot(&mut self, between: &[Step], bytes: usize) -> TaskSnapshot {
        self.epoch += 1;
        let mut snapshot = TaskSnapshot { increment: self.increment, ..TaskSnapshot::new(self.epoch) };
        if self.increment != Increment::Never {
            self.increment = Increment::Since(self.epoch);
        }
        self.state.begin(&snapshot).unwrap();
        let mut written = false;
        for step in between {
            self.change(step);
            written = written || self.state.write(&mut snapshot, NAME.0, 0, &mut { bytes }).unwrap();
        }
        while !written {
            written = self.state.write(&mut snapshot, NAME.0, 0, &mut { usize::MAX }).unwrap();
        }
        snapshot
    }

    async fn checkpoint(&mut self, between: &[Step], bytes: usize) {
        let there = self.now.clone();
        let snapshot = self.snapshot(between, bytes);
        let file = self.storage.put("j", 1, TaskId::default(), &snapshot).await.unwrap();
        assert_eq!(file.states[0].rows as usize, there.len(), "rows that are told");
        self.bytes.push(file.bytes);
        let epoch = self.epoch;
        let manifest = Manifest { job: "j".into(), epoch, files: vec![file], ..Manifest::default() };
        self.storage.commit(&manifest).await.unwrap();
        self.storage.clone().retaining(2).retire("j").await.unwrap();
        self.restores(&there).await;
        // A savepoint refers to nothing, and has the same.
        if epoch.is_multiple_of(5) {
            let savepoint = self.storage.savepoint("j", epoch).await.unwrap();
            assert!(savepoint.files[0].refers.is_empty());
        }
    }

    /// Whether tasks of any number find in the last checkpoint what was there.
    async fn restores(&self, there: &BTreeMap<u64, u64>) {
        let (_, restore) = self.storage.read("j", self.epoch).await.unwrap();
        for tasks in [1, 3] {
            let mut found = BTreeMap::new();
            for subtask in 0..tasks {
                let mut share = KeyedState::<u64, u64>::new(NAME.1, &Backend::Memory);
                share.restore(&restore, NAME.0, (subtask, tasks)).unwrap();
                for key in 0..KEYS {
                    let Some(value) = share.get(&key) else { continue };
                    assert_eq!(KeyGroup::of(key.key_hash()).owner(tasks), subtask);
                    assert!(found.insert(key, *value).is_none(), "a key of two tasks");
                }
            }
            assert!(found == *there, "epoch {} on {tasks} tasks", self.epoch);
        }
    }

    async fn play(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Checkpoint(between, bytes) => self.checkpoint(between, *bytes).await,
                Step::Unstored => {
                    self.snapshot(&[], 0);
                    if self.increment != Increment::Never {
                        self.increment = Increment::First;
                    }
                }
                change => self.change(change),
            }
        }
    }
}

fn key_of(row: &(u64, u64)) -> &u64 {
    &row.0
}

fn change() -> impl Strategy<Value = Step> {
    let keys = || (0..KEYS, prop_oneof![4 => 0..60_u64, 1 => 0..3_000_u64], prop_oneof![Just(1), Just(37)]);
    prop_oneof![
        2 => keys().prop_map(|(from, keys, apart)| Step::Set(from, keys, apart)),
        2 => keys().prop_map(|(from, keys, apart)| Step::SetAll(from, keys, apart)),
        2 => keys().prop_map(|(from, keys, apart)| Step::Remove(from, keys, apart)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let between = proptest::collection::vec(change(), 0..4);
    prop_oneof![
        6 => change(),
        5 => (between, 0..4_000_usize).prop_map(|(between, bytes)| Step::Checkpoint(between, bytes)),
        1 => Just(Step::Unstored),
    ]
}

fn system<R>(work: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn increments_restore_what_was_there_whatever_was_done_between(
        first in 0..KEYS,
        steps in proptest::collection::vec(step(), 0..30),
    ) {
        system(async {
            let mut play = Play::new(Increment::First);
            play.change(&Step::Set(0, first, 1));
            play.play(&steps).await;
            play.checkpoint(&[], 0).await;
        });
    }
}

#[test]
fn little_that_has_changed_is_little_that_is_written_until_a_whole_snapshot_is_due() {
    let step = |n: u64| [Step::Set(n * 100, 60, 37), Step::Remove(n, 2, 1), Step::Checkpoint(vec![], 0)];
    let steps: Vec<Step> = (0..70).flat_map(step).collect();
    let [changes, whole] = [Increment::First, Increment::Never].map(|increment| {
        system(async {
            let mut play = Play::new(increment);
            play.change(&Step::Set(0, KEYS, 1));
            play.play(&steps).await;
            play.bytes
        })
    });
    let large = whole[0];
    assert!(whole.iter().all(|bytes| *bytes > large * 8 / 10), "{whole:?}");
    let full: Vec<usize> =
        changes.iter().enumerate().filter(|(_, b)| **b > large / 2).map(|(n, _)| n).collect();
    // 1 % of the rows each time: the chain is as long as it may be.
    assert_eq!(full, [0, 33, 66], "{changes:?}");
    assert!(changes.iter().sum::<u64>() < whole.iter().sum::<u64>() / 5, "{changes:?}");
}

#[test]
fn an_increment_of_what_is_not_stored_is_refused_by_name() {
    system(async {
        let mut play = Play::new(Increment::First);
        play.change(&Step::Set(0, 100, 1));
        play.snapshot(&[], 0);
        let snapshot = play.snapshot(&[], 0);
        let error = play.storage.put("j", 1, TaskId::default(), &snapshot).await.unwrap_err();
        assert!(error.message.contains("state op/values is said to follow that of epoch 1"), "{error}");
    });
}
