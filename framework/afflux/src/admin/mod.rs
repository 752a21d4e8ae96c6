//! Admin HTTP: `/metrics`, `/livez`, `/readyz` and `/api/v1/…`, on a port of its own, loopback by default.
//!
//! The pages show and change nothing; the dashboard at `/` shows them to people, and changes jobs for those who may
//! (`crate::dashboard`). `/rpc/{service}/{method}` calls the services of the cluster with JSON, and
//! `/api/v1/openapi.json` describes all of it. The health port, beside it, has `/livez`, `/readyz`, `/startupz` and
//! `/metrics` alone, so that it can be open to a kubelet and to Prometheus.

mod errors;
mod events;
mod gateway;
mod health;
mod hosts;
mod logs;
mod metrics;
pub(crate) mod openapi;
mod probes;
mod pulse;
mod server;

pub(crate) use errors::failure;
pub(crate) use gateway::{Gateway, only_from_here};
pub(crate) use hosts::{Hosts, by_own_name};
pub(crate) use logs::logs;
pub(crate) use metrics::HttpCalls;
pub use probes::Probes;
pub(crate) use pulse::Pulse;
pub use server::{Admin, AdminServer};
pub(crate) use server::{bind, listen_failed};
