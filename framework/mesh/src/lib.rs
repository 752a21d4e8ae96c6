//! How nodes reach each other: links, calls, byte channels with credits, routing and balancing.
//!
//! Reading order: [`Mesh`] (what the rest of the framework holds), [`MeshConfig`] (every bound),
//! [`Transport`] (TCP, or pipes inside a process), then the path of a call: `router` (whom), `link`
//! (send it, await it), `writer` and `reader` (the bytes), `services` (what is called here); then the
//! path of a batch: [`ChannelSender`] and [`ChannelReceiver`]; then who is there: `listener`,
//! `handshake`, `peers`, `drain`; then clients that are no nodes: `compat`.
//!
//! A call passes one lock and no task of its own:
//!
//! ```text
//! client ─ router ─ link.start ─▶ buffer ─ writer ══▶ reader ─ services ─▶ mailbox
//!    ▲                                                                       │ actor
//!    └── slot ◀─ link.answered ◀─ reader ◀══ writer ◀ buffer ◀─ link.respond ┘
//! ```
//!
//! Not here: record types (`afflux-stream`), mailboxes (`afflux-actor`), settings files and HTTP
//! (`afflux`), the meaning of frames (`afflux-wire`).

mod actors;
mod attach;
mod balancer;
mod budget;
#[doc(hidden)]
pub mod bugs;
mod channel;
mod compat;
mod config;
mod decay;
mod describe;
mod doorman;
mod down;
mod drain;
mod ejection;
mod endpoint;
mod guard;
mod handshake;
mod hash;
mod health;
mod inflight;
mod intake;
mod keyed;
mod latency;
mod link;
mod listener;
mod mesh;
mod metrics;
mod peers;
mod reader;
mod router;
mod schemas;
mod services;
mod stream;
mod target;
#[cfg_attr(not(feature = "tls"), path = "tls/absent.rs")]
mod tls;
mod traffic;
mod transport;
mod writer;

pub use actors::NAMED_ACTORS_MAX;
pub use afflux_wire::Mark;
pub use afflux_wire::contract::Policy;
pub use channel::{ChannelKey, ChannelReceiver, ChannelSender, HELD_ITEMS_MAX, Packet, QUEUED_PACKETS_MAX};
pub use compat::{CompatConfig, CompatMode};
pub use config::{Backoff, CHANNEL_WINDOW_BYTES, MeshConfig};
pub use doorman::CLIENT_PREFIX;
pub use down::{Down, DownReason, DownWatch};
pub use ejection::Ejection;
pub use guard::{Access, Guard, RULES_MAX, TOKENS_MAX, token_digest};
pub use keyed::{KEYED_LABEL, KEYED_PARTITIONS, keyed_nodes, owner_of, partition_of};
pub use link::WATCHES_PER_LINK_MAX;
pub use mesh::Mesh;
pub use metrics::MeshMetrics;
pub use peers::{PeerEvent, PeerEvents, PeerInfo, PeerState};
pub use stream::RawStream;
#[cfg(feature = "tls")]
pub use tls::TlsPem;
pub use tls::{Tls, TlsMode};
pub use transport::{MemoryNetwork, PIPE_BACKLOG_MAX, PIPE_BYTES, Transport};
