//! An operator in a test: rows and watermarks in, rows out, state and timers to look at.

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use afflux_actor::Clock;

use crate::Result;
use crate::batch::{Batch, Mark};
use crate::keyed::ByRef;
use crate::meter::Meter;
use crate::operator::{KeyedOperator, OperatorCx, Output, SideGate, SideTag, Sides};
use crate::snapshot::{Restore, TaskSnapshot};
use crate::stage::process::{ProcessParts, ProcessStage};
use crate::stage::{Next, Stage, Turn};
use crate::state::Backend;
use crate::time::{Timestamp, millis};

/// Runs an operator as a task runs it, without a pipeline around: for tests of operators.
///
/// Time stands still but for [`watermark`](Harness::watermark) and [`advance`](Harness::advance).
/// Moments are milliseconds since 1970-01-01T00:00:00Z.
///
/// ```
/// # use afflux_stream::{Harness, KeyedOperator, OperatorCx, Output, Result};
/// # struct Sum;
/// # impl KeyedOperator for Sum {
/// #     type Key = u32; type Input = u64; type Output = u64; type State = Option<u64>;
/// #     fn process(&mut self, state: &mut Option<u64>, row: u64, _: &mut OperatorCx<'_, u32>, out: &mut Output<u64>) -> Result<()> {
/// #         let sum = state.unwrap_or(0) + row; *state = Some(sum); out.emit(sum); Ok(())
/// #     }
/// # }
/// let mut sum = Harness::of(Sum);
/// sum.push(7, 1, 0).unwrap();
/// let snapshot = sum.snapshot(1).unwrap();
/// let mut restored = Harness::of(Sum).restored(snapshot).unwrap();
/// restored.push(7, 2, 0).unwrap();
/// assert_eq!(restored.take(), [3]);
/// assert_eq!(restored.state(&7), Some(&Some(3)));
/// ```
pub struct Harness<O: KeyedOperator> {
    stage: Under<O>,
    out: Rc<RefCell<Batch<O::Output>>>,
    marks: Rc<RefCell<Vec<Mark>>>,
    now: Arc<parking_lot::Mutex<SystemTime>>,
    sides: Vec<(&'static str, Box<dyn Any>)>,
    clock: Clock,
}

type Keyed<O> = (<O as KeyedOperator>::Key, <O as KeyedOperator>::Input);
type First<O> = fn(&Keyed<O>) -> &<O as KeyedOperator>::Key;
type Under<O> = ProcessStage<Keyed<O>, ByRef<First<O>, <O as KeyedOperator>::Key>, WithKey<O>>;

/// The operator on rows that carry their key beside them.
struct WithKey<O>(O);

impl<O: KeyedOperator> KeyedOperator for WithKey<O> {
    type Key = O::Key;
    type Input = (O::Key, O::Input);
    type Output = O::Output;
    type State = O::State;
    fn process(
        &mut self,
        state: &mut O::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, O::Key>,
        out: &mut Output<O::Output>,
    ) -> Result<()> {
        self.0.process(state, row.1, cx, out)
    }
    fn on_timer(
        &mut self,
        state: &mut O::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, O::Key>,
        out: &mut Output<O::Output>,
    ) -> Result<()> {
        self.0.on_timer(state, at, cx, out)
    }
    fn on_clock(
        &mut self,
        state: &mut O::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, O::Key>,
        out: &mut Output<O::Output>,
    ) -> Result<()> {
        self.0.on_clock(state, at, cx, out)
    }
}

/// Keeps what comes.
struct Keep<T> {
    rows: Rc<RefCell<Batch<T>>>,
    marks: Rc<RefCell<Vec<Mark>>>,
}

impl<T> Stage<T> for Keep<T> {
    fn batch(&mut self, batch: &mut Batch<T>, _: &mut Turn<'_, '_>) -> Result<()> {
        let mut rows = self.rows.borrow_mut();
        rows.rows.append(&mut batch.rows);
        rows.times.append(&mut batch.times);
        Ok(())
    }
    fn mark(&mut self, mark: Mark, _: &mut Turn<'_, '_>) -> Result<()> {
        self.marks.borrow_mut().push(mark);
        Ok(())
    }
    fn poll_ready(&mut self, _: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn resume(&mut self, _: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        Poll::Ready(Ok(false))
    }
    fn flush(&mut self, _: &mut Turn<'_, '_>) -> Result<()> {
        Ok(())
    }
    fn poll_snapshot(&mut self, _: &mut Turn<'_, '_>, _: &mut usize) -> Result<bool> {
        Ok(true)
    }
    fn completed(&mut self, _: u64, _: &mut Turn<'_, '_>) -> Result<()> {
        Ok(())
    }
}

impl<O: KeyedOperator> Harness<O> {
    /// The operator, with nothing remembered.
    #[allow(clippy::missing_panics_doc)] // opens without a checkpoint: nothing to fail
    pub fn of(operator: O) -> Self {
        let now = Arc::new(parking_lot::Mutex::new(SystemTime::UNIX_EPOCH));
        Self::open(operator, None, now).unwrap_or_else(|_| unreachable!("nothing is restored"))
    }

    /// The same operator, with what a snapshot remembers; to be called before anything else.
    ///
    /// # Errors
    /// `DATA_LOSS` when the snapshot holds other types.
    pub fn restored(self, snapshot: TaskSnapshot) -> Result<Self> {
        let operator = self.stage.into_work().0;
        Self::open(operator, Some(&Restore::new([snapshot])), self.now)
    }

    fn open(
        operator: O,
        restore: Option<&Restore>,
        now: Arc<parking_lot::Mutex<SystemTime>>,
    ) -> Result<Self> {
        let out = Rc::new(RefCell::new(Batch::default()));
        let marks = Rc::new(RefCell::new(Vec::new()));
        let first: First<O> = |row| &row.0;
        let wall = Arc::clone(&now);
        let clock = Clock::new(move || *wall.lock());
        let parts = ProcessParts {
            operator: "operator".to_owned(),
            subtask: 0,
            parallelism: 1,
            key: Arc::new(ByRef { f: first, key: PhantomData }),
            work: WithKey(operator),
            sides: Sides::default(),
            timed: true,
            clock: clock.clone(),
            meter: Arc::new(Meter::default()),
            backend: Backend::Memory,
            next: Box::new(Keep { rows: Rc::clone(&out), marks: Rc::clone(&marks) }),
        };
        Ok(Self { stage: ProcessStage::new(parts, restore)?, out, marks, now, sides: Vec::new(), clock })
    }

    fn turn<R>(&mut self, work: impl FnOnce(&mut Under<O>, &mut Turn<'_, '_>) -> Result<R>) -> Result<R> {
        let mut task = Context::from_waker(std::task::Waker::noop());
        let now = self.clock.now();
        let mut turn = Turn { task: &mut task, full: false, snapshot: None, now };
        let done = work(&mut self.stage, &mut turn)?;
        while self.stage.resume_kept(&mut turn)? {}
        Ok(done)
    }

    /// Hands the operator a record of a key with an event time.
    ///
    /// # Errors
    /// What the operator says.
    pub fn push(&mut self, key: O::Key, row: O::Input, at: i64) -> Result<()> {
        let mut batch = Batch { rows: vec![(key, row)], times: vec![at] };
        self.turn(|stage, turn| stage.batch(&mut batch, turn))
    }

    /// Moves the watermark.
    ///
    /// # Errors
    /// What the operator says in its timers.
    pub fn watermark(&mut self, at: i64) -> Result<()> {
        self.turn(|stage, turn| stage.mark(Mark::Watermark(Timestamp::from_millis(at)), turn))
    }

    /// Ends the input: the last watermark, then the end.
    ///
    /// # Errors
    /// What the operator says in its timers.
    pub fn end(&mut self) -> Result<()> {
        self.watermark(i64::MAX)?;
        self.turn(|stage, turn| stage.mark(Mark::End, turn))
    }

    /// Moves the clock and fires its timers.
    ///
    /// # Errors
    /// What the operator says in its timers.
    pub fn advance(&mut self, span: Duration) -> Result<()> {
        *self.now.lock() += span;
        self.turn(|stage, turn| {
            while stage.fire_clock(turn)? {}
            Ok(())
        })
    }

    /// Takes the rows that came out since the last time.
    pub fn take(&mut self) -> Vec<O::Output> {
        self.take_timed().into_iter().map(|row| row.0).collect()
    }

    /// Takes the rows that came out since the last time, with their event times.
    pub fn take_timed(&mut self) -> Vec<(O::Output, i64)> {
        let batch = self.out.take();
        batch.rows.into_iter().zip(batch.times).collect()
    }

    /// Reads a side output from now on; its rows are asked for with [`take_side`](Self::take_side).
    pub fn keep_side<T: 'static>(&mut self, tag: &SideTag<T>) {
        let rows = Rc::new(RefCell::new(Batch::<T>::default()));
        let next: Next<T> = Box::new(Keep { rows: Rc::clone(&rows), marks: Rc::default() });
        self.stage.sides().gates.push((tag.name(), Box::new(SideGate { rows: Batch::default(), next })));
        self.sides.push((tag.name(), Box::new(rows)));
    }

    /// Takes the rows of a side output that came since the last time.
    pub fn take_side<T: 'static>(&mut self, tag: &SideTag<T>) -> Vec<T> {
        let side = self.sides.iter().find(|side| side.0 == tag.name());
        let rows = side.and_then(|side| side.1.downcast_ref::<Rc<RefCell<Batch<T>>>>());
        rows.map(|rows| rows.take().rows).unwrap_or_default()
    }

    /// The state of a key.
    pub fn state(&self, key: &O::Key) -> Option<&O::State> {
        self.stage.state_of(key)
    }

    /// The timers of event time, earliest first.
    pub fn timers(&self) -> Vec<(i64, O::Key)> {
        self.stage.timers()
    }

    /// The watermark that came out last.
    pub fn passed(&self) -> Option<Timestamp> {
        self.marks.borrow().iter().rev().find_map(|m| match m {
            Mark::Watermark(t) => Some(*t),
            _ => None,
        })
    }

    /// What the operator saves at a barrier.
    ///
    /// # Errors
    /// When a value cannot be encoded.
    pub fn snapshot(&mut self, epoch: u64) -> Result<TaskSnapshot> {
        self.turn(|stage, turn| {
            turn.snapshot = Some(TaskSnapshot::new(epoch));
            stage.mark(Mark::Barrier(epoch), turn)?;
            while !stage.poll_snapshot(turn, &mut { usize::MAX })? {}
            Ok(turn.snapshot.take().unwrap_or_default())
        })
    }

    /// The time of the clock, as milliseconds since the beginning.
    pub fn now(&self) -> i64 {
        millis(self.now.lock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}
