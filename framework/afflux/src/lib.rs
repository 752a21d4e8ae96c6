//! Services and exactly-once stream pipelines as actors, in one process: the one crate a user depends on.
//!
//! Reading order for a user: [`prelude`] (what most files need), [`App`] (a program: its pipelines and
//! services), [`contract`] and [`macros`] (what a service promises), [`stream`] (what is computed),
//! [`actor`] (what runs).
//!
//! Reading order for this crate: [`settings`] (what a process is told), [`Node`] (what it then is),
//! [`Client`] (a process that is none), [`registry_service`] and [`node_service`] (what nodes tell one
//! another), [`jobs`] and [`engine`] (who runs pipelines), `cli`, [`dev`], [`progress`] and [`admin`]
//! (what people see), [`telemetry`] and [`process`] (what is counted and logged).
//!
//! Environment, wall clock, signals and HTTP enter a process here and nowhere else. Without its default
//! features the crate is [`contract`] and [`macros`] alone: no runtime, no sockets, for crates that
//! describe a service.

extern crate self as afflux;

#[cfg(feature = "node")]
pub mod actor;
#[cfg(feature = "node")]
pub mod admin;
#[cfg(feature = "node")]
mod app;
#[cfg(feature = "node")]
mod autoscale;
#[cfg(feature = "node")]
mod catalogue;
#[cfg(feature = "node")]
pub mod certs;
#[cfg(feature = "node")]
mod cli;
#[cfg(feature = "node")]
mod client;
#[cfg(feature = "node")]
mod concurrent;
#[cfg(feature = "node")]
mod dashboard;
#[cfg(feature = "node")]
pub mod dev;
#[cfg(feature = "node")]
pub mod engine;
mod error;
#[cfg(feature = "node")]
mod follow;
#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "node")]
pub mod job_detail;
#[cfg(feature = "node")]
pub mod jobs;
#[cfg(feature = "node")]
pub mod keyed;
#[cfg(feature = "node")]
pub mod load;
#[cfg(feature = "node")]
mod node;
#[cfg(feature = "node")]
pub mod node_service;
pub mod prelude;
#[cfg(feature = "node")]
pub mod process;
#[cfg(feature = "node")]
pub mod progress;
#[cfg(feature = "node")]
mod registry_metrics;
#[cfg(feature = "node")]
pub mod registry_service;
#[cfg(feature = "node")]
mod security;
#[cfg(feature = "node")]
mod series;
#[cfg(feature = "node")]
pub mod settings;
#[cfg(feature = "node")]
mod signals;
#[cfg(feature = "node")]
pub mod stream;
#[cfg(feature = "node")]
pub mod telemetry;
#[cfg(feature = "node")]
pub mod testing;
#[cfg(feature = "node")]
pub mod why;

pub use afflux_macros::main;
#[cfg(feature = "node")]
pub use app::App;
#[cfg(feature = "node")]
pub use client::{Client, Endpoint, Offered};
#[cfg(feature = "node")]
pub use engine::Pipelines;
pub use error::{Error, Result};
#[cfg(feature = "node")]
pub use node::{Node, NodeBuilder, Spawned};
#[cfg(feature = "node")]
pub use security::Security;

/// The derives, by their names; [`prelude`] has those that a user needs.
pub mod macros {
    pub use afflux_macros::{Actor, Event, Key, Operator, RpcError, Service};
}

/// What a registry is, and what it coordinates: locks, elections, counters.
#[cfg(feature = "node")]
pub mod registry {
    pub use afflux_registry::*;
}

/// Sources and sinks of the outside world.
#[cfg(feature = "node")]
pub mod connectors {
    pub use afflux_connectors::*;
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

    /// The body of `#[afflux::main]`: runs it, prints its error, gives its exit code.
    #[cfg(feature = "node")]
    pub fn run_main<F: Future<Output = crate::Result<()>>>(main: F) -> std::process::ExitCode {
        let result = match afflux_actor::system(move || main) {
            Ok(result) => result,
            Err(status) => Err(status.into()),
        };
        match result {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                std::process::ExitCode::from(error.exit_code())
            }
        }
    }
}

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
