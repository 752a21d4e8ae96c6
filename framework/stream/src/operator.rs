//! What a keyed operator is: state of one key, timers of one key, rows in and rows out.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Result;
use crate::batch::{Batch, Mark};
use crate::context::TaskContext;
use crate::flow::{Flow, Open};
use crate::graph::Exchange;
use crate::key::Key;
use crate::stage::{Next, Stage, Turn};
use crate::state::State;
use crate::stream::{Record, Stream};
use crate::task::Chain;
use crate::time::{Timestamp, millis};
use crate::timers::Timers;

/// An operator on a keyed stream. `derive(Operator)` writes it for a struct that implements
/// `Process`; the windows, joins and patterns of this crate implement it themselves.
///
/// One value serves one task and sees one key at a time: its state is handed in, timers and side
/// outputs are asked for through [`OperatorCx`]. All of it is part of checkpoints; fields of the
/// operator itself are not.
///
/// ```
/// use afflux_stream::{Harness, KeyedOperator, OperatorCx, Output, Result, Timestamp, millis_of};
/// /// Emits a key's count when it was silent for a second.
/// struct Bursts;
/// impl KeyedOperator for Bursts {
///     type Key = String;
///     type Input = u64;
///     type Output = (String, u64);
///     type State = Option<(u64, Timestamp)>;
///     fn process(&mut self, state: &mut Self::State, row: u64, cx: &mut OperatorCx<'_, String>, _: &mut Output<(String, u64)>) -> Result<()> {
///         let (sum, ends) = state.take().unwrap_or_default();
///         cx.delete_timer(ends);
///         let ends = cx.time().unwrap_or_default() + millis_of(1_000);
///         cx.timer_at(ends);
///         *state = Some((sum + row, ends));
///         Ok(())
///     }
///     fn on_timer(&mut self, state: &mut Self::State, _: Timestamp, cx: &mut OperatorCx<'_, String>, out: &mut Output<(String, u64)>) -> Result<()> {
///         if let Some((sum, _)) = state.take() {
///             out.emit((cx.key().clone(), sum));
///         }
///         Ok(())
///     }
/// }
/// let mut bursts = Harness::of(Bursts);
/// bursts.push("a".into(), 3, 0).unwrap();
/// bursts.push("a".into(), 4, 900).unwrap();
/// bursts.watermark(1_899).unwrap();
/// assert!(bursts.take().is_empty());
/// bursts.watermark(1_900).unwrap();
/// assert_eq!(bursts.take(), [("a".to_string(), 7)]);
/// ```
pub trait KeyedOperator: 'static {
    /// What records are grouped by.
    type Key: Key;
    /// What comes in.
    type Input: 'static;
    /// What goes out.
    type Output: 'static;
    /// What is remembered of a key.
    type State: State;

    /// Takes one record of a key.
    ///
    /// # Errors
    /// Fails the pipeline, with the operator's name in front.
    fn process(
        &mut self,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, Self::Key>,
        out: &mut Output<Self::Output>,
    ) -> Result<()>;

    /// The watermark has reached a moment that was asked for with [`OperatorCx::timer_at`].
    ///
    /// # Errors
    /// As [`process`](Self::process).
    fn on_timer(
        &mut self,
        _state: &mut Self::State,
        _at: Timestamp,
        _cx: &mut OperatorCx<'_, Self::Key>,
        _out: &mut Output<Self::Output>,
    ) -> Result<()> {
        Ok(())
    }

    /// The clock has reached a moment that was asked for with [`OperatorCx::clock_timer_at`], or
    /// the input has ended before.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    fn on_clock(
        &mut self,
        _state: &mut Self::State,
        _at: Timestamp,
        _cx: &mut OperatorCx<'_, Self::Key>,
        _out: &mut Output<Self::Output>,
    ) -> Result<()> {
        Ok(())
    }
}

/// What an operator may ask while it has a record or a timer of one key.
pub struct OperatorCx<'a, K> {
    pub(crate) key: &'a K,
    pub(crate) time: Option<Timestamp>,
    pub(crate) watermark: Timestamp,
    pub(crate) now: Timestamp,
    pub(crate) subtask: u32,
    pub(crate) timers: &'a mut Timers<K>,
    pub(crate) clock: &'a mut Timers<K>,
    pub(crate) sides: &'a mut Sides,
    pub(crate) late: &'a mut usize,
}

impl<K: Key> OperatorCx<'_, K> {
    /// The current key.
    pub const fn key(&self) -> &K {
        self.key
    }
    /// The event time of the record, or the moment of the timer; none where the stream has no
    /// event time.
    pub const fn time(&self) -> Option<Timestamp> {
        self.time
    }
    /// No record with an earlier event time comes any more, unless it is late.
    pub const fn watermark(&self) -> Timestamp {
        self.watermark
    }
    /// The calendar time of the injected clock, read once a batch.
    pub const fn now(&self) -> Timestamp {
        self.now
    }
    /// Which of the parallel tasks this is.
    pub const fn subtask(&self) -> u32 {
        self.subtask
    }
    /// Asks to be called when the watermark reaches this moment; once a key and moment.
    pub fn timer_at(&mut self, at: Timestamp) {
        self.timers.set(at.millis(), self.key);
    }
    /// Takes back what was asked with [`timer_at`](Self::timer_at); nothing if it was not.
    pub fn delete_timer(&mut self, at: Timestamp) {
        self.timers.remove(at.millis(), self.key);
    }
    /// Asks to be called when the clock reaches this moment; once a key and moment. When the
    /// input ends, what was asked for fires at once.
    pub fn clock_timer_at(&mut self, at: Timestamp) {
        self.clock.set(at.millis(), self.key);
    }
    /// Takes back what was asked with [`clock_timer_at`](Self::clock_timer_at).
    pub fn delete_clock_timer(&mut self, at: Timestamp) {
        self.clock.remove(at.millis(), self.key);
    }
    /// Asks to be called after this long by the clock.
    pub fn clock_timer_in(&mut self, span: Duration) {
        self.clock_timer_at(Timestamp::from_millis(self.now.millis().saturating_add(millis(span))));
    }
    /// Gives a row to a side output. Nobody reading it, the row is dropped and counted.
    pub fn side<T: 'static>(&mut self, tag: &SideTag<T>, row: T) {
        let time = self.time.map(Timestamp::millis);
        self.sides.push(tag, row, time);
    }
    /// Counts the record as too late and dropped.
    pub const fn count_late(&mut self) {
        *self.late += 1;
    }
}

/// The rows that an operator makes.
pub struct Output<T> {
    pub(crate) batch: Batch<T>,
    pub(crate) time: Option<i64>,
}

impl<T> Output<T> {
    /// Emits a row, with the event time of the record or timer at work.
    #[inline]
    pub fn emit(&mut self, row: T) {
        self.batch.push(row, self.time);
    }
    /// Emits a row with another event time; the time means nothing where the stream has none.
    #[inline]
    pub fn emit_at(&mut self, row: T, time: Timestamp) {
        self.batch.push(row, self.time.map(|_| time.millis()));
    }
}

/// Names a side output and the type of its rows.
///
/// ```
/// use afflux_stream::SideTag;
/// const TOO_LARGE: SideTag<u64> = SideTag::new("too-large");
/// assert_eq!(TOO_LARGE.name(), "too-large");
/// ```
pub struct SideTag<T> {
    name: &'static str,
    row: PhantomData<fn() -> T>,
}

impl<T> SideTag<T> {
    /// A side output of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, row: PhantomData }
    }
    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A side output at work, its row type erased.
pub(crate) trait AnySide {
    fn as_any(&mut self) -> &mut dyn Any;
    fn push(&mut self, turn: &mut Turn<'_, '_>) -> Result<()>;
    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()>;
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>>;
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()>;
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool>;
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()>;
}

pub(crate) struct SideGate<T> {
    pub(crate) rows: Batch<T>,
    pub(crate) next: Next<T>,
}

impl<T: 'static> AnySide for SideGate<T> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
    fn push(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.next.batch(&mut self.rows, turn)
    }
    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.push(turn)?;
        self.next.mark(mark, turn)
    }
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.next.poll_ready(turn)
    }
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.push(turn)?;
        self.next.flush(turn)
    }
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        self.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.completed(epoch, turn)
    }
}

/// The side outputs of an operator that somebody reads.
#[derive(Default)]
pub(crate) struct Sides {
    pub(crate) gates: Vec<(&'static str, Box<dyn AnySide>)>,
    /// Rows for side outputs that nobody reads.
    pub(crate) unread: usize,
}

impl Sides {
    fn push<T: 'static>(&mut self, tag: &SideTag<T>, row: T, time: Option<i64>) {
        for (name, gate) in &mut self.gates {
            if *name == tag.name
                && let Some(gate) = gate.as_any().downcast_mut::<SideGate<T>>()
            {
                gate.rows.push(row, time);
                return;
            }
        }
        self.unread += 1;
    }
}

type SideMaker = Box<dyn Fn(&TaskContext) -> Result<Box<dyn AnySide>> + Send + Sync>;

/// Side outputs while a pipeline is built; shared with the operator's factory.
#[derive(Default)]
pub(crate) struct SideMakers(Mutex<Vec<(&'static str, SideMaker)>>);

impl SideMakers {
    pub(crate) fn open(&self, cx: &TaskContext) -> Result<Sides> {
        let makers = self.0.lock();
        let gates = makers.iter().map(|(name, make)| Ok((*name, make(cx)?))).collect::<Result<_>>()?;
        Ok(Sides { gates, unread: 0 })
    }
}

/// The side outputs of an operator, to be taken as streams.
#[must_use = "take each side output with `.get(&TAG)`"]
pub struct SideOutputs {
    pub(crate) flow: Flow,
    pub(crate) chain: u32,
    pub(crate) timed: bool,
    pub(crate) makers: Arc<SideMakers>,
}

impl SideOutputs {
    /// The rows that the operator gave to this side output.
    pub fn get<T: Record>(&self, tag: &SideTag<T>) -> Stream<T> {
        let flow = &self.flow;
        let side = flow.new_chain(flow.parallelism_of(self.chain));
        let edge = flow.new_edge(self.chain, side, Exchange::Forward);
        let maker: SideMaker = Box::new(move |cx| {
            let gate = cx.forward_output::<T>(edge)?;
            Ok(Box::new(SideGate { rows: Batch::default(), next: Box::new(gate) as Box<dyn Stage<T>> }))
        });
        self.makers.0.lock().push((tag.name, maker));
        let open: Open<T> = Arc::new(move |cx, first| {
            Ok(Box::new(Chain::of_records(Box::new(cx.forward_input::<T>(edge)?), first, cx)?))
        });
        Stream::new(flow.clone(), side, self.timed, open)
    }
}
