//! What a service promises, and how one call travels inside a process.
//!
//! `derive(Service)` turns an enum into a [`Service`]: one [`Params`] type a method, one
//! [`Service::Call`] enum that goes into mailboxes, and a client. A caller starts a [`Call`]; the
//! [`Caller`] (the mesh) decides whether it is delivered to a mailbox beside it, unencoded, or
//! encoded into a link. Either way the answer lands in the same slot, which [`CallFuture`] polls.
//!
//! Nothing here knows a socket or a runtime, so a contract can live in a crate of its own.

mod actor_ref;
mod call;
mod caller;
mod chain;
mod cx;
mod fault;
mod future;
mod generated;
mod identity;
mod passed;
mod placement;
mod priority;
mod refusal;
mod reply;
mod scope;
mod service;
mod slot;
mod stream;
mod task_local;
#[cfg(test)]
mod testing;
mod trace;
mod window;

pub use actor_ref::{ActorRef, Via};
pub use call::{Call, Handle};
pub use caller::{BoxFuture, CANCEL_HEDGED, CallOptions, Caller, Outgoing, Remote, Started, Target};
pub use chain::{ActorKey, CHAIN_BYTES_MAX, CHAIN_LINKS_MAX, CallChain};
pub use cx::{CallMeta, Cx, Spawner, TraceParent};
pub use fault::{CallError, Fault, NoError, RpcError};
pub use future::{CALL_TRIES_MAX, CallFuture, REDIRECTS_MAX};
#[doc(hidden)]
pub use generated::{answer, decode_params, no_such_method, schema_of};
#[doc(hidden)]
pub use generated::{assert_keyed, encode_param, forward};
pub use identity::{Identity, IdentityKind};
pub use passed::{BAGGAGE_BYTES_MAX, Passed, TRACESTATE_BYTES_MAX};
pub use placement::{Avoid, Balanced, Failure, Hedge, Placement, Policy, Retry, key_hash};
pub use priority::Priority;
#[doc(hidden)]
pub use refusal::refusal;
pub use reply::{Ack, CancelToken, Panic, Reply, ReplyTo, ResponseSink};
pub use scope::CallScope;
pub use service::{Accept, LocalEndpoint, Mail, MethodKind, MethodSpec, Params, Refused, Service};
pub use slot::{NoSlot, ResponseSlot};
pub use stream::{
    Accepts, Block, Both, Completion, Emit, EncodeItem, Ends, Feed, Incoming, Item, ItemForm, NoItem,
    OpenFuture, ROWS_TAG, Shape, StreamCall, StreamParams, StreamWire, Streams, TrySend,
};
pub use stream::{decode_stream, dropping_state, forward_stream};
pub use task_local::{current_caller, within};
pub use trace::{CallSpan, polled_in};
pub use window::{
    Admitted, IDEMPOTENCY_KEY_BYTES_MAX, REPEATS_WAITING_MAX, ReplyLimits, ReplyWindow, Waiter, WindowEvent,
};

pub use crate::status::{Code, Executed, Stage, Status};
