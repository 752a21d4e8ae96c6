//! A stream as bytes: what the typed ends ask of whatever carries them.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::reply::ResponseSink;
use crate::status::Status;

/// Begins a block whose items are rows of [`batch`](crate::batch): the one byte that MessagePack never uses.
pub const ROWS_TAG: u8 = 0xc1;

/// How an item is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemForm {
    /// MessagePack, structs as maps by name.
    Named,
    /// A row of [`batch`](crate::batch), which only the same build can read.
    Row,
}

/// Appends an item in a form.
pub type EncodeItem<'a> = &'a mut dyn FnMut(&mut Vec<u8>, ItemForm) -> Result<(), Status>;

/// Some items in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// How many, at least one.
    pub count: u32,
    /// What they cost together in credits; at least `count`.
    pub credits: u64,
    /// The items, one behind the other: MessagePack, or rows behind a [`ROWS_TAG`].
    pub items: Bytes,
}

/// One side's end of a stream over a link. Each method that waits keeps one waker: the last task that polled it.
///
/// As a [`ResponseSink`] it takes what the handler returns, of the side that is called.
pub trait StreamWire: ResponseSink + 'static {
    /// Appends one item behind those that wait to be sent. `false`: there is no credit, nothing was appended.
    /// `encode` is asked for a row first where both sides are of one build, and for the other form from then on
    /// where its type cannot be one.
    ///
    /// # Errors
    /// The other side takes no more, or the call has ended; or the item cannot be encoded, or is too large.
    fn put(&self, encode: EncodeItem<'_>) -> Result<bool, Status>;

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

    /// Whether blocks of rows may come: both sides are of one build.
    fn takes_rows(&self) -> bool;

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
