//! Admin HTTP: `/metrics`, `/livez`, `/readyz` and `/api/v1/…`, on a port of its own, loopback by default.
//!
//! The pages show and change nothing. `/rpc/{service}/{method}` calls the services of the cluster with JSON, and
//! `/api/v1/openapi.json` describes all of it.

mod errors;
mod events;
mod gateway;
mod metrics;
pub(crate) mod openapi;
mod probes;
mod server;

pub(crate) use gateway::Gateway;
pub(crate) use metrics::HttpCalls;
pub use probes::Probes;
pub use server::{Admin, AdminServer};
pub(crate) use server::{bind, listen_failed};
