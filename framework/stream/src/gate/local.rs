//! An edge between two tasks of one process: one bounded queue of values, no encoding.
//!
//! Emptied batches travel back, so that a steady stream allocates nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::Result;
use crate::batch::{Batch, Element, Mark};
use afflux_wire::Status;

/// Batches that wait in one local queue.
pub(crate) const LOCAL_QUEUE_BATCHES_MAX: usize = 4;

struct Inner<T> {
    queue: VecDeque<Element<T>>,
    batches: usize,
    spare: Vec<Batch<T>>,
    producer: Option<Waker>,
    consumer: Option<Waker>,
    producer_gone: bool,
    consumer_gone: bool,
}

/// The queue, shared by its two ends.
pub(crate) struct LocalQueue<T> {
    inner: Mutex<Inner<T>>,
}

impl<T> LocalQueue<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                queue: VecDeque::new(),
                batches: 0,
                spare: Vec::new(),
                producer: None,
                consumer: None,
                producer_gone: false,
                consumer_gone: false,
            }),
        })
    }
}

fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// The producing end.
pub(crate) struct LocalSender<T> {
    queue: Arc<LocalQueue<T>>,
}

impl<T> LocalSender<T> {
    pub(crate) fn new(queue: Arc<LocalQueue<T>>) -> Self {
        Self { queue }
    }

    pub(crate) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<Result<()>> {
        let mut inner = self.queue.inner.lock();
        if inner.consumer_gone {
            return Poll::Ready(Err(Status::unavailable("the task that reads this edge has stopped")));
        }
        if inner.batches < LOCAL_QUEUE_BATCHES_MAX {
            return Poll::Ready(Ok(()));
        }
        register(&mut inner.producer, cx);
        Poll::Pending
    }

    /// Takes the rows out of `batch` and leaves it empty, with memory when there is some to spare.
    /// Returns whether there is room for another.
    pub(crate) fn send(&mut self, batch: &mut Batch<T>) -> bool {
        let mut inner = self.queue.inner.lock();
        let spare = inner.spare.pop().unwrap_or_default();
        inner.queue.push_back(Element::Batch(std::mem::replace(batch, spare)));
        inner.batches += 1;
        let room = inner.batches < LOCAL_QUEUE_BATCHES_MAX;
        let consumer = inner.consumer.take();
        drop(inner);
        if let Some(waker) = consumer {
            waker.wake();
        }
        room
    }

    /// A mark needs no room; of two watermarks in a row the later one stays.
    pub(crate) fn mark(&mut self, mark: Mark) {
        let mut inner = self.queue.inner.lock();
        match (inner.queue.back_mut(), mark) {
            (Some(Element::Mark(Mark::Watermark(last))), Mark::Watermark(t)) => *last = t,
            _ => inner.queue.push_back(Element::Mark(mark)),
        }
        let consumer = inner.consumer.take();
        drop(inner);
        if let Some(waker) = consumer {
            waker.wake();
        }
    }
}

impl<T> Drop for LocalSender<T> {
    fn drop(&mut self) {
        let mut inner = self.queue.inner.lock();
        inner.producer_gone = true;
        if let Some(waker) = inner.consumer.take() {
            drop(inner);
            waker.wake();
        }
    }
}

/// The consuming end.
pub(crate) struct LocalReceiver<T> {
    queue: Arc<LocalQueue<T>>,
}

impl<T> LocalReceiver<T> {
    pub(crate) fn new(queue: Arc<LocalQueue<T>>) -> Self {
        Self { queue }
    }

    /// The next element; a batch is swapped into `into` (which must be empty), and `None` returned.
    pub(crate) fn poll_next(&mut self, cx: &Context<'_>, into: &mut Batch<T>) -> Poll<Result<Option<Mark>>> {
        let mut inner = self.queue.inner.lock();
        match inner.queue.pop_front() {
            None if inner.producer_gone => {
                Poll::Ready(Err(Status::unavailable("the task that feeds this edge stopped before its end")))
            }
            None => {
                register(&mut inner.consumer, cx);
                Poll::Pending
            }
            Some(Element::Mark(mark)) => Poll::Ready(Ok(Some(mark))),
            Some(Element::Batch(batch)) => {
                let emptied = std::mem::replace(into, batch);
                if inner.spare.len() < LOCAL_QUEUE_BATCHES_MAX {
                    inner.spare.push(emptied);
                }
                inner.batches -= 1;
                let producer = inner.producer.take();
                drop(inner);
                if let Some(waker) = producer {
                    waker.wake();
                }
                Poll::Ready(Ok(None))
            }
        }
    }
}

impl<T> Drop for LocalReceiver<T> {
    fn drop(&mut self) {
        let mut inner = self.queue.inner.lock();
        inner.consumer_gone = true;
        inner.queue.clear();
        if let Some(waker) = inner.producer.take() {
            drop(inner);
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use futures_util::task::noop_waker;

    fn pair() -> (LocalSender<u32>, LocalReceiver<u32>) {
        let queue = LocalQueue::new();
        (LocalSender::new(Arc::clone(&queue)), LocalReceiver::new(queue))
    }

    #[test]
    fn a_full_queue_has_room_again_when_a_batch_is_taken() {
        let (mut tx, mut rx) = pair();
        let waker = noop_waker();
        let cx = Context::from_waker(&waker);
        for n in 0..LOCAL_QUEUE_BATCHES_MAX as u32 {
            assert!(tx.poll_ready(&cx).is_ready());
            tx.send(&mut Batch::untimed(vec![n]));
        }
        assert!(tx.poll_ready(&cx).is_pending());
        let mut batch = Batch::default();
        assert_eq!(rx.poll_next(&cx, &mut batch), Poll::Ready(Ok(None)));
        assert_eq!(batch.rows, [0]);
        assert!(tx.poll_ready(&cx).is_ready());
    }

    #[test]
    fn marks_keep_their_place_and_watermarks_in_a_row_merge() {
        let (mut tx, mut rx) = pair();
        let waker = noop_waker();
        let cx = Context::from_waker(&waker);
        tx.send(&mut Batch::untimed(vec![1]));
        tx.mark(Mark::Watermark(Timestamp::from_millis(1)));
        tx.mark(Mark::Watermark(Timestamp::from_millis(2)));
        tx.mark(Mark::Barrier(7));
        let mut batch = Batch::default();
        assert_eq!(rx.poll_next(&cx, &mut batch), Poll::Ready(Ok(None)));
        batch.clear();
        let two = Mark::Watermark(Timestamp::from_millis(2));
        assert_eq!(rx.poll_next(&cx, &mut batch), Poll::Ready(Ok(Some(two))));
        assert_eq!(rx.poll_next(&cx, &mut batch), Poll::Ready(Ok(Some(Mark::Barrier(7)))));
        assert!(rx.poll_next(&cx, &mut batch).is_pending());
    }

    #[test]
    fn an_end_that_goes_away_is_an_error_on_the_other() {
        let (mut tx, rx) = pair();
        let waker = noop_waker();
        let cx = Context::from_waker(&waker);
        drop(rx);
        assert!(matches!(tx.poll_ready(&cx), Poll::Ready(Err(_))));
        let (tx, mut rx) = pair();
        drop(tx);
        assert!(matches!(rx.poll_next(&cx, &mut Batch::default()), Poll::Ready(Err(_))));
    }
}
