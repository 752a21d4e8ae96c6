//! What snapshots cost a task: how long barriers waited for each other, how long it wrote, how long one
//! turn took meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The snapshots of one task.
#[derive(Debug, Default)]
pub(crate) struct SnapshotMeter {
    taken: AtomicU64,
    bytes: Arc<AtomicU64>,
    align_ns: AtomicU64,
    write_ns: AtomicU64,
    last_bytes: Arc<AtomicU64>,
    last_align_ns: AtomicU64,
    last_write_ns: AtomicU64,
    last_pause_ns: AtomicU64,
    pause_max_ns: AtomicU64,
    turn_max_ns: AtomicU64,
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl SnapshotMeter {
    /// A snapshot is complete: how long its barrier waited for the slowest channel, how long the task wrote
    /// while it went on, and what.
    pub(crate) fn taken(&self, align: Duration, write: Duration, bytes: u64) {
        self.taken.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.align_ns.fetch_add(ns(align), Relaxed);
        self.write_ns.fetch_add(ns(write), Relaxed);
        self.last_bytes.store(bytes, Relaxed);
        self.last_align_ns.store(ns(align), Relaxed);
        self.last_write_ns.store(ns(write), Relaxed);
    }

    /// Where bytes are counted that come after the snapshot is [`taken`](Self::taken), from disk.
    pub(crate) fn later(&self) -> [Arc<AtomicU64>; 2] {
        [Arc::clone(&self.bytes), Arc::clone(&self.last_bytes)]
    }

    /// The longest turn of the task so far.
    pub(crate) fn turn(&self, longest: Duration) {
        self.turn_max_ns.store(ns(longest), Relaxed);
    }

    /// The longest turn from the barrier of a snapshot to its end.
    pub(crate) fn pause(&self, longest: Duration) {
        self.last_pause_ns.store(ns(longest), Relaxed);
        self.pause_max_ns.fetch_max(ns(longest), Relaxed);
    }

    pub(crate) fn read(&self) -> SnapshotReading {
        let seconds = |ns: &AtomicU64| ns.load(Relaxed) as f64 / 1e9;
        SnapshotReading {
            taken: self.taken.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            align_s: seconds(&self.align_ns),
            write_s: seconds(&self.write_ns),
            last_bytes: self.last_bytes.load(Relaxed),
            last_align_s: seconds(&self.last_align_ns),
            last_write_s: seconds(&self.last_write_ns),
            last_pause_s: seconds(&self.last_pause_ns),
            pause_max_s: seconds(&self.pause_max_ns),
            turn_max_s: seconds(&self.turn_max_ns),
        }
    }
}

/// What snapshots have cost a task. All times are seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct SnapshotReading {
    /// Snapshots that are complete.
    pub taken: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Time in which channels stood still until the barrier had come on all of them.
    pub align_s: f64,
    /// Time from the barriers to the end of the snapshots; the task works meanwhile.
    pub write_s: f64,
    /// Bytes of the last one.
    pub last_bytes: u64,
    /// How long the barrier of the last one waited for the slowest channel.
    pub last_align_s: f64,
    /// How long the last one was written.
    pub last_write_s: f64,
    /// The longest turn of the task during the last one, by the wall clock: for so long neither a record
    /// nor a message was taken.
    pub last_pause_s: f64,
    /// The longest turn during any of them.
    pub pause_max_s: f64,
    /// The longest turn of all.
    pub turn_max_s: f64,
}
