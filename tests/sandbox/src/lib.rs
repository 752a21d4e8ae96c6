//! A cluster as a script of operations, for tests.
//!
//! Two clusters: [`Cluster`] is several nodes in this process, over memory or TCP ([`Backing`]), with
//! [`Collect`] as the sink whose rows a test compares; [`Program`] is a binary in a directory of its
//! own, whose processes are started, signalled and killed; [`FencedStore`] is what such processes write to.
//!
//! Nothing here waits for a fixed time: [`until`] polls a condition with a bound, and says what never
//! came. A wrong step panics, as an assertion does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "for tests: a panic is the verdict"
)]

mod backing;
mod cluster;
mod collect;
mod process;
mod tellers;
mod until;

pub use backing::{BACKINGS, Backing, Link, Running};
pub use cluster::{Cluster, ClusterBuilder, run};
pub use collect::{Collect, Collected, Single};
pub use process::{Ended, Process, Program, is_alive, kill};
pub use tellers::{Attempted, FencedStore, Tellers, TellersHandler, Told};
pub use until::{PATIENCE, until, until_async};
