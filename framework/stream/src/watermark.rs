//! How a source's watermarks follow its records: strategies, idle splits, alignment, and the guard
//! against records from the future.
//!
//! Each split has a watermark of its own; the source's is the least of those that are not idle. A
//! bounded split at its end is finished (+∞).

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::flow::{Aside, Open};
use crate::gate::source::{Advance, TimePolicy};
use crate::graph::Exchange;
use crate::source::Source;
use crate::stream::{Record, SourceStream, Stream};
use crate::task::Chain;
use crate::time::{Event, Timestamp, millis};

/// Silence after which a split that is caught up holds no watermark back, unless a strategy says
/// otherwise.
pub const IDLE_AFTER_DEFAULT: Duration = Duration::from_secs(30);

/// Says how far the records of one split have come. Implemented by closures over the event times.
pub trait SplitWatermark: Send {
    /// Is shown the event times (milliseconds) of rows as they are read, in their order, and
    /// answers the moment before which no later record of the split happened. An answer below an
    /// earlier one changes nothing.
    fn advance(&mut self, times: &[i64]) -> Timestamp;
}

impl<F: FnMut(&[i64]) -> Timestamp + Send> SplitWatermark for F {
    fn advance(&mut self, times: &[i64]) -> Timestamp {
        self(times)
    }
}

/// Makes the strategy of each split.
pub(crate) type MakeSplitWatermark = Arc<dyn Fn() -> Box<dyn SplitWatermark> + Send + Sync>;

#[derive(Clone)]
enum Rule {
    Behind(Duration),
    Custom(MakeSplitWatermark),
}

/// How a source's watermarks follow its records; `G` says what becomes of records from the future.
///
/// Made by [`BoundedOutOfOrder::by`], [`Monotonous::times`] or [`Watermarks::with`].
///
/// ```
/// use afflux_stream::{Ahead, BoundedOutOfOrder, minutes, secs};
/// let strategy = BoundedOutOfOrder::by(secs(5))
///     .idle_after(secs(30))
///     .align(minutes(10))
///     .future(minutes(1), Ahead::Drop);
/// assert_eq!(strategy.bound(), Some(secs(5)));
/// ```
#[must_use = "give it to `.watermarks(…)`"]
pub struct Watermarks<G = NoGuard> {
    rule: Rule,
    idle_after: Option<Duration>,
    align: Option<Duration>,
    skew: Option<Duration>,
    guard: PhantomData<G>,
}

impl Watermarks {
    fn of(rule: Rule) -> Self {
        Self { rule, idle_after: Some(IDLE_AFTER_DEFAULT), align: None, skew: None, guard: PhantomData }
    }

    /// By code of the user's own; `make` is called once for every split. After a restore the split's
    /// watermark is what it was and `make` is called anew.
    ///
    /// ```
    /// use afflux_stream::{Timestamp, Watermarks};
    /// // Behind the latest record by a tenth of the span seen so far.
    /// let strategy = Watermarks::with(|| {
    ///     let (mut first, mut last) = (i64::MAX, i64::MIN);
    ///     move |times: &[i64]| {
    ///         for &time in times {
    ///             (first, last) = (first.min(time), last.max(time));
    ///         }
    ///         Timestamp::from_millis(last - (last - first) / 10)
    ///     }
    /// });
    /// assert_eq!(strategy.bound(), None);
    /// ```
    pub fn with<W: SplitWatermark + 'static>(make: impl Fn() -> W + Send + Sync + 'static) -> Self {
        Self::of(Rule::Custom(Arc::new(move || Box::new(make()))))
    }

    /// Diverts records whose event time is later than the node's clock by more than `skew`: they
    /// move no watermark and are not passed on. [`Ahead::Drop`] counts and drops them (metric
    /// `operator_future_records_total`), [`Ahead::Side`] counts them and makes them a second stream.
    pub fn future<G>(self, skew: Duration, _: G) -> Watermarks<G> {
        let Self { rule, idle_after, align, .. } = self;
        Watermarks { rule, idle_after, align, skew: Some(skew), guard: PhantomData }
    }
}

impl<G> Watermarks<G> {
    /// How far the watermark stays behind the latest record, where that is fixed.
    pub fn bound(&self) -> Option<Duration> {
        match self.rule {
            Rule::Behind(bound) => Some(bound),
            Rule::Custom(_) => None,
        }
    }

    /// A split whose reader has caught up with its input and that has been silent for this long
    /// holds no watermark back until its next record. [`IDLE_AFTER_DEFAULT`] unless said.
    pub fn idle_after(mut self, silence: Duration) -> Self {
        self.idle_after = Some(silence);
        self
    }

    /// A silent split holds the watermark for as long as it is silent.
    pub fn never_idle(mut self) -> Self {
        self.idle_after = None;
        self
    }

    /// Does not read a split whose records are ahead of the slowest split of the source by more than
    /// this span of event time, so that operators keep no more open than that. One batch (1,024
    /// records) may come on top. Compared are the splits of all tasks; how far those on other nodes
    /// are is up to half a second old, which holds a split too early and never too late.
    pub fn align(mut self, drift_max: Duration) -> Self {
        self.align = Some(drift_max);
        self
    }

    /// Kept for readers of a pipeline: a bounded split at its end is always finished (+∞).
    pub fn idle_at_end(self) -> Self {
        self
    }

    fn policy<T: 'static>(self, time_of: impl Fn(&T) -> Timestamp + Send + Sync + 'static) -> TimePolicy<T> {
        TimePolicy {
            time_of: Arc::new(move |rows: &[T], times: &mut Vec<i64>| {
                times.extend(rows.iter().map(|row| time_of(row).millis()));
            }),
            advance: match self.rule {
                Rule::Behind(bound) => Advance::Behind(millis(bound)),
                Rule::Custom(make) => Advance::Custom(make),
            },
            idle_after: self.idle_after,
            align_ms: self.align.map(millis),
            skew_ms: self.skew.map(millis),
        }
    }
}

/// A watermark behind the latest record by a fixed bound.
///
/// ```
/// use afflux_stream::{BoundedOutOfOrder, hours};
/// assert_eq!(BoundedOutOfOrder::by(hours(24)).bound(), Some(hours(24)));
/// ```
pub struct BoundedOutOfOrder;

impl BoundedOutOfOrder {
    /// No record is more than `bound` older than the latest one before it in its split.
    pub fn by(bound: Duration) -> Watermarks {
        Watermarks::of(Rule::Behind(bound))
    }
}

/// A watermark that is the latest record's time.
pub struct Monotonous;

impl Monotonous {
    /// No record is older than one before it in its split.
    pub fn times() -> Watermarks {
        BoundedOutOfOrder::by(Duration::ZERO)
    }
}

/// What to do with records from the future: see [`Watermarks::future`].
pub struct Ahead;

#[allow(non_upper_case_globals)] // read as the variants of a choice, but each has a type of its own
impl Ahead {
    /// Counts them and drops them.
    pub const Drop: DropAhead = DropAhead;
    /// Gives them to a second stream.
    pub const Side: SideAhead = SideAhead;
}

/// Records are believed whatever time they give.
#[derive(Clone, Copy, Debug)]
pub struct NoGuard;
/// See [`Ahead::Drop`].
#[derive(Clone, Copy, Debug)]
pub struct DropAhead;
/// See [`Ahead::Side`].
#[derive(Clone, Copy, Debug)]
pub struct SideAhead;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NoGuard {}
    impl Sealed for super::DropAhead {}
    impl Sealed for super::SideAhead {}
}

/// What a source of `T` gives under a guard: a stream, or also that of the records from the future.
pub trait Guard<T: 'static>: sealed::Sealed {
    /// What it gives.
    type Streams;
    #[doc(hidden)]
    fn open<S: Source<Item = T>>(source: SourceStream<S>, time: TimePolicy<T>) -> Self::Streams;
}

impl<T: 'static> Guard<T> for NoGuard {
    type Streams = Stream<T>;
    fn open<S: Source<Item = T>>(source: SourceStream<S>, time: TimePolicy<T>) -> Stream<T> {
        source.open(Some(time), None)
    }
}

impl<T: 'static> Guard<T> for DropAhead {
    type Streams = Stream<T>;
    fn open<S: Source<Item = T>>(source: SourceStream<S>, time: TimePolicy<T>) -> Stream<T> {
        source.open(Some(time), None)
    }
}

impl<T: Record> Guard<T> for SideAhead {
    type Streams = (Stream<T>, Stream<T>);
    fn open<S: Source<Item = T>>(source: SourceStream<S>, time: TimePolicy<T>) -> (Stream<T>, Stream<T>) {
        let flow = source.flow.clone();
        let side = flow.new_chain(flow.parallelism_of(source.chain));
        let edge = flow.new_edge(source.chain, side, Exchange::Forward);
        let aside: Aside<T> = Arc::new(move |cx| Ok(Box::new(cx.forward_output::<T>(edge)?)));
        let believed = source.open(Some(time), Some(aside));
        let open: Open<T> = Arc::new(move |cx, first| {
            Ok(Box::new(Chain::of_records(Box::new(cx.forward_input::<T>(edge)?), first, cx)?))
        });
        (believed, Stream::new(flow, side, true, open))
    }
}

impl<S: Source> SourceStream<S> {
    /// Takes event time from the records, with watermarks by this strategy, each split its own.
    pub fn watermarks<G: Guard<S::Item>>(self, strategy: Watermarks<G>) -> G::Streams
    where
        S::Item: Event,
    {
        self.watermarks_by(strategy, |row| row.event_time())
    }

    /// Takes event time from a closure, with watermarks by this strategy, each split its own.
    pub fn watermarks_by<G: Guard<S::Item>>(
        self,
        strategy: Watermarks<G>,
        time_of: impl Fn(&S::Item) -> Timestamp + Send + Sync + 'static,
    ) -> G::Streams {
        let policy = strategy.policy(time_of);
        G::open(self, policy)
    }

    /// Takes event time from a closure, and watermarks from records that carry one: `watermark_of`
    /// gives it. The strategy's bound means nothing then; idleness, alignment and guard hold.
    pub fn watermarks_in<G: Guard<S::Item>>(
        self,
        strategy: Watermarks<G>,
        time_of: impl Fn(&S::Item) -> Timestamp + Send + Sync + 'static,
        watermark_of: impl Fn(&S::Item) -> Option<Timestamp> + Send + Sync + 'static,
    ) -> G::Streams {
        let mut policy = strategy.policy(time_of);
        policy.advance = Advance::Carried(Arc::new(watermark_of));
        G::open(self, policy)
    }

    /// Records without event time: no windows over time behind it.
    pub fn untimed(self) -> Stream<S::Item> {
        self.open(None, None)
    }
}
