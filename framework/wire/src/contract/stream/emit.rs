//! The sending ends: of a handler, and of a caller.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::incoming::Alarm;
use super::lane::Lane;
use super::shape::Item;
use super::wire::{ItemForm, StreamWire};
use crate::status::{Code, Status};

/// Why [`Emit::try_send`] sent nothing.
#[derive(Debug, PartialEq)]
pub enum TrySend<T> {
    /// There is no credit now; the item comes back.
    Full(T),
    /// Nobody takes items any more.
    Closed(Status),
}

impl<T> fmt::Display for TrySend<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("there is no credit for an item now"),
            Self::Closed(status) => status.fmt(f),
        }
    }
}

impl<T: fmt::Debug> std::error::Error for TrySend<T> {}

pub(super) enum Outlet<T> {
    Lane(Arc<Lane<T>>),
    Wire(Arc<dyn StreamWire>),
    /// Finished, or of a method that sends nothing.
    Gone,
}

impl<T: Item> Outlet<T> {
    fn try_send(&self, item: T) -> Result<(), TrySend<T>> {
        match self {
            Self::Lane(lane) => lane.put(item),
            Self::Wire(wire) => {
                let put = wire.put(&mut |buffer, form| match form {
                    ItemForm::Named => crate::codec::to_named_in(&item, buffer),
                    ItemForm::Row => crate::batch::encode_row(&item, buffer),
                });
                match put {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(TrySend::Full(item)),
                    Err(status) => Err(TrySend::Closed(status)),
                }
            }
            Self::Gone => Err(TrySend::Closed(gone())),
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match self {
            Self::Lane(lane) => lane.poll_ready(cx),
            Self::Wire(wire) => wire.poll_ready(cx),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn stopped(&self) -> Option<Status> {
        match self {
            Self::Lane(lane) => lane.stopped(),
            Self::Wire(wire) => wire.stopped(),
            Self::Gone => Some(gone()),
        }
    }

    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Lane(lane) => lane.poll_stopped(cx),
            Self::Wire(wire) => wire.poll_stopped(cx),
            Self::Gone => Poll::Ready(()),
        }
    }

    fn finish(&mut self, result: Result<(), Status>) {
        match std::mem::replace(self, Self::Gone) {
            Self::Lane(lane) => match result {
                Ok(()) => lane.leave(),
                Err(status) => lane.fail(status),
            },
            Self::Wire(wire) => wire.finish(result.as_ref().copied()),
            Self::Gone => {}
        }
    }

    fn abandon(&mut self, status: &Status) {
        match std::mem::replace(self, Self::Gone) {
            Self::Lane(lane) => lane.abandon(status),
            Self::Wire(wire) => wire.abandon(status),
            Self::Gone => {}
        }
    }
}

fn gone() -> Status {
    Status::precondition("this end of the stream is finished: no item can be sent")
}

thread_local! {
    /// Set while the state of an actor that has stopped is dropped: its streams have not ended well.
    static DROPPING: RefCell<Option<Status>> = const { RefCell::new(None) };
}

/// Drops the state of an actor that has stopped for this reason: every [`Emit`] in it ends with it.
pub fn dropping_state<R>(reason: Status, drop_state: impl FnOnce() -> R) -> R {
    struct Reset(Option<Status>);
    impl Drop for Reset {
        fn drop(&mut self) {
            DROPPING.with(|dropping| *dropping.borrow_mut() = self.0.take());
        }
    }
    let _reset = Reset(DROPPING.with(|dropping| dropping.borrow_mut().replace(reason)));
    drop_state()
}

/// What a handler sends its items through. Owned: keep it, or move it into `cx.spawn`, and return.
///
/// The caller's stream ends when this is finished or dropped and the handler has returned; a handler's error, and
/// [`Emit::fail`], end it with that error. Dropped by a panic, or with the state of an actor that stops, it ends the
/// stream with an error too.
///
/// ```
/// # use afflux_wire::contract::{Emit, Status};
/// async fn count(mut out: Emit<u64>) -> Result<(), Status> {
///     for n in 0..1_000_000 {
///         out.send(n).await?;        // waits while the caller has no room
///     }
///     out.finish();                  // dropping it does the same
///     Ok(())
/// }
/// ```
pub struct Emit<T: Item> {
    to: Outlet<T>,
}

impl<T: Item> Emit<T> {
    pub(super) fn new(to: Outlet<T>) -> Self {
        Self { to }
    }

    /// Sends one item; waits for credit.
    ///
    /// # Errors
    /// The caller has given up (`CANCELLED`, `DEADLINE_EXCEEDED`), its link is lost, or the item is too large.
    pub async fn send(&mut self, item: T) -> Result<(), Status> {
        send(&mut self.to, item, &mut Alarm::none()).await
    }

    /// Sends one item if there is credit for it now.
    ///
    /// # Errors
    /// [`TrySend::Full`] with the item; [`TrySend::Closed`] as [`Emit::send`].
    pub fn try_send(&mut self, item: T) -> Result<(), TrySend<T>> {
        self.to.try_send(item)
    }

    /// Waits for credit: then [`Emit::try_send`] succeeds, unless the item is a large one.
    ///
    /// # Errors
    /// As [`Emit::send`].
    pub async fn ready(&mut self) -> Result<(), Status> {
        poll_fn(|cx| self.to.poll_ready(cx)).await
    }

    /// Whether the caller takes no more items.
    pub fn is_cancelled(&self) -> bool {
        self.to.stopped().is_some()
    }

    /// Resolves when the caller takes no more items.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| self.to.poll_stopped(cx)).await;
    }

    /// All items are sent.
    pub fn finish(mut self) {
        self.to.finish(Ok(()));
    }

    /// Ends the stream with an error, behind the items that were sent.
    pub fn fail(mut self, status: Status) {
        self.to.finish(Err(status));
    }
}

impl<T: Item> Drop for Emit<T> {
    fn drop(&mut self) {
        if matches!(self.to, Outlet::Gone) {
            return;
        }
        if std::thread::panicking() {
            return self.to.abandon(&Status::internal("the sender of these items panicked"));
        }
        match DROPPING.with(|dropping| dropping.borrow().clone()) {
            Some(reason) => self.to.abandon(&reason),
            None => self.to.finish(Ok(())),
        }
    }
}

impl<T: Item> fmt::Debug for Emit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Emit({})", if self.is_cancelled() { "stopped" } else { "open" })
    }
}

/// What a caller sends its items through. Say [`Feed::finish`] behind the last one: a feed that is dropped without it
/// tells the handler `CANCELLED`, never a clean end.
pub struct Feed<T: Item> {
    to: Outlet<T>,
    alarm: Alarm,
}

impl<T: Item> Feed<T> {
    pub(super) fn new(to: Outlet<T>, alarm: Alarm) -> Self {
        Self { to, alarm }
    }

    /// Sends one item; waits for credit.
    ///
    /// # Errors
    /// The handler takes no more items: the call has ended, which its other end tells more of.
    pub async fn send(&mut self, item: T) -> Result<(), Status> {
        send(&mut self.to, item, &mut self.alarm).await
    }

    /// Sends one item if there is credit for it now.
    ///
    /// # Errors
    /// [`TrySend::Full`] with the item; [`TrySend::Closed`] as [`Feed::send`].
    pub fn try_send(&mut self, item: T) -> Result<(), TrySend<T>> {
        self.to.try_send(item)
    }

    /// Waits for credit: then [`Feed::try_send`] succeeds, unless the item is a large one.
    ///
    /// # Errors
    /// As [`Feed::send`].
    pub async fn ready(&mut self) -> Result<(), Status> {
        poll_fn(|cx| {
            self.alarm.poll(cx);
            self.to.poll_ready(cx)
        })
        .await
    }

    /// Whether the handler takes no more items.
    pub fn is_stopped(&self) -> bool {
        self.to.stopped().is_some()
    }

    /// All items are sent.
    pub fn finish(mut self) {
        self.to.finish(Ok(()));
    }
}

impl<T: Item> Drop for Feed<T> {
    fn drop(&mut self) {
        let text = "the caller dropped its end of the stream before it had finished it";
        self.to.finish(Err(Status::new(Code::Cancelled, text)));
    }
}

impl<T: Item> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed({})", if self.is_stopped() { "stopped" } else { "open" })
    }
}

async fn send<T: Item>(to: &mut Outlet<T>, item: T, alarm: &mut Alarm) -> Result<(), Status> {
    let mut item = match to.try_send(item) {
        Ok(()) => return Ok(()),
        Err(TrySend::Closed(status)) => return Err(status),
        Err(TrySend::Full(item)) => item,
    };
    loop {
        // An item may need more credit than there is: then this waits for the next.
        poll_fn(|cx| {
            alarm.poll(cx);
            to.poll_ready(cx)
        })
        .await?;
        item = match to.try_send(item) {
            Ok(()) => return Ok(()),
            Err(TrySend::Closed(status)) => return Err(status),
            Err(TrySend::Full(item)) => item,
        };
    }
}
