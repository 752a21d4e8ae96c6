//! Snapshots of every layout that was released, kept as files: each of them restores for ever.
//!
//! What they hold was written by types as they were; it is read here by types as they have become
//! since, with every change that docs/specs/checkpoint.md allows.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::BTreeMap;
use std::path::PathBuf;

use afflux_stream::job::{Manifest, Storage, TaskId};
use afflux_stream::{BlockWriter, TaskSnapshot};
use serde::{Deserialize, Serialize};

fn data(layout: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/checkpoint-{layout}"))
}

mod written {
    use super::*;

    #[derive(Serialize)]
    pub(super) struct Account {
        pub(super) owner: String,
        pub(super) cents: i32,
        pub(super) tags: BTreeMap<String, Option<u8>>,
        pub(super) status: Status,
        pub(super) removed_since: Option<Option<f64>>,
    }

    #[derive(Serialize)]
    pub(super) enum Status {
        Open,
        Closed { at: i64, by: String },
        Moved(u64),
        Split(u64, u64),
    }

    pub(super) fn account(key: u64) -> (u64, Account) {
        let status = match key % 4 {
            0 => Status::Open,
            1 => Status::Closed { at: -1, by: "é".into() },
            2 => Status::Moved(u64::MAX),
            _ => Status::Split(key, 1 << 40),
        };
        let tags = (0..key % 3).map(|n| (format!("t{n}"), (n > 0).then_some(n as u8))).collect();
        let removed_since = key.is_multiple_of(2).then_some(key.is_multiple_of(3).then_some(0.5));
        (key, Account { owner: format!("owner {key}"), cents: -5 * key as i32, tags, status, removed_since })
    }
}

/// The same, years later.
#[derive(Debug, PartialEq, Deserialize)]
struct Account {
    #[serde(default)]
    currency: String,
    status: Status,
    #[serde(alias = "cents")]
    amount: i64,
    tags: BTreeMap<String, Option<u16>>,
    owner: String,
}

#[derive(Debug, PartialEq, Deserialize)]
enum Status {
    #[allow(dead_code, reason = "no old row has it")]
    Frozen,
    Split(u64, u64),
    Moved(u64),
    Closed {
        by: String,
        at: i64,
    },
    Open,
}

#[tokio::test]
#[ignore = "writes the files that the next test reads; only for a new layout"]
async fn files_of_the_present_layout_are_written() {
    let storage = Storage::directory(&data(afflux_stream::LAYOUT)).unwrap();
    let task = TaskId { chain: 1, subtask: 0 };
    for epoch in [1, 2] {
        let mut snapshot = TaskSnapshot::new(epoch);
        let mut writer = BlockWriter::new();
        for key in 0..40 {
            writer.push(&written::account(key)).unwrap();
        }
        snapshot.block("accounts", "state", 0, writer.finish(0, Some(0..512)));
        writer.push(&written::account(100 + epoch)).unwrap();
        snapshot.block("accounts", "state", 0, writer.finish(1, Some(512..1024)));
        snapshot.put("accounts", "watermark", 0, 1, &(epoch as i64 * 1_000)).unwrap();
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

#[tokio::test]
async fn a_checkpoint_of_layout_2_is_read_for_ever() {
    let storage = Storage::directory(&data(2)).unwrap();
    assert_eq!(storage.epochs("golden").await.unwrap(), [1, 2]);
    for epoch in [1, 2] {
        assert_eq!(storage.verify("golden", epoch).await.unwrap(), []);
        let (manifest, restore) = storage.read("golden", epoch).await.unwrap();
        assert_eq!((manifest.pipeline.as_str(), manifest.key_groups), ("accounts", 1024));
        assert_eq!(manifest.files[0].refers.len() as u64, epoch - 1, "the second refers to the first");
        assert_eq!(restore.get::<i64>("accounts", "watermark").unwrap(), [(0, epoch as i64 * 1_000)]);
        let mut rows: Vec<(u64, Account)> = Vec::new();
        restore.rows("accounts", "state", None, |_, row| rows.push(row)).unwrap();
        assert_eq!(rows.len(), 41);
        assert_eq!(rows[40].0, 100 + epoch);
        let expected = Account {
            currency: String::new(),
            status: Status::Closed { by: "é".into(), at: -1 },
            amount: -25,
            tags: [("t0".to_owned(), None), ("t1".to_owned(), Some(1))].into(),
            owner: "owner 5".into(),
        };
        assert_eq!(rows[5], (5, expected));
        assert_eq!(rows[2].1.status, Status::Moved(u64::MAX));
        assert_eq!(rows[3].1.status, Status::Split(3, 1 << 40));
        assert_eq!(rows[4].1.status, Status::Open);
    }
}
