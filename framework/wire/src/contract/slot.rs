//! One answer on its way back to its caller.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::fault::{CallError, RpcError};
use super::scope::CallScope;
use crate::status::{Executed, Stage, Status};

/// Where an encoded answer of a call that left over a link is put. Implemented by the call's slot.
pub trait ResponseSlot: Send + Sync {
    /// Decodes and delivers the answer; nothing happens when the caller is gone or was answered.
    fn complete(&self, result: Result<&[u8], Status>);
}

/// The slot of what has no answer of its own, such as a stream: what arrives is left out.
#[derive(Clone, Copy, Debug)]
pub struct NoSlot;

impl ResponseSlot for NoSlot {
    fn complete(&self, _: Result<&[u8], Status>) {}
}

enum Cell<R> {
    /// Whom to wake for the answer, and what to cancel when the caller leaves.
    Waiting(Option<Waker>, Option<Arc<CallScope>>),
    Done(R),
    /// The caller is gone, or has taken the answer.
    Closed,
}

/// A place for one answer, shared by the caller and whoever answers. The first answer stands.
pub(super) struct Slot<R> {
    cell: Mutex<Cell<R>>,
}

impl<R> Slot<R> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { cell: Mutex::new(Cell::Waiting(None, None)) })
    }

    /// Puts the answer in and wakes the caller.
    pub(super) fn fill(&self, value: R) {
        let mut cell = self.cell.lock();
        if let Cell::Waiting(waker, _) = &mut *cell {
            let waker = waker.take();
            *cell = Cell::Done(value);
            drop(cell);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Takes the answer out, once.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<R> {
        let mut cell = self.cell.lock();
        if let Cell::Waiting(waker, _) = &mut *cell {
            match waker {
                Some(known) if known.will_wake(cx.waker()) => {}
                _ => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        match std::mem::replace(&mut *cell, Cell::Closed) {
            Cell::Done(value) => Poll::Ready(value),
            _ => Poll::Pending,
        }
    }

    /// The caller no longer waits.
    pub(super) fn close(&self) {
        // The old content may be a user's value or a waker: dropped after the lock.
        let old = std::mem::replace(&mut *self.cell.lock(), Cell::Closed);
        if let Cell::Waiting(_, Some(scope)) = &old {
            scope.cancel();
        }
        drop(old);
    }

    /// Cancels `scope` when the caller leaves without its answer.
    pub(super) fn on_cancel(&self, scope: &Arc<CallScope>) {
        match &mut *self.cell.lock() {
            Cell::Waiting(_, place) => *place = Some(Arc::clone(scope)),
            Cell::Done(_) => {}
            Cell::Closed => scope.cancel(),
        }
    }

    /// Whether nobody waits any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.cell.lock(), Cell::Closed)
    }
}

impl<T: DeserializeOwned + Send, E: RpcError> ResponseSlot for Slot<Result<T, CallError<E>>> {
    fn complete(&self, result: Result<&[u8], Status>) {
        self.fill(match result {
            Err(status) => Err(CallError::from_status(status)),
            Ok(bytes) => crate::codec::from_slice(bytes).map_err(|status| {
                CallError::Status(
                    Status::internal(format!("the answer does not fit its type: {}", status.message))
                        .executed(Executed::Yes)
                        .stage(Stage::Reply),
                )
            }),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::contract::NoError;
    use crate::status::Code;

    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn wakes() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    #[test]
    fn the_first_answer_stands_and_is_taken_once() {
        let (wakes, waker) = wakes();
        let mut cx = Context::from_waker(&waker);
        let slot = Slot::new();
        assert_eq!(slot.poll(&mut cx), Poll::Pending);
        slot.fill(1);
        slot.fill(2);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(slot.poll(&mut cx), Poll::Ready(1));
        assert_eq!(slot.poll(&mut cx), Poll::Pending);
        assert!(slot.is_closed());
    }

    #[test]
    fn the_last_task_that_polled_is_the_one_woken() {
        let ((first, first_waker), (second, second_waker)) = (wakes(), wakes());
        let slot = Slot::new();
        assert!(slot.poll(&mut Context::from_waker(&first_waker)).is_pending());
        assert!(slot.poll(&mut Context::from_waker(&second_waker)).is_pending());
        slot.fill(1);
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
    }

    #[test]
    fn a_closed_slot_takes_no_answer() {
        let (_, waker) = wakes();
        let slot = Slot::new();
        slot.close();
        slot.fill(1);
        assert!(slot.is_closed());
        assert_eq!(slot.poll(&mut Context::from_waker(&waker)), Poll::Pending);
    }

    #[test]
    fn an_answer_of_another_type_is_an_error_that_says_the_call_was_executed() {
        let (_, waker) = wakes();
        let slot = Slot::<Result<u64, CallError<NoError>>>::new();
        slot.complete(Ok(&[0xa1, b'x']));
        let Poll::Ready(Err(error)) = slot.poll(&mut Context::from_waker(&waker)) else { panic!("no error") };
        assert_eq!((error.code(), error.status().was_executed()), (Code::Internal, Executed::Yes));
        assert!(error.status().message.contains("expected u64"), "{error}");
    }
}
