//! The way into a task: many channels merged into one order of batches and marks.
//!
//! The watermark of the gate is the least of its channels; a channel that has sent a barrier is
//! not read until all have sent it (aligned checkpoints, Carbone et al. 2015). An ended channel
//! counts as aligned for every later epoch and as having watermark +∞.

use std::collections::VecDeque;
use std::task::Poll;

use serde::de::DeserializeOwned;

use afflux_mesh::{ChannelReceiver, Packet};
use afflux_wire::batch::RowDecoder;

use super::local::LocalReceiver;
use super::output::{TIMED, UNTIMED};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::stage::Turn;
use crate::time::Timestamp;
use afflux_wire::Status;

/// What a task draws its work from: a gate or a source.
pub(crate) trait Input<T> {
    /// The next batch (swapped into `into`, which is empty; returns `None`) or mark.
    fn poll_next(&mut self, into: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Poll<Result<Option<Mark>>>;
    /// Starts an epoch: sources only.
    fn trigger(&mut self, _epoch: u64) {}
    /// A barrier of this epoch passes: sources only.
    fn barrier(&mut self, _epoch: u64) {}
    /// Saves its own state while a barrier passes.
    fn save(&mut self, _turn: &mut Turn<'_, '_>) -> Result<()> {
        Ok(())
    }
    /// The epoch is durable.
    fn completed(&mut self, _epoch: u64) {}
}

/// The near end of an edge.
pub(crate) enum From<T> {
    /// From a task of this process.
    Local(LocalReceiver<T>),
    /// From a task of another process.
    Remote(ChannelReceiver),
}

struct In<T> {
    from: From<T>,
    watermark: Timestamp,
    idle: bool,
    aligned: bool,
    ended: bool,
}

/// Merges the channels of one or more edges.
pub(crate) struct InputGate<T> {
    channels: Vec<In<T>>,
    /// The channel to look at first, so that none is starved.
    turn: usize,
    watermark: Timestamp,
    idle: bool,
    barrier: Option<u64>,
    /// Marks that follow the one just returned: at most a watermark and the end.
    next: VecDeque<Mark>,
}

impl<T: DeserializeOwned> InputGate<T> {
    pub(crate) fn new(channels: Vec<From<T>>) -> Self {
        let channels = channels
            .into_iter()
            .map(|from| In { from, watermark: Timestamp::MIN, idle: false, aligned: false, ended: false })
            .collect();
        Self {
            channels,
            turn: 0,
            watermark: Timestamp::MIN,
            idle: false,
            barrier: None,
            next: VecDeque::new(),
        }
    }

    /// The gate's watermark after a change, if it rose.
    fn rise(&mut self) -> Option<Mark> {
        let least = self
            .channels
            .iter()
            .filter(|c| !c.idle || c.ended)
            .map(|c| if c.ended { Timestamp::MAX } else { c.watermark })
            .min()?;
        if least <= self.watermark {
            return None;
        }
        self.watermark = least;
        Some(Mark::Watermark(least))
    }

    /// The barrier, once every channel has sent it.
    fn align(&mut self) -> Option<Mark> {
        let epoch = self.barrier?;
        if !self.channels.iter().all(|c| c.aligned || c.ended) {
            return None;
        }
        self.channels.iter_mut().for_each(|c| c.aligned = false);
        self.barrier = None;
        Some(Mark::Barrier(epoch))
    }

    /// What a channel's mark means for the gate.
    fn take(&mut self, index: usize, mark: Mark) -> Option<Mark> {
        let channel = self.channels.get_mut(index)?;
        match mark {
            Mark::Watermark(t) => {
                channel.watermark = t;
                channel.idle = false;
                self.idle = false;
                self.rise()
            }
            Mark::Idle => {
                channel.idle = true;
                let all = self.channels.iter().all(|c| c.idle || c.ended);
                if all && !self.idle {
                    self.idle = true;
                    return Some(Mark::Idle);
                }
                self.rise()
            }
            Mark::Barrier(epoch) => {
                channel.aligned = true;
                self.barrier = Some(epoch);
                self.align()
            }
            Mark::End => {
                channel.ended = true;
                let barrier = self.align();
                let watermark = self.rise();
                let end = self.channels.iter().all(|c| c.ended).then_some(Mark::End);
                let mut marks = [barrier, watermark, end].into_iter().flatten();
                let first = marks.next();
                self.next.extend(marks);
                first
            }
        }
    }
}

/// Rows and times of one payload.
fn decode<T: DeserializeOwned>(payload: &[u8], count: u32, into: &mut Batch<T>) -> Result<()> {
    let Some((&kind, rows)) = payload.split_first() else {
        return Err(Status::internal("a batch without a byte arrived on an exchange channel"));
    };
    let count = count as usize;
    let mut decoder = RowDecoder::new(rows, count);
    into.rows.reserve(count.min(rows.len()));
    for row in decoder.by_ref() {
        into.rows.push(row?);
    }
    let rest = decoder.rest();
    match kind {
        UNTIMED if rest.is_empty() => Ok(()),
        TIMED if rest.len() == count * 8 => {
            into.times.extend(rest.chunks_exact(8).map(|c| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(c);
                i64::from_le_bytes(bytes)
            }));
            Ok(())
        }
        _ => {
            Err(Status::internal(format!("a batch of {count} rows has {} bytes behind its rows", rest.len())))
        }
    }
}

impl<T: DeserializeOwned> Input<T> for InputGate<T> {
    fn poll_next(&mut self, into: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Poll<Result<Option<Mark>>> {
        if let Some(mark) = self.next.pop_front() {
            return Poll::Ready(Ok(Some(mark)));
        }
        let count = self.channels.len();
        let mut tried = 0;
        while tried < count {
            let index = if self.turn >= count { 0 } else { self.turn };
            let Some(channel) = self.channels.get_mut(index) else { break };
            if channel.ended || channel.aligned {
                self.turn = index + 1;
                tried += 1;
                continue;
            }
            let polled = match &mut channel.from {
                From::Local(receiver) => receiver.poll_next(turn.task, into),
                From::Remote(receiver) => match receiver.poll_next(turn.task) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(None) => {
                        Poll::Ready(Err(Status::unavailable("the channel closed before its end")))
                    }
                    Poll::Ready(Some(Err(status))) => Poll::Ready(Err(status)),
                    Poll::Ready(Some(Ok(Packet::Data { count, payload }))) => {
                        Poll::Ready(decode(&payload, count, into).map(|()| None))
                    }
                    Poll::Ready(Some(Ok(Packet::Mark(mark)))) => Poll::Ready(Ok(Some(match mark {
                        afflux_mesh::Mark::Watermark(t) => Mark::Watermark(Timestamp::from_millis(t)),
                        afflux_mesh::Mark::Idle => Mark::Idle,
                        afflux_mesh::Mark::Barrier(epoch) => Mark::Barrier(epoch),
                        afflux_mesh::Mark::End => Mark::End,
                    }))),
                },
            };
            match polled {
                Poll::Pending => {
                    self.turn = index + 1;
                    tried += 1;
                }
                Poll::Ready(Ok(None)) => {
                    channel.idle = false;
                    self.idle = false;
                    self.turn = index + 1;
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(Some(mark))) => {
                    if let Some(mark) = self.take(index, mark) {
                        return Poll::Ready(Ok(Some(mark)));
                    }
                    // Nothing for the task in it: look at this channel again.
                    tried = 0;
                }
                Poll::Ready(Err(status)) => return Poll::Ready(Err(status)),
            }
        }
        Poll::Pending
    }
}
