//! What a service promises, and how one call travels inside a process.
//!
//! `derive(Service)` turns an enum into a [`Service`]: one [`Params`] type a method, one
//! [`Service::Call`] enum that goes into mailboxes, and a client. A caller starts a [`Call`]; the
//! [`Caller`] (the mesh) decides whether it is delivered to a mailbox beside it, unencoded, or
//! encoded into a link. Either way the answer lands in the same [`slot`](CallFuture).
//!
//! Nothing here knows a socket or a runtime, so a contract can live in a crate of its own.

mod call;
mod cx;
mod fault;
mod reply;
mod service;

pub use call::{Call, CallFuture, CallOptions, Caller, Handle, Outgoing, Remote, Started, Target};
pub use cx::{CallMeta, Cx, TraceParent};
pub use fault::{CallError, Fault, NoError, RpcError};
pub use reply::{CancelToken, Panic, Reply, ReplyTo, ResponseSink, ResponseSlot};
pub use service::{Accept, LocalEndpoint, Mail, MethodKind, MethodSpec, Params, Refused, Service};
