//! Bytes of calls by service: params, results and items, without the frames around them.
//!
//! A call adds to a plain number under a lock that is held anyway, or of a reader alone; the counter is told once
//! a read or a write, and when the service changes.

use prometheus::IntCounter;

/// Bytes of one service, in one role of this node.
#[derive(Clone)]
pub(crate) struct Traffic {
    /// Those that came.
    pub(crate) came: IntCounter,
    /// Those that left.
    pub(crate) left: IntCounter,
}

/// Bytes of one service after another, on their way to its counter.
#[derive(Default)]
pub(crate) struct Run {
    counter: Option<IntCounter>,
    /// The address of the service's name.
    service: usize,
    bytes: u64,
}

impl Run {
    /// Adds bytes to a counter, which is that of the service of this name.
    #[inline]
    pub(crate) fn add(&mut self, counter: &IntCounter, service: &str, bytes: usize) {
        let service = service.as_ptr() as usize;
        if service != self.service {
            self.flush();
            self.counter = Some(counter.clone());
            self.service = service;
        }
        self.bytes += bytes as u64;
    }

    /// Tells the counter.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if self.bytes > 0
            && let Some(counter) = &self.counter
        {
            counter.inc_by(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_gets_the_bytes_of_its_service_whatever_their_order() {
        let counter = |name: &str| IntCounter::new(name, "help").unwrap();
        let (a, b) = (counter("a"), counter("b"));
        let (one, other) = ("shop.orders", "shop.stock");
        let mut run = Run::default();
        run.add(&a, one, 3);
        run.add(&a, one, 4);
        assert_eq!(a.get(), 0, "nothing is told before its time");
        run.add(&b, other, 5);
        assert_eq!((a.get(), b.get()), (7, 0));
        run.flush();
        run.flush();
        assert_eq!((a.get(), b.get()), (7, 5));
        run.add(&b, other, 1);
        run.add(&a, one, 1);
        drop(run);
        assert_eq!((a.get(), b.get()), (8, 6), "nothing is lost with its link");
    }
}
