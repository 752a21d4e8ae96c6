//! The rules of the house. Each is one test; a failure names file, line and the cure.
//!
//! `crates`: who may depend on whom. `names`: what may be named where. `bounds`: queues, threads, clocks,
//! `unsafe`. `documents`: links, quoted paths, metrics. `chart`: what its queries name.

mod bounds;
mod chart;
mod crates;
mod documents;
mod names;
