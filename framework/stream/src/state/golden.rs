//! A chain of increments as it was released, kept as files in `tests/data/checkpoint-3`: it restores for ever,
//! in memory and on disk, over any number of tasks, by types as they have become since.
//!
//! State on disk saves whole snapshots of layout 2, whose files `tests/golden.rs` reads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Serialize};

use super::{Backend, KeyedState};
use crate::job::{Manifest, Storage, TaskId};
use crate::key::{Key, KeyGroup};
use crate::snapshot::{Increment, LAYOUT_CHANGES, Role, TaskSnapshot};

const NAME: (&str, &str) = ("accounts", "state");
/// Keys of the whole snapshot. The first ten are changed, removed or given back in those behind it.
const KEYS: u64 = 40;
/// Epochs: the whole one, and two of changes.
const EPOCHS: u64 = 3;

/// An account as it was written.
#[derive(Serialize, Deserialize)]
struct Written {
    owner: String,
    cents: i32,
    status: WrittenStatus,
    removed_since: Option<u8>,
}

#[derive(Serialize, Deserialize)]
enum WrittenStatus {
    Open,
    Closed { at: i64, by: String },
}

/// The same, years later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Account {
    #[serde(default)]
    currency: String,
    status: Status,
    #[serde(alias = "cents")]
    amount: i64,
    owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Status {
    Frozen,
    Closed { by: String, at: i64 },
    Open,
}

/// What each epoch does: the keys that are set, and those that are forgotten.
fn steps(epoch: u64) -> (Vec<u64>, Vec<u64>) {
    match epoch {
        1 => ((0..KEYS).collect(), vec![]),
        2 => (vec![0, 1, 2, 3], vec![4, 5, 6]),
        // 1 changes again, 4 is back, 7 and what was changed before are gone.
        _ => (vec![1, 4, KEYS], vec![2, 7]),
    }
}

fn cents(key: u64, epoch: u64) -> i32 {
    -(key as i32) * 100 - epoch as i32
}

/// What is there behind an epoch.
fn expected(epoch: u64) -> BTreeMap<u64, Account> {
    let mut there = BTreeMap::new();
    for epoch in 1..=epoch {
        let (set, gone) = steps(epoch);
        for key in set {
            let status = match key % 2 {
                0 => Status::Open,
                _ => Status::Closed { by: "é".into(), at: -1 },
            };
            let amount = i64::from(cents(key, epoch));
            there.insert(
                key,
                Account { currency: String::new(), status, amount, owner: format!("owner {key}") },
            );
        }
        for key in gone {
            there.remove(&key);
        }
    }
    there
}

fn storage() -> Storage {
    let data =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/checkpoint-{LAYOUT_CHANGES}"));
    Storage::directory(&data).unwrap()
}

#[tokio::test]
#[ignore = "writes the files that the next test reads; only for a new layout"]
async fn files_of_the_present_layout_of_changes_are_written() {
    let (storage, task) = (storage(), TaskId { chain: 1, subtask: 0 });
    let mut state = KeyedState::<u64, Written>::new(NAME.1, &Backend::Memory);
    for epoch in 1..=EPOCHS {
        let (set, gone) = steps(epoch);
        for key in set {
            let status = match key % 2 {
                0 => WrittenStatus::Open,
                _ => WrittenStatus::Closed { at: -1, by: "é".into() },
            };
            let removed_since = key.is_multiple_of(3).then_some(7);
            let account = || Written { owner: format!("owner {key}"), cents: 0, status, removed_since };
            state.entry(key.key_hash(), Cow::Owned(key), account).parts().1.cents = cents(key, epoch);
        }
        for key in gone {
            state.find(key.key_hash(), &key).unwrap().remove();
        }
        let increment = if epoch == 1 { Increment::First } else { Increment::Since(epoch - 1) };
        let mut snapshot = TaskSnapshot { increment, ..TaskSnapshot::new(epoch) };
        state.begin(&snapshot).unwrap();
        assert!(state.write(&mut snapshot, NAME.0, 0, &mut { usize::MAX }).unwrap());
        let file = storage.put("golden", 1, task, &snapshot).await.unwrap();
        let manifest = Manifest {
            version: 2,
            job: "golden".into(),
            pipeline: "accounts".into(),
            attempt: 1,
            epoch,
            key_groups: 1024,
            widths: vec![1, 1],
            files: vec![file],
            ..Manifest::default()
        };
        storage.commit(&manifest).await.unwrap();
    }
}

/// The value of a key, wherever it lies.
fn fetched(state: &mut KeyedState<u64, Account>, key: u64) -> Option<Account> {
    let mut task = Context::from_waker(Waker::noop());
    loop {
        let one = std::iter::once((key.key_hash(), Cow::Borrowed(&key)));
        if let Poll::Ready(ready) = state.poll_prepare(&mut task, one) {
            ready.unwrap();
            return state.get(&key).cloned();
        }
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_chain_of_increments_of_layout_3_is_read_for_ever() {
    let storage = storage();
    assert_eq!(storage.epochs("golden").await.unwrap(), [1, 2, 3]);
    let mut backends = vec![Backend::Memory];
    #[cfg(feature = "disk")]
    let directory = tempfile::tempdir().unwrap();
    #[cfg(feature = "disk")]
    {
        let root = super::StateRoot::below(directory.path()).reserve_bytes(0);
        let clock = afflux_actor::Clock::starting_at(std::time::SystemTime::UNIX_EPOCH);
        backends.push(Backend::Disk(super::disk::Store::new(&root, "job", 1, clock).unwrap()));
    }
    for epoch in 1..=EPOCHS {
        assert_eq!(storage.verify("golden", epoch).await.unwrap(), []);
        let (manifest, restore) = storage.read("golden", epoch).await.unwrap();
        assert_eq!(manifest.files[0].refers.len() as u64, epoch - 1, "each refers to all before it");
        // That the files are what this is about.
        let parts = restore.parts();
        let roles: Vec<Role> = parts[0].blocks.iter().map(|block| block.role).collect();
        assert_eq!(roles.contains(&Role::Changed) && roles.contains(&Role::Gone), epoch > 1, "{roles:?}");
        assert_eq!(parts[0].version == LAYOUT_CHANGES, epoch > 1);
        let expected = expected(epoch);
        assert_eq!(manifest.files[0].states[0].rows, expected.len() as u64);
        for backend in &backends {
            for tasks in [1, 3] {
                let mut found = BTreeMap::new();
                for subtask in 0..tasks {
                    let mut share = KeyedState::<u64, Account>::new(NAME.1, backend);
                    share.restore(&restore, NAME.0, (subtask, tasks)).unwrap();
                    for key in 0..=KEYS {
                        let Some(account) = fetched(&mut share, key) else { continue };
                        assert_eq!(KeyGroup::of(key.key_hash()).owner(tasks), subtask);
                        found.insert(key, account);
                    }
                }
                assert_eq!(found, expected, "epoch {epoch} on {tasks} tasks");
            }
        }
    }
}
