//! The trace that a call belongs to, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) has it.
//!
//! A call that starts outside any trace is sampled or not by its node, once, and what its handlers call
//! follows that: an unsampled call carries nothing. What records spans is the node's affair
//! ([`Caller::trace`](super::Caller::trace)).

use std::cell::Cell;

use super::cx::TraceParent;
use crate::status::Status;

impl TraceParent {
    /// The same trace with this span as the parent of what follows.
    #[must_use]
    pub const fn under(&self, span: [u8; 8]) -> Self {
        Self { trace_id: self.trace_id, parent_id: span, flags: self.flags }
    }
}

/// The recorded span of one call, all of its attempts included. It ends when it is dropped.
pub trait CallSpan: Send + Sync {
    /// What goes with the call: its trace, with this span as the parent.
    fn context(&self) -> TraceParent;
    /// Another attempt begins, after this failure if it is not the first.
    fn attempt(&self, failure: Option<&Status>);
    /// How the call ended; said once, and not at all when its caller left.
    fn ended(&self, outcome: Result<(), &Status>);
}

std::thread_local! {
    static CURRENT: Cell<Option<TraceParent>> = const { Cell::new(None) };
}

/// Runs one poll of a handler: calls through references, which see no context, belong to this trace.
pub fn polled_in<R>(trace: TraceParent, poll: impl FnOnce() -> R) -> R {
    struct Restore(Option<TraceParent>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(Some(trace)));
    poll()
}

/// The trace of the handler that is polled on this thread.
pub(super) fn current_trace() -> Option<TraceParent> {
    CURRENT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(flags: u8) -> TraceParent {
        TraceParent { trace_id: [7; 16], parent_id: [1; 8], flags }
    }

    #[test]
    fn a_child_keeps_its_trace_and_its_flags() {
        let child = trace(1).under([2; 8]);
        assert_eq!((child.trace_id, child.parent_id, child.is_sampled()), ([7; 16], [2; 8], true));
        assert!(!trace(0).is_sampled() && !trace(2).is_sampled() && trace(3).is_sampled());
    }

    #[test]
    fn the_current_trace_ends_with_the_poll_that_it_was_set_for() {
        polled_in(trace(1), || {
            assert_eq!(current_trace(), Some(trace(1)));
            polled_in(trace(3), || assert_eq!(current_trace(), Some(trace(3))));
            assert_eq!(current_trace(), Some(trace(1)));
        });
        let panicked = std::panic::catch_unwind(|| polled_in(trace(1), || panic!("a handler")));
        assert!(panicked.is_err());
        assert_eq!(current_trace(), None);
    }
}
