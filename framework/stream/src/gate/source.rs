//! A source as the input of a task: its splits in turn, their watermarks, positions and pace.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Instant;

use afflux_actor::Clock;

use super::input::Input;
use crate::Result;
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::meter::{Meter, TaskMeter};
use crate::source::{ReadState, Split, SplitReader};
use crate::stage::Turn;
use crate::time::Timestamp;

/// State name of the positions of a source's splits.
pub(crate) const POSITIONS: &str = "positions";
/// Batches between two watermarks while input is ready; with nothing ready it is sent at once.
const WATERMARK_BATCHES: u32 = 16;
/// Rows that a paced source reads at a time, so that it can wait between them.
const PACED_ROWS_MAX: usize = 64;

/// Appends the event times of rows.
type TimeOf<T> = Arc<dyn Fn(&[T], &mut Vec<i64>) + Send + Sync>;

/// How event times are found in rows, and how far the watermark stays behind.
pub(crate) struct TimePolicy<T> {
    pub(crate) time_of: TimeOf<T>,
    pub(crate) bound_ms: i64,
}

impl<T> Clone for TimePolicy<T> {
    fn clone(&self) -> Self {
        Self { time_of: Arc::clone(&self.time_of), bound_ms: self.bound_ms }
    }
}

/// One split being read.
pub(crate) struct OpenSplit<T> {
    pub(crate) split: Split,
    pub(crate) reader: Box<dyn SplitReader<T>>,
    pub(crate) latest: i64,
    pub(crate) ended: bool,
}

/// Replays event time at a multiple of its speed.
struct Pace {
    rate: f64,
    start: Option<(Instant, i64)>,
    due: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// A source task's input.
pub(crate) struct SourceInput<T> {
    operator: String,
    subtask: u32,
    splits: Vec<OpenSplit<T>>,
    turn: usize,
    time: Option<TimePolicy<T>>,
    watermark: Timestamp,
    batches: u32,
    barrier: Option<u64>,
    /// The last marks of an ended source.
    closing: u8,
    pace: Option<Pace>,
    held: Batch<T>,
    clock: Clock,
    meter: Arc<Meter>,
    task: Arc<TaskMeter>,
}

impl<T> SourceInput<T> {
    #[allow(clippy::too_many_arguments)] // one call site, each a part of the input
    pub(crate) fn new(
        operator: String,
        subtask: u32,
        splits: Vec<OpenSplit<T>>,
        time: Option<TimePolicy<T>>,
        replay: Option<f64>,
        clock: Clock,
        meter: Arc<Meter>,
        task: Arc<TaskMeter>,
    ) -> Self {
        let total = splits.iter().map(|s| s.split.size.unwrap_or(0)).sum();
        task.input_total.store(total, Relaxed);
        let pace = replay.filter(|_| time.is_some()).map(|rate| Pace { rate, start: None, due: None });
        Self {
            operator,
            subtask,
            splits,
            turn: 0,
            time,
            watermark: Timestamp::MIN,
            batches: 0,
            barrier: None,
            closing: 0,
            pace,
            held: Batch::default(),
            clock,
            meter,
            task,
        }
    }

    fn rise(&mut self) -> Option<Mark> {
        let bound = self.time.as_ref()?.bound_ms;
        let least = self
            .splits
            .iter()
            .filter(|s| !s.ended)
            .map(|s| if s.latest == i64::MIN { i64::MIN } else { s.latest.saturating_sub(bound) })
            .min()?;
        let least = Timestamp::from_millis(least);
        self.batches = 0;
        if least <= self.watermark {
            return None;
        }
        self.watermark = least;
        Some(Mark::Watermark(least))
    }

    fn count(&self, rows: usize) {
        self.meter.records_in(rows);
        self.meter.records_out(rows);
        self.meter.set_errors(self.splits.iter().map(|s| s.reader.skipped()).sum());
        let done = self.splits.iter().map(|s| s.reader.progress()).sum();
        self.task.input_done.store(done, Relaxed);
    }

    /// Reads some rows of some split into the held batch; `Ok(false)` when none has any now.
    fn read(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        let rows_max = if self.pace.is_some() { PACED_ROWS_MAX } else { BATCH_ROWS_MAX };
        let _at = self.meter.enter();
        let count = self.splits.len();
        for _ in 0..count {
            let index = if self.turn >= count { 0 } else { self.turn };
            self.turn = index + 1;
            let Some(split) = self.splits.get_mut(index).filter(|s| !s.ended) else { continue };
            match split.reader.poll_read(turn.task, &mut self.held, rows_max) {
                Poll::Pending => {}
                Poll::Ready(Err(mut status)) => {
                    status.message = format!("source {}: {}", self.operator, status.message);
                    return Err(status);
                }
                Poll::Ready(Ok(state)) => {
                    split.ended = state == ReadState::End;
                    if self.held.is_empty() {
                        continue;
                    }
                    if let Some(time) = &self.time {
                        (time.time_of)(&self.held.rows, &mut self.held.times);
                        let latest = self.held.times.iter().copied().max().unwrap_or(i64::MIN);
                        split.latest = split.latest.max(latest);
                    }
                    self.count(self.held.len());
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether the held batch may go now.
    fn poll_due(&mut self, turn: &mut Turn<'_, '_>) -> Poll<()> {
        let Some(pace) = &mut self.pace else { return Poll::Ready(()) };
        if pace.due.is_none() {
            let Some(&first) = self.held.times.first() else { return Poll::Ready(()) };
            let (started, origin) = *pace.start.get_or_insert((turn.now, first));
            let ahead_ms = first.saturating_sub(origin).max(0) as f64 / pace.rate;
            let due = started + std::time::Duration::from_secs_f64(ahead_ms / 1000.0);
            if due <= turn.now {
                return Poll::Ready(());
            }
            pace.due = Some(Box::pin(self.clock.sleep_until(due)));
        }
        match pace.due.as_mut().map(|due| due.as_mut().poll(turn.task)) {
            Some(Poll::Pending) => Poll::Pending,
            _ => {
                pace.due = None;
                Poll::Ready(())
            }
        }
    }
}

impl<T> Input<T> for SourceInput<T> {
    fn poll_next(&mut self, into: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Poll<Result<Option<Mark>>> {
        // Rows in hand come before a barrier: the reader's position is behind them already.
        if self.held.is_empty() {
            if let Some(epoch) = self.barrier.take() {
                return Poll::Ready(Ok(Some(Mark::Barrier(epoch))));
            }
            if self.batches >= WATERMARK_BATCHES
                && let Some(mark) = self.rise()
            {
                return Poll::Ready(Ok(Some(mark)));
            }
            if !self.read(turn)? && self.held.is_empty() {
                if self.splits.iter().all(|s| s.ended) {
                    self.closing += 1;
                    return match self.closing {
                        1 => {
                            self.count(0);
                            self.task.input_done.store(self.task.input_total.load(Relaxed), Relaxed);
                            Poll::Ready(Ok(Some(Mark::Watermark(Timestamp::MAX))))
                        }
                        2 => Poll::Ready(Ok(Some(Mark::End))),
                        _ => Poll::Pending,
                    };
                }
                return match self.rise() {
                    Some(mark) => Poll::Ready(Ok(Some(mark))),
                    None => Poll::Pending,
                };
            }
        }
        if self.poll_due(turn).is_pending() {
            return Poll::Pending;
        }
        self.batches += 1;
        std::mem::swap(into, &mut self.held);
        Poll::Ready(Ok(None))
    }

    fn trigger(&mut self, epoch: u64) {
        self.barrier = Some(epoch);
    }

    fn barrier(&mut self, epoch: u64) {
        for split in &mut self.splits {
            split.reader.barrier(epoch);
        }
    }

    fn save(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        let Some(snapshot) = &mut turn.snapshot else { return Ok(()) };
        let positions: Vec<(String, Vec<u8>, i64, bool)> = self
            .splits
            .iter()
            .map(|s| (s.split.id.clone(), s.reader.position(), s.latest, s.ended))
            .collect();
        snapshot.put(&self.operator, POSITIONS, self.subtask, positions.len() as u64, &positions)
    }

    fn completed(&mut self, epoch: u64) {
        for split in &mut self.splits {
            split.reader.completed(epoch);
        }
    }
}
