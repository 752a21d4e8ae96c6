//! MessagePack-RPC on the node port: any client of the public specification calls any service.
//!
//! Reading order: [`CompatConfig`] (every bound), `connection` (one client: its bytes, its calls, its end),
//! `catalog` (from a name that a client sent to a method, here or on another node), `call` (one call),
//! `streams` (items both ways),
//! `builtin` (`rpc.list`, `rpc.describe`, `rpc.health`, `rpc.auth`), `budget` (bytes of all clients).
//!
//! One task a client: it reads, polls the calls that run and writes. A client that stops reading its answers
//! is not read from either, and is cut off when that does not help.
//!
//! Not here: what a message looks like (`afflux_wire::compat`), TLS and who may call (`guard`).

mod budget;
mod builtin;
mod call;
mod catalog;
mod config;
mod connection;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use config::{CompatConfig, CompatMode};
pub(crate) use connection::serve;

use crate::mesh::Shared;
use crate::transport::Transport;

/// What the clients of a node share.
pub(crate) struct Compat {
    connections: AtomicUsize,
    /// Bytes of unfinished messages and of parameters in calls.
    budget: Arc<budget::Budget>,
    methods: Mutex<catalog::Known>,
    draining: AtomicBool,
    /// Calls without an answer, over all clients.
    calls: AtomicUsize,
    idle: Notify,
}

impl Compat {
    pub(crate) fn new(config: &CompatConfig) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            budget: budget::Budget::new(config.buffered_bytes_max),
            methods: Mutex::new(catalog::Known { local: BTreeMap::new(), remote: BTreeMap::new() }),
            draining: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// New calls are refused from now on; resolves when those that run have their answers.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Before looking, so that no notification falls between.
            idle.as_mut().enable();
            if self.calls.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// One more call; ends with the guard.
    fn begin(self: &Arc<Self>) -> Running {
        self.calls.fetch_add(1, Ordering::AcqRel);
        Running(Arc::clone(self))
    }
}

/// A call that runs.
struct Running(Arc<Compat>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Whether the node port speaks MessagePack-RPC; otherwise what to do about it.
pub(crate) fn allowed(shared: &Shared) -> Result<(), &'static str> {
    match shared.config.compat.mode {
        CompatMode::On => Ok(()),
        CompatMode::Off => Err("MessagePack-RPC, which is off (compat.enabled = \"off\")"),
        CompatMode::Auto if asks_who(shared) || is_loopback(shared) => Ok(()),
        CompatMode::Auto => {
            Err("MessagePack-RPC, which is off on a port beyond loopback that asks nobody who \
             they are: turn authentication on, or set compat.enabled = \"on\"")
        }
    }
}

/// Whether clients have to say who they are.
fn asks_who(shared: &Shared) -> bool {
    shared.guard.is_on() || shared.config.token.is_some()
}

fn is_loopback(shared: &Shared) -> bool {
    match (&shared.transport, &shared.config.listen) {
        (Transport::Memory(_), _) => true,
        (_, Some(listen)) => is_loopback_address(listen),
        (_, None) => false,
    }
}

fn is_loopback_address(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_the_address_that_is_listened_on() {
        for address in ["127.0.0.1:7000", "127.8.0.1:0", "[::1]:7000", "localhost:0"] {
            assert!(is_loopback_address(address), "{address}");
        }
        for address in ["0.0.0.0:7000", "[::]:7000", "10.0.0.5:1", "example.com:1", ":7000", ""] {
            assert!(!is_loopback_address(address), "{address}");
        }
    }
}
