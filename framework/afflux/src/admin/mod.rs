//! Admin HTTP: `/metrics`, `/livez`, `/readyz` and `/api/v1/…`, on a port of its own, loopback by default.
//!
//! It shows and changes nothing: whoever administers a cluster calls services over the node port.

mod probes;
mod server;

pub use probes::Probes;
pub use server::{Admin, AdminServer};
pub(crate) use server::{bind, listen_failed};
