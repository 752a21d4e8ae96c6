//! Where keyed state lives: in memory, or on disk for state that is larger.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use afflux_actor::Clock;
use serde::{Deserialize, Serialize};

#[cfg(feature = "disk")]
use super::disk::Store;
use crate::Result;
use crate::context::JobSettings;

/// Memory for state on disk where nobody says otherwise: values and blocks of files together.
pub const STATE_CACHE_BYTES_DEFAULT: u64 = 256 << 20;
/// Room that state leaves free on its disk where nobody says otherwise.
pub const STATE_RESERVE_BYTES_DEFAULT: u64 = 1 << 30;

/// Where a job keeps its keyed state. Results and checkpoints do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateBackend {
    /// In memory: one hash table a task.
    #[default]
    Memory,
    /// On the node's disk, with what was used last in memory. Needs the feature `disk`.
    Disk,
}

/// How many bytes are free where a directory lies.
pub(crate) type FreeBytes = Arc<dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync>;

/// What a node offers to state on disk. What lies there is disposable: losing it costs the time of
/// a restore, never data.
///
/// ```
/// use afflux_stream::StateRoot;
/// let root = StateRoot::below("/var/lib/afflux/state").cache_bytes(64 << 20);
/// assert_eq!(root.counters().reading().reads, 0);
/// ```
#[derive(Clone)]
pub struct StateRoot {
    pub(crate) directory: Option<PathBuf>,
    pub(crate) cache_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) free: FreeBytes,
    pub(crate) counters: Arc<DiskCounters>,
}

impl Default for StateRoot {
    /// No directory: jobs that want one are refused.
    fn default() -> Self {
        #[cfg(feature = "disk")]
        let free: FreeBytes = Arc::new(super::disk::free_bytes);
        #[cfg(not(feature = "disk"))]
        let free: FreeBytes = Arc::new(|_| Ok(u64::MAX));
        Self {
            directory: None,
            cache_bytes: STATE_CACHE_BYTES_DEFAULT,
            reserve_bytes: STATE_RESERVE_BYTES_DEFAULT,
            free,
            counters: Arc::default(),
        }
    }
}

impl std::fmt::Debug for StateRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateRoot")
            .field("directory", &self.directory)
            .field("cache_bytes", &self.cache_bytes)
            .field("reserve_bytes", &self.reserve_bytes)
            .finish_non_exhaustive()
    }
}

impl StateRoot {
    /// State below this directory, which is made when the first row goes there.
    pub fn below(directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()), ..Self::default() }
    }

    /// Memory that the state of one job may use on this node: values and blocks of files together.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Bytes that stay free on the disk: with fewer, tasks take no input until there are more.
    #[must_use]
    pub fn reserve_bytes(mut self, bytes: u64) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// Asks this for the bytes that are free: for tests of a full disk.
    #[must_use]
    pub fn free_with(mut self, free: impl Fn(&Path) -> std::io::Result<u64> + Send + Sync + 'static) -> Self {
        self.free = Arc::new(free);
        self
    }

    /// What the state on disk of this node has done.
    pub const fn counters(&self) -> &Arc<DiskCounters> {
        &self.counters
    }
}

/// What the state on disk of one node has done so far.
#[derive(Debug, Default)]
pub struct DiskCounters {
    pub(crate) reads: AtomicU64,
    pub(crate) rows_written: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) no_room: AtomicU64,
    pub(crate) stopped: AtomicU64,
}

/// A reading of [`DiskCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskReading {
    /// Rows looked for on disk, the memory having none.
    pub reads: u64,
    /// Rows written.
    pub rows_written: u64,
    /// Their bytes, before files are merged.
    pub bytes_written: u64,
    /// Times a task waited for files to be written or merged.
    pub waits: u64,
    /// Looks at the disk that found no room.
    pub no_room: u64,
    /// Stores whose tasks take no input now, for want of room.
    pub stopped: u64,
}

impl DiskCounters {
    /// All of them.
    pub fn reading(&self) -> DiskReading {
        DiskReading {
            reads: self.reads.load(Relaxed),
            rows_written: self.rows_written.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            waits: self.waits.load(Relaxed),
            no_room: self.no_room.load(Relaxed),
            stopped: self.stopped.load(Relaxed),
        }
    }
}

/// Where the tasks of one attempt keep their state on this node.
#[derive(Clone, Default)]
pub(crate) enum Backend {
    /// In memory.
    #[default]
    Memory,
    /// On disk.
    #[cfg(feature = "disk")]
    Disk(Arc<Store>),
}

impl Backend {
    /// What a job's settings ask of this node.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` for state on disk without a directory, or without the feature.
    pub(crate) fn open(
        settings: &JobSettings,
        root: &StateRoot,
        job: &str,
        attempt: u64,
        clock: &Clock,
    ) -> Result<Self> {
        match settings.state_backend {
            StateBackend::Memory => Ok(Self::Memory),
            StateBackend::Disk => {
                let mut root = root.clone();
                if let Some(directory) = &settings.state_dir {
                    root.directory = Some(PathBuf::from(directory));
                }
                if let Some(bytes) = settings.state_cache_bytes {
                    root.cache_bytes = bytes;
                }
                Self::on_disk(&root, job, attempt, clock)
            }
        }
    }

    #[cfg(feature = "disk")]
    fn on_disk(root: &StateRoot, job: &str, attempt: u64, clock: &Clock) -> Result<Self> {
        Store::new(root, job, attempt, clock.clone()).map(Self::Disk)
    }

    #[cfg(not(feature = "disk"))]
    fn on_disk(_: &StateRoot, _: &str, _: u64, _: &Clock) -> Result<Self> {
        Err(afflux_wire::Status::precondition(
            "state.backend is `disk`, and this program was built without it: add the feature `disk` of afflux",
        ))
    }
}
