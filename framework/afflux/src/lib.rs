//! Services and exactly-once stream pipelines as actors, in one process: the one crate a user depends on.

extern crate self as afflux;

mod error;

#[cfg(feature = "node")]
pub mod actor;
#[cfg(feature = "node")]
pub mod admin;
#[cfg(feature = "node")]
mod cli;
#[cfg(feature = "node")]
mod concurrent;
#[cfg(feature = "node")]
pub mod dev;
#[cfg(feature = "node")]
pub mod jobs;
#[cfg(feature = "node")]
pub mod node_service;
pub mod prelude;
#[cfg(feature = "node")]
pub mod process;
#[cfg(feature = "node")]
pub mod progress;
#[cfg(feature = "node")]
pub mod registry_service;
#[cfg(feature = "node")]
pub mod settings;
#[cfg(feature = "node")]
pub mod stream;
#[cfg(feature = "node")]
pub mod telemetry;

pub use afflux_macros::main;
pub use error::{Error, Fault, Result};

/// The derives, by their names; [`prelude`] has those that a user needs.
pub mod macros {
    pub use afflux_macros::{Actor, Event, Key, RpcError, Service};
}

/// What a service promises and how it is called; all that is here without the feature `node`.
pub mod contract {
    pub use afflux_wire::contract::*;
}

/// What derives and attributes of this crate write into other crates. No promise is made about it.
#[doc(hidden)]
pub mod __private {
    pub use schemars;
    pub use serde;
}
