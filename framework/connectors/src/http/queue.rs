//! What was posted and waits for the pipeline.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// So many wait already.
    Full(usize),
    /// Nobody reads any more, or not yet.
    Closed,
}

/// A bounded queue between the HTTP server and a reader. A body goes in whole or not at all.
pub(super) struct Queue<T> {
    rows_max: usize,
    inner: Mutex<Inner<T>>,
    /// Rows that all sinks have confirmed; all are when the reader has gone.
    confirmed: watch::Sender<Progress>,
}

/// How far the pipeline is with what was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) confirmed: u64,
    pub(super) closed: bool,
}

struct Inner<T> {
    rows: VecDeque<T>,
    waker: Option<Waker>,
    /// Rows that ever went in, and out.
    taken: u64,
    given: u64,
    refused: u64,
    /// Rows given out before each barrier.
    barriers: BTreeMap<u64, u64>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(rows_max: usize) -> Self {
        let inner = Inner {
            rows: VecDeque::new(),
            waker: None,
            taken: 0,
            given: 0,
            refused: 0,
            barriers: BTreeMap::new(),
            closed: false,
        };
        let confirmed = watch::Sender::new(Progress { confirmed: 0, closed: false });
        Self { rows_max, inner: Mutex::new(inner), confirmed }
    }

    pub(super) fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Takes all rows, or none. Gives the number of the last.
    pub(super) fn push(&self, rows: Vec<T>) -> Result<u64, Refused> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Refused::Closed);
        }
        if inner.rows.len() + rows.len() > self.rows_max {
            return Err(Refused::Full(inner.rows.len()));
        }
        inner.taken += rows.len() as u64;
        inner.rows.extend(rows);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
        Ok(inner.taken)
    }

    /// A body was no records.
    pub(super) fn refuse(&self) {
        self.inner.lock().refused += 1;
    }

    /// Bodies that were no records.
    pub(super) fn refused(&self) -> u64 {
        self.inner.lock().refused
    }

    /// Moves up to `rows_max` rows; pending when there is none.
    pub(super) fn poll_pop(&self, cx: &mut Context<'_>, into: &mut Vec<T>, rows_max: usize) -> Poll<()> {
        let mut inner = self.inner.lock();
        let count = rows_max.min(inner.rows.len());
        if count == 0 {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        into.extend(inner.rows.drain(..count));
        inner.given += count as u64;
        Poll::Ready(())
    }

    /// Rows that were given out.
    pub(super) fn given(&self) -> u64 {
        self.inner.lock().given
    }

    /// A barrier goes out behind the rows that were given out.
    pub(super) fn barrier(&self, epoch: u64) {
        let mut inner = self.inner.lock();
        let given = inner.given;
        inner.barriers.insert(epoch, given);
    }

    /// All sinks have confirmed what was in front of this barrier.
    pub(super) fn completed(&self, epoch: u64) {
        let mut inner = self.inner.lock();
        let later = inner.barriers.split_off(&(epoch + 1));
        let done = std::mem::replace(&mut inner.barriers, later);
        if let Some(confirmed) = done.into_values().max() {
            self.confirmed.send_modify(|p| p.confirmed = p.confirmed.max(confirmed));
        }
    }

    /// Tells how far the pipeline is.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.confirmed.subscribe()
    }

    /// The reader is gone: nothing is taken any more. How many rows nobody will read.
    pub(super) fn close(&self) -> usize {
        let mut inner = self.inner.lock();
        inner.closed = true;
        self.confirmed.send_modify(|p| p.closed = true);
        std::mem::take(&mut inner.rows).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop(queue: &Queue<u32>, rows_max: usize) -> Vec<u32> {
        let mut rows = Vec::new();
        let _ = queue.poll_pop(&mut Context::from_waker(Waker::noop()), &mut rows, rows_max);
        rows
    }

    #[test]
    fn a_body_goes_in_whole_or_not_at_all() {
        let queue = Queue::new(5);
        assert_eq!(queue.push(vec![1, 2, 3]), Ok(3));
        assert_eq!(queue.push(vec![4, 5, 6]), Err(Refused::Full(3)));
        assert_eq!(queue.push(vec![4, 5]), Ok(5));
        assert_eq!((pop(&queue, 4), pop(&queue, 4)), (vec![1, 2, 3, 4], vec![5]));
        assert_eq!(queue.close(), 0);
        assert_eq!(queue.push(vec![7]), Err(Refused::Closed));
    }

    #[test]
    fn what_lay_before_a_completed_barrier_is_confirmed_also_when_one_was_given_up() {
        let queue = Queue::new(10);
        let progress = queue.progress();
        queue.push((0..6).collect()).unwrap();
        pop(&queue, 2);
        queue.barrier(1);
        pop(&queue, 2);
        queue.barrier(2);
        pop(&queue, 1);
        queue.barrier(3);
        assert_eq!(progress.borrow().confirmed, 0);
        queue.completed(2);
        assert_eq!(progress.borrow().confirmed, 4);
        assert_eq!(queue.close(), 1);
        assert_eq!(*progress.borrow(), Progress { confirmed: 4, closed: true });
    }
}
