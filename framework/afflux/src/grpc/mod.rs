//! A door for gRPC clients: every service of the cluster, over HTTP/2, on a listener of its own.
//!
//! Reading order: [`proto`] (schemas as a `.proto` file), [`numbers`] (which numbers its fields have), `text` (its
//! text), `value` (a message as a JSON value and back), `call` (one call), `known` (health and reflection), and
//! [`Door`] (connections). Follows the
//! [gRPC over HTTP/2 protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
//!
//! Absent on purpose: compression (`identity` alone is offered).

mod call;
mod door;
mod frames;
mod known;
mod numbers;
mod proto;
mod services;
mod text;
mod value;

pub(crate) use door::Door;
pub(crate) use numbers::Numbers;
pub(crate) use proto::map;
pub(crate) use services::Protos;
pub(crate) use text::print;
