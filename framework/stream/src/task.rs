//! A task: one chain of operators as one actor on a slot thread.
//!
//! Control (triggers, completed epochs, stop) comes through the mailbox; records come through the
//! input, which is read only when every output has room.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use afflux_actor::{Actor, Clock, Options, Restart, StopReason};
use afflux_wire::Status;
use afflux_wire::contract::{CallMeta, Cx, Mail, Panic};

use crate::Result;
use crate::batch::{Batch, Mark};
use crate::context::TaskContext;
use crate::gate::input::Input;
use crate::meter::{Doing, TaskMeter, culprit};
use crate::poison::{Kill, killed, show};
use crate::sink::LAST_EPOCH;
use crate::snapshot::{Increment, Part, TaskSnapshot, is_round};
use crate::spare::{self, Spare};
use crate::stage::sieve::sieved;
use crate::stage::{Next, SNAPSHOT_BUDGET, Turn};
use crate::stream::Record;

/// Longest stretch of work in one poll, so that a neighbour on the thread gets its turn.
const WORK_PER_POLL: Duration = Duration::from_micros(50);

/// Epochs whose barriers have passed and of which nobody has said that they are durable: with more, the first is
/// forgotten.
const EPOCHS_UNSAVED_MAX: usize = 16;

/// What a task tells its worker.
#[derive(Debug)]
pub enum TaskEvent {
    /// Its part of an epoch; without parts where the epoch is a round of confirmations.
    Snapshot(TaskSnapshot),
    /// All input read, all output written. What it leaves (where its splits ended, what its sink has yet to
    /// commit) is part of every later epoch. Where the job takes checkpoints by itself the task stays, and
    /// commits with the first such epoch that completes.
    Finished(TaskSnapshot),
    /// It stayed for the epoch that commits its last output, and has committed: there is no more to come.
    Closed,
    /// It cannot go on.
    Failed(Status),
    /// Something in it panicked.
    Panicked(Box<Kill>),
}

/// Takes what a task tells.
pub type TaskReport = Arc<dyn Fn(TaskEvent) + Send + Sync>;

/// Control messages of a task.
#[derive(Debug)]
pub enum TaskMail {
    /// A source starts this epoch.
    Trigger(u64),
    /// This epoch is durable everywhere.
    Completed(u64),
    /// What the task saved of this epoch could not be stored.
    Unstored(u64),
}

impl Mail for TaskMail {
    fn meta(&self) -> &CallMeta {
        static META: std::sync::LazyLock<CallMeta> = std::sync::LazyLock::new(CallMeta::default);
        &META
    }
    fn reject(self, _: Status) {}
}

/// A chain at work, its record types erased.
pub(crate) trait Work {
    /// One batch or mark. `Ready(true)`: the task has finished.
    fn poll(&mut self, turn: &mut Turn<'_, '_>, meter: &TaskMeter) -> Poll<Result<bool>>;
    /// Whether the last `Pending` was for want of room in the output.
    fn backpressured(&self) -> bool;
    /// How many snapshots have begun, and how many of them are complete.
    fn snapshots(&self) -> (u64, u64);
    /// What a finished task leaves to later epochs.
    fn last_words(&mut self, turn: &mut Turn<'_, '_>) -> Result<TaskSnapshot>;
    /// Whether a finished task stays until an epoch is durable that has its last words.
    fn stays(&self) -> bool;
    /// Ready when a finished task that stayed has committed its last output.
    fn poll_closed(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>>;
    fn trigger(&mut self, epoch: u64);
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()>;
    /// The next snapshot leaves nothing out.
    fn unstored(&mut self);
    /// How many records it has taken.
    fn rows(&self) -> u64;
}

/// An input and the stages it drives.
pub(crate) struct Chain<T> {
    pub(crate) input: Box<dyn Input<T>>,
    pub(crate) first: Next<T>,
    pub(crate) batch: Batch<T>,
    pub(crate) ending: bool,
    pub(crate) backpressured: bool,
    pub(crate) report: TaskReport,
    /// A barrier that the stages have and a sink has not yet confirmed.
    barrier: Option<u64>,
    /// The snapshot of the last barrier, until the stages have written all of it.
    snapshot: Option<TaskSnapshot>,
    /// What the next snapshot may leave out.
    increment: Increment,
    /// When its barrier passed, and how long that had waited for the slowest channel.
    since: Option<(Instant, Duration)>,
    /// A barrier that came meanwhile: it waits, and nothing is read behind it.
    waiting: Option<u64>,
    /// The last epoch whose barrier has passed.
    passed: u64,
    /// The last output is committed by an epoch behind the end.
    stays: bool,
    /// What stages save at the end, where it stays.
    last: Option<TaskSnapshot>,
    /// An epoch that has the last words is durable.
    durable: bool,
    /// Snapshots begun and told of.
    snapshots: (u64, u64),
    /// Records taken.
    rows: u64,
    /// Kept for the next snapshot.
    _spare: Arc<Spare>,
    /// How many had been when the barriers of epochs passed that are not known to be durable.
    unsaved: VecDeque<(u64, u64)>,
    meter: Arc<TaskMeter>,
}

impl<T> Chain<T> {
    pub(crate) fn new(input: Box<dyn Input<T>>, first: Next<T>, cx: &TaskContext) -> Self {
        Self {
            input,
            first,
            batch: Batch::default(),
            ending: false,
            backpressured: false,
            report: Arc::clone(&cx.report),
            barrier: None,
            snapshot: None,
            increment: if cx.settings.checkpoint_incremental { Increment::First } else { Increment::Never },
            since: None,
            waiting: None,
            passed: 0,
            stays: cx.settings.checkpoint_interval_ms > 0,
            last: None,
            durable: false,
            snapshots: (0, 0),
            rows: 0,
            _spare: spare::shared(),
            unsaved: VecDeque::new(),
            meter: Arc::clone(&cx.meter),
        }
    }

    /// What came in front of this barrier is not read again after a failure.
    fn saved(&mut self, epoch: u64) {
        while let Some((_, rows)) = self.unsaved.front().filter(|(passed, _)| *passed <= epoch) {
            self.meter.saved.store(*rows, Relaxed);
            self.unsaved.pop_front();
        }
    }

    /// A chain behind an exchange, whose records can be shown.
    pub(crate) fn of_records(input: Box<dyn Input<T>>, first: Next<T>, cx: &TaskContext) -> Result<Self>
    where
        T: Record,
    {
        Ok(Self::new(input, sieved(first, cx, Some(show))?, cx))
    }

    /// Ready when no barrier is held back.
    fn poll_barrier(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        while let Some(epoch) = self.barrier {
            let saves = !is_round(epoch);
            if saves {
                turn.snapshot = self.snapshot.take();
            }
            let resumed = self.first.resume(turn);
            if saves {
                self.snapshot = turn.snapshot.take();
            }
            match resumed? {
                Poll::Ready(false) => {
                    self.barrier = None;
                    if !saves {
                        let nothing = TaskSnapshot::new(epoch);
                        (self.report)(TaskEvent::Snapshot(nothing));
                    }
                }
                Poll::Ready(true) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Goes on with the snapshot of the last barrier and tells of it when all of it is there; `true` while
    /// the stages have more to write.
    fn write_snapshot(&mut self, turn: &mut Turn<'_, '_>, meter: &TaskMeter) -> Result<bool> {
        let Some(snapshot) = self.snapshot.take() else { return Ok(false) };
        let confirmed = self.barrier != Some(snapshot.epoch);
        turn.snapshot = Some(snapshot);
        let written = self.first.poll_snapshot(turn, &mut { SNAPSHOT_BUDGET })?;
        let snapshot = turn.snapshot.take();
        match snapshot {
            Some(snapshot) if written && confirmed => {
                self.snapshots.1 += 1;
                if let Some((since, align)) = self.since.take() {
                    let bytes = snapshot.parts.iter().map(Part::len).sum();
                    meter.snapshots.taken(align, turn.now.duration_since(since), bytes);
                    for later in snapshot.parts.iter().filter_map(|part| part.later.as_ref()) {
                        later.count(meter.snapshots.later());
                    }
                }
                (self.report)(TaskEvent::Snapshot(snapshot));
            }
            snapshot => self.snapshot = snapshot,
        }
        Ok(!written)
    }

    /// A barrier passes through the stages.
    fn pass(&mut self, epoch: u64, turn: &mut Turn<'_, '_>, meter: &TaskMeter) -> Result<()> {
        let saves = !is_round(epoch);
        let align = self.input.aligned_for();
        if saves {
            self.since = Some((turn.now, align));
            self.snapshots.0 += 1;
            turn.snapshot = Some(TaskSnapshot { increment: self.increment, ..TaskSnapshot::new(epoch) });
            if self.increment != Increment::Never {
                self.increment = Increment::Since(epoch);
            }
            self.passed = epoch;
            if self.unsaved.len() == EPOCHS_UNSAVED_MAX {
                // It was given up: a later one says more.
                self.unsaved.pop_front();
            }
            self.unsaved.push_back((epoch, self.rows));
        }
        self.input.barrier(epoch);
        self.input.save(turn)?;
        self.first.mark(Mark::Barrier(epoch), turn)?;
        if saves {
            self.snapshot = turn.snapshot.take();
        }
        self.barrier = Some(epoch);
        self.backpressured = self.poll_barrier(turn)?.is_pending();
        self.write_snapshot(turn, meter).map(|_| ())
    }

    /// Nothing can be done but to go on with a snapshot, where one is `writing`.
    const fn wait(writing: bool) -> Poll<Result<bool>> {
        if writing { Poll::Ready(Ok(false)) } else { Poll::Pending }
    }
}

impl<T> Work for Chain<T> {
    fn poll(&mut self, turn: &mut Turn<'_, '_>, meter: &TaskMeter) -> Poll<Result<bool>> {
        self.backpressured = false;
        turn.full = false;
        let held = self.poll_barrier(turn)?.is_pending();
        let writing = self.write_snapshot(turn, meter)?;
        if held || self.first.poll_ready(turn)?.is_pending() {
            self.backpressured = true;
            return Self::wait(writing);
        }
        turn.snapshot = self.last.take();
        let resumed = self.first.resume(turn);
        self.last = turn.snapshot.take();
        match resumed? {
            Poll::Pending => {
                self.backpressured = true;
                return Self::wait(writing);
            }
            Poll::Ready(true) => return Poll::Ready(Ok(false)),
            Poll::Ready(false) if writing && (self.ending || self.waiting.is_some()) => {
                return Poll::Ready(Ok(false));
            }
            Poll::Ready(false) if self.ending => return Poll::Ready(Ok(true)),
            Poll::Ready(false) => {}
        }
        if let Some(epoch) = self.waiting.take() {
            self.pass(epoch, turn, meter)?;
            return Poll::Ready(Ok(false));
        }
        match self.input.poll_next(&mut self.batch, turn)? {
            Poll::Pending => {
                self.first.flush(turn)?;
                Self::wait(writing)
            }
            Poll::Ready(None) => {
                self.rows += self.batch.len() as u64;
                meter.taken.store(self.rows, Relaxed);
                self.first.batch(&mut self.batch, turn)?;
                self.batch.clear();
                Poll::Ready(Ok(false))
            }
            Poll::Ready(Some(mark)) => {
                match mark {
                    Mark::Barrier(epoch) if writing && !is_round(epoch) => self.waiting = Some(epoch),
                    Mark::Barrier(epoch) => self.pass(epoch, turn, meter)?,
                    Mark::Watermark(t) => {
                        meter.watermark_ms.store(t.millis(), Relaxed);
                        self.first.mark(mark, turn)?;
                    }
                    Mark::End => {
                        self.ending = true;
                        if self.stays {
                            self.input.barrier(LAST_EPOCH);
                            self.last = Some(TaskSnapshot::default());
                        }
                        self.first.mark(mark, turn)?;
                    }
                    Mark::Idle => self.first.mark(mark, turn)?,
                }
                Poll::Ready(Ok(false))
            }
        }
    }

    fn backpressured(&self) -> bool {
        self.backpressured
    }
    fn snapshots(&self) -> (u64, u64) {
        self.snapshots
    }
    fn last_words(&mut self, turn: &mut Turn<'_, '_>) -> Result<TaskSnapshot> {
        turn.snapshot = Some(self.last.take().unwrap_or_default());
        self.input.save(turn)?;
        Ok(turn.snapshot.take().unwrap_or_default())
    }
    fn stays(&self) -> bool {
        self.stays
    }
    fn poll_closed(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        loop {
            let more = ready!(self.first.resume(turn))?;
            if !more {
                return if self.durable { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }
    fn trigger(&mut self, epoch: u64) {
        if !self.ending {
            self.input.trigger(epoch);
        }
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        // An epoch without a barrier that passed here began behind the end: it has the last words.
        if self.stays && self.ending && !is_round(epoch) && epoch > self.passed {
            self.meter.saved.store(self.rows, Relaxed);
            if !std::mem::replace(&mut self.durable, true) {
                self.input.completed(LAST_EPOCH);
            }
        } else {
            if !is_round(epoch) {
                self.saved(epoch);
            }
            self.input.completed(epoch);
        }
        self.first.completed(epoch, turn)
    }
    fn unstored(&mut self) {
        if self.increment != Increment::Never {
            self.increment = Increment::First;
        }
    }
    fn rows(&self) -> u64 {
        self.rows
    }
}

/// A panic in a task that had taken so many records.
pub(crate) fn panicked(payload: &(dyn Any + Send), meter: &TaskMeter, rows: u64) -> Kill {
    let Panic { message } = Panic::from_payload(payload);
    killed(culprit(), meter.names(), &message, rows, meter.shows())
}

/// Why a task cannot go on.
enum End {
    Error(Status),
    Panic(Box<Kill>),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Error(status)
    }
}

/// The actor around a chain.
pub(crate) struct Task {
    work: Box<dyn Work>,
    meter: Arc<TaskMeter>,
    report: TaskReport,
    clock: Clock,
    doing: Doing,
    since: Instant,
    finished: bool,
    /// It has finished, and waits for the epoch that commits its last output.
    staying: bool,
    /// The longest turn of all, and since the barrier of the last snapshot.
    longest: (Duration, Duration),
}

impl Task {
    pub(crate) fn new(work: Box<dyn Work>, meter: Arc<TaskMeter>, report: TaskReport, clock: Clock) -> Self {
        let since = clock.now();
        Self {
            work,
            meter,
            report,
            clock,
            doing: Doing::Idle,
            since,
            finished: false,
            staying: false,
            longest: Default::default(),
        }
    }

    fn account(&mut self, busy_from: Instant, now: Instant, doing: Doing) {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let time = &self.meter.time;
        let waited = ns(busy_from.duration_since(self.since));
        match self.doing {
            Doing::Idle | Doing::Busy => time.idle_ns.fetch_add(waited, Relaxed),
            Doing::Backpressured => time.backpressured_ns.fetch_add(waited, Relaxed),
        };
        time.busy_ns.fetch_add(ns(now.duration_since(busy_from)), Relaxed);
        self.since = now;
        self.doing = doing;
        time.doing(doing);
    }

    /// Runs what may panic; a panic becomes an error that names the operator, where it is known.
    fn guarded<R>(
        &mut self,
        work: impl FnOnce(&mut dyn Work, &TaskMeter) -> R,
    ) -> std::result::Result<R, End> {
        let (chain, meter) = (&mut *self.work, &*self.meter);
        let done = catch_unwind(AssertUnwindSafe(|| work(chain, meter)));
        done.map_err(|payload| End::Panic(Box::new(panicked(&*payload, meter, self.work.rows()))))
    }

    /// Ready when a task that stayed has committed its last output.
    fn poll_closed(&mut self, task: &mut Context<'_>) -> Poll<std::result::Result<(), StopReason>> {
        let mut turn = Turn { task, full: false, snapshot: None, now: self.clock.now() };
        match self.guarded(|work, _| work.poll_closed(&mut turn)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => {
                self.staying = false;
                (self.report)(TaskEvent::Closed);
                Poll::Ready(Err(StopReason::Finished))
            }
            Ok(Poll::Ready(Err(status))) => self.fail(status.into()),
            Err(end) => self.fail(end),
        }
    }

    /// Counts how long one turn took, in which these snapshots were begun and told of before and after.
    fn took(&mut self, turn: Duration, before: (u64, u64)) {
        if turn > self.longest.0 {
            self.longest.0 = turn;
            self.meter.snapshots.turn(turn);
        }
        let after = self.work.snapshots();
        if after.0 > before.1 {
            self.longest.1 = self.longest.1.max(turn);
            if after.1 > before.1 {
                self.meter.snapshots.pause(std::mem::take(&mut self.longest.1));
            }
        }
    }

    fn fail(&mut self, end: End) -> Poll<std::result::Result<(), StopReason>> {
        self.finished = true;
        self.staying = false;
        Poll::Ready(Err(StopReason::Failed(self.tell(end))))
    }

    /// Tells of the end.
    fn tell(&self, end: End) -> Status {
        match end {
            End::Error(status) => {
                (self.report)(TaskEvent::Failed(status.clone()));
                status
            }
            End::Panic(kill) => {
                let status = Status::internal(kill.to_string());
                (self.report)(TaskEvent::Panicked(kill));
                status
            }
        }
    }
}

impl Actor for Task {
    type Mail = TaskMail;
    const KIND: &'static str = "task";

    fn options() -> Options {
        Options { restart: Restart::temporary(), ..Options::default() }
    }

    async fn handle(&mut self, _: &mut Cx, mail: TaskMail) -> std::result::Result<(), Panic> {
        match mail {
            TaskMail::Trigger(epoch) => self.work.trigger(epoch),
            TaskMail::Unstored(epoch) => {
                tracing::debug!(epoch, "the next snapshot is a whole one");
                self.work.unstored();
            }
            TaskMail::Completed(epoch) => {
                let waker = futures_util::task::noop_waker();
                let mut task = Context::from_waker(&waker);
                let mut turn = Turn { task: &mut task, full: false, snapshot: None, now: self.clock.now() };
                let completed = self.guarded(|work, _| work.completed(epoch, &mut turn));
                if let Err(end) = completed.and_then(|done| done.map_err(End::from)) {
                    self.tell(end);
                }
            }
        }
        Ok(())
    }

    fn poll_work(&mut self, _: &mut Cx, task: &mut Context<'_>) -> Poll<std::result::Result<(), StopReason>> {
        if self.staying {
            return self.poll_closed(task);
        }
        if self.finished {
            return Poll::Pending;
        }
        let start = self.clock.now();
        self.meter.time.doing(Doing::Busy);
        let mut now = start;
        loop {
            let mut turn = Turn { task, full: false, snapshot: None, now };
            let (began, snapshots) = (now, self.work.snapshots());
            let polled = match self.guarded(|work, meter| work.poll(&mut turn, meter)) {
                Ok(polled) => polled,
                Err(end) => return self.fail(end),
            };
            now = self.clock.now();
            self.took(now.duration_since(began), snapshots);
            match polled {
                Poll::Ready(Ok(false)) => {
                    if now.duration_since(start) >= WORK_PER_POLL {
                        self.account(start, now, Doing::Idle);
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Ok(true)) => {
                    self.account(start, now, Doing::Idle);
                    let mut turn = Turn { task, full: false, snapshot: None, now };
                    let last = match self.guarded(|work, _| work.last_words(&mut turn)) {
                        Ok(Ok(last)) => last,
                        Ok(Err(status)) => return self.fail(status.into()),
                        Err(end) => return self.fail(end),
                    };
                    self.finished = true;
                    self.staying = self.work.stays();
                    (self.report)(TaskEvent::Finished(last));
                    if self.staying {
                        return Poll::Pending;
                    }
                    return Poll::Ready(Err(StopReason::Finished));
                }
                Poll::Ready(Err(status)) => return self.fail(status.into()),
                Poll::Pending => {
                    let doing = if self.work.backpressured() { Doing::Backpressured } else { Doing::Idle };
                    self.account(start, now, doing);
                    return Poll::Pending;
                }
            }
        }
    }
}
