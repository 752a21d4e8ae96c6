//! The two writers of a link. Callers append; one task a connection writes whatever has come together.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::link::{Link, Side};
use crate::reader::TURN_BYTES_MAX;
use crate::stream::{Body, Budget, Stream, Turned};
use crate::transport::WriteHalf;

/// A buffer that grew beyond this is given back to the allocator.
const BUFFER_BYTES_KEPT_MAX: usize = 1 << 20;
/// With this much at hand the control writer does not wait for more.
const GATHER_BYTES: usize = 64 << 10;
/// Turns that the control writer gives to others, as long as each brings more.
const GATHER_TURNS_MAX: u32 = 4;
/// Payloads below this are copied behind their header: cheaper than a slice of their own.
const COPY_BYTES_MAX: usize = 2 << 10;
/// Streams and large frames that get their turn in one write.
const TURNS_MAX: usize = 32;
/// Slices of one vectored write.
const SLICES_MAX: usize = 64;

/// Writes the control connection until the link ends.
pub(crate) async fn run_control(link: Arc<Link>, mut half: WriteHalf) {
    let mut batch = Vec::new();
    let mut lost = pin!(link.lost());
    loop {
        let (mut seen, mut turns) = (0, 0);
        let open = std::future::poll_fn(|cx| {
            let mut state = link.control.lock();
            if state.buf.is_empty() {
                if state.closed {
                    return Poll::Ready(false);
                }
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // Whoever can run now may have something to say too: one write for all of them.
            if state.buf.len() > seen && state.buf.len() < GATHER_BYTES && turns < GATHER_TURNS_MAX {
                seen = state.buf.len();
                turns += 1;
                drop(state);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            std::mem::swap(&mut state.buf, &mut batch);
            state.one_way = [0, state.one_way[0]];
            state.asked.flush();
            state.answers.flush();
            Poll::Ready(true)
        })
        .await;
        if !open {
            break;
        }
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let written = tokio::select! {
                biased;
                () = &mut lost => return,
                written = half.write(rest) => written,
            };
            match written {
                Ok(0) => return link.fail_io(Side::Control, &io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    rest = &rest[n..];
                    link.written.fetch_add(n as u64, Ordering::Release);
                    link.metrics.bytes_out.inc_by(n as u64);
                }
                Err(error) => return link.fail_io(Side::Control, &error),
            }
        }
        // Inside TLS what was written may wait for room in the socket; elsewhere this is nothing.
        let flushed = tokio::select! {
            biased;
            () = &mut lost => return,
            flushed = half.flush() => flushed,
        };
        if let Err(error) = flushed {
            return link.fail_io(Side::Control, &error);
        }
        batch.clear();
        if batch.capacity() > BUFFER_BYTES_KEPT_MAX {
            batch = Vec::new();
        }
    }
    // The peer sees the end even while this process still holds the reading half.
    let _ = half.shutdown().await;
    lost.await;
}

/// Frames that wait for the data connection: small ones copied together, payloads as they are.
#[derive(Default)]
pub(crate) struct DataQueue {
    state: Mutex<DataState>,
    large_bytes: AtomicUsize,
}

#[derive(Default)]
struct DataState {
    slices: VecDeque<Bytes>,
    head: BytesMut,
    bytes: usize,
    /// Those who write one frame, or one part of a large one, when it is their turn.
    turns: VecDeque<Turn>,
    writer: Option<Waker>,
    closed: bool,
}

enum Turn {
    Stream(Arc<Stream>),
    Body(Body),
}

impl DataQueue {
    /// A stream has something to write.
    pub(crate) fn push_stream(&self, stream: Arc<Stream>) {
        self.push_turn(Turn::Stream(stream));
    }

    /// Appends a large frame.
    pub(crate) fn push_body(&self, body: Body) {
        self.large_bytes.fetch_add(body.len(), Ordering::AcqRel);
        self.push_turn(Turn::Body(body));
    }

    /// Bytes of large frames that wait, those under way included.
    pub(crate) fn large_bytes(&self) -> usize {
        self.large_bytes.load(Ordering::Acquire)
    }

    fn push_turn(&self, turn: Turn) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.turns.push_back(turn);
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Gives a turn to each who waits for one, up to [`TURNS_MAX`].
    fn take_turns(&self, link: &Link, out: &mut BytesMut, budget: &mut Budget) {
        let mut state = self.state.lock();
        let count = state.turns.len().min(TURNS_MAX);
        let mut turns: VecDeque<Turn> = state.turns.drain(..count).collect();
        drop(state);
        turns.retain_mut(|turn| match turn {
            Turn::Stream(stream) => stream.turn(out, budget) == Turned::More,
            Turn::Body(body) => {
                if !body.has_begun() && !budget.begin(body.len()) {
                    return true;
                }
                let last = body.put(out, link.chunk_bytes());
                if last {
                    budget.end(body.len());
                    self.large_bytes.fetch_sub(body.len(), Ordering::AcqRel);
                }
                !last
            }
        });
        if !turns.is_empty() {
            self.state.lock().turns.append(&mut turns);
        }
    }

    /// Appends a frame: what `put` writes, and a payload behind it. Returns the bytes that wait.
    pub(crate) fn push(&self, payload: Bytes, put: impl FnOnce(&mut BytesMut)) -> usize {
        let mut state = self.state.lock();
        if state.closed {
            return 0;
        }
        let before = state.head.len();
        put(&mut state.head);
        state.bytes += state.head.len() - before + payload.len();
        if payload.len() < COPY_BYTES_MAX {
            state.head.extend_from_slice(&payload);
        } else {
            let head = state.head.split().freeze();
            state.slices.push_back(head);
            state.slices.push_back(payload);
        }
        let (bytes, writer) = (state.bytes, state.writer.take());
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        bytes
    }

    /// What waits, without the large frames, for a test that carries it by hand.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn drain(&self) -> BytesMut {
        let mut state = self.state.lock();
        let mut bytes = BytesMut::new();
        state.slices.drain(..).for_each(|slice| bytes.extend_from_slice(&slice));
        bytes.unsplit(state.head.split());
        state.bytes = 0;
        bytes
    }

    /// Takes no more; the writer ends when all is written.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

/// Writes the data connection until the link ends.
pub(crate) async fn run_data(link: Arc<Link>, mut half: WriteHalf) {
    let mut slices: VecDeque<Bytes> = VecDeque::new();
    let mut turns = BytesMut::new();
    let mut budget = Budget::new(link.limits.chunked_bytes_max as usize);
    let _last = Last(&link.data);
    let mut lost = pin!(link.lost());
    let mut moved = 0;
    loop {
        let mut gathered = false;
        let open = std::future::poll_fn(|cx| {
            let mut state = link.data.state.lock();
            if !state.head.is_empty() {
                let head = state.head.split().freeze();
                state.slices.push_back(head);
            }
            if state.slices.is_empty() && state.turns.is_empty() {
                if state.closed {
                    return Poll::Ready(false);
                }
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // Whoever can run now may have items too: one frame for all of them.
            if !gathered && !state.turns.is_empty() && !state.closed {
                gathered = true;
                drop(state);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            state.bytes = 0;
            std::mem::swap(&mut state.slices, &mut slices);
            Poll::Ready(true)
        })
        .await;
        if !open {
            break;
        }
        link.data.take_turns(&link, &mut turns, &mut budget);
        if !turns.is_empty() {
            slices.push_back(turns.split().freeze());
        }
        while !slices.is_empty() {
            let written = tokio::select! {
                biased;
                () = &mut lost => return,
                written = write_some(&mut half, &slices) => written,
            };
            match written {
                Ok(0) => return link.fail_io(Side::Data, &io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    link.metrics.bytes_out.inc_by(n as u64);
                    advance(&mut slices, n);
                    moved += n;
                }
                Err(error) => return link.fail_io(Side::Data, &error),
            }
            if moved >= TURN_BYTES_MAX {
                moved = 0;
                tokio::task::yield_now().await;
            }
        }
        let flushed = tokio::select! {
            biased;
            () = &mut lost => return,
            flushed = half.flush() => flushed,
        };
        if let Err(error) = flushed {
            return link.fail_io(Side::Data, &error);
        }
    }
    let _ = half.shutdown().await;
    lost.await;
}

/// What still waits holds the link, which holds the queue.
struct Last<'a>(&'a DataQueue);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let turns = std::mem::take(&mut state.turns);
        drop(state);
        drop(turns);
    }
}

async fn write_some(half: &mut WriteHalf, slices: &VecDeque<Bytes>) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut io = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (at, slice) in io.iter_mut().zip(slices) {
            *at = IoSlice::new(slice);
            count += 1;
        }
        std::pin::Pin::new(&mut *half).poll_write_vectored(cx, &io[..count])
    })
    .await
}

/// Drops the first `n` bytes.
fn advance(slices: &mut VecDeque<Bytes>, mut n: usize) {
    while let Some(first) = slices.front_mut() {
        if first.len() > n {
            first.advance(n);
            return;
        }
        n -= first.len();
        slices.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_vectored_write_leaves_the_rest_in_order() {
        let mut slices: VecDeque<Bytes> =
            ["abc", "", "defg", "h"].map(|text| Bytes::from_static(text.as_bytes())).into();
        advance(&mut slices, 5);
        assert_eq!(slices.iter().map(|slice| &slice[..]).collect::<Vec<_>>(), [&b"fg"[..], b"h"]);
        advance(&mut slices, 3);
        assert!(slices.is_empty());
    }

    #[test]
    fn small_payloads_share_a_slice_and_large_ones_are_not_copied() {
        let queue = DataQueue::default();
        let large = Bytes::from(vec![7; COPY_BYTES_MAX]);
        queue.push(Bytes::from_static(b"a"), |buf| buf.extend_from_slice(b"1"));
        queue.push(Bytes::from_static(b"b"), |buf| buf.extend_from_slice(b"2"));
        let waiting = queue.push(large.clone(), |buf| buf.extend_from_slice(b"3"));
        assert_eq!(waiting, 5 + COPY_BYTES_MAX);
        let state = queue.state.lock();
        assert_eq!(&state.slices[0][..], b"1a2b3");
        assert_eq!(state.slices[1].as_ptr(), large.as_ptr());
    }
}
