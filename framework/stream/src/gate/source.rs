//! A source as the input of a task: its splits in turn, their watermarks, positions and pace.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant, UNIX_EPOCH};

use afflux_actor::Clock;

use super::align::AlignBoard;
use super::input::Input;
use super::split::OpenSplit;
use crate::Result;
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::meter::{Meter, TaskMeter};
use crate::source::{ReadState, Split};
use crate::stage::Turn;
use crate::time::Timestamp;
use crate::watermark::MakeSplitWatermark;

/// State name of the positions of a source's splits.
pub(crate) const POSITIONS: &str = "positions";
/// A split's name, the reader's position, the latest event time, and whether it was read to its end.
pub(crate) type SavedPosition = (String, Vec<u8>, i64, bool);
/// Batches between two watermarks while input is ready; with nothing ready it is sent at once.
const WATERMARK_BATCHES: u32 = 16;
/// Rows that a paced source reads at a time, so that it can wait between them.
const PACED_ROWS_MAX: usize = 64;

/// When a reader that said it was caught up, and gave nothing, is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How far records may be ahead of the calendar, where nothing guards against it, before that is said.
const FAR_AHEAD_MS: i64 = 5 * 60 * 1_000;
/// State name of the watermarks of a source's splits.
pub(crate) const WATERMARKS: &str = "watermarks";

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;
/// The watermark that a row carries, if it does.
type WatermarkOf<T> = Arc<dyn Fn(&T) -> Option<Timestamp> + Send + Sync>;
/// Appends the event times of rows.
type TimeOf<T> = Arc<dyn Fn(&[T], &mut Vec<i64>) + Send + Sync>;

/// Opens a split that has appeared.
pub(crate) type OpenFound<T> = Box<dyn Fn(Split) -> Result<OpenSplit<T>> + Send>;

/// How the watermark of a split follows its rows.
pub(crate) enum Advance<T> {
    /// Behind the latest by so many milliseconds.
    Behind(i64),
    /// As the user's code says.
    Custom(MakeSplitWatermark),
    /// As some of the rows say.
    Carried(WatermarkOf<T>),
}

impl<T> Clone for Advance<T> {
    fn clone(&self) -> Self {
        match self {
            Advance::Behind(bound) => Advance::Behind(*bound),
            Advance::Custom(make) => Advance::Custom(Arc::clone(make)),
            Advance::Carried(of) => Advance::Carried(Arc::clone(of)),
        }
    }
}

/// How event times are found in rows, and what is made of them.
#[doc(hidden)]
pub struct TimePolicy<T> {
    pub(crate) time_of: TimeOf<T>,
    pub(crate) advance: Advance<T>,
    /// Silence after which a split that is caught up holds nothing back.
    pub(crate) idle_after: Option<Duration>,
    /// How far a split may be ahead of the slowest.
    pub(crate) align_ms: Option<i64>,
    /// How far a row may be ahead of the calendar.
    pub(crate) skew_ms: Option<i64>,
}

impl<T> Clone for TimePolicy<T> {
    fn clone(&self) -> Self {
        Self { time_of: Arc::clone(&self.time_of), advance: self.advance.clone(), ..*self }
    }
}

/// Replays event time at a multiple of its speed.
struct Pace {
    rate: f64,
    start: Option<(Instant, i64)>,
    due: Option<Sleep>,
}

/// What a [`SourceInput`] is made of.
pub(crate) struct SourceParts<T> {
    pub(crate) operator: String,
    pub(crate) subtask: u32,
    pub(crate) splits: Vec<OpenSplit<T>>,
    pub(crate) open: OpenFound<T>,
    pub(crate) time: Option<TimePolicy<T>>,
    pub(crate) replay: Option<f64>,
    /// Where the tasks of the source tell each other how far they are.
    pub(crate) board: Option<Arc<AlignBoard>>,
    /// The latest event time that is believed, for the stage that diverts the others.
    pub(crate) limit: Arc<AtomicI64>,
    pub(crate) clock: Clock,
    pub(crate) meter: Arc<Meter>,
    pub(crate) task: Arc<TaskMeter>,
    /// Rows that are read one by one, so that each has a position of its own.
    pub(crate) single: u64,
}

/// A source task's input.
pub(crate) struct SourceInput<T> {
    parts: SourceParts<T>,
    turn: usize,
    watermark: Timestamp,
    /// All splits that have not ended are idle, and those behind have been told.
    idle: bool,
    batches: u32,
    barrier: Option<u64>,
    /// The last marks of an ended source.
    closing: u8,
    pace: Option<Pace>,
    /// When to look again although no reader has woken the task.
    alarm: Option<(Instant, Sleep)>,
    held: Batch<T>,
    /// That records come from the future was said once.
    warned: bool,
}

/// What a round over the splits has found.
enum Found {
    Rows,
    /// Nothing; look again at this moment, when there is one.
    Nothing(Option<Instant>),
}

impl<T> SourceInput<T> {
    pub(crate) fn new(parts: SourceParts<T>) -> Self {
        let total = parts.splits.iter().map(|s| s.split.size.unwrap_or(0)).sum();
        parts.task.input_total.store(total, Relaxed);
        if parts.time.is_some() {
            for split in &parts.splits {
                parts.task.split(split.meter());
                split.tell(None);
            }
        }
        let paced = parts.replay.filter(|_| parts.time.is_some());
        let input = Self {
            pace: paced.map(|rate| Pace { rate, start: None, due: None }),
            parts,
            turn: 0,
            watermark: Timestamp::MIN,
            idle: false,
            batches: 0,
            barrier: None,
            closing: 0,
            alarm: None,
            held: Batch::default(),
            warned: false,
        };
        input.tell_place();
        input
    }

    /// The source's mark after a change: a watermark that rose, or that nothing is to be expected.
    ///
    /// While all splits are idle the furthest of them counts, so that the result does not depend on
    /// which of them fell silent first.
    fn rise(&mut self) -> Option<Mark> {
        self.parts.time.as_ref()?;
        self.batches = 0;
        let open = || self.parts.splits.iter().filter(|s| !s.ended);
        let active = open().filter(|s| s.is_active()).map(|s| s.watermark).min();
        let least = match active {
            Some(least) => least,
            None => open().map(|s| s.watermark).max()?,
        };
        let least = Timestamp::from_millis(least);
        if least > self.watermark {
            self.watermark = least;
            return Some(Mark::Watermark(least));
        }
        if active.is_none() && !self.idle {
            self.idle = true;
            return Some(Mark::Idle);
        }
        None
    }

    /// Opens what has appeared beside the splits of this task; says whether anything has. A new one holds
    /// the watermark until its first record, or until it is idle: the source's mark never falls, so what
    /// it holds that is older is late.
    fn take_found(&mut self, index: usize) -> Result<bool> {
        let parts = &mut self.parts;
        let Some(split) = parts.splits.get_mut(index) else { return Ok(false) };
        let found = split.reader.found();
        let before = parts.splits.len();
        for found in found {
            if parts.splits.iter().any(|known| known.split.id == found.id) {
                continue;
            }
            tracing::info!(source = %parts.operator, split = %found.id, "a split has appeared");
            let mut opened = (parts.open)(found).map_err(|mut status| {
                status.message = format!("source {}: {}", parts.operator, status.message);
                status
            })?;
            // What is behind the source's mark already cannot be promised again.
            opened.watermark = opened.watermark.max(self.watermark.millis());
            if parts.time.is_some() {
                parts.task.split(opened.meter());
                opened.tell(None);
            }
            parts.splits.push(opened);
        }
        Ok(parts.splits.len() > before)
    }

    fn count(&self, rows: usize) {
        let SourceParts { meter, splits, task, time, .. } = &self.parts;
        meter.records_in(rows);
        // Behind a guard the stage that diverts rows counts the others.
        if time.as_ref().is_none_or(|time| time.skew_ms.is_none()) {
            meter.records_out(rows);
        }
        meter.set_errors(splits.iter().map(|s| s.reader.skipped()).sum());
        let done = splits.iter().map(|s| s.reader.progress()).sum();
        task.input_done.store(done, Relaxed);
        self.tell_lag();
    }

    fn tell_lag(&self) {
        let lag: Option<u64> = self.parts.splits.iter().map(|s| s.reader.lag()).sum();
        self.parts.task.input_lag.store(lag.unwrap_or(u64::MAX), Relaxed);
    }

    /// The latest record of the slowest split, as far as this task knows.
    fn place(&self) -> i64 {
        let active = self.parts.splits.iter().filter(|s| s.is_active());
        active.map(|s| s.latest).min().unwrap_or(i64::MAX)
    }

    fn tell_place(&self) {
        if let Some(board) = &self.parts.board {
            board.tell(self.parts.subtask, self.place());
        }
    }

    /// The latest record up to which a split may be read on, `i64::MAX` without alignment; and when that
    /// may be another without anybody telling.
    fn ceiling(&self, now: Instant) -> (i64, Option<Instant>) {
        let (Some(board), Some(drift)) =
            (&self.parts.board, self.parts.time.as_ref().and_then(|time| time.align_ms))
        else {
            return (i64::MAX, None);
        };
        let (least, until) = board.least(now);
        (least.min(self.place()).saturating_add(drift), until)
    }

    /// Reads some rows of some split into the held batch.
    fn read(&mut self, turn: &mut Turn<'_, '_>) -> Result<Found> {
        let (mut ceiling, mut again) = (self.ceiling(turn.now).0, None);
        if let Some(board) = &self.parts.board
            && self.parts.splits.iter().any(|s| !s.ended && s.latest > ceiling)
        {
            board.wait(self.parts.subtask, turn.task);
            (ceiling, again) = self.ceiling(turn.now);
        }
        let rows_max = match self.pace {
            _ if self.parts.single > 0 => 1,
            Some(_) => PACED_ROWS_MAX,
            None => BATCH_ROWS_MAX,
        };
        let _at = self.parts.meter.enter();
        let count = self.parts.splits.len();
        for _ in 0..count {
            let index = if self.turn >= count { 0 } else { self.turn };
            self.turn = index + 1;
            if self.take_found(index)? {
                // Behind the others in this round: look again.
                again = Some(turn.now);
            }
            let parts = &mut self.parts;
            let Some(split) = parts.splits.get_mut(index) else { continue };
            if split.ended || split.latest > ceiling {
                continue;
            }
            let position = (parts.single > 0).then(|| split.reader.position());
            match split.reader.poll_read(turn.task, &mut self.held, rows_max) {
                Poll::Pending => {}
                Poll::Ready(Err(mut status)) => {
                    status.message = format!("source {}: {}", parts.operator, status.message);
                    return Err(status);
                }
                Poll::Ready(Ok(state)) => {
                    let rows = !self.held.is_empty();
                    split.answered(state, rows);
                    if !rows {
                        match state {
                            ReadState::More => again = Some(turn.now),
                            ReadState::CaughtUp => {
                                let at = turn.now + LOOK_AGAIN;
                                again = Some(again.map_or(at, |known: Instant| known.min(at)));
                            }
                            ReadState::End => split.tell(None),
                        }
                        continue;
                    }
                    if let Some(position) = position {
                        parts.single = parts.single.saturating_sub(self.held.len() as u64);
                        *parts.task.origin.lock() = Some((split.split.id.clone(), position));
                    }
                    if let Some(time) = &parts.time {
                        let wall = calendar_ms(&parts.clock);
                        let limit = time.skew_ms.map_or(i64::MAX, |skew| wall.saturating_add(skew));
                        parts.limit.store(limit, Relaxed);
                        (time.time_of)(&self.held.rows, &mut self.held.times);
                        split.advance(&self.held.rows, &self.held.times, limit, &time.advance);
                        split.tell(Some(wall));
                        let ahead = split.latest.saturating_sub(wall);
                        if time.skew_ms.is_none() && ahead > FAR_AHEAD_MS && !self.warned {
                            self.warned = true;
                            tracing::warn!(
                                source = %parts.operator,
                                split = %split.split.id,
                                ahead_s = ahead / 1_000,
                                "a record is ahead of the calendar and the watermark follows it: `.future(…)` diverts such",
                            );
                        }
                    }
                    self.count(self.held.len());
                    self.tell_place();
                    return Ok(Found::Rows);
                }
            }
        }
        Ok(Found::Nothing(again))
    }

    /// Lets splits that have been silent for long enough go idle; returns when the next is due.
    fn fall_silent(&mut self, now: Instant) -> Option<Instant> {
        let idle_after = self.parts.time.as_ref()?.idle_after?;
        let mut due: Option<Instant> = None;
        for split in &mut self.parts.splits {
            let at = split.silent(now, idle_after);
            split.tell(None);
            due = due.into_iter().chain(at).min();
        }
        due
    }

    /// Wakes the task at this moment.
    fn wake_at(&mut self, at: Instant, turn: &mut Turn<'_, '_>) {
        if at <= turn.now {
            turn.task.waker().wake_by_ref();
            return;
        }
        if self.alarm.as_ref().is_none_or(|(set, _)| *set != at) {
            self.alarm = Some((at, Box::pin(self.parts.clock.sleep_until(at))));
        }
        if let Some((_, alarm)) = &mut self.alarm
            && alarm.as_mut().poll(turn.task).is_ready()
        {
            self.alarm = None;
            turn.task.waker().wake_by_ref();
        }
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
            pace.due = Some(Box::pin(self.parts.clock.sleep_until(due)));
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
            if let Found::Nothing(again) = self.read(turn)? {
                if self.parts.splits.iter().all(|s| s.ended) {
                    self.closing += 1;
                    return match self.closing {
                        1 => {
                            self.count(0);
                            self.tell_place();
                            let task = &self.parts.task;
                            task.input_done.store(task.input_total.load(Relaxed), Relaxed);
                            Poll::Ready(Ok(Some(Mark::Watermark(Timestamp::MAX))))
                        }
                        2 => Poll::Ready(Ok(Some(Mark::End))),
                        _ => Poll::Pending,
                    };
                }
                let due = self.fall_silent(turn.now);
                self.tell_place();
                self.tell_lag();
                if let Some(mark) = self.rise() {
                    return Poll::Ready(Ok(Some(mark)));
                }
                if let Some(at) = again.into_iter().chain(due).min() {
                    self.wake_at(at, turn);
                }
                return Poll::Pending;
            }
        }
        if self.idle {
            // Who waits for nothing from here is told otherwise before the rows come.
            self.idle = false;
            return Poll::Ready(Ok(Some(Mark::Watermark(self.watermark))));
        }
        if self.poll_due(turn).is_pending() {
            return Poll::Pending;
        }
        // Watermarks keep their distance in rows.
        if self.parts.single.is_multiple_of(BATCH_ROWS_MAX as u64) {
            self.batches += 1;
        }
        std::mem::swap(into, &mut self.held);
        Poll::Ready(Ok(None))
    }

    fn trigger(&mut self, epoch: u64) {
        self.barrier = Some(epoch);
    }

    fn barrier(&mut self, epoch: u64) {
        for split in &mut self.parts.splits {
            split.reader.barrier(epoch);
        }
    }

    fn save(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        let Some(snapshot) = &mut turn.snapshot else { return Ok(()) };
        let SourceParts { operator, subtask, splits, time, .. } = &self.parts;
        let positions: Vec<(&str, Vec<u8>, i64, bool)> =
            splits.iter().map(|s| (s.split.id.as_str(), s.reader.position(), s.latest, s.ended)).collect();
        snapshot.put(operator, POSITIONS, *subtask, positions.len() as u64, &positions)?;
        if time.is_none() {
            return Ok(());
        }
        let watermarks: Vec<(&str, i64)> =
            splits.iter().map(|s| (s.split.id.as_str(), s.watermark)).collect();
        snapshot.put(operator, WATERMARKS, *subtask, watermarks.len() as u64, &watermarks)
    }

    fn completed(&mut self, epoch: u64) {
        for split in &mut self.parts.splits {
            split.reader.completed(epoch);
        }
    }
}

/// The node's calendar, in milliseconds since 1970.
fn calendar_ms(clock: &Clock) -> i64 {
    let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
