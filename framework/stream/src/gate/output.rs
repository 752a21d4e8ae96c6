//! The way out of a task: a partitioner, one buffer a consumer, a queue or a byte channel each.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use afflux_mesh::ChannelSender;
use afflux_wire::batch::encode_row;

use super::local::LocalSender;
use super::partition::Routing;
use crate::Result;
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::meter::TaskMeter;
use crate::stage::{Stage, Turn};

/// Bytes that a batch on a byte channel aims at.
pub(crate) const REMOTE_BATCH_BYTES: usize = 64 * 1024;
/// Rows of a batch on a byte channel at most.
pub(crate) const REMOTE_BATCH_ROWS_MAX: usize = 8 * BATCH_ROWS_MAX;
/// First byte of a batch's payload when event times follow the rows.
pub(crate) const TIMED: u8 = 1;
/// First byte of a batch's payload without event times.
pub(crate) const UNTIMED: u8 = 0;

/// The far end of an edge.
pub(crate) enum Wire<T> {
    /// A task of this process.
    Local(LocalSender<T>),
    /// A task of another process.
    Remote(ChannelSender),
}

struct Out<T> {
    wire: Wire<T>,
    buffer: Batch<T>,
    /// When the oldest row of the buffer came.
    since: Option<Instant>,
    rows_max: usize,
    /// Bytes of the last encoded row batch, to size the next buffer.
    bytes_hint: usize,
    watermark: Option<Mark>,
    /// The consumer may be gone once it has everything.
    ended: bool,
}

/// The last stage of a chain that feeds others.
pub(crate) struct OutputGate<T> {
    outs: Vec<Out<T>>,
    routing: Routing<T>,
    consumers: Vec<u32>,
    linger: Duration,
    meter: Option<Arc<TaskMeter>>,
}

impl<T: Serialize> OutputGate<T> {
    pub(crate) fn new(wires: Vec<Wire<T>>, routing: Routing<T>, linger: Duration) -> Self {
        let remote_rows =
            (REMOTE_BATCH_BYTES / size_of::<T>().max(1)).clamp(BATCH_ROWS_MAX / 4, REMOTE_BATCH_ROWS_MAX);
        let outs = wires
            .into_iter()
            .map(|wire| Out {
                rows_max: if matches!(wire, Wire::Local(_)) { BATCH_ROWS_MAX } else { remote_rows },
                wire,
                buffer: Batch::default(),
                since: None,
                bytes_hint: 4096,
                watermark: None,
                ended: false,
            })
            .collect();
        Self { outs, routing, consumers: Vec::new(), linger, meter: None }
    }

    /// Tells the watermark that it hands on, and the hottest keys of its edge.
    pub(crate) fn metered(mut self, edge: u32, meter: &Arc<TaskMeter>) -> Self {
        if let (Routing::Split(partition), [_, _, ..]) = (&mut self.routing, self.outs.as_slice()) {
            partition.watch(meter.edge(edge));
        }
        meter.has_output();
        self.meter = Some(Arc::clone(meter));
        self
    }
}

impl<T: Serialize> Out<T> {
    /// Hands the buffer on; returns whether there is room for another.
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        self.since = None;
        if self.buffer.is_empty() {
            return Ok(true);
        }
        match &mut self.wire {
            Wire::Local(sender) => Ok(sender.send(&mut self.buffer)),
            Wire::Remote(sender) => {
                let mut bytes = Vec::with_capacity(self.bytes_hint + self.bytes_hint / 8);
                bytes.push(if self.buffer.is_timed() { TIMED } else { UNTIMED });
                for row in &self.buffer.rows {
                    encode_row(row, &mut bytes)?;
                }
                for time in &self.buffer.times {
                    bytes.extend_from_slice(&time.to_le_bytes());
                }
                self.bytes_hint = bytes.len();
                let count = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
                self.buffer.clear();
                sender.send(count, Bytes::from(bytes))?;
                Ok(sender.poll_ready(turn.task)?.is_ready())
            }
        }
    }

    fn mark(&mut self, mark: Mark) -> Result<()> {
        // A watermark that the channel has already is not sent again.
        if matches!(mark, Mark::Watermark(_)) {
            if self.watermark == Some(mark) {
                return Ok(());
            }
            self.watermark = Some(mark);
        }
        // After an idle channel the same watermark says that it counts again.
        if mark == Mark::Idle {
            self.watermark = None;
        }
        self.ended = mark == Mark::End;
        match &mut self.wire {
            Wire::Local(sender) => {
                sender.mark(mark);
                Ok(())
            }
            Wire::Remote(sender) => sender.mark(match mark {
                Mark::Watermark(t) => afflux_mesh::Mark::Watermark(t.millis()),
                Mark::Idle => afflux_mesh::Mark::Idle,
                Mark::Barrier(epoch) => afflux_mesh::Mark::Barrier(epoch),
                Mark::End => afflux_mesh::Mark::End,
            }),
        }
    }
}

impl<T: Serialize> Stage<T> for OutputGate<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        let mut room = true;
        match (&mut self.routing, self.outs.as_mut_slice()) {
            (_, [only]) if only.buffer.is_empty() => {
                std::mem::swap(&mut only.buffer, batch);
                only.since = Some(turn.now);
            }
            (_, [only]) => {
                only.buffer.rows.append(&mut batch.rows);
                only.buffer.times.append(&mut batch.times);
            }
            (Routing::Broadcast(copy), outs) => {
                for out in outs {
                    out.since.get_or_insert(turn.now);
                    out.buffer.rows.extend(batch.rows.iter().map(*copy));
                    out.buffer.times.extend_from_slice(&batch.times);
                }
            }
            (Routing::Split(partition), outs) => {
                self.consumers.clear();
                partition.observe(batch, turn.now);
                partition.assign(batch, outs.len() as u32, &mut self.consumers);
                if batch.is_timed() {
                    let rows = batch.rows.drain(..).zip(batch.times.drain(..));
                    for ((row, time), consumer) in rows.zip(&self.consumers) {
                        if let Some(out) = outs.get_mut(*consumer as usize) {
                            out.buffer.rows.push(row);
                            out.buffer.times.push(time);
                        }
                    }
                } else {
                    for (row, consumer) in batch.rows.drain(..).zip(&self.consumers) {
                        if let Some(out) = outs.get_mut(*consumer as usize) {
                            out.buffer.rows.push(row);
                        }
                    }
                }
            }
        }
        batch.clear();
        for out in &mut self.outs {
            if out.buffer.is_empty() {
                continue;
            }
            let since = *out.since.get_or_insert(turn.now);
            if out.buffer.len() >= out.rows_max || turn.now.duration_since(since) >= self.linger {
                room &= out.flush(turn)?;
            }
        }
        turn.full |= !room;
        Ok(())
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        for out in &mut self.outs {
            turn.full |= !out.flush(turn)?;
            out.mark(mark)?;
        }
        if let (Some(meter), Mark::Watermark(t)) = (&self.meter, mark) {
            meter.watermark_out_ms.store(t.millis(), Relaxed);
        }
        Ok(())
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        for out in self.outs.iter_mut().filter(|out| !out.ended) {
            let ready = match &mut out.wire {
                Wire::Local(sender) => sender.poll_ready(turn.task),
                Wire::Remote(sender) => sender.poll_ready(turn.task),
            };
            if ready?.is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn resume(&mut self, _: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        Poll::Ready(Ok(false))
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        for out in &mut self.outs {
            turn.full |= !out.flush(turn)?;
        }
        Ok(())
    }

    fn poll_snapshot(&mut self, _: &mut Turn<'_, '_>, _: &mut usize) -> Result<bool> {
        Ok(true)
    }
    fn completed(&mut self, _: u64, _: &mut Turn<'_, '_>) -> Result<()> {
        Ok(())
    }
}
