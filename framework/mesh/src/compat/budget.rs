//! Bytes that all clients of a node may occupy together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes up to a limit.
pub(super) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// A lease of nothing yet.
    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        Lease { budget: Arc::clone(self), bytes: 0 }
    }
}

/// Bytes taken from a budget; they go back when it is dropped.
pub(super) struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Lease {
    /// Takes or gives back until it holds so many; false when there are not enough, and it holds what it held.
    pub(super) fn set(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Ordering::AcqRel);
            self.bytes = bytes;
            return true;
        }
        let more = bytes - self.bytes;
        let taken = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(more).filter(|used| *used <= self.budget.max)
        });
        if taken.is_ok() {
            self.bytes = bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_share_what_there_is_and_give_it_back() {
        let budget = Budget::new(10);
        let (mut a, mut b) = (budget.lease(), budget.lease());
        assert!(a.set(6) && !b.set(5) && b.set(4));
        assert!(!a.set(7));
        assert!(a.set(2) && b.set(8));
        drop(b);
        assert!(a.set(10));
        drop(a);
        assert_eq!(budget.used.load(Ordering::SeqCst), 0);
    }
}
