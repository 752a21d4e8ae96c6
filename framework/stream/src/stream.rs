//! Streams: what a pipeline's builder calls operators on.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use afflux_wire::Status;
use afflux_wire::contract::{Handle, Params, Service, Target};

use crate::flow::{Flow, Open};
use crate::gate::partition::{RoundRobin, Routing};
use crate::graph::{Exchange, OperatorKind};
use crate::guarantee::Delivery;
use crate::key::Key;
use crate::keyed::{ByRef, ByValue};
use crate::keyed_stream::KeyedStream;
use crate::poison::{Show, show};
use crate::sink::Sink;
use crate::source::Source;
use crate::stage::count::Count;
use crate::stage::flat_map::FlatMap;
use crate::stage::fused::{Filter, Fused, Map, Step, Whole};
use crate::stage::tell::{Tell, TellFn, UNANSWERED};
use crate::stage::write::{WRITER, Write};

mod asking;
mod branch;
mod exchange;
mod fallible;

/// What a record needs so that it can cross from one task to another.
pub trait Record: Serialize + DeserializeOwned + Send + 'static {}
impl<T: Serialize + DeserializeOwned + Send + 'static> Record for T {}

/// Longest wait for a service that is told about records.
const TELL_DEADLINE: Duration = Duration::from_secs(30);

/// A source that was added and not yet told whether its records have event time.
#[must_use = "say `.watermarks(…)` or `.untimed()` and go on from there"]
pub struct SourceStream<S: Source> {
    pub(crate) flow: Flow,
    pub(crate) name: String,
    pub(crate) chain: u32,
    pub(crate) source: Arc<S>,
    /// How its records are shown, where that was asked for.
    pub(crate) show: Option<Show<S::Item>>,
}

impl<S: Source> SourceStream<S>
where
    S::Item: Serialize,
{
    /// Lets records of this source be shown, as JSON, when they kill an operator in front of the first
    /// exchange, and be [set aside](Flow::dead_letters). Without it only split and position are told.
    /// Records behind an exchange are shown in any case.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(9, |i| i)).shown().untimed().count("n");
    /// flow.finish().unwrap();
    /// ```
    pub fn shown(self) -> Self {
        Self { show: Some(show), ..self }
    }
}

/// A stream of records. `P` is the stateless work that is not yet a stage, so that adjacent
/// closures become one pass.
#[must_use = "a stream does nothing until it ends in `.sink(…)`, `.tell(…)` or `.count(…)`"]
pub struct Stream<T: 'static, P: Step<Out = T> = Whole<T>> {
    pub(crate) flow: Flow,
    pub(crate) chain: u32,
    pub(crate) timed: bool,
    open: Open<P::In>,
    /// The same as `open` where there is no pending work.
    whole: Option<Open<T>>,
    step: P,
    steps: Vec<&'static str>,
}

impl<T: 'static> Stream<T> {
    pub(crate) fn new(flow: Flow, chain: u32, timed: bool, open: Open<T>) -> Self {
        let whole = Some(Arc::clone(&open));
        Self { flow, chain, timed, open, whole, step: Whole::default(), steps: Vec::new() }
    }

    pub(crate) fn into_open(self) -> Open<T> {
        self.open
    }
}

impl<T: 'static, P: Step<Out = T>> Stream<T, P> {
    /// Turns pending closures into a stage.
    pub(crate) fn settle(self) -> Stream<T> {
        if let Some(whole) = self.whole {
            return Stream::new(self.flow, self.chain, self.timed, whole);
        }
        let name = self.flow.auto_name(&self.steps.join("+"));
        self.settle_as(name)
    }

    fn settle_as(self, name: String) -> Stream<T> {
        self.flow.add_operator(&name, OperatorKind::Transform, &self.steps.join(", "), self.chain);
        let step = Arc::new(self.step);
        let before = self.open;
        let open: Open<T> = Arc::new(move |cx, next| {
            let meter = cx.meter.operator(&name);
            before(cx, Box::new(Fused::new(Arc::clone(&step), meter, next)))
        });
        Stream::new(self.flow, self.chain, self.timed, open)
    }

    fn with_step<Q: Step<In = P::In>>(
        self,
        name: &'static str,
        wrap: impl FnOnce(P) -> Q,
    ) -> Stream<Q::Out, Q> {
        let mut steps = self.steps;
        steps.push(name);
        Stream {
            flow: self.flow,
            chain: self.chain,
            timed: self.timed,
            open: self.open,
            whole: None,
            step: wrap(self.step),
            steps,
        }
    }

    /// One record for each record.
    pub fn map<U: 'static, F>(self, f: F) -> Stream<U, Map<P, F, U>>
    where
        F: Fn(T) -> U + Send + Sync + 'static,
    {
        self.with_step("map", |before| Map { before, f, out: PhantomData })
    }

    /// Keeps the records that meet a predicate.
    pub fn filter<F>(self, f: F) -> Stream<T, Filter<P, F>>
    where
        F: Fn(&T) -> bool + Send + Sync + 'static,
    {
        self.with_step("filter", |before| Filter { before, f })
    }

    /// Looks at each record.
    pub fn inspect<F>(self, f: F) -> Stream<T, impl Step<In = P::In, Out = T>>
    where
        F: Fn(&T) + Send + Sync + 'static,
    {
        let look = move |row: T| {
            f(&row);
            row
        };
        self.with_step("inspect", |before| Map { before, f: look, out: PhantomData })
    }

    /// Any number of records for each record.
    pub fn flat_map<U: 'static, I, F>(self, f: F) -> Stream<U>
    where
        I: IntoIterator<Item = U> + 'static,
        I::IntoIter: 'static,
        F: Fn(T) -> I + Send + Sync + 'static,
    {
        let this = self.settle();
        let name = this.flow.auto_name("flat_map");
        this.flow.add_operator(&name, OperatorKind::Transform, "flat_map", this.chain);
        let f = Arc::new(f);
        let before = this.open;
        let open: Open<U> = Arc::new(move |cx, next| {
            let meter = cx.meter.operator(&name);
            before(cx, Box::new(FlatMap::new(Arc::clone(&f), meter, next)))
        });
        Stream::new(this.flow, this.chain, this.timed, open)
    }

    /// Groups records by a key that the closure makes.
    pub fn key_by<K: Key, F>(self, f: F) -> KeyedStream<T, ByValue<F, K>>
    where
        T: Record,
        F: Fn(&T) -> K + Send + Sync + 'static,
    {
        KeyedStream::new(self.settle(), ByValue { f, key: PhantomData })
    }

    /// Groups records by a key that stands in the record; it is cloned only when it is new.
    pub fn key_by_ref<K: Key, F>(self, f: F) -> KeyedStream<T, ByRef<F, K>>
    where
        T: Record,
        F: Fn(&T) -> &K + Send + Sync + 'static,
    {
        KeyedStream::new(self.settle(), ByRef { f, key: PhantomData })
    }

    /// Spreads records evenly over all tasks of the next operators.
    pub fn rebalance(self) -> Stream<T>
    where
        T: Record,
    {
        let to = self.flow.width_behind(self.chain);
        self.settle().exchange(to, Exchange::Rebalance, || Routing::Split(Box::new(RoundRobin::default())))
    }

    /// Gives every record to all tasks of the next operators.
    pub fn broadcast(self) -> Stream<T>
    where
        T: Record + Clone,
    {
        let to = self.flow.width_behind(self.chain);
        self.settle().exchange(to, Exchange::Broadcast, || Routing::Broadcast(T::clone))
    }

    /// Brings all records to one task.
    pub fn gather(self) -> Stream<T>
    where
        T: Record,
    {
        self.settle().exchange(1, Exchange::Gather, || Routing::Split(Box::new(RoundRobin::default())))
    }

    /// Tells a service about every record, in requests of up to
    /// [`TELL_ROWS_MAX`](crate::TELL_ROWS_MAX) records, and passes the records on.
    ///
    /// At least once: what was not acknowledged at a checkpoint is told again after a restore, so
    /// the method has to take a repetition without harm.
    pub fn tell<Q, F>(self, name: &str, request: F) -> Stream<T>
    where
        T: Record + Clone,
        Q: Params<Output = ()>,
        F: Fn(Vec<T>) -> Q + Send + Sync + 'static,
    {
        let this = self.settle().link();
        let service = Q::Service::NAME;
        this.flow.add_operator(name, OperatorKind::Tell, service, this.chain);
        this.flow.add_output(name, Delivery::AtLeastOnce);
        let operator = name.to_owned();
        let request = Arc::new(request);
        let send: TellFn<T> = Arc::new(move |caller, rows| {
            let handle = Handle::<Q::Service>::new(Some(Arc::clone(caller)), Target::service(service));
            let call = handle.call(request(rows)).deadline(TELL_DEADLINE).into_future();
            Box::pin(async move { call.await.map_err(|error| error.into_status()) })
        });
        let before = this.open;
        let open: Open<T> = Arc::new(move |cx, next| {
            let caller = cx.caller.clone().ok_or_else(|| {
                Status::precondition(format!("operator {operator}: no node here to call {service} from"))
            })?;
            let mut waiting = Vec::new();
            if let Some(restore) = &cx.restore {
                // Told again by one task: order between tasks means nothing here.
                if cx.subtask == 0 {
                    for (_, rows) in restore.get::<Vec<T>>(&operator, UNANSWERED)? {
                        waiting.extend(rows);
                    }
                }
            }
            let stage = Tell {
                operator: operator.clone(),
                subtask: cx.subtask,
                caller,
                send: Arc::clone(&send),
                in_flight: Default::default(),
                waiting,
                ending: false,
                round: false,
                meter: cx.meter.operator(&operator),
                next,
            };
            before(cx, Box::new(stage))
        });
        Stream::new(this.flow, this.chain, this.timed, open)
    }

    /// Ends the stream in a sink. The name identifies its state in checkpoints.
    pub fn sink<K: Sink<T>>(self, name: &str, sink: K)
    where
        T: Record,
    {
        let this = if sink.single() { self.gather() } else { self.settle().link() };
        this.flow.add_sink(name, sink.kind(), this.chain, sink.target(), sink.delivery());
        let sink = Arc::new(sink);
        let asked = Arc::clone(&sink);
        this.flow.add_outside(name, Arc::new(move |cx| asked.reach(cx)));
        let operator = name.to_owned();
        let open = this.open;
        this.flow.close(
            this.chain,
            Arc::new(move |cx| {
                let io = cx.io(&operator);
                let opened = match &cx.restore {
                    None => sink.open(None, &io),
                    Some(restore) => {
                        let mut states = restore.get::<Vec<u8>>(&operator, WRITER)?;
                        states.sort_by_key(|(task, _)| *task);
                        sink.restore(&states, &io)
                    }
                };
                let writer = opened.map_err(|mut status| {
                    status.message = format!("sink {operator}: {}", status.message);
                    status
                })?;
                let meter = cx.meter.operator(&operator);
                let stage = Write::new(operator.clone(), cx.subtask, writer, meter);
                let stage = stage.noting(show::<T>, cx.watch.rows);
                open(cx, Box::new(stage))
            }),
        );
    }

    /// Ends the stream in a counter that progress, metrics and the summary show.
    pub fn count(self, name: &str) {
        let this = self.settle();
        this.flow.add_operator(name, OperatorKind::Sink, "count", this.chain);
        let operator = name.to_owned();
        let open = this.open;
        this.flow.close(
            this.chain,
            Arc::new(move |cx| open(cx, Box::new(Count::new(cx.meter.operator(&operator))))),
        );
    }
}

impl<T: Record> Stream<T> {
    /// Ends this chain and begins another behind an exchange; none where one task feeds one.
    pub(crate) fn exchange(
        self,
        to: u32,
        exchange: Exchange,
        routing: impl Fn() -> Routing<T> + Send + Sync + 'static,
    ) -> Stream<T> {
        self.exchange_by(to, exchange, move |_| routing())
    }
}
