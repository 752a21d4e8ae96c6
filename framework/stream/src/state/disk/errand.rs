//! Work that may wait for a disk, done beside the task that asked for it.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::{Condvar, Mutex};

use crate::Result;
use afflux_wire::Status;

/// Where the result comes to.
struct Slot<R> {
    done: Mutex<Option<Result<R>>>,
    there: Condvar,
    waker: AtomicWaker,
}

/// Work under way, whose result is taken once.
pub(super) struct Errand<R>(Arc<Slot<R>>);

/// Whoever works. Dropped without a result it says so, lest somebody waits for ever.
pub(super) struct Promise<R>(Arc<Slot<R>>);

impl<R> Errand<R> {
    /// An errand and who is to do it.
    pub(super) fn new() -> (Self, Promise<R>) {
        let slot =
            Arc::new(Slot { done: Mutex::new(None), there: Condvar::new(), waker: AtomicWaker::new() });
        (Self(Arc::clone(&slot)), Promise(slot))
    }

    /// The result, if it is there.
    pub(super) fn take(&self) -> Option<Result<R>> {
        self.0.done.lock().take()
    }

    /// Ready with the result.
    pub(super) fn poll(&self, task: &Context<'_>) -> Poll<Result<R>> {
        if let Some(done) = self.take() {
            return Poll::Ready(done);
        }
        self.0.waker.register(task.waker());
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// Waits for the result, on this thread.
    pub(super) fn wait(&self) -> Result<R> {
        let mut done = self.0.done.lock();
        loop {
            if let Some(done) = done.take() {
                return done;
            }
            self.0.there.wait(&mut done);
        }
    }
}

impl<R> Promise<R> {
    /// Hands the result over.
    pub(super) fn keep(self, result: Result<R>) {
        *self.0.done.lock() = Some(result);
    }
}

impl<R> Drop for Promise<R> {
    fn drop(&mut self) {
        self.0.done.lock().get_or_insert_with(|| {
            Err(Status::internal("whoever reads and writes state on disk has panicked or was stopped"))
        });
        self.0.there.notify_all();
        self.0.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_waited_for_and_a_promise_that_is_broken_is_an_error() {
        let (errand, promise) = Errand::new();
        assert!(errand.take().is_none());
        promise.keep(Ok(7));
        assert_eq!(errand.wait().unwrap(), 7);
        let (errand, promise) = Errand::<u32>::new();
        drop(promise);
        assert!(errand.wait().unwrap_err().message.contains("panicked"));
    }
}
