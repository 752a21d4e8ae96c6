//! Streams grouped by key.

mod running;

use std::sync::Arc;

use crate::flow::{Flow, Open};
use crate::gate::partition::{ByKey, Routing};
use crate::graph::{Exchange, OperatorKind};
use crate::keyed::KeyOf;
use crate::operator::{KeyedOperator, SideMakers, SideOutputs};
use crate::stage::process::{CLOCK_TIMERS, EXPIRIES, STATE, TIMERS};
use crate::stage::process::{ProcessParts, ProcessStage};
use crate::stage::reduce::Reduce;
use crate::stage::reduce::VALUES;
use crate::stream::{Record, Stream};
use crate::windowed::{WindowKind, Windowed};

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

    pub(crate) const fn flow(&self) -> &Flow {
        &self.stream.flow
    }

    pub(crate) const fn chain(&self) -> u32 {
        self.stream.chain
    }

    pub(crate) const fn is_timed(&self) -> bool {
        self.stream.timed
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
        flow.keeps::<(F::Key, O::State)>(name, STATE);
        for timers in [TIMERS, CLOCK_TIMERS, EXPIRIES] {
            flow.keeps::<(F::Key, i64)>(name, timers);
        }
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
                backend: cx.backend.clone(),
                next,
            };
            before(cx, Box::new(ProcessStage::new(parts, cx.restore.as_deref())?))
        });
        (Stream::new(flow, chain, timed, open), sides)
    }

    /// Gathers the records of each key in windows.
    pub fn window<W: WindowKind>(self, window: W) -> Windowed<T, F, W, W::Policy> {
        Windowed::new(self.group(), window)
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
        flow.keeps::<(F::Key, T)>(name, VALUES);
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
                (&cx.backend, cx.restore.as_deref()),
                cx.meter.operator(&operator),
                next,
            )?;
            before(cx, Box::new(stage))
        });
        Stream::new(flow, chain, timed, open)
    }
}
