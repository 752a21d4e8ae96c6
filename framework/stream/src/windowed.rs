//! Keyed streams gathered in windows.

mod shortcuts;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use afflux_wire::Status;
use parking_lot::Mutex;

use crate::aggregate::{Aggregate, MergeAggregate};
use crate::flow::Open;
use crate::graph::{Exchange, OperatorKind};
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::stage::Next;
use crate::stage::window::PANES;
use crate::stage::window::{
    Assign, CountOperator, Merge, MergeTables, WindowOperator, WindowParts, WindowRules, WindowStage,
    late_tag, merge_tables,
};
use crate::stream::{Record, Stream};
use crate::task::Chain;
use crate::time::millis;
use crate::window::{
    AtEnd, CountWindow, EventTime, Firing, Global, LatePolicy, LateRows, Marked, Marks, NeverLate, NoPolicy,
    Panes, ProcessingTime, Rules, Session, Sliding, Trigger, Triggered, Triggers, Tumbling,
    WindowDescription,
};

pub use shortcuts::Evicting;

/// A keyed stream gathered in windows `W`, with a policy `L` for late records.
#[must_use = "say `.late(…)` where time can be late, then `.aggregate(…)`"]
pub struct Windowed<T: 'static, F: KeyOf<T>, W, L = NoPolicy> {
    keyed: KeyedStream<T, F>,
    window: W,
    policy: PhantomData<L>,
}

/// A kind of windows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a kind of windows, or says too little of itself",
    note = "windows are `Tumbling::of(…)`, `Sliding::of(…).every(…)`, `Session::gap(…)`, `Global` and \
            `CountWindow::of(…).at_end(…)`: sliding windows say how far apart they begin, count windows what \
            becomes of the records that are left at the end"
)]
pub trait WindowKind {
    /// What is known of late records: no policy yet, or that there are none.
    type Policy;
    /// What a result is, of an aggregate that gives `O`: the same, or a pair with its
    /// [`Firing`].
    type Result<O: 'static>: 'static;
}

impl WindowKind for Tumbling {
    type Policy = NoPolicy;
    type Result<O: 'static> = O;
}
impl WindowKind for Sliding {
    type Policy = NoPolicy;
    type Result<O: 'static> = O;
}
impl WindowKind for Session {
    type Policy = NoPolicy;
    type Result<O: 'static> = O;
}
impl WindowKind for Global {
    type Policy = NeverLate;
    type Result<O: 'static> = O;
}
impl WindowKind for CountWindow<AtEnd> {
    type Policy = NeverLate;
    type Result<O: 'static> = O;
}
impl<W> WindowKind for ProcessingTime<W> {
    type Policy = NeverLate;
    type Result<O: 'static> = O;
}
impl<W: WindowKind, M: Marks> WindowKind for Triggered<W, M> {
    type Policy = W::Policy;
    type Result<O: 'static> = M::Output<O>;
}

/// A kind of windows that can run an aggregate. Implemented here only.
pub trait WindowFor<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>>: WindowKind {
    #[doc(hidden)]
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<Self::Result<A::Output>>, LateRows<T>);
}

/// What is aggregated, and how.
#[doc(hidden)]
pub struct Aggregation<T: 'static, F: KeyOf<T>, A> {
    keyed: KeyedStream<T, F>,
    name: String,
    aggregate: A,
    /// Whether late records go to a stream of their own.
    aside: bool,
}

impl<T: Record, F: KeyOf<T>, W: WindowKind, L> Windowed<T, F, W, L> {
    pub(crate) const fn new(keyed: KeyedStream<T, F>, window: W) -> Self {
        Self { keyed, window, policy: PhantomData }
    }

    /// Aggregates the records of each key and window.
    ///
    /// Gives the stream of results, whose event time is the last moment of their window; and with
    /// [`Late::Side`](crate::Late::Side) the stream of late records beside it. The name identifies
    /// the state in checkpoints.
    pub fn aggregate<A>(self, name: &str, aggregate: A) -> L::Streams<T, W::Result<A::Output>>
    where
        A: Aggregate<F::Key, T>,
        W: WindowFor<T, F, A>,
        L: LatePolicy,
    {
        let parts = Aggregation { keyed: self.keyed, name: name.to_owned(), aggregate, aside: L::ASIDE };
        let (results, late) = self.window.run(parts);
        L::streams(results, late)
    }
}

impl<T: Record, F: KeyOf<T>, W: WindowKind> Windowed<T, F, W, NoPolicy> {
    /// Says what becomes of records that come after their window was purged.
    pub fn late<L: LatePolicy>(self, _: L) -> Windowed<T, F, W, L> {
        Windowed::new(self.keyed, self.window)
    }
}

impl<T: Record, F: KeyOf<T>, W: Triggers + WindowKind, L> Windowed<T, F, W, L> {
    /// Says when a window gives a result: more than once, if need be. The aggregate must say how
    /// accumulators merge ([`MergeAggregate`]): a result is a copy of what the window has.
    ///
    /// With a trigger (or an allowed lateness) a record is taken into each of its windows by
    /// itself: overlapping windows share nothing then.
    ///
    /// ```
    /// use afflux_stream::{Every, Flow, Global, JobSettings, Trigger, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(100, |i| i))
    ///     .untimed()
    ///     .key_by(|i| i % 7)
    ///     .window(Global)
    ///     .trigger(Trigger::count(10).purging())
    ///     .sum("sums-of-ten", |i| *i)
    ///     .count("results");
    /// flow.finish().unwrap();
    /// ```
    pub fn trigger(self, trigger: Trigger) -> Windowed<T, F, Triggered<W::Base, W::Mark>, L> {
        let window = Triggered { trigger, ..self.window.triggered() };
        Windowed::new(self.keyed, window)
    }

    /// Keeps windows this long after their end for records that come late: each of them makes its
    /// window give a new result (unless the trigger says otherwise). Records that come later still
    /// meet the policy for late records. A result after the end has the event time of its window,
    /// behind the watermark: for windows downstream it is late.
    ///
    /// A session that a late record joins with others, or makes longer, gives its new result under
    /// its new bounds; what was given under the old ones is not taken back.
    pub fn allowed_lateness(self, lateness: Duration) -> Windowed<T, F, Triggered<W::Base, W::Mark>, L>
    where
        W::Base: EventTime,
    {
        let window = Triggered { lateness: millis(lateness), ..self.window.triggered() };
        Windowed::new(self.keyed, window)
    }

    /// Gives, with each result, which of its window's results it is: `(Firing, result)`.
    pub fn firings(self) -> Windowed<T, F, Triggered<W::Base, Marked>, L> {
        let Triggered { window, trigger, lateness, .. } = self.window.triggered();
        Windowed::new(self.keyed, Triggered { window, trigger, lateness, mark: PhantomData })
    }
}

impl<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>> WindowFor<T, F, A> for Global {
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        parts.in_panes(None, None, "until the end")
    }
}

impl<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>> WindowFor<T, F, A> for Tumbling {
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        let detail = format!("tumbling {} ms", self.size_ms());
        parts.in_panes(Some(Panes::new(self.size_ms(), self.size_ms())), None, &detail)
    }
}

impl<T: Record, F: KeyOf<T>, A: MergeAggregate<F::Key, T>> WindowFor<T, F, A> for Sliding {
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        parts.refuse(self.wrong());
        let detail = format!("sliding {} ms every {} ms", self.size_ms, self.slide_ms);
        parts.in_panes(Some(self.panes()), Some(merge_tables::<F::Key, T, A>), &detail)
    }
}

impl<T: Record, F: KeyOf<T>, A: MergeAggregate<F::Key, T>> WindowFor<T, F, A> for Session {
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        let merge = Merge { merge: A::merge };
        parts.by_key(self.describe(), Trigger::event_time(), 0, Some(merge), |_, output| output)
    }
}

impl<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>, W: Rules> WindowFor<T, F, A> for ProcessingTime<W> {
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        parts.by_key(self.describe(), Trigger::event_time(), 0, None, |_, output| output)
    }
}

impl<T: Record, F: KeyOf<T>, A, W: Rules + WindowKind, M: Marks> WindowFor<T, F, A> for Triggered<W, M>
where
    A: MergeAggregate<F::Key, T>,
{
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<M::Output<A::Output>>, LateRows<T>) {
        let merge = Merge { merge: A::merge };
        parts.by_key(self.window.describe(), self.trigger, self.lateness, Some(merge), M::mark)
    }
}

impl<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>> WindowFor<T, F, A> for CountWindow<AtEnd> {
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        parts.refuse(self.wrong());
        parts.keyed.flow().warn(
            &parts.name,
            "keeps up to a window of every key whose last window is not full; its state grows with the number of \
             keys. Use windows of time, or accept it for a bounded set of keys",
        );
        let detail = format!("{} records every {}", self.size, self.every);
        let aggregate = Arc::new(parts.aggregate);
        let (results, sides) = parts.keyed.operate_with_sides(&parts.name, &detail, move || CountOperator {
            aggregate: Arc::clone(&aggregate),
            window: self,
            types: PhantomData,
        });
        (results, LateRows(Box::new(move || sides.get(&late_tag::<T>()))))
    }
}

impl<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>> Aggregation<T, F, A> {
    fn refuse(&self, reason: Option<String>) {
        if let Some(reason) = reason {
            self.keyed.flow().refuse(Status::invalid(format!("`{}` {reason}", self.name)));
        }
    }

    fn needs_time(&self) {
        self.refuse((!self.keyed.is_timed()).then(|| {
            "gathers records in windows of event time, but its source has none: say `.watermarks(…)` instead of \
             `.untimed()`"
                .to_owned()
        }));
    }

    fn detail(&self, detail: &str) -> String {
        format!("{detail}, late {}", if self.aside { "aside" } else { "dropped" })
    }

    /// Whole batches at once, in tables for panes.
    fn in_panes(
        self,
        windows: Option<Panes>,
        merge: Option<MergeTables<F::Key, A, A::Acc>>,
        detail: &str,
    ) -> (Stream<A::Output>, LateRows<T>) {
        let (flow, chain) = (self.keyed.flow().clone(), self.keyed.chain());
        let detail = if windows.is_some() { self.detail(detail) } else { detail.to_owned() };
        flow.add_operator(&self.name, OperatorKind::Keyed, &detail, chain);
        flow.keeps::<(i64, F::Key, A::Acc)>(&self.name, PANES);
        if windows.is_some() {
            self.needs_time();
        }
        let (stream, key) = self.keyed.parts();
        let (operator, aggregate) = (self.name, Arc::new(self.aggregate));
        let before = stream.into_open();
        let late_edge = Arc::new(Mutex::new(None));
        let edge = Arc::clone(&late_edge);
        let open: Open<A::Output> = Arc::new(move |cx, next| {
            let edge = *edge.lock();
            let late = match edge {
                Some(edge) => Some(Box::new(cx.forward_output::<T>(edge)?) as Next<T>),
                None => None,
            };
            let parts = WindowParts {
                operator: operator.clone(),
                subtask: cx.subtask,
                parallelism: cx.parallelism(),
                key: Arc::clone(&key),
                aggregate: Arc::clone(&aggregate),
                windows,
                merge,
                late,
                watched: cx.watch.rows > 0,
                meter: cx.meter.operator(&operator),
                backend: cx.backend.clone(),
                next,
            };
            before(cx, Box::new(WindowStage::new(parts, cx.restore.as_deref())?))
        });
        let results = Stream::new(flow.clone(), chain, windows.is_some(), open);
        let late = LateRows(Box::new(move || {
            let side = flow.new_chain(flow.parallelism_of(chain));
            let edge = flow.new_edge(chain, side, Exchange::Forward);
            *late_edge.lock() = Some(edge);
            let open: Open<T> = Arc::new(move |cx, first| {
                Ok(Box::new(Chain::of_records(Box::new(cx.forward_input::<T>(edge)?), first, cx)?))
            });
            Stream::new(flow, side, true, open)
        }));
        (results, late)
    }

    /// Record by record, with the windows of each key as its state.
    fn by_key<O: 'static>(
        self,
        windows: WindowDescription,
        trigger: Trigger,
        lateness: i64,
        merge: Option<Merge<A, A::Acc>>,
        result: fn(Firing, A::Output) -> O,
    ) -> (Stream<O>, LateRows<T>) {
        let WindowDescription { assign, by_clock, detail, wrong } = windows;
        self.refuse(wrong);
        let global = matches!(assign, Assign::Global);
        if !global && !by_clock {
            self.needs_time();
        }
        if global && !trigger.purging {
            self.keyed.flow().warn(
                &self.name,
                "keeps one result for every key it has ever seen, up to the end of the input; its state grows with \
                 the number of keys. Use windows with an end, or accept it for a bounded set of keys",
            );
        }
        let detail = if global || by_clock { detail } else { self.detail(&detail) };
        let rules = WindowRules { assign, by_clock, trigger, lateness, aside: self.aside };
        let aggregate = Arc::new(self.aggregate);
        let (results, sides) = self.keyed.operate_with_sides(&self.name, &detail, move || WindowOperator {
            aggregate: Arc::clone(&aggregate),
            rules,
            merge,
            result,
            types: PhantomData,
        });
        (results, LateRows(Box::new(move || sides.get(&late_tag::<T>()))))
    }
}
