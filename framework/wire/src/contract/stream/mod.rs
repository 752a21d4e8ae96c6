//! Streaming calls: items one by one, with room granted by whoever takes them.
//!
//! A handler gets an [`Emit`], an [`Incoming`] or both, owned and `'static`: it may keep them, or move them into
//! `cx.spawn`, and return. A caller gets an [`Incoming`], a [`Feed`] with a [`Completion`], or a [`Feed`] with an
//! [`Incoming`]; which, is the method's [`Shape`].
//!
//! Between two ends of one process items pass as values through a bounded `Lane`; over a link, or where one end has
//! no types, they are MessagePack in a [`StreamWire`], which the mesh implements. Both keep the same rules:
//!
//! * a sender may send as long as it has credit: one an item, given back when the item is taken out;
//! * the call is *open* when the handler has shown that it takes it: it asked for an item, sent one, or returned;
//! * a service's items end when its handler has returned *and* its [`Emit`] is gone, or with the first error;
//! * a caller's items end when its [`Feed`] is finished; a [`Feed`] that is dropped before ends them as cancelled.

mod beside;
mod emit;
mod forward;
mod incoming;
mod lane;
mod open;
mod shape;
mod wire;

pub use emit::{Emit, Feed, TrySend, dropping_state};
pub use forward::forward_stream;
pub use incoming::{Completion, Incoming};
pub use open::{OpenFuture, StreamCall};
pub use shape::{Accepts, Both, Ends, Item, NoItem, Shape, StreamParams, Streams, decode_stream};
pub use wire::{Block, EncodeItem, ItemForm, ROWS_TAG, StreamWire};

pub(super) use beside::Handled;

/// Items that lie between two ends of one process at most.
const LANE_ITEMS_MAX: u64 = 256;
