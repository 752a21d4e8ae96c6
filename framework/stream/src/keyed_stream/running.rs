//! Running aggregates: every record yields the new result of its key.

use std::ops::AddAssign;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::KeyedStream;
use crate::aggregate::MergeAggregate;
use crate::aggregate::builtin::{Choosing, Value};
use crate::flow::Open;
use crate::graph::OperatorKind;
use crate::keyed::KeyOf;
use crate::stage::running::ACCUMULATORS;
use crate::stage::running::{Running, RunningParts, RunningStage};
use crate::stream::{Record, Stream};
use crate::window::Window;

impl<T: Record, F: KeyOf<T>> KeyedStream<T, F> {
    /// Folds the records of each key: every record yields the key with a copy of its new
    /// accumulator. The name identifies the state in checkpoints.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(100, |i| i))
    ///     .untimed()
    ///     .key_by(|i| i % 7)
    ///     .fold("longest", String::new, |longest, i: &u64| {
    ///         if i.to_string().len() > longest.len() {
    ///             *longest = i.to_string();
    ///         }
    ///     })
    ///     .count("results");
    /// flow.finish().unwrap();
    /// ```
    pub fn fold<Acc, C, A>(self, name: &str, create: C, add: A) -> Stream<(F::Key, Acc)>
    where
        Acc: Value,
        C: Fn() -> Acc + Send + Sync + 'static,
        A: Fn(&mut Acc, &T) + Send + Sync + 'static,
    {
        self.running(name, "fold", create, add, |key, acc| (key.clone(), acc.clone()))
    }

    /// Aggregates the records of each key: every record yields the new result, as of a window over
    /// all of time.
    pub fn aggregate<A: MergeAggregate<F::Key, T>>(self, name: &str, aggregate: A) -> Stream<A::Output> {
        let aggregate = Arc::new(aggregate);
        let (making, adding) = (Arc::clone(&aggregate), Arc::clone(&aggregate));
        self.running(
            name,
            "aggregate",
            move || making.create(),
            move |acc, row| adding.add(acc, row),
            move |key, acc| {
                let mut copy = aggregate.create();
                aggregate.merge(&mut copy, acc);
                aggregate.finish(key.clone(), Window::GLOBAL, copy)
            },
        )
    }

    /// Adds up a value of the records of each key: every record yields the key with its new sum.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(100, |i| i))
    ///     .untimed()
    ///     .key_by(|i| i % 7)
    ///     .sum("sums", |i| *i)
    ///     .map(|(key, sum)| key + sum)
    ///     .count("results");
    /// flow.finish().unwrap();
    /// ```
    pub fn sum<V, G>(self, name: &str, of: G) -> Stream<(F::Key, V)>
    where
        V: Value + Default + AddAssign,
        G: Fn(&T) -> V + Send + Sync + 'static,
    {
        self.running(
            name,
            "sum",
            V::default,
            move |acc, row| *acc += of(row),
            |k, acc| (k.clone(), acc.clone()),
        )
    }

    /// The least value of the records of each key up to now; every record yields it. What compares
    /// with nothing (not a number) is passed over, but for a key's first record.
    pub fn min<V, G>(self, name: &str, of: G) -> Stream<(F::Key, V)>
    where
        V: Value + PartialOrd,
        G: Fn(&T) -> V + Send + Sync + 'static,
    {
        self.choose(name, "min", Choosing::least(of))
    }

    /// The greatest value of the records of each key up to now; every record yields it. What
    /// compares with nothing (not a number) is passed over, but for a key's first record.
    pub fn max<V, G>(self, name: &str, of: G) -> Stream<(F::Key, V)>
    where
        V: Value + PartialOrd,
        G: Fn(&T) -> V + Send + Sync + 'static,
    {
        self.choose(name, "max", Choosing::greatest(of))
    }

    /// How many records each key has had; every record yields it.
    pub fn count(self, name: &str) -> Stream<(F::Key, u64)> {
        self.running(name, "count", || 0_u64, |n, _| *n += 1, |key, n| (key.clone(), *n))
    }

    fn choose<V, G>(self, name: &str, detail: &str, choosing: Choosing<G, V>) -> Stream<(F::Key, V)>
    where
        V: Value,
        G: Fn(&T) -> V + Send + Sync + 'static,
    {
        let add = move |acc: &mut Option<V>, row: &T| {
            let value = choosing.value_of(row);
            choosing.offer(acc, value);
        };
        let emit = |key: &F::Key, acc: &Option<V>| match acc {
            Some(value) => (key.clone(), value.clone()),
            None => unreachable!("a record was just offered"),
        };
        self.running(name, detail, || None, add, emit)
    }

    fn running<Acc, C, A, E, Out>(self, name: &str, detail: &str, create: C, add: A, emit: E) -> Stream<Out>
    where
        Acc: Serialize + DeserializeOwned + 'static,
        Out: 'static,
        C: Fn() -> Acc + Send + Sync + 'static,
        A: Fn(&mut Acc, &T) + Send + Sync + 'static,
        E: Fn(&F::Key, &Acc) -> Out + Send + Sync + 'static,
    {
        let this = self.group();
        let (flow, chain, timed) = (this.flow().clone(), this.chain(), this.is_timed());
        flow.add_operator(name, OperatorKind::Keyed, detail, chain);
        flow.keeps::<(F::Key, Acc)>(name, ACCUMULATORS);
        flow.warn(
            name,
            "keeps one result for every key it has ever seen; its state grows with the number of keys and \
             nothing removes one. Put `.window(…)` in front of it, or accept it for a bounded set of keys",
        );
        let (stream, key) = this.parts();
        let (operator, running) = (name.to_owned(), Arc::new(Running { create, add, emit }));
        let before = stream.into_open();
        let open: Open<Out> = Arc::new(move |cx, next| {
            let parts = RunningParts {
                operator: operator.clone(),
                subtask: cx.subtask,
                key: Arc::clone(&key),
                running: Arc::clone(&running),
                meter: cx.meter.operator(&operator),
                backend: cx.backend.clone(),
                next,
            };
            let stage =
                RunningStage::<T, _, _, Acc, Out>::new(parts, cx.parallelism(), cx.restore.as_deref())?;
            before(cx, Box::new(stage))
        });
        Stream::new(flow, chain, timed, open)
    }
}
