//! Services and exactly-once stream pipelines as actors, in one process: the one crate a user depends on.

extern crate self as afflux;

mod error;

#[cfg(feature = "node")]
pub mod admin;
#[cfg(feature = "node")]
pub mod process;
#[cfg(feature = "node")]
pub mod progress;
#[cfg(feature = "node")]
pub mod settings;
#[cfg(feature = "node")]
pub mod telemetry;

pub use error::{Error, Fault, Result};
