//! A stream as bytes: what the typed ends ask of whatever carries them.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::reply::ResponseSink;
use crate::status::Status;

/// Some items in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// How many, at least one.
    pub count: u32,
    /// What they cost together in credits; at least `count`.
    pub credits: u64,
    /// MessagePack of the items, one behind the other.
    pub items: Bytes,
}

/// One side's end of a stream over a link. Each method that waits keeps one waker: the last task that polled it.
///
/// As a [`ResponseSink`] it takes what the handler returns, of the side that is called.
pub trait StreamWire: ResponseSink + 'static {
    /// Appends one item behind those that wait to be sent. `false`: there is no credit, nothing was appended.
    ///
    /// # Errors
    /// The other side takes no more, or the call has ended; or the item cannot be encoded, or is too large.
    fn put(&self, encode: &mut dyn FnMut(&mut Vec<u8>) -> Result<(), Status>) -> Result<bool, Status>;

    /// Ready when there is credit for an item, or nobody will take one.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>>;

    /// No item follows, or none because of this error.
    fn finish(&self, result: Result<(), &Status>);

    /// The sending end was dropped by a panic, or with the state of its actor: an error, unless the handler still
    /// runs and will say what happened.
    fn abandon(&self, status: &Status);

    /// Why nobody takes further items, if so.
    fn stopped(&self) -> Option<Status>;

    /// Resolves when nobody takes further items.
    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The next items. An error is the last thing that comes.
    fn poll_block(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Block, Status>>>;

    /// Items of this many credits were taken out and used: there is room for others.
    fn consumed(&self, credits: u64);

    /// This side takes no further items. A caller cancels the call by it.
    fn stop(&self, status: &Status);

    /// Of a caller: ready when the call is open.
    fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>>;

    /// Of a caller: the end of the call with its result. Taken out once.
    fn poll_result(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>>;
}
