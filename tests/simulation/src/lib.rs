//! The whole job protocol, played: barriers, credits, failover, commits in two phases, on machines whose
//! network, disk and calendar a seed decides.
//!
//! Reading order: [`Simulation`] and [`run`] (what is played), `cluster` (the machines: real nodes over
//! turmoil's network), `pipeline` (what the job computes), [`fate`] (what happens to the machines),
//! `disk` (where checkpoints are), [`Ledger`] (where rows are committed, and the promise is checked).
//!
//! The nodes are the real ones with everything on one thread: [`afflux::NodeBuilder`], the mesh, the job
//! desk, workers and tasks. Not played: the disk state backend and the connectors, which have tests of
//! their own.

mod cluster;
mod disk;
mod fate;
mod ledger;
mod pipeline;
mod run;
mod seed;
mod trace;

pub use disk::{Disk, Moment, Mood};
pub use fate::{Act, Troubles, fate};
pub use ledger::{Counted, Ledger, Row, Summed, Txn};
pub use pipeline::{Expected, Load};
pub use run::{Outcome, Simulation, run};
pub use seed::Dice;
pub use trace::{Detail, Traced};
