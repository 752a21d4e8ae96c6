//! The way into a task: many channels merged into one order of batches and marks.
//!
//! The watermark of the gate is the least of its channels; a channel that has sent a barrier is
//! not read until all have sent it (aligned checkpoints, Carbone et al. 2015). An ended channel
//! counts as aligned for every later epoch and as having watermark +∞. An epoch that was given up may
//! be left out by some channels: only a barrier that all have sent is handed on. An idle channel does not
//! count for the watermark until its next batch or watermark, and the gate's watermark never falls
//! when it comes back.

use std::collections::VecDeque;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use afflux_mesh::bugs::{self, Bug};
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
    /// How long the first channel stood still for the barrier that was just handed out.
    fn aligned_for(&self) -> Duration {
        Duration::ZERO
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
    /// When the first channel sent it.
    since: Option<Instant>,
    /// How long the channels of the last barrier stood still.
    aligned_for: Duration,
    /// Marks that follow what was just returned: at most a watermark, an idle and the end.
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
            since: None,
            aligned_for: Duration::ZERO,
            next: VecDeque::new(),
        }
    }

    /// The gate's mark after a change: a watermark that rose, or that nothing is to be expected.
    ///
    /// While all channels are idle the furthest of them counts, so that the result does not depend
    /// on which of them fell silent first. Ended ones have +∞ only once all have ended.
    fn rise(&mut self) -> [Option<Mark>; 2] {
        let open = || self.channels.iter().filter(|c| !c.ended);
        let active = open().filter(|c| !c.idle).map(|c| c.watermark);
        let active = if bugs::on(Bug::WatermarkAhead) { active.max() } else { active.min() };
        let silent = open().map(|c| c.watermark).max();
        let least = active.or(silent).unwrap_or(Timestamp::MAX);
        let rose = (least > self.watermark).then_some(Mark::Watermark(least));
        self.watermark = self.watermark.max(least);
        let fell_silent = active.is_none() && silent.is_some() && !self.idle;
        self.idle |= fell_silent;
        [rose, fell_silent.then_some(Mark::Idle)]
    }

    /// The first of these, now; the others follow.
    fn hand_on(&mut self, marks: impl IntoIterator<Item = Option<Mark>>) -> Option<Mark> {
        let mut marks = marks.into_iter().flatten();
        let first = marks.next();
        self.next.extend(marks);
        first
    }

    /// A channel counts again. Where all were idle, whoever is behind this gate is told so, by the
    /// watermark that it has.
    fn readmit(&mut self, index: usize) -> Option<Mark> {
        if let Some(channel) = self.channels.get_mut(index) {
            channel.idle = false;
        }
        std::mem::take(&mut self.idle).then_some(Mark::Watermark(self.watermark))
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
                channel.watermark = channel.watermark.max(t);
                let readmitted = self.readmit(index);
                let [rose, _] = self.rise();
                rose.or(readmitted)
            }
            Mark::Idle => {
                channel.idle = true;
                let marks = self.rise();
                self.hand_on(marks)
            }
            Mark::Barrier(epoch) if bugs::on(Bug::SkippedBarrier) => {
                (index == 0).then_some(Mark::Barrier(epoch))
            }
            Mark::Barrier(epoch) => {
                match self.barrier {
                    // This one was given up: a channel that left it out has sent a later one.
                    Some(awaited) if epoch < awaited => return None,
                    // The one that was awaited was given up, and this channel has left it out: what others have
                    // behind it comes before this one.
                    Some(awaited) if epoch > awaited => {
                        self.channels.iter_mut().for_each(|c| c.aligned = false);
                    }
                    _ => {}
                }
                if let Some(channel) = self.channels.get_mut(index) {
                    channel.aligned = true;
                }
                self.barrier = Some(epoch);
                self.align()
            }
            Mark::End => {
                channel.ended = true;
                let barrier = self.align();
                let [watermark, idle] = self.rise();
                let end = self.channels.iter().all(|c| c.ended).then_some(Mark::End);
                self.hand_on([barrier, watermark, idle, end])
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
    fn aligned_for(&self) -> Duration {
        self.aligned_for
    }

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
                    let readmitted = self.readmit(index);
                    self.next.extend(readmitted);
                    self.turn = index + 1;
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(Some(mark))) => {
                    let waited = self.barrier.is_some();
                    let taken = self.take(index, mark);
                    match (waited, self.barrier.is_some()) {
                        (false, true) => self.since = Some(turn.now),
                        (true, false) => {
                            let since = self.since.take();
                            self.aligned_for = since.map_or(Duration::ZERO, |s| turn.now.duration_since(s));
                        }
                        (false, false) if matches!(mark, Mark::Barrier(_)) => {
                            self.aligned_for = Duration::ZERO;
                        }
                        _ => {}
                    }
                    if let Some(mark) = taken {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::local::{LocalQueue, LocalSender};
    use std::sync::Arc;
    use std::task::Context;

    const fn at(ms: i64) -> Mark {
        Mark::Watermark(Timestamp::from_millis(ms))
    }

    fn gate<const N: usize>() -> ([LocalSender<u32>; N], InputGate<u32>) {
        let queues = [(); N].map(|()| LocalQueue::new());
        let receivers = queues.iter().map(|q| From::Local(LocalReceiver::new(Arc::clone(q)))).collect();
        (queues.map(LocalSender::new), InputGate::new(receivers))
    }

    /// What the gate gives until it has nothing: marks, and `None` for a batch.
    fn drain(gate: &mut InputGate<u32>) -> Vec<Option<Mark>> {
        let waker = futures_util::task::noop_waker();
        let mut task = Context::from_waker(&waker);
        let mut turn = Turn { task: &mut task, full: false, snapshot: None, now: std::time::Instant::now() };
        let mut seen = Vec::new();
        let mut batch = Batch::default();
        while let Poll::Ready(got) = gate.poll_next(&mut batch, &mut turn) {
            batch.clear();
            seen.push(got.unwrap());
        }
        seen
    }

    #[test]
    fn a_barrier_that_a_channel_leaves_out_is_not_handed_on_and_the_next_comes_behind_all_in_front_of_it() {
        let ([mut a, mut b, mut c], mut gate) = gate();
        // A disk was full, so epoch 4 was given up before the source behind `b` had heard of it.
        a.mark(Mark::Barrier(4));
        a.send(&mut Batch::untimed(vec![1]));
        a.mark(Mark::Barrier(5));
        a.send(&mut Batch::untimed(vec![2]));
        assert_eq!(drain(&mut gate), []);
        b.mark(Mark::Barrier(5));
        b.send(&mut Batch::untimed(vec![3]));
        assert_eq!(drain(&mut gate), [None], "record 1 is in front of epoch 5");
        c.mark(Mark::Barrier(4));
        c.send(&mut Batch::untimed(vec![4]));
        assert_eq!(drain(&mut gate), [None], "record 4, too");
        c.mark(Mark::Barrier(5));
        assert_eq!(drain(&mut gate), [Some(Mark::Barrier(5)), None, None]);
        // The next one is as ever.
        a.mark(Mark::Barrier(6));
        b.mark(Mark::Barrier(6));
        assert_eq!(drain(&mut gate), []);
        c.mark(Mark::Barrier(6));
        assert_eq!(drain(&mut gate), [Some(Mark::Barrier(6))]);
    }

    #[test]
    fn an_idle_channel_holds_nothing_back_and_comes_back_without_the_watermark_falling() {
        let ([mut a, mut b], mut gate) = gate();
        a.mark(at(10));
        assert_eq!(drain(&mut gate), []);
        b.mark(Mark::Idle);
        assert_eq!(drain(&mut gate), [Some(at(10))]);
        a.mark(at(20));
        assert_eq!(drain(&mut gate), [Some(at(20))]);
        b.send(&mut Batch::untimed(vec![1]));
        b.mark(at(5));
        assert_eq!(drain(&mut gate), [None], "5 is behind what was promised");
        a.mark(at(30));
        assert_eq!(drain(&mut gate), [], "and holds 30 back");
        b.mark(at(25));
        assert_eq!(drain(&mut gate), [Some(at(25))]);
    }

    #[test]
    fn a_gate_is_idle_when_all_channels_are_at_the_furthest_of_them_and_says_when_it_is_not() {
        for first in [0, 1] {
            let (mut ends, mut gate) = gate::<2>();
            ends[0].mark(at(10));
            ends[1].mark(at(20));
            assert_eq!(drain(&mut gate), [Some(at(10))]);
            ends[first].mark(Mark::Idle);
            ends[1 - first].mark(Mark::Idle);
            let seen = drain(&mut gate);
            assert_eq!(seen[seen.len() - 2..], [Some(at(20)), Some(Mark::Idle)], "{first} first");
            ends[0].send(&mut Batch::untimed(vec![1]));
            assert_eq!(drain(&mut gate), [None, Some(at(20))], "those behind must wait for it again");
            ends[0].mark(Mark::Idle);
            assert_eq!(drain(&mut gate), [Some(Mark::Idle)]);
            ends[1].mark(at(15));
            assert_eq!(drain(&mut gate), [Some(at(20))]);
        }
    }

    #[test]
    fn an_ended_channel_beside_an_idle_one_is_not_the_end_of_time() {
        let ([mut a, mut b], mut gate) = gate();
        a.mark(at(10));
        b.mark(at(7));
        b.mark(Mark::Idle);
        a.mark(Mark::End);
        let seen = drain(&mut gate);
        assert_eq!(seen, [Some(at(7)), Some(Mark::Idle)]);
        b.mark(Mark::End);
        assert_eq!(drain(&mut gate), [Some(at(i64::MAX)), Some(Mark::End)]);
    }
}
