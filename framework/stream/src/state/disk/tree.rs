//! One log-structured merge tree on disk, written for one task and tidied up beside it.
//!
//! There is no write-ahead log: what is durable is the checkpoint, and losing the tree costs time.
//!
//! Whoever changes which files a tree has (a memory table becomes a file, files are merged) holds the tree's
//! lock while the disk confirms: for milliseconds mostly, for longer when the disk is busy. So whatever takes that
//! lock is done on a thread of the runtime's blocking pool: look-ups and writes as [errands](Tree::errand), one after
//! the other; memory tables that become files, and merges, as at most one job of each kind a tree. The
//! task only waits (without blocking its thread) for its errand, or when a job falls behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use lsm_tree::config::{HashRatioPolicy, PinningPolicy};
use lsm_tree::{AbstractTree, AnyTree, Config, Guard, SeqNo, SequenceNumberCounter};
use parking_lot::Mutex;

use super::errand::Errand;
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

/// What the task and the jobs beside it share.
#[derive(Default)]
struct Beside {
    /// Whether memory tables are being written to files, whether files are being merged.
    flushing: AtomicBool,
    merging: AtomicBool,
    /// Nobody needs the tree any more.
    closed: AtomicBool,
    /// What a job met: the tree is of no use any more.
    failed: Mutex<Option<Status>>,
    waker: AtomicWaker,
    /// As they were when a job looked: full memory tables, files that overlap.
    sealed: AtomicUsize,
    overlapping: AtomicUsize,
}

/// A tree that the task, errands and jobs share. Its directory ends with the last of them.
pub(super) struct Shared {
    /// Made by the first who uses it.
    tree: OnceLock<AnyTree>,
    directory: PathBuf,
    written: SequenceNumberCounter,
    visible: SequenceNumberCounter,
    beside: Beside,
    store: Arc<Store>,
}

/// The task's hold of a tree.
pub(super) struct Tree(Arc<Shared>);

/// Rows to be set and keys to be forgotten, in their order.
#[derive(Default)]
pub(super) struct Writes {
    bytes: Vec<u8>,
    /// Where the key and the value of each end; whether it is forgotten.
    ends: Vec<(usize, usize, bool)>,
}

impl Writes {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a row, whose value `encode` appends; returns the value's bytes.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<usize> {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let between = self.bytes.len();
        if let Err(status) = encode(&mut self.bytes) {
            self.bytes.truncate(from);
            return Err(status);
        }
        self.ends.push((between, self.bytes.len(), false));
        Ok(self.bytes.len() - between)
    }

    /// Adds a key that is to be forgotten.
    pub(super) fn remove(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push((self.bytes.len(), self.bytes.len(), true));
    }

    /// Writes all of them, and is empty.
    pub(super) fn apply(&mut self, tree: &Arc<Shared>) -> Result<()> {
        let mut from = 0;
        let mut rows: Vec<(&[u8], Option<&[u8]>)> = Vec::with_capacity(self.ends.len());
        for (between, end, gone) in &self.ends {
            let (key, value) = (self.bytes.get(from..*between), self.bytes.get(*between..*end));
            rows.push((key.unwrap_or_default(), value.filter(|_| !gone)));
            from = *end;
        }
        // Neighbours share their way through the memory table; what comes later of one key stays behind.
        rows.sort_by(|a, b| a.0.cmp(b.0));
        for (key, value) in rows {
            match value {
                Some(value) => tree.put(key, value)?,
                None => tree.remove(key)?,
            }
        }
        self.bytes.clear();
        self.ends.clear();
        Ok(())
    }
}

impl Tree {
    /// An empty tree below the store's directory, made when it is used first.
    pub(super) fn new(store: &Arc<Store>, name: &str) -> Self {
        Self(Arc::new(Shared {
            tree: OnceLock::new(),
            directory: store.directory_for(name),
            written: SequenceNumberCounter::default(),
            visible: SequenceNumberCounter::default(),
            beside: Beside::default(),
            store: Arc::clone(store),
        }))
    }

    /// For work on this thread, and for reads that outlive the task.
    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Does something with the tree that may wait for the disk: beside the task, or at once where there is no
    /// runtime.
    pub(super) fn errand<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<R> + Send + 'static,
    ) -> Errand<R> {
        let (errand, promise) = Errand::new();
        let shared = Arc::clone(&self.0);
        beside(move || promise.keep(work(&shared)));
        errand
    }

    /// Ready when rows may be written: no job has fallen behind.
    pub(super) fn poll_ready(&self, task: &mut Context<'_>) -> Poll<Result<()>> {
        let shared = &self.0;
        if !shared.is_behind() {
            return Poll::Ready(shared.check());
        }
        shared.beside.waker.register(task.waker());
        shared.tidy();
        let working = shared.beside.flushing.load(SeqCst) || shared.beside.merging.load(SeqCst);
        if shared.is_behind() && working {
            shared.store.counters().waits.fetch_add(1, Relaxed);
            return Poll::Pending;
        }
        Poll::Ready(shared.check())
    }

    /// Whether a job has fallen behind. Starts it when it has.
    ///
    /// # Errors
    /// When it failed.
    pub(super) fn is_behind(&self) -> Result<bool> {
        self.0.check()?;
        let behind = self.0.is_behind();
        if behind {
            self.0.tidy();
        }
        Ok(behind)
    }

    /// Writes and merges what waits, on this thread: for a restore, which may block. Whether there was any.
    pub(super) fn catch_up(&self) -> Result<bool> {
        let shared = &self.0;
        let behind = shared.is_behind();
        if behind {
            let failed = |e| failed(&shared.directory, "written", &e);
            shared.flush_all().map_err(failed)?;
            shared.merge_all().map_err(failed)?;
        }
        shared.check()?;
        Ok(behind)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.0.beside.closed.store(true, SeqCst);
        // To remove large files takes a while.
        let shared = Arc::clone(&self.0);
        beside(move || drop(shared));
    }
}

impl Shared {
    /// The tree, made when it is not there yet.
    fn tree(&self) -> Result<&AnyTree> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        // Indexes and filters of all but the largest levels stay in memory: a miss is one read.
        let pinned = || PinningPolicy::new([true, true, true, false]);
        let tree = Config::new(&self.directory, self.written.clone(), self.visible.clone())
            .use_cache(self.store.blocks())
            .use_descriptor_table(Some(self.store.files()))
            .index_block_pinning_policy(pinned())
            .filter_block_pinning_policy(pinned())
            .data_block_hash_ratio_policy(HashRatioPolicy::all(0.75))
            .open()
            .map_err(|e| failed(&self.directory, "made", &e))?;
        // The first version of a tree is seen by whoever looks for what came before something.
        let first = self.written.next();
        self.visible.fetch_max(first + 1);
        Ok(self.tree.get_or_init(|| tree))
    }

    /// The value of a key. May read the disk.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<lsm_tree::Slice>> {
        self.store.counters().reads.fetch_add(1, Relaxed);
        self.tree()?.get(key, LATEST).map_err(|e| failed(&self.directory, "read", &e))
    }

    /// Sets the value of a key.
    pub(super) fn put(self: &Arc<Self>, key: &[u8], value: &[u8]) -> Result<()> {
        self.count(key.len() + value.len());
        let tree = self.tree()?;
        let number = self.written.next();
        let (_, size) = tree.insert(key, value, number);
        self.wrote(tree, number, size);
        Ok(())
    }

    /// Forgets a key.
    pub(super) fn remove(self: &Arc<Self>, key: &[u8]) -> Result<()> {
        self.count(key.len());
        let tree = self.tree()?;
        let number = self.written.next();
        let (_, size) = tree.remove(key, number);
        self.wrote(tree, number, size);
        Ok(())
    }

    fn count(&self, bytes: usize) {
        self.store.counters().rows_written.fetch_add(1, Relaxed);
        self.store.counters().bytes_written.fetch_add(bytes as u64, Relaxed);
    }

    fn wrote(self: &Arc<Self>, tree: &AnyTree, number: SeqNo, size: u64) {
        self.visible.fetch_max(number + 1);
        if size >= MEMTABLE_BYTES_MAX {
            tree.rotate_memtable();
            self.look();
            self.flush_beside();
        }
    }

    /// All rows as they are now; what is written later does not show.
    pub(super) fn rows(&self) -> Result<Rows> {
        Ok(self.tree()?.iter(self.visible.get(), None))
    }

    /// The same from a key on.
    pub(super) fn rows_from(&self, key: &[u8]) -> Result<Rows> {
        Ok(self.tree()?.range(key.., self.visible.get(), None))
    }

    fn check(&self) -> Result<()> {
        match &*self.beside.failed.lock() {
            None => Ok(()),
            Some(status) => Err(status.clone()),
        }
    }

    /// Notes how much waits. Takes the tree's lock.
    fn look(&self) {
        let Some(tree) = self.tree.get() else { return };
        self.beside.sealed.store(tree.sealed_memtable_count(), SeqCst);
        self.beside.overlapping.store(tree.l0_run_count(), SeqCst);
    }

    fn is_behind(&self) -> bool {
        self.beside.sealed.load(SeqCst) > SEALED_TABLES_MAX
            || self.beside.overlapping.load(SeqCst) > OVERLAPPING_FILES_MAX
    }

    fn is_closed(&self) -> bool {
        self.beside.closed.load(SeqCst)
    }

    /// Writes memory tables to files until none waits.
    fn flush_all(&self) -> lsm_tree::Result<()> {
        let Some(tree) = self.tree.get() else { return Ok(()) };
        while tree.sealed_memtable_count() > 0 && !self.is_closed() {
            let lock = tree.get_flush_lock();
            // Nobody reads what was replaced before this.
            tree.flush(&lock, self.visible.get())?;
            drop(lock);
            self.look();
            self.beside.waker.wake();
        }
        Ok(())
    }

    /// Merges files until there is nothing to do, or much has been done. `true`: there may be more.
    fn merge_all(&self) -> lsm_tree::Result<bool> {
        let Some(tree) = self.tree.get() else { return Ok(false) };
        let strategy: Arc<lsm_tree::compaction::Leveled> = Arc::default();
        for _ in 0..MERGES_PER_JOB_MAX {
            if self.is_closed() {
                return Ok(false);
            }
            let shape = || (tree.l0_run_count(), tree.table_count(), tree.disk_space());
            let before = shape();
            tree.compact(strategy.clone(), self.visible.get())?;
            self.look();
            self.beside.waker.wake();
            if shape() == before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Starts the jobs beside, unless they run.
    fn tidy(self: &Arc<Self>) {
        if self.beside.sealed.load(SeqCst) > 0 {
            self.flush_beside();
        }
        self.merge_beside();
    }

    fn flush_beside(self: &Arc<Self>) {
        if self.beside.flushing.swap(true, SeqCst) {
            return;
        }
        let shared = Arc::clone(self);
        beside(move || {
            shared.note(shared.flush_all());
            shared.beside.flushing.store(false, SeqCst);
            if shared.beside.sealed.load(SeqCst) > 0 && !shared.is_over() {
                // One that came when this job was about to end.
                shared.flush_beside();
            }
            shared.merge_beside();
            shared.beside.waker.wake();
        });
    }

    fn merge_beside(self: &Arc<Self>) {
        if self.is_over() || self.beside.merging.swap(true, SeqCst) {
            return;
        }
        let shared = Arc::clone(self);
        beside(move || {
            shared.note(shared.merge_all().map(|_| ()));
            shared.beside.merging.store(false, SeqCst);
            shared.beside.waker.wake();
        });
    }

    /// Whether a job would be in vain.
    fn is_over(&self) -> bool {
        self.is_closed() || self.beside.failed.lock().is_some()
    }

    fn note(&self, done: lsm_tree::Result<()>) {
        let Err(error) = done else { return };
        if self.is_closed() {
            return;
        }
        let status = failed(&self.directory, "written", &error);
        tracing::error!(directory = %self.directory.display(), "{}", status.message);
        self.beside.failed.lock().get_or_insert(status);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Does work where a thread may wait for the disk: at once where there is no runtime.
fn beside(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
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
