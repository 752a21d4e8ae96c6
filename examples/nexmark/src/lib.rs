//! Nexmark: the queries of an online auction as pipelines of Afflux, one readable file each.
//!
//! Reading order: [`events`] (what happens at the auction), [`Log`] (where a pipeline reads it),
//! [`queries`] (what is asked, `q0` first), [`files`] (where `q10` writes), [`Tally`] and [`Digest`] (how two answers are compared),
//! [`answer`] (a run).
//!
//! The binary prints the digests of all answers. `tests/bench` runs the queries over as many nodes as it is
//! told, and the tests beside compare their answers with those of an independent engine.

pub mod events;
pub mod files;
pub mod queries;

mod digest;
mod run;
mod source;

pub use digest::{Answer, Column, Digest, Tally};
pub use run::{answer, answer_with, run};
pub use source::{Log, Select};
