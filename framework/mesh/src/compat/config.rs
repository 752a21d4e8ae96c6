//! The bounds of MessagePack-RPC clients.

use std::time::Duration;

/// When the node port speaks MessagePack-RPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompatMode {
    /// On loopback, and where clients have to say who they are.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What a node grants to MessagePack-RPC clients, which announce and obey no limits themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompatConfig {
    /// Whether they are served at all.
    pub mode: CompatMode,
    /// Clients connected at the same time; one more is closed.
    pub connections_max: usize,
    /// Calls of one client without an answer; it is not read from while it has as many.
    pub in_flight_max: usize,
    /// Bytes of one message; above it the client is told and closed.
    pub message_bytes_max: usize,
    /// Elements of all arrays and maps of one message; a map's entry is two.
    pub elements_max: u64,
    /// Levels of nesting of one message, its own array included.
    pub depth_max: u32,
    /// From the first byte of a message to its last.
    pub message_timeout: Duration,
    /// A client without calls that says nothing for so long is closed.
    pub idle_timeout: Duration,
    /// Bytes of unfinished messages and of parameters in calls, over all clients; a client that needs more
    /// is told and closed.
    pub buffered_bytes_max: usize,
    /// Bytes of answers that one client has not read; above it the client is closed, and above a half of it
    /// not read from.
    pub write_buffer_bytes_max: usize,
    /// A client that reads not one byte of what waits for so long is closed.
    pub write_timeout: Duration,
}

impl Default for CompatConfig {
    fn default() -> Self {
        Self {
            mode: CompatMode::Auto,
            connections_max: 1_024,
            in_flight_max: 1_024,
            message_bytes_max: 8 << 20,
            elements_max: 1 << 20,
            depth_max: afflux_wire::limits::DEPTH_MAX,
            message_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3_600),
            buffered_bytes_max: 256 << 20,
            write_buffer_bytes_max: 32 << 20,
            write_timeout: Duration::from_secs(30),
        }
    }
}
