//! Keyed streams gathered in windows.

use std::marker::PhantomData;
use std::sync::Arc;

use afflux_wire::Status;
use parking_lot::Mutex;

use crate::aggregate::{Aggregate, MergeAggregate};
use crate::flow::Open;
use crate::graph::{Exchange, OperatorKind};
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::stage::Next;
use crate::stage::window::{
    Assign, Merge, MergeTables, WindowOperator, WindowParts, WindowRules, WindowStage, late_tag, merge_tables,
};
use crate::stream::{Record, Stream};
use crate::task::Chain;
use crate::window::{
    Firing, Global, LatePolicy, LateRows, NeverLate, NoPolicy, Panes, Session, Sliding, Trigger, Tumbling,
};

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
            `CountWindow::of(…).at_end(…)`"
)]
pub trait WindowKind {
    /// What is known of late records: no policy yet, or that there are none.
    type Policy;
}

impl WindowKind for Tumbling {
    type Policy = NoPolicy;
}
impl WindowKind for Sliding {
    type Policy = NoPolicy;
}
impl WindowKind for Session {
    type Policy = NoPolicy;
}
impl WindowKind for Global {
    type Policy = NeverLate;
}

/// A kind of windows that can run an aggregate. Implemented here only.
pub trait WindowFor<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>>: WindowKind {
    /// What a result is.
    type Output: 'static;
    #[doc(hidden)]
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<Self::Output>, LateRows<T>);
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

impl<T: Record, F: KeyOf<T>, W, L> Windowed<T, F, W, L> {
    pub(crate) const fn new(keyed: KeyedStream<T, F>, window: W) -> Self {
        Self { keyed, window, policy: PhantomData }
    }

    /// Aggregates the records of each key and window.
    ///
    /// Gives the stream of results, whose event time is the last moment of their window; and with
    /// [`Late::Side`](crate::Late::Side) the stream of late records beside it. The name identifies
    /// the state in checkpoints.
    pub fn aggregate<A>(self, name: &str, aggregate: A) -> L::Streams<T, W::Output>
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

impl<T: Record, F: KeyOf<T>, W> Windowed<T, F, W, NoPolicy> {
    /// Says what becomes of records that come after their window was purged.
    pub fn late<L: LatePolicy>(self, _: L) -> Windowed<T, F, W, L> {
        Windowed::new(self.keyed, self.window)
    }
}

impl<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>> WindowFor<T, F, A> for Global {
    type Output = A::Output;
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        parts.in_panes(None, None, "until the end")
    }
}

impl<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>> WindowFor<T, F, A> for Tumbling {
    type Output = A::Output;
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        let detail = format!("tumbling {} ms", self.size_ms());
        parts.in_panes(Some(Panes::new(self.size_ms(), self.size_ms())), None, &detail)
    }
}

impl<T: Record, F: KeyOf<T>, A: MergeAggregate<F::Key, T>> WindowFor<T, F, A> for Sliding {
    type Output = A::Output;
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        parts.refuse(self.wrong());
        let detail = format!("sliding {} ms every {} ms", self.size_ms, self.slide_ms);
        parts.in_panes(Some(self.panes()), Some(merge_tables::<F::Key, T, A>), &detail)
    }
}

impl<T: Record, F: KeyOf<T>, A: MergeAggregate<F::Key, T>> WindowFor<T, F, A> for Session {
    type Output = A::Output;
    fn run(self, parts: Aggregation<T, F, A>) -> (Stream<A::Output>, LateRows<T>) {
        let detail = format!("sessions, gap {} ms", self.gap_ms);
        let rules = WindowRules {
            assign: Assign::Session(self.gap_ms),
            by_clock: false,
            trigger: Trigger::event_time(),
            lateness: 0,
            aside: parts.aside,
        };
        parts.by_key(rules, Some(Merge { merge: A::merge }), |_, output| output, &detail)
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
                meter: cx.meter.operator(&operator),
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
                Ok(Box::new(Chain::new(Box::new(cx.forward_input::<T>(edge)?), first, &cx.report)))
            });
            Stream::new(flow, side, true, open)
        }));
        (results, late)
    }

    /// Record by record, with the windows of each key as its state.
    fn by_key<O: 'static>(
        self,
        rules: WindowRules,
        merge: Option<Merge<A, A::Acc>>,
        result: fn(Firing, A::Output) -> O,
        detail: &str,
    ) -> (Stream<O>, LateRows<T>) {
        let global = matches!(rules.assign, Assign::Global);
        if !global && !rules.by_clock {
            self.needs_time();
        }
        let detail = if global || rules.by_clock { detail.to_owned() } else { self.detail(detail) };
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
