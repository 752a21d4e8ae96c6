//! Broadcast state: rules that every task has, beside a keyed stream.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::batch::Batch;
use crate::flow::Open;
use crate::gate::partition::{Partition, Routing};
use crate::graph::{Exchange, OperatorKind};
use crate::key::{Key, KeyGroup};
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::merge::{Either, MergeInput, convert, merge};
use crate::operator::{OperatorCx, Output, Sides};
use crate::stage::broadcast::{BroadcastStage, Timeless};
use crate::stage::process::ProcessParts;
use crate::state::State;
use crate::stream::{Record, Stream};
use crate::time::Timestamp;

/// An operator on a keyed stream that has rules beside it, the same in every task.
///
/// The rules are a stream of their own: each of its records reaches every task, in one order. A
/// record meets the rules that have come before it; which those are depends on the pace of both
/// streams. What is remembered of the rules is part of checkpoints, written once.
pub trait BroadcastOperator: 'static {
    /// What records are grouped by.
    type Key: Key;
    /// What comes in on the keyed stream.
    type Input: 'static;
    /// What comes in on the stream of rules.
    type Rule: 'static;
    /// What goes out.
    type Output: 'static;
    /// What is remembered of the rules.
    type Rules: Default + Serialize + DeserializeOwned + 'static;
    /// What is remembered of a key.
    type State: State;

    /// Takes one rule. What becomes of the rules must follow from them alone, so that all tasks
    /// remember the same.
    ///
    /// # Errors
    /// Fails the pipeline, with the operator's name in front.
    fn rule(&mut self, rules: &mut Self::Rules, rule: Self::Rule) -> Result<()>;

    /// Takes one record of a key.
    ///
    /// # Errors
    /// As [`rule`](Self::rule).
    fn process(
        &mut self,
        rules: &Self::Rules,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, Self::Key>,
        out: &mut Output<Self::Output>,
    ) -> Result<()>;

    /// The watermark has reached a moment that was asked for with [`OperatorCx::timer_at`].
    ///
    /// # Errors
    /// As [`rule`](Self::rule).
    fn on_timer(
        &mut self,
        _rules: &Self::Rules,
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
    /// As [`rule`](Self::rule).
    fn on_clock(
        &mut self,
        _rules: &Self::Rules,
        _state: &mut Self::State,
        _at: Timestamp,
        _cx: &mut OperatorCx<'_, Self::Key>,
        _out: &mut Output<Self::Output>,
    ) -> Result<()> {
        Ok(())
    }
}

/// A keyed stream with rules beside it.
#[must_use = "say `.operate(…)`"]
pub struct Broadcasted<T: 'static, R: 'static, F: KeyOf<T>> {
    keyed: KeyedStream<T, F>,
    rules: Stream<R>,
}

impl<T: Record, F: KeyOf<T>> KeyedStream<T, F> {
    /// Puts a stream of rules beside this one: each of them reaches every task. The event time of
    /// rules means nothing, and they hold no watermark back.
    pub fn connect_broadcast<R: Record + Clone>(self, rules: Stream<R>) -> Broadcasted<T, R, F> {
        Broadcasted { keyed: self, rules }
    }

    /// Joins each record with the rules that have come before it: `learn` takes a rule into what is
    /// remembered, `join` makes any number of records of a record and what is remembered. The name
    /// identifies the step's state in checkpoints.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use afflux_stream::{Flow, JobSettings, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let limits = flow.source("limits", vec_source(vec![("tea".to_string(), 5_u64)])).untimed();
    /// flow.source("orders", vec_source(vec![(7_u32, "tea".to_string(), 6_u64)]))
    ///     .untimed()
    ///     .key_by(|order| order.0)
    ///     .broadcast_join(
    ///         "too-much",
    ///         limits,
    ///         |limits: &mut BTreeMap<String, u64>, limit| {
    ///             limits.insert(limit.0, limit.1);
    ///         },
    ///         |limits, order| limits.get(&order.1).is_some_and(|limit| order.2 > *limit).then_some(order),
    ///     )
    ///     .count("orders-beyond-their-limit");
    /// flow.finish().unwrap();
    /// ```
    pub fn broadcast_join<R, B, O, I>(
        self,
        name: &str,
        rules: Stream<R>,
        learn: impl Fn(&mut B, R) + Send + Sync + 'static,
        join: impl Fn(&B, T) -> I + Send + Sync + 'static,
    ) -> Stream<O>
    where
        R: Record + Clone,
        B: Default + Serialize + DeserializeOwned + 'static,
        O: 'static,
        I: IntoIterator<Item = O>,
    {
        let (learn, join) = (Arc::new(learn), Arc::new(join));
        self.connect_broadcast(rules).operate(name, "join with rules", move || Closures {
            learn: Arc::clone(&learn),
            join: Arc::clone(&join),
            types: PhantomData,
        })
    }
}

/// By the key of rows; rules come on another edge.
struct RowsByKey<F>(Arc<F>);

impl<T, R, F: KeyOf<T>> Partition<Either<T, R>> for RowsByKey<F> {
    fn assign(&mut self, batch: &Batch<Either<T, R>>, count: u32, consumers: &mut Vec<u32>) {
        consumers.extend(batch.rows.iter().map(|row| match row {
            Either::Left(row) => KeyGroup::of(self.0.hash(row)).owner(count),
            Either::Right(_) => 0,
        }));
    }
}

impl<T: Record, R: Record + Clone, F: KeyOf<T>> Broadcasted<T, R, F> {
    /// Runs an operator of one's own on rows and rules. The name identifies its state in checkpoints;
    /// `make` makes the operator of each task.
    pub fn operate<O>(
        self,
        name: &str,
        detail: &str,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> Stream<O::Output>
    where
        O: BroadcastOperator<Key = F::Key, Input = T, Rule = R>,
    {
        let (rows, key) = self.keyed.parts();
        let (flow, timed) = (rows.flow.clone(), rows.timed);
        let to = flow.width_behind(rows.chain);
        // One task on the way, so that all tasks have the rules in one order.
        let rules = timeless(self.rules.gather());
        let rules = rules.exchange(to, Exchange::Broadcast, || Routing::Broadcast(R::clone));
        let by_key = Arc::clone(&key);
        let rows = MergeInput {
            stream: convert(rows, Either::Left as fn(T) -> Either<T, R>),
            exchange: Exchange::Hash,
            routing: Arc::new(move || Routing::Split(Box::new(RowsByKey(Arc::clone(&by_key))))),
        };
        let by_key = Arc::clone(&key);
        let rules = MergeInput {
            stream: convert(rules, Either::Right as fn(R) -> Either<T, R>),
            exchange: Exchange::Forward,
            routing: Arc::new(move || Routing::Split(Box::new(RowsByKey(Arc::clone(&by_key))))),
        };
        let both = merge(rows, [rules], to);
        let chain = both.chain;
        flow.add_operator(name, OperatorKind::Keyed, detail, chain);
        let (operator, before) = (name.to_owned(), both.into_open());
        let open: Open<O::Output> = Arc::new(move |cx, next| {
            let parts = |work| ProcessParts {
                operator: operator.clone(),
                subtask: cx.subtask,
                parallelism: cx.parallelism(),
                key: Arc::clone(&key),
                work,
                sides: Sides::default(),
                timed,
                clock: cx.clock.clone(),
                meter: cx.meter.operator(&operator),
                backend: cx.backend.clone(),
                next,
            };
            before(cx, Box::new(BroadcastStage::new(make(), parts, cx.restore.as_deref())?))
        });
        Stream::new(flow, chain, timed, open)
    }
}

fn timeless<R: Record>(rules: Stream<R>) -> Stream<R> {
    let (flow, chain) = (rules.flow.clone(), rules.chain);
    let before = rules.into_open();
    let open: Open<R> = Arc::new(move |cx, next| before(cx, Box::new(Timeless::new(next))));
    Stream::new(flow, chain, false, open)
}

/// The operator of [`KeyedStream::broadcast_join`].
struct Closures<K, T, R, B, O, A, J> {
    learn: Arc<A>,
    join: Arc<J>,
    types: PhantomData<(K, T, R, B, O)>,
}

impl<K, T, R, B, O, I, A, J> BroadcastOperator for Closures<K, T, R, B, O, A, J>
where
    K: Key,
    T: 'static,
    R: 'static,
    B: Default + Serialize + DeserializeOwned + 'static,
    O: 'static,
    I: IntoIterator<Item = O>,
    A: Fn(&mut B, R) + 'static,
    J: Fn(&B, T) -> I + 'static,
{
    type Key = K;
    type Input = T;
    type Rule = R;
    type Output = O;
    type Rules = B;
    type State = ();

    fn rule(&mut self, rules: &mut B, rule: R) -> Result<()> {
        (self.learn)(rules, rule);
        Ok(())
    }

    fn process(
        &mut self,
        rules: &B,
        _: &mut (),
        row: T,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        for row in (self.join)(rules, row) {
            out.emit(row);
        }
        Ok(())
    }
}
