//! Services played against a script: seeded chance for generators of input, and output files compared
//! with the lines that the generator expects.
//!
//! Reading order: [`Chance`] and [`Zipf`] (what a generator draws), [`arrivals`] (events out of order by a
//! bound), [`compare`] (the verdict on a file).
//!
//! Not here: events, and what is expected of them; both belong to the service.

mod arrivals;
mod chance;
mod compare;
mod zipf;

pub use arrivals::arrivals;
pub use chance::Chance;
pub use compare::{Difference, compare};
pub use zipf::Zipf;
