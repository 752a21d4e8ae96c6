//! What two nodes say to each other, without a socket or a runtime.
//!
//! Reading order: [`id`] (who), [`status`] (what can go wrong), [`contract`] (what a service
//! promises and how a call travels in memory), then the bytes: limits, codecs, frames, handshake.
//!
//! Not here: connections (`afflux-mesh`), mailboxes (`afflux-actor`), records (`afflux-stream`).

pub mod batch;
pub mod codec;
pub mod compat;
pub mod contract;
mod error;
pub mod frame;
pub mod handshake;
mod health;
pub mod id;
pub mod limits;
mod scan;
pub mod schema;
pub mod status;
mod text;

pub use contract::TraceParent;
pub use error::WireError;
pub use frame::{
    Attach, CancelReason, Frame, FrameBuf, Frames, Kind, Mark, Meta, Method, RareMeta, next_frame,
    put_attach, put_bind, put_cancel, put_chunk, put_credit, put_data, put_data_header, put_detach,
    put_end_err, put_end_ok, put_goaway, put_health, put_hello, put_item, put_item_header, put_mark,
    put_notify, put_open, put_ping, put_pong, put_reject, put_request, put_response_err, put_response_ok,
    put_welcome, response_around, take_frames,
};
pub use frame::{put_down, put_redirect, put_watch};
pub use handshake::{Hello, Welcome};
pub use health::{HealthReport, ServiceLoad};
pub use id::{ActorId, ActorPath, Attempt, ChannelId, Incarnation, NodeId};
pub use limits::Limits;
pub use scan::{Scanner, skip_value};
pub use status::{Code, Executed, Redirect, Stage, Status};
