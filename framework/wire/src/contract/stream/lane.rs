//! Items as values between two ends of one process, in one direction.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::LANE_ITEMS_MAX;
use super::emit::TrySend;
use crate::status::Status;

/// Whether the handler has shown that it takes the call.
#[derive(Default)]
pub(super) struct Opening {
    open: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Opening {
    pub(super) fn open(&self) {
        if !self.open.load(Ordering::Acquire) && !self.open.swap(true, Ordering::AcqRel) {
            let waker = self.waker.lock().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        *self.waker.lock() = Some(cx.waker().clone());
        // Opened in between: the waker came too late.
        if self.open.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Which way items go; the handler's side opens the call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToHandler,
    ToCaller,
}

/// One direction of a stream.
pub(super) struct Lane<T> {
    state: Mutex<State<T>>,
    opening: Arc<Opening>,
    way: Way,
}

struct State<T> {
    items: VecDeque<T>,
    /// Items that may be put in before others are used.
    credits: u64,
    /// Who has to leave before the items end: the sending end, and the handler where it sends.
    parties: u8,
    end: Option<Result<(), Status>>,
    stopped: Option<Status>,
    sender: Option<Waker>,
    receiver: Option<Waker>,
    watcher: Option<Waker>,
}

fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(known) if known.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

fn wake<const N: usize>(wakers: [Option<Waker>; N]) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

impl<T> Lane<T> {
    pub(super) fn new(way: Way, parties: u8, opening: &Arc<Opening>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                credits: LANE_ITEMS_MAX,
                parties,
                end: None,
                stopped: None,
                sender: None,
                receiver: None,
                watcher: None,
            }),
            opening: Arc::clone(opening),
            way,
        })
    }

    pub(super) fn put(&self, item: T) -> Result<(), TrySend<T>> {
        let mut state = self.state.lock();
        if let Some(status) = &state.stopped {
            return Err(TrySend::Closed(status.clone()));
        }
        if state.end.is_some() {
            return Err(TrySend::Closed(over()));
        }
        if state.credits == 0 {
            return Err(TrySend::Full(item));
        }
        state.credits -= 1;
        state.items.push_back(item);
        let receiver = state.receiver.take();
        drop(state);
        wake([receiver]);
        if self.way == Way::ToCaller {
            self.opening.open();
        }
        Ok(())
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut state = self.state.lock();
        if let Some(status) = &state.stopped {
            return Poll::Ready(Err(status.clone()));
        }
        if state.end.is_some() {
            return Poll::Ready(Err(over()));
        }
        if state.credits > 0 {
            return Poll::Ready(Ok(()));
        }
        keep(&mut state.sender, cx);
        Poll::Pending
    }

    /// One of those who can end the items well has left.
    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        state.parties = state.parties.saturating_sub(1);
        if state.parties > 0 || state.end.is_some() {
            return;
        }
        state.end = Some(Ok(()));
        let wakers = [state.receiver.take(), state.watcher.take(), state.sender.take()];
        drop(state);
        wake(wakers);
    }

    /// The items end with an error, behind those that are in already.
    pub(super) fn fail(&self, status: Status) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(Err(status));
        let wakers = [state.receiver.take(), state.watcher.take(), state.sender.take()];
        drop(state);
        wake(wakers);
    }

    /// The sending end is gone in a way that is no end: an error, unless the handler will say more.
    pub(super) fn abandon(&self, status: &Status) {
        if self.state.lock().parties > 1 {
            return self.leave();
        }
        self.fail(status.clone());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().items.is_empty()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    pub(super) fn stopped(&self) -> Option<Status> {
        let state = self.state.lock();
        state.stopped.clone().or_else(|| state.end.is_some().then(over))
    }

    pub(super) fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.stopped.is_some() || state.end.is_some() {
            return Poll::Ready(());
        }
        keep(&mut state.watcher, cx);
        Poll::Pending
    }

    /// Takes out all items at once.
    pub(super) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<T>,
    ) -> Poll<Option<Result<(), Status>>> {
        if self.way == Way::ToHandler {
            self.opening.open();
        }
        let mut state = self.state.lock();
        if !state.items.is_empty() {
            if into.is_empty() {
                std::mem::swap(into, &mut state.items);
            } else {
                into.append(&mut state.items);
            }
            return Poll::Ready(Some(Ok(())));
        }
        match &mut state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(end @ Err(_)) => match std::mem::replace(end, Ok(())) {
                Err(status) => Poll::Ready(Some(Err(status))),
                Ok(()) => Poll::Ready(None),
            },
            None => {
                keep(&mut state.receiver, cx);
                Poll::Pending
            }
        }
    }

    pub(super) fn consumed(&self, items: u64) {
        let mut state = self.state.lock();
        state.credits += items;
        let sender = state.sender.take();
        drop(state);
        wake([sender]);
    }

    /// Nobody takes the items any more; those that are in are dropped.
    pub(super) fn stop(&self, status: &Status) {
        let mut state = self.state.lock();
        if state.stopped.is_some() {
            return;
        }
        state.stopped = Some(status.clone());
        let items = std::mem::take(&mut state.items);
        let wakers = [state.sender.take(), state.watcher.take()];
        drop(state);
        drop(items);
        wake(wakers);
    }
}

fn over() -> Status {
    Status::precondition("the stream has ended: no item can be sent behind its end")
}
