//! Keyed state on disk: what was used last in memory, all else in a log-structured merge tree.
//!
//! ```text
//! young      what was used since the last turn of the generations: differs from the tree
//! older      what was used before, written to the tree little by little; then a cache of it
//! tree       everything else; directory of its own, no log, gone with its task
//! ```
//!
//! A stage first says which keys it is about to use ([`DiskTable::poll_prepare`]), which may wait
//! for the disk and may fail; what follows touches memory only. The tree is touched by errands alone,
//! beside the task: each writes what has come together, then looks keys up. At a barrier the generations turn:
//! the young one is written little by little while records go on, and whatever is changed before
//! it has been written is written first. When all of it is in the tree, the tree holds the state
//! as it was at the barrier, and an iterator over it sees nothing later: it goes to whoever stores the
//! snapshot, who reads it block by block while the task goes on.
//!
//! Timers ([`DiskTimers`]) have a tree of their own, in order of time; the next ones are in memory.

mod errand;
mod slab;
mod store;
mod table;
mod timers;
mod tree;

pub(crate) use store::{Store, free_bytes};
pub(crate) use table::{Codec, DiskTable, Emptied, Place};
pub(crate) use timers::DiskTimers;
