//! The operators of a chain at work: each stage takes batches and marks and drives the next.
//!
//! A chain is a nest of stages: `fused → flat_map → window → gate`. A stage that makes more rows
//! than it takes stops when [`Turn::full`] is set, keeps a cursor, and goes on in
//! [`Stage::resume`]; until then the task hands it nothing new, barriers and watermarks included.

pub(crate) mod ahead;
pub(crate) mod async_map;
pub(crate) mod branch;
pub(crate) mod broadcast;
pub(crate) mod count;
pub(crate) mod divide;
pub(crate) mod faults;
pub(crate) mod filter_map;
pub(crate) mod flat_map;
pub(crate) mod fused;
pub(crate) mod process;
pub(crate) mod reduce;
pub(crate) mod running;
pub(crate) mod sieve;
pub(crate) mod tell;
pub(crate) mod try_map;
pub(crate) mod window;
pub(crate) mod write;

use std::task::{Context, Poll};
use std::time::Instant;

use crate::Result;
use crate::batch::{Batch, Mark};
use crate::snapshot::TaskSnapshot;

/// Bytes of a snapshot that are written in one turn, at most one row and 64 buckets more. A turn of rows of numbers takes
/// some 0.15 ms then; with a quarter of it there are four times as many batches while the snapshot is written, and those cost more.
pub(crate) const SNAPSHOT_BUDGET: usize = 256 * 1024;

/// One turn of a task: what stages share while it lasts.
pub(crate) struct Turn<'a, 'w> {
    /// For readiness of outputs.
    pub(crate) task: &'a mut Context<'w>,
    /// Something downstream has no room: finish the current record and keep the rest.
    pub(crate) full: bool,
    /// Filled while a barrier passes.
    pub(crate) snapshot: Option<TaskSnapshot>,
    /// The node's clock, read once a batch.
    pub(crate) now: Instant,
}

/// An operator at work.
pub(crate) trait Stage<T> {
    /// Takes all rows of the batch; leaves it empty.
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()>;
    /// Takes a mark and passes it on in its place.
    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()>;
    /// Whether all outputs have room; registers the waker when not.
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>>;
    /// Goes on with what was kept. `Ready(true)`: there is more; `Ready(false)`: nothing is kept;
    /// `Pending`: something is kept and waits.
    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>>;
    /// The input has nothing ready: hand on what is buffered.
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()>;
    /// Goes on writing what the last barrier's snapshot still lacks into `turn.snapshot`, until the budget
    /// (bytes and buckets looked at) is spent. `true`: all is written.
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool>;
    /// The epoch is durable.
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()>;
}

/// A boxed stage, as chains are nested.
pub(crate) type Next<T> = Box<dyn Stage<T>>;
