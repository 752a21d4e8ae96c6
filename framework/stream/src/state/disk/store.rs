//! Where one attempt of a job keeps the state of its tasks on one node: a directory, a share of
//! memory, and a look at the room that is left.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::task::{Context, Poll};
use std::time::Duration;

use afflux_actor::Clock;
use lsm_tree::{Cache, DescriptorTable};

use super::tree;
use crate::Result;
use crate::state::backend::{DiskCounters, StateRoot};
use afflux_wire::{Code, Status};

/// Of the memory for state, this part is for blocks of files, the rest for values.
const BLOCKS_PART: u64 = 8;
/// Files that are kept open.
const OPEN_FILES_MAX: usize = 512;
/// Between two looks at the room that is left while there is too little.
const ROOM_WAIT: Duration = Duration::from_millis(200);
/// Bytes written between two looks at the room that is left.
const ROOM_LOOK_BYTES: u64 = 4 << 20;

/// The state on disk of one attempt on one node. Its directory ends with it.
pub(crate) struct Store {
    directory: PathBuf,
    root: StateRoot,
    blocks: Arc<Cache>,
    files: Arc<DescriptorTable>,
    /// Tables that share the memory.
    tables: AtomicUsize,
    names: AtomicU64,
    looked_at: AtomicU64,
    full: AtomicBool,
    counters: Arc<DiskCounters>,
    clock: Clock,
}

impl Store {
    /// A store in a directory of its own below the root. Nothing is written yet.
    pub(crate) fn new(root: &StateRoot, job: &str, attempt: u64, clock: Clock) -> Result<Arc<Self>> {
        static STORES: AtomicU64 = AtomicU64::new(0);
        let Some(base) = &root.directory else {
            return Err(Status::precondition(
                "state.backend is `disk`, and this node has no directory for it: set `state.dir`",
            ));
        };
        let safe: String =
            job.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let directory = base.join(format!("{safe}-{attempt}-{}", STORES.fetch_add(1, Relaxed)));
        Ok(Arc::new(Self {
            directory,
            blocks: Arc::new(Cache::with_capacity_bytes(root.cache_bytes / BLOCKS_PART)),
            files: Arc::new(DescriptorTable::new(OPEN_FILES_MAX)),
            tables: AtomicUsize::new(0),
            names: AtomicU64::new(0),
            looked_at: AtomicU64::new(0),
            full: AtomicBool::new(false),
            counters: Arc::clone(&root.counters),
            root: root.clone(),
            clock,
        }))
    }

    pub(super) fn blocks(&self) -> Arc<Cache> {
        Arc::clone(&self.blocks)
    }
    pub(super) fn files(&self) -> Arc<DescriptorTable> {
        Arc::clone(&self.files)
    }
    pub(super) fn counters(&self) -> &DiskCounters {
        &self.counters
    }

    /// A new directory for a tree.
    pub(super) fn directory_for(&self, name: &str) -> PathBuf {
        let number = self.names.fetch_add(1, Relaxed);
        self.directory.join(format!("{number}-{name}"))
    }

    /// Counts a table in among those that share the memory.
    pub(super) fn join(&self) {
        self.tables.fetch_add(1, Relaxed);
    }
    /// Counts a table out.
    pub(super) fn leave(&self) {
        self.tables.fetch_sub(1, Relaxed);
    }

    /// Bytes of memory that one table may use for values.
    pub(super) fn allowance(&self) -> u64 {
        let values = self.root.cache_bytes - self.root.cache_bytes / BLOCKS_PART;
        values / self.tables.load(Relaxed).max(1) as u64
    }

    /// Ready when the disk has room for more. Looks at it now and then; `wait` is what a task that
    /// has to wait waits for.
    pub(super) fn poll_room(&self, wait: &mut Option<Wait>, task: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(sleep) = wait {
                if sleep.as_mut().poll(task).is_pending() {
                    return Poll::Pending;
                }
                *wait = None;
            }
            let written = self.counters.bytes_written.load(Relaxed);
            let looked = self.looked_at.load(Relaxed);
            if !self.full.load(Relaxed) && written.wrapping_sub(looked) < ROOM_LOOK_BYTES && looked > 0 {
                return Poll::Ready(Ok(()));
            }
            self.looked_at.store(written.max(1), Relaxed);
            match self.free() {
                Err(error) => {
                    return Poll::Ready(Err(Status::new(
                        Code::FailedPrecondition,
                        format!("state.dir = {}: {error}", self.directory.display()),
                    )));
                }
                Ok(free) if free >= self.root.reserve_bytes => {
                    if self.full.swap(false, Relaxed) {
                        self.counters.stopped.fetch_sub(1, Relaxed);
                        tracing::info!(directory = %self.directory.display(), free_bytes = free, "there is room for state again: going on");
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(free) => {
                    self.counters.no_room.fetch_add(1, Relaxed);
                    if !self.full.swap(true, Relaxed) {
                        self.counters.stopped.fetch_add(1, Relaxed);
                        tracing::error!(
                            directory = %self.directory.display(),
                            free_bytes = free,
                            reserve_bytes = self.root.reserve_bytes,
                            "no room for state: no more input is taken until there is; make room, or set `state.dir` to a larger disk"
                        );
                    }
                    *wait = Some(Box::pin(self.clock.sleep(ROOM_WAIT)));
                }
            }
        }
    }

    fn free(&self) -> std::io::Result<u64> {
        std::fs::create_dir_all(&self.directory)?;
        (self.root.free)(&self.directory)
    }

    /// Ready at once or an error: for a restore, which cannot wait.
    pub(super) fn check_room(&self) -> Result<()> {
        let free = self
            .free()
            .map_err(|e| Status::precondition(format!("state.dir = {}: {e}", self.directory.display())))?;
        if free < self.root.reserve_bytes {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "the disk of state.dir = {} has {free} bytes left, and {} are kept free (`state.reserve_mb`): make room",
                    self.directory.display(),
                    self.root.reserve_bytes
                ),
            ));
        }
        Ok(())
    }
}

/// What a task waits for that found no room.
pub(super) type Wait = Pin<Box<dyn Future<Output = ()>>>;

impl Drop for Store {
    fn drop(&mut self) {
        if self.full.load(Relaxed) {
            self.counters.stopped.fetch_sub(1, Relaxed);
        }
        tree::remove(&self.directory);
    }
}

/// Free bytes of the file system of a directory, for whoever is not root.
pub(crate) fn free_bytes(directory: &Path) -> std::io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(directory).map_err(std::io::Error::from)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}
