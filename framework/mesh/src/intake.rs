//! How many connections may come in, in all and from one address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::MeshConfig;
use crate::mesh::Shared;

/// Peer addresses whose first refusal was logged; later ones are only counted.
const LOGGED_PEERS_MAX: usize = 1_024;

/// What has come in to one listener.
#[derive(Default)]
pub(crate) struct Intake {
    state: Mutex<State>,
    logged: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct State {
    all: Counts,
    /// Of addresses with a connection only, so that it is bounded by `connections_max`.
    peers: BTreeMap<Arc<str>, Counts>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    connections: usize,
    handshakes: usize,
}

/// A connection that counts as open.
pub(crate) struct Permit {
    intake: Arc<Intake>,
    peer: Arc<str>,
}

/// A connection that counts as one that has not finished its handshake.
pub(crate) struct Handshake {
    intake: Arc<Intake>,
    peer: Arc<str>,
}

/// Why a connection does not come in: the metric's reason, and what to log.
pub(crate) type Refusal = (&'static str, String);

impl Intake {
    /// Takes a connection in, if there is room.
    pub(crate) fn admit(
        self: &Arc<Self>,
        config: &MeshConfig,
        peer: &str,
    ) -> Result<(Permit, Handshake), Refusal> {
        let peer: Arc<str> = Arc::from(peer);
        let mut state = self.state.lock();
        let of_peer = state.peers.get(&peer).copied().unwrap_or_default();
        let bounds = [
            ("connections_max", state.all.connections, config.connections_max, "connections are open"),
            ("handshakes_max", state.all.handshakes, config.handshakes_max, "handshakes are under way"),
            (
                "connections_per_peer_max",
                of_peer.connections,
                config.connections_per_peer_max,
                "connections of this address are open",
            ),
            (
                "handshakes_per_peer_max",
                of_peer.handshakes,
                config.handshakes_per_peer_max,
                "handshakes of this address are under way",
            ),
        ];
        for (name, count, max, text) in bounds {
            if count >= max {
                return Err((name, format!("{count} {text}, at most {max} may be ({name})")));
            }
        }
        state.all.connections += 1;
        state.all.handshakes += 1;
        let counts = state.peers.entry(Arc::clone(&peer)).or_default();
        counts.connections += 1;
        counts.handshakes += 1;
        drop(state);
        let handshake = Handshake { intake: Arc::clone(self), peer: Arc::clone(&peer) };
        Ok((Permit { intake: Arc::clone(self), peer }, handshake))
    }

    /// Counts a connection that was refused, and logs the first of each address.
    pub(crate) fn refuse(&self, shared: &Shared, from: &str, reason: &'static str, text: &str) {
        shared.metrics.closed("unknown", reason);
        let mut logged = self.logged.lock();
        if logged.len() < LOGGED_PEERS_MAX && logged.insert(from.to_owned()) {
            drop(logged);
            tracing::warn!(from, reason, text, "a connection was refused; later ones of it are only counted");
        }
    }

    fn release(&self, peer: &Arc<str>, change: impl Fn(&mut Counts)) {
        let mut state = self.state.lock();
        change(&mut state.all);
        if let Some(counts) = state.peers.get_mut(peer) {
            change(counts);
            if counts.connections == 0 && counts.handshakes == 0 {
                state.peers.remove(peer);
            }
        }
    }
}

impl Handshake {
    /// Where it is counted.
    pub(crate) fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.intake.release(&self.peer, |counts| counts.connections = counts.connections.saturating_sub(1));
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.intake.release(&self.peer, |counts| counts.handshakes = counts.handshakes.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_refuses_by_its_own_name_and_a_place_is_free_again_when_its_connection_ends() {
        let config = MeshConfig {
            connections_max: 4,
            connections_per_peer_max: 3,
            handshakes_max: 3,
            handshakes_per_peer_max: 2,
            ..MeshConfig::new("a", "test")
        };
        let intake = Arc::new(Intake::default());
        let admit = |peer: &str| intake.admit(&config, peer);
        let reason = |peer: &str| admit(peer).err().map(|(reason, _)| reason);
        let (first, shaking) = admit("x").unwrap();
        let second = admit("x").unwrap();
        assert_eq!(reason("x"), Some("handshakes_per_peer_max"));
        let third = admit("y").unwrap();
        assert_eq!(reason("y"), Some("handshakes_max"));
        drop((shaking, second.1, third.1));
        let fourth = admit("x").unwrap();
        drop(fourth.1);
        assert_eq!(reason("x"), Some("connections_max"));
        drop(third.0);
        assert_eq!(reason("x"), Some("connections_per_peer_max"));
        drop(first);
        assert_eq!(reason("x"), None);
        drop((second.0, fourth.0));
        assert!(intake.state.lock().peers.is_empty(), "nothing is remembered of who has gone");
    }

    #[test]
    fn a_refusal_names_its_bound_and_both_numbers() {
        let config = MeshConfig { connections_max: 0, ..MeshConfig::new("a", "test") };
        let (_, text) = Arc::new(Intake::default()).admit(&config, "x").err().unwrap();
        assert_eq!(text, "0 connections are open, at most 0 may be (connections_max)");
    }
}
