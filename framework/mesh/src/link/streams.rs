//! Streams over a link, and frames that are too large to be sent at once.

use std::sync::Arc;

use afflux_wire::contract::Remote;
use afflux_wire::{CancelReason, Code, Executed, Stage, Status, put_cancel, put_end_err};

use super::{FRAME_OVERHEAD_BYTES, Link};
use crate::stream::{Body, Stream};

/// Bytes of large frames that may wait for a peer, in units of `write_buffer_bytes_max`.
const LARGE_WAITING_FACTOR: usize = 4;

impl Link {
    /// Bytes of one part of a large frame.
    pub(crate) fn chunk_bytes(&self) -> usize {
        let frame = self.limits.frame_bytes_ceiling() as usize;
        (self.limits.chunk_bytes.min(self.own_limits.chunk_bytes) as usize)
            .min(frame.saturating_sub(FRAME_OVERHEAD_BYTES))
            .max(1)
    }

    /// What is longer travels in parts on the data connection: a little more than a part, since what fills just one
    /// (64 KiB and its header) gains nothing by it.
    #[inline]
    pub(crate) fn large_bytes(&self) -> usize {
        let frame = self.limits.frame_bytes_ceiling() as usize;
        (self.chunk_bytes() + FRAME_OVERHEAD_BYTES).min(frame.saturating_sub(FRAME_OVERHEAD_BYTES)).max(1)
    }

    /// Whether so many bytes may be sent at all, in parts or not.
    pub(super) fn check_message(&self, bytes: usize, what: impl FnOnce() -> String) -> Result<(), Status> {
        let max = self.limits.message_bytes_max as usize;
        if bytes <= max {
            return Ok(());
        }
        Err(Status::new(
            Code::ResourceExhausted,
            format!(
                "{} of {bytes} bytes is above the message_bytes_max of node {}, which is {max}: send less at \
                 once, stream it, or raise it there",
                what(),
                self.peer
            ),
        ))
    }

    /// Queues a large frame, unless too many wait already.
    pub(super) fn push_large(&self, body: Body) -> Result<(), Status> {
        let max = LARGE_WAITING_FACTOR * self.write_buffer_bytes_max;
        let waiting = self.data.large_bytes();
        if waiting > 0 && waiting + body.len() > max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "{waiting} bytes of large messages wait for node {} to read them, at most {max} may (four \
                     times write_buffer_bytes_max)",
                    self.peer
                ),
            )
            .node(&self.peer)
            .retry_after_ms(50));
        }
        self.data.push_body(body);
        Ok(())
    }

    pub(crate) fn stream(&self, id: u64) -> Option<Arc<Stream>> {
        self.streams.lock().get(&id).cloned()
    }

    pub(crate) fn add_stream(&self, id: u64, stream: &Arc<Stream>) {
        self.streams.lock().insert(id, Arc::clone(stream));
        self.metrics.streams.inc();
    }

    pub(crate) fn forget_stream(&self, id: u64) {
        let forgotten = self.streams.lock().remove(&id);
        if forgotten.is_some() {
            self.metrics.streams.dec();
        }
    }

    /// Refuses a further stream of this side when the peer allows no more.
    pub(super) fn check_streams(&self) -> Result<(), Status> {
        let max = self.limits.streams_max as usize;
        if self.streams.lock().len() < max {
            return Ok(());
        }
        Err(too_many(max, &format!("node {} (its streams_max)", self.peer)).node(&self.peer))
    }

    /// Refuses a further stream of the peer when this side allows no more.
    pub(crate) fn check_streams_of_peer(&self) -> Result<(), (Status, &'static str)> {
        let max = self.own_limits.streams_max as usize;
        if self.streams.lock().len() < max {
            return Ok(());
        }
        Err((too_many(max, &format!("the link to node {} (streams_max)", self.node)), "overload"))
    }

    /// Answers an OPEN that was not admitted.
    pub(crate) fn refuse_stream(&self, id: u64, status: &Status) {
        self.push_control_on_data(|buf| {
            if let Err(error) = put_end_err(buf, id, status) {
                let _ = put_end_err(buf, id, &Status::new(status.code, error.message));
            }
        });
    }

    /// A stream of the peer is over.
    pub(crate) fn stream_answered(&self, id: u64, code: Option<Code>) {
        let mut state = self.control.lock();
        let Some(incoming) = state.incoming.remove(&id) else { return };
        let code = self.uncancel(&incoming, code);
        let idle = state.incoming.is_empty() && state.goaway.is_some();
        drop(state);
        self.count_answer(&incoming, code);
        if idle {
            self.idle.notify_waiters();
        }
    }

    /// This side takes no more items of a caller's stream.
    pub(crate) fn put_stop(&self, id: u64) {
        self.append(|buf| put_cancel(buf, id, CancelReason::Dropped));
    }

    /// This side gives a stream up that it called.
    pub(crate) fn cancel_stream(&self, id: u64) {
        self.cancel(id, "the caller dropped the stream");
    }

    /// CANCEL came for an id that is a stream.
    pub(crate) fn stream_cancelled(&self, id: u64, reason: CancelReason) {
        let Some(stream) = self.stream(id) else { return };
        let status = match (stream.is_caller(), reason) {
            (true, _) => Status::new(Code::Cancelled, "the handler takes no more items"),
            (false, CancelReason::Deadline) => {
                Status::new(Code::DeadlineExceeded, "the stream had not ended before its deadline")
            }
            (false, _) => Status::new(Code::Cancelled, "the caller dropped the stream"),
        };
        stream.cancelled(&status.stage(Stage::Running));
    }

    /// The link is lost: streams that the peer called end with it. Those that this side called ended with their calls.
    pub(super) fn lose_streams(&self, status: &Status) {
        let streams = std::mem::take(&mut *self.streams.lock());
        self.metrics.streams.sub(streams.len() as i64);
        let mut streams: Vec<_> = streams.into_iter().collect();
        streams.sort_unstable_by_key(|(id, _)| *id);
        for (_, stream) in streams {
            stream.cancelled(status);
        }
    }

    /// This node goes away and its time for streams is over: those that the peer called end now.
    pub(crate) fn end_streams(&self, status: &Status) {
        let streams: Vec<_> =
            self.streams.lock().values().filter(|stream| !stream.is_caller()).cloned().collect();
        for stream in streams {
            stream.fail(status);
        }
    }
}

fn too_many(max: usize, whose: &str) -> Status {
    Status::new(Code::ResourceExhausted, format!("{max} streams are open on {whose}: end some, or raise it"))
        .executed(Executed::No)
        .retry_after_ms(50)
}
