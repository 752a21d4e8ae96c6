//! A streaming call between two ends of one process: two lanes, and a place for the result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::super::reply::Cancelled;
use super::super::scope::CallScope;
use super::super::slot::Slot;
use super::lane::{Lane, Opening, Way};
use super::shape::Shape;
use crate::status::Status;

/// The caller of a streaming call beside, as its handler's reply sees it.
pub(in crate::contract) trait Handled<R>: Cancelled {
    /// The handler has returned, or the call was refused.
    fn handled(&self, result: Result<R, Status>);
}

/// A whole call, for its caller to give up.
pub(super) trait Whole: Send + Sync {
    /// The caller gives up.
    fn cancel(&self, status: &Status);
}

/// One call.
pub(super) struct Beside<S: Shape> {
    pub(super) opening: Arc<Opening>,
    pub(super) up: Arc<Lane<S::In>>,
    pub(super) down: Arc<Lane<S::Out>>,
    pub(super) result: Arc<Slot<Result<S::Output, Status>>>,
    /// Why the call failed before it was open.
    refused: Mutex<Option<Status>>,
    cancelled: AtomicBool,
    /// What the calls of the handler share.
    scope: Mutex<Option<Arc<CallScope>>>,
}

impl<S: Shape> Beside<S> {
    pub(super) fn new() -> Arc<Self> {
        let opening = Arc::new(Opening::default());
        // The items of the service end when its handler and its `Emit` are both done.
        let parties = if S::KIND.streams() { 2 } else { 1 };
        Arc::new(Self {
            up: Lane::new(Way::ToHandler, 1, &opening),
            down: Lane::new(Way::ToCaller, parties, &opening),
            opening,
            result: Slot::new(),
            refused: Mutex::new(None),
            cancelled: AtomicBool::new(false),
            scope: Mutex::new(None),
        })
    }

    /// Why the call failed, if it was never open.
    pub(super) fn take_refusal(&self) -> Option<Status> {
        self.refused.lock().take()
    }
}

impl<S: Shape> Cancelled for Beside<S> {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn on_cancel(&self, scope: &Arc<CallScope>) {
        *self.scope.lock() = Some(Arc::clone(scope));
        if self.is_cancelled() {
            scope.cancel();
        }
    }
}

impl<S: Shape> Handled<S::Output> for Beside<S> {
    fn handled(&self, result: Result<S::Output, Status>) {
        match result {
            Ok(value) => {
                self.result.fill(Ok(value));
                self.down.leave();
            }
            Err(status) => {
                *self.refused.lock() = Some(status.clone());
                self.result.fill(Err(status.clone()));
                self.down.fail(status);
            }
        }
        if self.down.has_ended() {
            self.up.stop(&Status::precondition("the call has ended: its handler takes no more items"));
        }
        self.opening.open();
    }
}

impl<S: Shape> Whole for Beside<S> {
    fn cancel(&self, status: &Status) {
        if self.cancelled.swap(true, Ordering::AcqRel) {
            return;
        }
        self.up.fail(status.clone());
        self.up.stop(status);
        self.down.stop(status);
        self.down.fail(status.clone());
        self.result.fill(Err(status.clone()));
        let scope = self.scope.lock().take();
        if let Some(scope) = scope {
            scope.cancel();
        }
    }
}
