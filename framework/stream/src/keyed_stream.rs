//! Streams grouped by key.

use std::marker::PhantomData;
use std::sync::Arc;

use afflux_wire::Status;

use crate::aggregate::Aggregate;
use crate::flow::Open;
use crate::gate::partition::{ByKey, Routing};
use crate::graph::{Exchange, OperatorKind};
use crate::keyed::KeyOf;
use crate::operator::{KeyedOperator, SideMakers, SideOutputs};
use crate::stage::Next;
use crate::stage::process::{ProcessParts, ProcessStage};
use crate::stage::reduce::Reduce;
use crate::stage::window::{WindowParts, WindowStage};
use crate::stream::{Record, Stream};
use crate::task::Chain;
use crate::window::{DropLate, Global, SideLate, Tumbling};

/// A stream grouped by key: all records of a key meet in one task.
#[must_use = "a keyed stream does nothing until an operator is put on it"]
pub struct KeyedStream<T: 'static, F: KeyOf<T>> {
    stream: Stream<T>,
    key: Arc<F>,
    /// Whether the records of a key are in one task already.
    grouped: bool,
}

impl<T: Record, F: KeyOf<T>> KeyedStream<T, F> {
    pub(crate) fn new(stream: Stream<T>, key: F) -> Self {
        Self { stream, key: Arc::new(key), grouped: false }
    }

    /// A stream that is grouped by this key already.
    pub(crate) fn grouped(stream: Stream<T>, key: Arc<F>) -> Self {
        Self { stream, key, grouped: true }
    }

    pub(crate) fn parts(self) -> (Stream<T>, Arc<F>) {
        (self.stream, self.key)
    }

    /// Sends the records of each key to one task.
    pub(crate) fn group(self) -> Self {
        if self.grouped {
            return self;
        }
        let routing = Arc::clone(&self.key);
        let to = self.stream.flow.width_behind(self.stream.chain);
        let stream = self
            .stream
            .exchange(to, Exchange::Hash, move || Routing::Split(Box::new(ByKey::new(Arc::clone(&routing)))));
        Self { stream, key: self.key, grouped: true }
    }

    /// Runs an operator of one's own on each key. The name identifies its state in checkpoints;
    /// `make` makes the operator of each task.
    pub fn operate<O>(
        self,
        name: &str,
        detail: &str,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> Stream<O::Output>
    where
        O: KeyedOperator<Key = F::Key, Input = T>,
    {
        self.operate_with_sides(name, detail, make).0
    }

    /// The same, with the side outputs of the operator, each to be taken by its tag.
    pub fn operate_with_sides<O>(
        self,
        name: &str,
        detail: &str,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> (Stream<O::Output>, SideOutputs)
    where
        O: KeyedOperator<Key = F::Key, Input = T>,
    {
        let this = self.group();
        let Stream { flow, chain, timed, .. } = &this.stream;
        let (flow, chain, timed) = (flow.clone(), *chain, *timed);
        flow.add_operator(name, OperatorKind::Keyed, detail, chain);
        let makers = Arc::new(SideMakers::default());
        let sides = SideOutputs { flow: flow.clone(), chain, timed, makers: Arc::clone(&makers) };
        let (operator, key, before) = (name.to_owned(), this.key, this.stream.into_open());
        let open: Open<O::Output> = Arc::new(move |cx, next| {
            let parts = ProcessParts {
                operator: operator.clone(),
                subtask: cx.subtask,
                parallelism: cx.parallelism(),
                key: Arc::clone(&key),
                work: make(),
                sides: makers.open(cx)?,
                timed,
                clock: cx.clock.clone(),
                meter: cx.meter.operator(&operator),
                next,
            };
            before(cx, Box::new(ProcessStage::new(parts, cx.restore.as_deref())?))
        });
        (Stream::new(flow, chain, timed, open), sides)
    }

    /// Gathers the records of each key in windows.
    pub fn window<W>(self, window: W) -> Windowed<T, F, W> {
        Windowed { keyed: self.group(), window, policy: PhantomData }
    }

    /// Folds the records of each key into one: every record yields the new value.
    pub fn reduce<R>(self, name: &str, reduce: R) -> Stream<T>
    where
        T: Clone,
        R: Fn(T, T) -> T + Send + Sync + 'static,
    {
        let this = self.group();
        let Stream { flow, chain, timed, .. } = &this.stream;
        let (flow, chain, timed) = (flow.clone(), *chain, *timed);
        flow.add_operator(name, OperatorKind::Keyed, "reduce", chain);
        flow.warn(
            name,
            "keeps one record for every key it has ever seen; its state grows with the number of keys and \
             nothing removes one. Put `.window(…)` in front of it, or accept it for a bounded set of keys",
        );
        let (operator, key, reduce) = (name.to_owned(), this.key, Arc::new(reduce));
        let before = this.stream.into_open();
        let open: Open<T> = Arc::new(move |cx, next| {
            let stage = Reduce::new(
                operator.clone(),
                (cx.subtask, cx.parallelism()),
                Arc::clone(&key),
                Arc::clone(&reduce),
                cx.restore.as_deref(),
                cx.meter.operator(&operator),
                next,
            )?;
            before(cx, Box::new(stage))
        });
        Stream::new(flow, chain, timed, open)
    }
}

/// No policy for late records yet.
pub struct NoPolicy;

/// A keyed stream gathered in windows `W`, with a policy `L` for late records.
#[must_use = "say `.late(…)` where time can be late, then `.aggregate(…)`"]
pub struct Windowed<T: 'static, F: KeyOf<T>, W, L = NoPolicy> {
    keyed: KeyedStream<T, F>,
    window: W,
    policy: PhantomData<L>,
}

impl<T: Record, F: KeyOf<T>> Windowed<T, F, Global> {
    /// Aggregates the records of each key; the results come when the input has ended.
    pub fn aggregate<A: Aggregate<F::Key, T>>(self, name: &str, aggregate: A) -> Stream<A::Output> {
        aggregate_in(self.keyed, name, aggregate, None, "until the end", |_| Ok(None))
    }
}

impl<T: Record, F: KeyOf<T>> Windowed<T, F, Tumbling> {
    /// Says what becomes of records that come after their window was purged.
    pub fn late<L>(self, _: L) -> Windowed<T, F, Tumbling, L> {
        Windowed { keyed: self.keyed, window: self.window, policy: PhantomData }
    }
}

impl<T: Record, F: KeyOf<T>> Windowed<T, F, Tumbling, DropLate> {
    /// Aggregates the records of each key and window; late records are counted and dropped.
    pub fn aggregate<A: Aggregate<F::Key, T>>(self, name: &str, aggregate: A) -> Stream<A::Output> {
        let detail = format!("tumbling {} ms, late dropped", self.window.size_ms());
        aggregate_in(self.keyed, name, aggregate, Some(self.window), &detail, |_| Ok(None))
    }
}

impl<T: Record, F: KeyOf<T>> Windowed<T, F, Tumbling, SideLate> {
    /// Aggregates the records of each key and window; late records make a stream of their own.
    pub fn aggregate<A: Aggregate<F::Key, T>>(
        self,
        name: &str,
        aggregate: A,
    ) -> (Stream<A::Output>, Stream<T>) {
        let flow = self.keyed.stream.flow.clone();
        let chain = self.keyed.stream.chain;
        let side = flow.new_chain(flow.parallelism_of(chain));
        let edge = flow.new_edge(chain, side, Exchange::Forward);
        let detail = format!("tumbling {} ms, late aside", self.window.size_ms());
        let results = aggregate_in(self.keyed, name, aggregate, Some(self.window), &detail, move |cx| {
            let gate = cx.forward_output::<T>(edge)?;
            Ok(Some(Box::new(gate) as Next<T>))
        });
        let open: Open<T> = Arc::new(move |cx, first| {
            Ok(Box::new(Chain::new(Box::new(cx.forward_input::<T>(edge)?), first, &cx.report)))
        });
        (results, Stream::new(flow, side, true, open))
    }
}

fn aggregate_in<T: Record, F: KeyOf<T>, A: Aggregate<F::Key, T>>(
    keyed: KeyedStream<T, F>,
    name: &str,
    aggregate: A,
    tumbling: Option<Tumbling>,
    detail: &str,
    late: impl Fn(&crate::context::TaskContext) -> crate::Result<Option<Next<T>>> + Send + Sync + 'static,
) -> Stream<A::Output> {
    let Stream { flow, chain, timed, .. } = &keyed.stream;
    let (flow, chain) = (flow.clone(), *chain);
    flow.add_operator(name, OperatorKind::Keyed, detail, chain);
    if tumbling.is_some() && !timed {
        flow.refuse(Status::invalid(format!(
            "`{name}` gathers records in windows of event time, but its source has none: say \
             `.watermarks(…)` instead of `.untimed()`"
        )));
    }
    let (operator, key, aggregate) = (name.to_owned(), keyed.key, Arc::new(aggregate));
    let before = keyed.stream.into_open();
    let open: Open<A::Output> = Arc::new(move |cx, next| {
        let parts = WindowParts {
            operator: operator.clone(),
            subtask: cx.subtask,
            parallelism: cx.parallelism(),
            key: Arc::clone(&key),
            aggregate: Arc::clone(&aggregate),
            tumbling,
            late: late(cx)?,
            meter: cx.meter.operator(&operator),
            next,
        };
        before(cx, Box::new(WindowStage::new(parts, cx.restore.as_deref())?))
    });
    Stream::new(flow, chain, tumbling.is_some(), open)
}
