//! The receiving ends: items of either side, and the result of a call that took items.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;

use super::super::caller::{BoxFuture, Caller};
use super::super::fault::{CallError, RpcError};
use super::super::slot::Slot;
use super::beside::Whole;
use super::lane::Lane;
use super::shape::Item;
use super::wire::{ROWS_TAG, StreamWire};
use crate::status::{Code, Stage, Status};

/// Items used before their credit goes back, where a block of them is not used up before.
const GIVE_BACK_ITEMS: u64 = 64;

/// Ends a call beside at its deadline; over a link the mesh does.
pub(super) struct Alarm {
    whole: Option<Arc<dyn Whole>>,
    timer: Option<BoxFuture<()>>,
}

impl Alarm {
    pub(super) fn none() -> Self {
        Self { whole: None, timer: None }
    }

    pub(super) fn at(caller: &Arc<dyn Caller>, at: Instant, whole: &Arc<dyn Whole>) -> Self {
        Self { whole: Some(Arc::clone(whole)), timer: Some(caller.sleep_until(at)) }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.timer = None;
            if let Some(whole) = self.whole.take() {
                let text = "the stream had not ended before its deadline";
                whole.cancel(&Status::new(Code::DeadlineExceeded, text).stage(Stage::Running));
            }
        }
    }
}

pub(super) enum Inlet<T> {
    /// With the whole call, at its caller.
    Lane(Arc<Lane<T>>, Option<Arc<dyn Whole>>),
    Wire(Arc<dyn StreamWire>),
    Gone,
}

/// What comes in, item by item: of a service at its caller, of a caller at the handler.
///
/// Dropped before its end it tells the other side: a caller cancels the call by it, a handler takes no more items.
/// It is a [`Stream`] too.
///
/// ```
/// # use afflux_wire::contract::{Incoming, Status};
/// async fn sum(mut numbers: Incoming<u64>) -> Result<u64, Status> {
///     let mut sum = 0;
///     while let Some(number) = numbers.next().await {
///         sum += number?;            // an error is the last thing that comes
///     }
///     Ok(sum)
/// }
/// ```
pub struct Incoming<T: Item> {
    from: Inlet<T>,
    ready: VecDeque<T>,
    /// Credit of the items in `ready`, and what of it belongs to items that were used and is not given back yet.
    held: u64,
    used: u64,
    /// What stands behind the items in `ready`.
    failure: Option<Status>,
    alarm: Alarm,
}

// Nothing in it is pinned.
impl<T: Item> Unpin for Incoming<T> {}

impl<T: Item> Incoming<T> {
    pub(super) fn new(from: Inlet<T>, alarm: Alarm) -> Self {
        Self { from, ready: VecDeque::new(), held: 0, used: 0, failure: None, alarm }
    }

    /// The next item; nothing behind the last one. Waits for it.
    pub async fn next(&mut self) -> Option<Result<T, Status>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// The same as a poll.
    pub fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.give_back();
                return Poll::Ready(Some(Ok(item)));
            }
            if let Some(status) = self.failure.take() {
                self.from = Inlet::Gone;
                return Poll::Ready(Some(Err(status)));
            }
            self.alarm.poll(cx);
            let end = match &self.from {
                Inlet::Lane(lane, _) => match lane.poll_take(cx, &mut self.ready) {
                    Poll::Ready(Some(Ok(()))) => {
                        self.held = self.ready.len() as u64;
                        continue;
                    }
                    Poll::Ready(Some(Err(status))) => Some(status),
                    Poll::Ready(None) => None,
                    Poll::Pending => return Poll::Pending,
                },
                Inlet::Wire(wire) => match wire.poll_block(cx) {
                    Poll::Ready(Some(Ok(block))) => {
                        self.held = block.credits;
                        let decoded = match block.items.split_first() {
                            Some((&ROWS_TAG, rows)) if wire.takes_rows() => {
                                crate::batch::decode_rows(rows, block.count as usize, &mut self.ready)
                            }
                            _ => crate::codec::decode_items(&block.items, block.count, &mut self.ready),
                        };
                        if let Err(mut status) = decoded {
                            status.message =
                                format!("an item of the stream does not fit its type: {}", status.message);
                            wire.stop(&status);
                            self.failure = Some(status);
                        }
                        continue;
                    }
                    Poll::Ready(Some(Err(status))) => Some(status),
                    Poll::Ready(None) => None,
                    Poll::Pending => return Poll::Pending,
                },
                Inlet::Gone => return Poll::Ready(None),
            };
            self.from = Inlet::Gone;
            return Poll::Ready(end.map(Err));
        }
    }

    /// One item was used: its credit goes back, together with that of others.
    fn give_back(&mut self) {
        let used = if self.ready.is_empty() { self.held } else { 1.min(self.held) };
        self.held -= used;
        self.used += used;
        if self.ready.is_empty() || self.used >= GIVE_BACK_ITEMS {
            let used = std::mem::take(&mut self.used);
            match &self.from {
                Inlet::Lane(lane, _) => lane.consumed(used),
                Inlet::Wire(wire) => wire.consumed(used),
                Inlet::Gone => {}
            }
        }
    }
}

impl<T: Item> Stream for Incoming<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_item(cx)
    }
}

impl<T: Item> Drop for Incoming<T> {
    fn drop(&mut self) {
        let dropped = |text: &str| Status::new(Code::Cancelled, text);
        match std::mem::replace(&mut self.from, Inlet::Gone) {
            Inlet::Lane(_, Some(whole)) => whole.cancel(&dropped("the caller dropped the stream")),
            Inlet::Lane(lane, None) => lane.stop(&dropped("the handler takes no more items")),
            Inlet::Wire(wire) => wire.stop(&dropped("the receiver dropped the stream")),
            Inlet::Gone => {}
        }
    }
}

impl<T: Item> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({} ready)", self.ready.len())
    }
}

pub(super) enum Outcome<R> {
    Slot(Arc<Slot<Result<R, Status>>>, Arc<dyn Whole>),
    Wire(Arc<dyn StreamWire>),
    Gone,
}

/// The result of a call that took items: a future. Dropping it before it is ready cancels the call.
#[must_use = "the result of the call comes through it, and dropping it cancels the call"]
pub struct Completion<R, E: RpcError> {
    from: Outcome<R>,
    alarm: Alarm,
    error: PhantomData<fn() -> E>,
}

impl<R, E: RpcError> Unpin for Completion<R, E> {}

impl<R: Item, E: RpcError> Completion<R, E> {
    pub(super) fn new(from: Outcome<R>, alarm: Alarm) -> Self {
        Self { from, alarm, error: PhantomData }
    }
}

impl<R: Item, E: RpcError> Future for Completion<R, E> {
    type Output = Result<R, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.alarm.poll(cx);
        let result = match &self.from {
            Outcome::Slot(slot, _) => match slot.poll(cx) {
                Poll::Ready(result) => result,
                Poll::Pending => return Poll::Pending,
            },
            Outcome::Wire(wire) => match wire.poll_result(cx) {
                Poll::Ready(result) => result.and_then(|bytes| decode_result(&bytes)),
                Poll::Pending => return Poll::Pending,
            },
            Outcome::Gone => return Poll::Pending,
        };
        self.from = Outcome::Gone;
        Poll::Ready(result.map_err(CallError::from_status))
    }
}

fn decode_result<R: Item>(bytes: &[u8]) -> Result<R, Status> {
    let bytes = if bytes.is_empty() { &[0xc0][..] } else { bytes };
    crate::codec::from_slice(bytes).map_err(|status| {
        Status::internal(format!("the answer does not fit its type: {}", status.message))
            .executed(crate::status::Executed::Yes)
            .stage(Stage::Reply)
    })
}

impl<R, E: RpcError> Drop for Completion<R, E> {
    fn drop(&mut self) {
        let dropped = Status::new(Code::Cancelled, "the caller dropped the call");
        match std::mem::replace(&mut self.from, Outcome::Gone) {
            Outcome::Slot(_, whole) => whole.cancel(&dropped),
            Outcome::Wire(wire) => wire.stop(&dropped),
            Outcome::Gone => {}
        }
    }
}

impl<R, E: RpcError> fmt::Debug for Completion<R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completion")
    }
}
