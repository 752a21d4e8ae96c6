//! A keyed operator at work: state and timers of its keys, one record at a time.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use afflux_actor::Clock;

use super::{Next, SNAPSHOT_BUDGET, Stage, Turn};
use crate::Result;
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::meter::Meter;
use crate::operator::{KeyedOperator, OperatorCx, Output, Sides};
use crate::poison::{Doing, at_work_on_any, while_doing};
use crate::snapshot::Restore;
use crate::state::{Backend, KeyedState, State, StateEntry};
use crate::time::{Timestamp, millis_since_epoch};
use crate::timers::Timers;

/// State name of the values.
pub(crate) const STATE: &str = "state";
/// State name of the timers of event time.
pub(crate) const TIMERS: &str = "timers";
/// State name of the timers of the clock.
pub(crate) const CLOCK_TIMERS: &str = "clock-timers";
/// State name of the moments at which something has outlived its time.
pub(crate) const EXPIRIES: &str = "expiries";
/// State name of the watermark.
pub(crate) const WATERMARK: &str = "watermark";

/// Timers that fire in one turn at most.
const FIRINGS_PER_TURN_MAX: usize = 1024;

/// A life is ended up to this part of its length late, so that a key that is written all the time
/// does not ask for a timer each time.
const EXPIRY_PARTS: i64 = 8;

/// Ends at a moment of the clock.
type Sleep = Pin<Box<dyn Future<Output = ()>>>;

/// Which clock a timer belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Domain {
    Event,
    Clock,
    Expiry,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => "timer",
            Self::Clock => "timer of the clock",
            Self::Expiry => "end of life",
        })
    }
}

/// Runs a [`KeyedOperator`].
pub(crate) struct ProcessStage<T, F: KeyOf<T>, O: KeyedOperator<Key = F::Key, Input = T>> {
    state: KeyedState<F::Key, O::State>,
    core: Core<T, F, O>,
    /// The latest event time of any record, or the latest watermark but the last.
    latest: i64,
    /// Rows of a batch that are not done.
    rows: std::vec::IntoIter<T>,
    times: std::vec::IntoIter<i64>,
    spare: Batch<T>,
    /// The watermark to pass on when all that it fires is out.
    passing: Option<Timestamp>,
    /// A timer whose key's value is being fetched.
    due: Option<(Domain, i64, F::Key)>,
    /// Whether values are being fetched.
    fetching: bool,
    /// Wakes the task for the first timer of the clock.
    sleep: Option<(i64, Sleep)>,
}

/// All but the state, so that the value of one key can be held beside it.
struct Core<T, F: KeyOf<T>, O: KeyedOperator<Key = F::Key, Input = T>> {
    parts: ProcessParts<T, F, O>,
    timers: Timers<F::Key>,
    clock_timers: Timers<F::Key>,
    expiries: Timers<F::Key>,
    watermark: Timestamp,
    out: Output<O::Output>,
}

/// What a [`ProcessStage`] is made of.
pub(crate) struct ProcessParts<T, F: KeyOf<T>, O: KeyedOperator<Key = F::Key, Input = T>> {
    pub(crate) operator: String,
    pub(crate) subtask: u32,
    pub(crate) parallelism: u32,
    pub(crate) key: Arc<F>,
    pub(crate) work: O,
    pub(crate) sides: Sides,
    pub(crate) timed: bool,
    pub(crate) clock: Clock,
    pub(crate) meter: Arc<Meter>,
    pub(crate) backend: Backend,
    pub(crate) next: Next<O::Output>,
}

impl<T, F: KeyOf<T>, O: KeyedOperator<Key = F::Key, Input = T>> Core<T, F, O> {
    /// Does something with the state of a key, and forgets the key when nothing is left.
    #[inline]
    fn work_on(
        &mut self,
        mut entry: StateEntry<'_, F::Key, O::State>,
        time: Option<Timestamp>,
        now: Timestamp,
        work: impl FnOnce(
            &mut O,
            &mut O::State,
            &mut OperatorCx<'_, F::Key>,
            &mut Output<O::Output>,
        ) -> Result<()>,
    ) -> Result<()> {
        let mut late = 0;
        let (key, state) = entry.parts();
        let alive_at = if self.parts.timed { time.unwrap_or(now) } else { now }.millis();
        if O::State::EXPIRES {
            state.expire(alive_at);
        }
        self.out.time = if self.parts.timed { time.map(Timestamp::millis) } else { None };
        let mut cx = OperatorCx {
            key,
            time: if self.parts.timed { time } else { None },
            watermark: self.watermark,
            now,
            subtask: self.parts.subtask,
            timers: &mut self.timers,
            clock: &mut self.clock_timers,
            sides: &mut self.parts.sides,
            late: &mut late,
        };
        work(&mut self.parts.work, state, &mut cx, &mut self.out).map_err(|mut status| {
            status.message = format!("operator {}: {}", self.parts.operator, status.message);
            status
        })?;
        if O::State::EXPIRES
            && let Some(at) = state.expires_at()
        {
            let grain = (at.saturating_sub(alive_at) / EXPIRY_PARTS).max(1);
            self.expiries.set(at.saturating_add(grain).div_euclid(grain).saturating_mul(grain), key);
        }
        if state.is_empty() {
            entry.remove();
        }
        if late > 0 {
            self.parts.meter.late(late);
        }
        Ok(())
    }

    /// Ready when timers may be set.
    fn poll_timers(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        ready!(self.timers.poll_ready(turn.task))?;
        ready!(self.clock_timers.poll_ready(turn.task))?;
        self.expiries.poll_ready(turn.task)
    }

    /// The timers that the watermark, or the end of the input, fires next.
    fn upcoming(&mut self, watermark: Timestamp) -> Result<Vec<F::Key>> {
        let next = self.timers.upcoming(watermark.millis(), FIRINGS_PER_TURN_MAX)?;
        if !next.is_empty() {
            return Ok(next);
        }
        if watermark == Timestamp::MAX {
            return self.clock_timers.upcoming(i64::MAX, FIRINGS_PER_TURN_MAX);
        }
        if self.parts.timed {
            return self.expiries.upcoming(watermark.millis(), FIRINGS_PER_TURN_MAX);
        }
        Ok(next)
    }

    /// The timers that the clock fires next.
    fn upcoming_of_clock(&mut self, now: Timestamp) -> Result<Vec<F::Key>> {
        let next = self.clock_timers.upcoming(now.millis(), FIRINGS_PER_TURN_MAX)?;
        if next.is_empty() && !self.parts.timed {
            return self.expiries.upcoming(now.millis(), FIRINGS_PER_TURN_MAX);
        }
        Ok(next)
    }

    fn push(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        let sides = &mut self.parts.sides;
        if sides.unread > 0 {
            self.parts.meter.unread(std::mem::take(&mut sides.unread));
        }
        for (_, side) in &mut sides.gates {
            side.push(turn)?;
        }
        if self.out.batch.is_empty() {
            return Ok(());
        }
        self.parts.meter.records_out(self.out.batch.len());
        self.parts.next.batch(&mut self.out.batch, turn)
    }

    fn pass(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        for (_, side) in &mut self.parts.sides.gates {
            side.mark(mark, turn)?;
        }
        self.parts.next.mark(mark, turn)
    }
}

impl<T, F: KeyOf<T>, O: KeyedOperator<Key = F::Key, Input = T>> ProcessStage<T, F, O> {
    pub(crate) fn new(parts: ProcessParts<T, F, O>, restore: Option<&Restore>) -> Result<Self> {
        let mut core = Core {
            timers: Timers::new(TIMERS, &parts.backend),
            clock_timers: Timers::new(CLOCK_TIMERS, &parts.backend),
            expiries: Timers::new(EXPIRIES, &parts.backend),
            watermark: Timestamp::MIN,
            out: Output { batch: Batch::default(), time: None },
            parts,
        };
        let mut state = KeyedState::new(STATE, &core.parts.backend);
        if let Some(restore) = restore {
            let share = (core.parts.subtask, core.parts.parallelism);
            let operator = &core.parts.operator;
            state.restore(restore, operator, share)?;
            core.timers.restore(restore, operator, share)?;
            core.clock_timers.restore(restore, operator, share)?;
            core.expiries.restore(restore, operator, share)?;
            // The slowest of the old tasks decides, so that nothing is called late that was not.
            let saved = restore.get::<i64>(operator, WATERMARK)?;
            let least = saved.into_iter().map(|w| Timestamp::from_millis(w.1)).min();
            core.watermark = least.unwrap_or(core.watermark);
        }
        let latest = if core.watermark == Timestamp::MAX { i64::MIN } else { core.watermark.millis() };
        Ok(Self {
            state,
            core,
            latest,
            rows: Vec::new().into_iter(),
            times: Vec::new().into_iter(),
            spare: Batch::default(),
            passing: None,
            due: None,
            fetching: false,
            sleep: None,
        })
    }

    /// Looks at the state of a key.
    pub(crate) fn state_of(&self, key: &F::Key) -> Option<&O::State> {
        self.state.get(key)
    }

    /// The timers of event time, in order.
    pub(crate) fn timers(&self) -> Vec<(i64, F::Key)> {
        self.core.timers.list()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(millis_since_epoch(self.core.parts.clock.wall()))
    }

    /// Goes on with the kept rows until none is left (`false`) or the output is full (`true`).
    fn run(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        let _at = self.core.parts.meter.enter();
        let now = self.now();
        let keys = Arc::clone(&self.core.parts.key);
        self.fetching = self.core.poll_timers(turn)?.is_pending()
            || self.state.poll_prepare_rows(turn.task, self.rows.as_slice(), &*keys)?.is_pending();
        if self.fetching {
            turn.full = true;
            return Ok(true);
        }
        for row in self.rows.by_ref() {
            let time = self.times.next().map(Timestamp::from_millis);
            if let Some(time) = time {
                self.latest = self.latest.max(time.millis());
            }
            let key = keys.key(&row);
            let entry = self.state.entry(key.key_hash(), key, O::State::default);
            self.core.work_on(entry, time, now, |work, state, cx, out| work.process(state, row, cx, out))?;
            if self.core.out.batch.len() >= BATCH_ROWS_MAX {
                self.core.push(turn)?;
                if turn.full {
                    return Ok(true);
                }
            }
        }
        self.core.push(turn)?;
        Ok(false)
    }

    /// Fetches the values of keys that are about to be used, all at once: `false` while that waits.
    fn fetch(&mut self, keys: &[F::Key], turn: &mut Turn<'_, '_>) -> Result<bool> {
        let keys = keys.iter().map(|key| (key.key_hash(), Cow::Borrowed(key)));
        self.fetching = self.core.poll_timers(turn)?.is_pending()
            || self.state.poll_prepare(turn.task, keys)?.is_pending();
        turn.full |= self.fetching;
        Ok(!self.fetching)
    }

    /// Fires a timer, or keeps it (`false`) while its key's value is being fetched.
    fn fire_one(
        &mut self,
        (domain, at, key): (Domain, i64, F::Key),
        now: Timestamp,
        turn: &mut Turn<'_, '_>,
    ) -> Result<bool> {
        let one = std::iter::once((key.key_hash(), Cow::Borrowed(&key)));
        self.fetching = self.state.poll_prepare(turn.task, one)?.is_pending();
        if self.fetching {
            self.due = Some((domain, at, key));
            turn.full = true;
            return Ok(false);
        }
        let moment = Timestamp::from_millis(at);
        // What has no moment of its own is as late as the latest record.
        let none = self.latest.max(if self.core.watermark == Timestamp::MAX {
            i64::MIN
        } else {
            self.core.watermark.millis()
        });
        let time = match domain {
            Domain::Event if at != i64::MAX => moment,
            Domain::Expiry => moment,
            _ => Timestamp::from_millis(none),
        };
        let entry = if domain == Domain::Expiry {
            let Some(entry) = self.state.find(key.key_hash(), &key) else { return Ok(true) };
            entry
        } else {
            self.state.entry(key.key_hash(), Cow::Owned(key), O::State::default)
        };
        self.core.work_on(entry, Some(time), now, |work, state, cx, out| {
            let key = cx.key;
            let _doing = while_doing(|| Doing::of(format!("the {domain} {moment} of key"), key));
            match domain {
                Domain::Event => work.on_timer(state, moment, cx, out),
                Domain::Clock => work.on_clock(state, moment, cx, out),
                Domain::Expiry => Ok(()),
            }
        })?;
        Ok(true)
    }

    /// Fires what the watermark has reached, then passes it on: `false`. `true`: there is more.
    fn fire(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        let Some(watermark) = self.passing else { return Ok(false) };
        at_work_on_any();
        let _at = self.core.parts.meter.enter();
        let now = self.now();
        let next = self.core.upcoming(watermark)?;
        if !self.fetch(&next, turn)? {
            return Ok(true);
        }
        let mut fired = 0;
        let mut budget = SNAPSHOT_BUDGET;
        loop {
            let core = &mut self.core;
            if !core.timers.ready(watermark.millis(), &mut budget)
                || !core.clock_timers.ready(watermark.millis(), &mut budget)
                || !core.expiries.ready(watermark.millis(), &mut budget)
            {
                self.core.push(turn)?;
                return Ok(true);
            }
            let due = if let Some(due) = self.due.take() {
                due
            } else if let Some((at, key)) = self.core.timers.pop(watermark.millis())? {
                (Domain::Event, at, key)
            } else if watermark == Timestamp::MAX
                && let Some((at, key)) = self.core.clock_timers.pop(i64::MAX)?
            {
                (Domain::Clock, at, key)
            } else if self.core.parts.timed
                && watermark != Timestamp::MAX
                && let Some((at, key)) = self.core.expiries.pop(watermark.millis())?
            {
                (Domain::Expiry, at, key)
            } else {
                break;
            };
            if !self.fire_one(due, now, turn)? {
                self.core.push(turn)?;
                return Ok(true);
            }
            fired += 1;
            if self.core.out.batch.len() >= BATCH_ROWS_MAX || fired >= FIRINGS_PER_TURN_MAX {
                self.core.push(turn)?;
                if turn.full || fired >= FIRINGS_PER_TURN_MAX {
                    return Ok(true);
                }
            }
        }
        self.core.push(turn)?;
        if turn.full {
            // Somebody downstream may have kept rows: the watermark must not overtake them.
            return Ok(true);
        }
        self.passing = None;
        self.core.pass(Mark::Watermark(watermark), turn)?;
        Ok(false)
    }

    /// Fires what the clock has reached: `true` when something was.
    fn tick(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        if self.due.is_some() {
            return self.fire_clock(turn);
        }
        let Some(first) = self.first_due()? else {
            self.sleep = None;
            return Ok(false);
        };
        let now = self.now();
        if first > now.millis() {
            if self.sleep.as_ref().is_none_or(|s| s.0 != first) {
                let wait = Duration::from_millis(first.saturating_sub(now.millis()).unsigned_abs());
                let sleep = self.core.parts.clock.sleep_until(self.core.parts.clock.now() + wait);
                self.sleep = Some((first, Box::pin(sleep)));
            }
            let woken = self.sleep.as_mut().is_some_and(|s| s.1.as_mut().poll(turn.task).is_ready());
            if woken {
                self.sleep = None;
            }
            return Ok(woken);
        }
        self.fire_clock(turn)
    }

    /// The first moment of the clock at which there is something to do.
    fn first_due(&mut self) -> Result<Option<i64>> {
        let expiry = if self.core.parts.timed { None } else { self.core.expiries.first()? };
        Ok([self.core.clock_timers.first()?, expiry].into_iter().flatten().min())
    }

    /// Fires some of what the clock has reached: `true` when something was.
    pub(crate) fn fire_clock(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        at_work_on_any();
        let _at = self.core.parts.meter.enter();
        let now = self.now();
        let next = self.core.upcoming_of_clock(now)?;
        if !self.fetch(&next, turn)? {
            return Ok(true);
        }
        let mut fired = false;
        let mut budget = SNAPSHOT_BUDGET;
        for _ in 0..FIRINGS_PER_TURN_MAX {
            let core = &mut self.core;
            if !core.clock_timers.ready(now.millis(), &mut budget)
                || !core.parts.timed && !core.expiries.ready(now.millis(), &mut budget)
            {
                fired = true;
                break;
            }
            let due = if let Some(due) = self.due.take() {
                due
            } else if let Some((at, key)) = self.core.clock_timers.pop(now.millis())? {
                (Domain::Clock, at, key)
            } else if !self.core.parts.timed
                && let Some((at, key)) = self.core.expiries.pop(now.millis())?
            {
                (Domain::Expiry, at, key)
            } else {
                break;
            };
            fired = true;
            if !self.fire_one(due, now, turn)? {
                break;
            }
            if self.core.out.batch.len() >= BATCH_ROWS_MAX {
                break;
            }
        }
        self.core.push(turn)?;
        Ok(fired)
    }

    /// Goes on with rows and timers of event time that were kept.
    pub(crate) fn resume_kept(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        if self.rows.len() > 0 {
            return self.run(turn).map(|_| true);
        }
        if self.passing.is_some() {
            return self.fire(turn).map(|_| true);
        }
        Ok(false)
    }

    /// The operator itself.
    pub(crate) fn into_work(self) -> O {
        self.core.parts.work
    }

    /// The side outputs, for tests to add theirs.
    pub(crate) const fn sides(&mut self) -> &mut Sides {
        &mut self.core.parts.sides
    }

    /// A barrier passes: what is remembered is written from now on, as it is now.
    fn save(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        let Some(snapshot) = &mut turn.snapshot else { return Ok(()) };
        let (operator, subtask) = (&self.core.parts.operator, self.core.parts.subtask);
        self.state.begin(snapshot)?;
        self.core.timers.begin()?;
        self.core.clock_timers.begin()?;
        self.core.expiries.begin()?;
        snapshot.put(operator, WATERMARK, subtask, 1, &self.core.watermark.millis())
    }
}

impl<T, F: KeyOf<T>, O: KeyedOperator<Key = F::Key, Input = T>> Stage<T> for ProcessStage<T, F, O> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.core.parts.meter.records_in(batch.len());
        std::mem::swap(&mut self.spare, batch);
        self.rows = std::mem::take(&mut self.spare.rows).into_iter();
        self.times = std::mem::take(&mut self.spare.times).into_iter();
        self.run(turn).map(|_| ())
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        match mark {
            Mark::Watermark(t) => {
                self.core.watermark = self.core.watermark.max(t);
                if t != Timestamp::MAX {
                    self.latest = self.latest.max(t.millis());
                }
                self.passing = Some(t);
                return self.fire(turn).map(|_| ());
            }
            Mark::Barrier(_) => self.save(turn)?,
            Mark::Idle | Mark::End => {}
        }
        self.core.pass(mark, turn)
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        for (_, side) in &mut self.core.parts.sides.gates {
            if side.poll_ready(turn)?.is_pending() {
                return Poll::Pending;
            }
        }
        self.core.parts.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.core.parts.next.resume(turn) {
            Poll::Ready(Ok(false)) => {}
            other => return other,
        }
        self.fetching = false;
        let more = self.resume_kept(turn)? || self.tick(turn)?;
        if self.fetching { Poll::Pending } else { Poll::Ready(Ok(more)) }
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        for (_, side) in &mut self.core.parts.sides.gates {
            side.flush(turn)?;
        }
        self.core.parts.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        if let Some(snapshot) = &mut turn.snapshot {
            let (operator, subtask) = (&self.core.parts.operator, self.core.parts.subtask);
            let _at = self.core.parts.meter.enter();
            let through = self.state.write(snapshot, operator, subtask, budget)?
                && self.core.timers.write(snapshot, operator, subtask, budget)?
                && self.core.clock_timers.write(snapshot, operator, subtask, budget)?
                && self.core.expiries.write(snapshot, operator, subtask, budget)?;
            if !through {
                return Ok(false);
            }
        }
        for (_, side) in &mut self.core.parts.sides.gates {
            if !side.poll_snapshot(turn, budget)? {
                return Ok(false);
            }
        }
        self.core.parts.next.poll_snapshot(turn, budget)
    }

    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        for (_, side) in &mut self.core.parts.sides.gates {
            side.completed(epoch, turn)?;
        }
        self.core.parts.next.completed(epoch, turn)
    }
}
