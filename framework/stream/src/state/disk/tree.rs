//! One log-structured merge tree on disk, written by one task and tidied up beside it.
//!
//! There is no write-ahead log: what is durable is the checkpoint, and losing the tree costs time.
//! Memory tables are written to files, and files merged, on a thread of the runtime's blocking
//! pool, at most one job a tree; the task only waits (without blocking its thread) when that job
//! falls behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use lsm_tree::config::{HashRatioPolicy, PinningPolicy};
use lsm_tree::{AbstractTree, AnyTree, Config, Guard, SeqNo, SequenceNumberCounter};
use parking_lot::Mutex;

use super::store::Store;
use crate::Result;
use afflux_wire::{Code, Status};

/// Bytes of written rows that are gathered in memory before they become a file.
const MEMTABLE_BYTES_MAX: u64 = 8 << 20;
/// Full memory tables that may wait to be written before the task waits.
const SEALED_TABLES_MAX: usize = 2;
/// Files that overlap before the task waits for them to be merged.
const OVERLAPPING_FILES_MAX: usize = 16;
/// Merges of one job; the next job goes on.
const MERGES_PER_JOB_MAX: usize = 16;
/// Sees everything that was written.
const LATEST: SeqNo = SeqNo::MAX;

/// Rows of a tree in the order of their keys, as they were when it was made.
pub(super) type Rows = Box<dyn DoubleEndedIterator<Item = lsm_tree::IterGuardImpl> + Send>;

/// What the task and the job beside it share.
#[derive(Default)]
struct Beside {
    /// This and the next are written and read crosswise by the task and the job: in one order for all.
    busy: AtomicBool,
    closed: AtomicBool,
    /// What the job beside met: the tree is of no use any more.
    failed: Mutex<Option<Status>>,
    waker: AtomicWaker,
}

/// A tree of its own directory, which ends with it.
pub(super) struct Tree {
    tree: AnyTree,
    directory: PathBuf,
    written: SequenceNumberCounter,
    visible: SequenceNumberCounter,
    beside: Arc<Beside>,
    store: Arc<Store>,
}

impl Tree {
    /// An empty tree below the store's directory.
    ///
    /// # Errors
    /// When the directory cannot be made: names it.
    pub(super) fn create(store: &Arc<Store>, name: &str) -> Result<Self> {
        let directory = store.directory_for(name);
        let (written, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        // Indexes and filters of all but the largest levels stay in memory: a miss is one read.
        let pinned = || PinningPolicy::new([true, true, true, false]);
        let tree = Config::new(&directory, written.clone(), visible.clone())
            .use_cache(store.blocks())
            .use_descriptor_table(Some(store.files()))
            .index_block_pinning_policy(pinned())
            .filter_block_pinning_policy(pinned())
            .data_block_hash_ratio_policy(HashRatioPolicy::all(0.75))
            .open()
            .map_err(|e| failed(&directory, "made", &e))?;
        // The first version of a tree is seen by whoever looks for what came before something.
        let first = written.next();
        visible.fetch_max(first + 1);
        Ok(Self { tree, directory, written, visible, beside: Arc::default(), store: Arc::clone(store) })
    }

    /// The value of a key. May read the disk.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<lsm_tree::Slice>> {
        self.store.counters().reads.fetch_add(1, Relaxed);
        self.tree.get(key, LATEST).map_err(|e| failed(&self.directory, "read", &e))
    }

    /// Sets the value of a key.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) {
        self.count(key.len() + value.len());
        let number = self.written.next();
        let (_, size) = self.tree.insert(key, value, number);
        self.wrote(number, size);
    }

    /// Forgets a key.
    pub(super) fn remove(&self, key: &[u8]) {
        self.count(key.len());
        let number = self.written.next();
        let (_, size) = self.tree.remove(key, number);
        self.wrote(number, size);
    }

    fn count(&self, bytes: usize) {
        self.store.counters().rows_written.fetch_add(1, Relaxed);
        self.store.counters().bytes_written.fetch_add(bytes as u64, Relaxed);
    }

    fn wrote(&self, number: SeqNo, size: u64) {
        self.visible.fetch_max(number + 1);
        if size >= MEMTABLE_BYTES_MAX {
            self.tree.rotate_memtable();
            self.tidy();
        }
    }

    /// All rows as they are now; what is written later does not show.
    pub(super) fn rows(&self) -> Rows {
        self.tree.iter(self.visible.get(), None)
    }

    /// The same from a key on.
    pub(super) fn rows_from(&self, key: &[u8]) -> Rows {
        self.tree.range(key.., self.visible.get(), None)
    }

    /// Ready when rows may be written: the disk has room, and the job beside has not fallen behind.
    pub(super) fn poll_ready(&self, task: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.behind() {
            return Poll::Ready(self.check());
        }
        self.beside.waker.register(task.waker());
        self.tidy();
        if self.behind() && self.beside.busy.load(Acquire) {
            self.store.counters().waits.fetch_add(1, Relaxed);
            return Poll::Pending;
        }
        Poll::Ready(self.check())
    }

    /// Whether the job beside has fallen behind. Starts it when it has.
    ///
    /// # Errors
    /// When it failed.
    pub(super) fn is_behind(&self) -> Result<bool> {
        self.check()?;
        let behind = self.behind();
        if behind {
            self.tidy();
        }
        Ok(behind)
    }

    /// Writes and merges what waits, on this thread: for a restore, which may block. Whether there was any.
    pub(super) fn catch_up(&self) -> Result<bool> {
        let behind = self.behind();
        if behind {
            tidy(&self.tree, self.visible.get()).map_err(|e| failed(&self.directory, "written", &e))?;
        }
        self.check()?;
        Ok(behind)
    }

    fn check(&self) -> Result<()> {
        match &*self.beside.failed.lock() {
            None => Ok(()),
            Some(status) => Err(status.clone()),
        }
    }

    fn behind(&self) -> bool {
        self.tree.sealed_memtable_count() > SEALED_TABLES_MAX
            || self.tree.l0_run_count() > OVERLAPPING_FILES_MAX
    }

    /// Starts the job beside, unless it runs.
    fn tidy(&self) {
        if self.beside.busy.swap(true, SeqCst) {
            return;
        }
        let (tree, beside, directory) = (self.tree.clone(), Arc::clone(&self.beside), self.directory.clone());
        // The store's directory goes when the last job has ended.
        let store = Arc::clone(&self.store);
        let below = self.visible.get();
        let job = move || {
            if !beside.closed.load(SeqCst)
                && let Err(error) = tidy(&tree, below)
            {
                let status = failed(&directory, "written", &error);
                tracing::error!(directory = %directory.display(), "{}", status.message);
                beside.failed.lock().get_or_insert(status);
            }
            beside.busy.store(false, SeqCst);
            beside.waker.wake();
            if beside.closed.load(SeqCst) {
                remove(&directory);
            }
            drop(store);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(job)),
            Err(_) => job(),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.beside.closed.store(true, SeqCst);
        if !self.beside.busy.load(SeqCst) {
            remove(&self.directory);
        }
    }
}

/// Writes memory tables to files and merges files until there is nothing to do. `below`: nobody
/// reads what was replaced before this number.
fn tidy(tree: &AnyTree, below: SeqNo) -> lsm_tree::Result<()> {
    {
        let lock = tree.get_flush_lock();
        tree.flush(&lock, below)?;
    }
    let strategy: Arc<lsm_tree::compaction::Leveled> = Arc::default();
    for _ in 0..MERGES_PER_JOB_MAX {
        let shape = |tree: &AnyTree| (tree.l0_run_count(), tree.table_count(), tree.disk_space());
        let before = shape(tree);
        tree.compact(strategy.clone(), below)?;
        if shape(tree) == before {
            break;
        }
        if tree.sealed_memtable_count() > 0 {
            let lock = tree.get_flush_lock();
            tree.flush(&lock, below)?;
        }
    }
    Ok(())
}

/// The row that an iterator gives.
pub(super) fn row(item: lsm_tree::IterGuardImpl) -> Result<(lsm_tree::Slice, lsm_tree::Slice)> {
    item.into_inner().map_err(|e| Status::new(Code::DataLoss, format!("state on disk cannot be read: {e}")))
}

fn failed(directory: &std::path::Path, what: &str, error: &lsm_tree::Error) -> Status {
    let full = matches!(error, lsm_tree::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull);
    let cure = if full {
        "the disk is full: make room, or set `state.dir` to a larger one"
    } else {
        "see `state.dir`; what was lost is in the last checkpoint"
    };
    let code = if full { Code::ResourceExhausted } else { Code::DataLoss };
    Status::new(code, format!("state in {} cannot be {what}: {error}; {cure}", directory.display()))
}

/// Removes a directory of state, which nobody needs.
pub(super) fn remove(directory: &std::path::Path) {
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "state on disk that nobody needs stays");
    }
}
