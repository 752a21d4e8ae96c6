//! The settings of a node's mesh. Every bound has a name and a unit.

use std::time::Duration;

use afflux_wire::contract::Policy;
use afflux_wire::handshake::{Hello, LocalIdentity, ProtocolRange};
use afflux_wire::{Incarnation, Limits, NodeId};

use crate::compat::CompatConfig;
use crate::ejection::Ejection;
use crate::guard::Access;
use crate::tls::Tls;

/// Byte credits of a fresh channel, unless [`Limits::channel_credit_bytes`] says otherwise.
pub const CHANNEL_WINDOW_BYTES: u32 = 256 << 10;

/// How long to wait between two tries to reach a peer.
///
/// The n-th wait is `first · 2ⁿ`, at most `max`, of which up to a half is taken off by a jitter that
/// depends on [`MeshConfig::seed`], the peer's name and n alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// The wait after `failures` failed tries in a row.
    ///
    /// ```
    /// let backoff = afflux_mesh::Backoff::default();
    /// assert!(backoff.wait(0, 7) <= backoff.first);
    /// assert!(backoff.wait(40, 7) >= backoff.max / 2);
    /// ```
    pub fn wait(&self, failures: u32, seed: u64) -> Duration {
        let full = self.first.saturating_mul(1 << failures.min(20)).min(self.max);
        let half = full / 2;
        let random = mix(seed.wrapping_add(u64::from(failures)));
        half + half.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// What a node's mesh is told when it starts.
///
/// ```
/// use afflux_mesh::MeshConfig;
/// let config = MeshConfig { listen: Some("127.0.0.1:0".into()), ..MeshConfig::new("orders-1", "dev") };
/// assert_eq!(config.cluster, "dev");
/// ```
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// This node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Its cluster: links to nodes of another are refused.
    pub cluster: String,
    /// Version of the application, for people.
    pub build: String,
    /// Hash of the executable.
    pub build_fingerprint: u64,
    /// The cluster's shared secret.
    pub token: Option<String>,
    /// Certificates, where links are inside TLS; nothing: links are plain.
    pub tls: Option<Tls>,
    /// Who may call what.
    pub access: Access,
    /// `host:port` to listen on; port 0 takes a free one; nothing: a client that nobody dials.
    pub listen: Option<String>,
    /// `host:port` under which others reach this node, where it is not the address it listens on.
    pub advertise: Option<String>,
    /// What this node accepts on a link.
    pub limits: Limits,
    /// A PING goes out this often on both connections of a link; a link is lost after three such
    /// times of silence, counted in the larger of both sides' intervals.
    pub keepalive: Duration,
    /// Between two tries to reach a peer.
    pub backoff: Backoff,
    /// For a whole handshake: connect, HELLO, WELCOME, twice.
    pub connect_timeout: Duration,
    /// For a channel to find its receiver.
    pub attach_timeout: Duration,
    /// Bytes of answers and calls that wait for a peer to read them: above it calls are refused, at
    /// twice of it the link is lost.
    pub write_buffer_bytes_max: usize,
    /// Connections that have not finished their handshake.
    pub handshakes_max: usize,
    /// Those of one peer's address.
    pub handshakes_per_peer_max: usize,
    /// Connections accepted and alive.
    pub connections_max: usize,
    /// Those of one peer's address.
    pub connections_per_peer_max: usize,
    /// Where metrics and the dashboard are, for people who try HTTP on the node port.
    pub admin_hint: Option<String>,
    /// What MessagePack-RPC clients may do on the node port.
    pub compat: CompatConfig,
    /// Calls to a service that is offered here too stay here, unless they have a key.
    pub local_first: bool,
    /// How endpoints share the calls of a service for which nothing else is said.
    pub policy: Policy,
    /// Where this node is, as in the label `zone` of others.
    pub zone: Option<String>,
    /// Retries and second attempts within ten seconds, as a part of the calls to the same service.
    pub retry_percent: u32,
    /// Retries a second that are allowed beside that part.
    pub retries_per_second_min: u32,
    /// When a bad endpoint gets no calls.
    pub ejection: Ejection,
    /// The part of calls from outside any trace that begins a recorded one, 0 to 1.
    pub trace_sample_ratio: f64,
    /// Seeds every random choice of the mesh.
    pub seed: u64,
}

impl MeshConfig {
    /// The defaults, for a node that does not listen.
    pub fn new(node: impl Into<NodeId>, cluster: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            incarnation: Incarnation(1),
            cluster: cluster.into(),
            build: String::new(),
            build_fingerprint: 0,
            token: None,
            tls: None,
            access: Access::default(),
            listen: None,
            advertise: None,
            limits: Limits { channel_credit_bytes: CHANNEL_WINDOW_BYTES, ..Limits::default() },
            keepalive: Duration::from_secs(5),
            backoff: Backoff::default(),
            connect_timeout: Duration::from_secs(5),
            attach_timeout: Duration::from_secs(10),
            write_buffer_bytes_max: 64 << 20,
            handshakes_max: 1_024,
            handshakes_per_peer_max: 256,
            connections_max: 16_384,
            connections_per_peer_max: 8_192,
            admin_hint: None,
            compat: CompatConfig::default(),
            local_first: true,
            policy: Policy::default(),
            zone: None,
            retry_percent: 20,
            retries_per_second_min: 10,
            ejection: Ejection::default(),
            trace_sample_ratio: 0.0,
            seed: 0x5EED,
        }
    }

    pub(crate) fn identity(&self) -> LocalIdentity {
        LocalIdentity {
            protocol: ProtocolRange::CURRENT,
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            build: self.build.clone(),
            // Judged by the guard.
            token: None,
        }
    }

    /// This node as HELLO and WELCOME introduce it.
    pub(crate) fn hello(&self, address: &str) -> Hello {
        Hello {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            incarnation: self.incarnation,
            build: self.build.clone(),
            build_fingerprint: self.build_fingerprint,
            address: address.to_owned(),
            token: self.token.clone(),
            limits: self.limits,
            keepalive_ms: u32::try_from(self.keepalive.as_millis()).unwrap_or(u32::MAX).max(1),
            ..Hello::default()
        }
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014): the mesh's only source of random bits.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A hash of a name that is the same in every process (FNV-1a, 64 bit).
pub(crate) fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_limit_and_differ_by_seed_alone() {
        let backoff = Backoff::default();
        for failures in 0..64 {
            let full = backoff.first.saturating_mul(1 << failures.min(20)).min(backoff.max);
            let wait = backoff.wait(failures, 9);
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            assert_eq!(wait, backoff.wait(failures, 9));
        }
        assert_ne!(backoff.wait(3, 1), backoff.wait(3, 2));
    }
}
