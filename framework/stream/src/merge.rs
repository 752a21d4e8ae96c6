//! Several streams into one: unions, and two keyed streams side by side.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use afflux_wire::Status;

use crate::flow::Open;
use crate::gate::partition::{ByKey, RoundRobin, Routing};
use crate::graph::Exchange;
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::meter::Meter;
use crate::stage::fused::{Fused, Map, Step, Whole};
use crate::stream::{Record, Stream};
use crate::task::Chain;

/// A record of one of two streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Either<L, R> {
    /// Of the first.
    Left(L),
    /// Of the second.
    Right(R),
}

/// Finds the key of a record of either stream.
pub struct EitherKey<F, G> {
    left: Arc<F>,
    right: Arc<G>,
}

impl<L, R, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> KeyOf<Either<L, R>> for EitherKey<F, G> {
    type Key = F::Key;
    const BORROWED: bool = F::BORROWED && G::BORROWED;
    #[inline]
    fn key<'a>(&self, row: &'a Either<L, R>) -> Cow<'a, F::Key> {
        match row {
            Either::Left(row) => self.left.key(row),
            Either::Right(row) => self.right.key(row),
        }
    }
}

/// How the records of one input reach the merged tasks.
pub(crate) struct MergeInput<T: 'static> {
    pub(crate) stream: Stream<T>,
    pub(crate) exchange: Exchange,
    /// Not asked where the exchange is [`Exchange::Forward`].
    pub(crate) routing: Arc<dyn Fn() -> Routing<T> + Send + Sync>,
}

/// One chain of `to` tasks that takes the records of all inputs. Its rows have event time where
/// those of all inputs have.
pub(crate) fn merge<T: Record>(
    first: MergeInput<T>,
    others: impl IntoIterator<Item = MergeInput<T>>,
    to: u32,
) -> Stream<T> {
    let flow = first.stream.flow.clone();
    let chain = flow.new_chain(to);
    let mut edges = Vec::new();
    let mut timed = true;
    for input in std::iter::once(first).chain(others) {
        timed &= input.stream.timed;
        if !input.stream.flow.is(&flow) {
            flow.refuse(Status::invalid("streams of two pipelines cannot be merged: build both in one"));
            continue;
        }
        let from = input.stream.chain;
        let edge = flow.new_edge(from, chain, input.exchange);
        edges.push((edge, input.exchange));
        let (open, routing, exchange) = (input.stream.into_open(), input.routing, input.exchange);
        flow.close(
            from,
            Arc::new(move |cx| {
                let gate = match exchange {
                    Exchange::Forward => cx.forward_output::<T>(edge)?,
                    _ => cx.output::<T>(edge, routing())?,
                };
                open(cx, Box::new(gate))
            }),
        );
    }
    let open: Open<T> = Arc::new(move |cx, first| {
        Ok(Box::new(Chain::of_records(Box::new(cx.input_of::<T>(&edges)?), first, cx)?))
    });
    Stream::new(flow, chain, timed, open)
}

/// Changes the type of records without being an operator of its own.
pub(crate) fn convert<T: 'static, U: 'static>(stream: Stream<T>, f: fn(T) -> U) -> Stream<U> {
    let Stream { flow, chain, timed, .. } = &stream;
    let (flow, chain, timed) = (flow.clone(), *chain, *timed);
    let before = stream.into_open();
    let step = Arc::new(Map { before: Whole::<T>::default(), f, out: std::marker::PhantomData });
    let open: Open<U> = Arc::new(move |cx, next| {
        before(cx, Box::new(Fused::new(Arc::clone(&step), Arc::new(Meter::default()), next)))
    });
    Stream::new(flow, chain, timed, open)
}

impl<T: Record, P: Step<Out = T>> Stream<T, P> {
    /// The records of this stream and of others, in the order in which they come. Their watermark
    /// is the least of all.
    pub fn union(self, others: impl IntoIterator<Item = Stream<T>>) -> Stream<T> {
        let first = self.settle();
        let to = first.flow.parallelism_of(first.chain);
        let input = |stream: Stream<T>| {
            let same = stream.flow.parallelism_of(stream.chain) == to;
            let exchange = if same { Exchange::Forward } else { Exchange::Rebalance };
            let routing = Arc::new(|| Routing::Split(Box::new(RoundRobin::default())));
            MergeInput { stream, exchange, routing }
        };
        merge(input(first), others.into_iter().map(input), to)
    }
}

impl<L: Record, F: KeyOf<L>> KeyedStream<L, F> {
    /// This stream and another with keys of the same type: the records of a key of both meet in
    /// one task. What joins are made of; see [`KeyedStream::operate`].
    pub fn connect<R: Record, G: KeyOf<R, Key = F::Key>>(
        self,
        right: KeyedStream<R, G>,
    ) -> KeyedStream<Either<L, R>, EitherKey<F, G>> {
        let (left_stream, left) = self.parts();
        let (right_stream, right) = right.parts();
        let to = left_stream.flow.width_behind(left_stream.chain);
        let key = Arc::new(EitherKey { left, right });
        let routing: Arc<dyn Fn() -> Routing<Either<L, R>> + Send + Sync> = {
            let key = Arc::clone(&key);
            Arc::new(move || Routing::Split(Box::new(ByKey::new(Arc::clone(&key)))))
        };
        let input = |stream: Stream<Either<L, R>>| MergeInput {
            stream,
            exchange: Exchange::Hash,
            routing: Arc::clone(&routing),
        };
        let left = convert(left_stream, Either::Left as fn(L) -> Either<L, R>);
        let right = convert(right_stream, Either::Right as fn(R) -> Either<L, R>);
        KeyedStream::grouped(merge(input(left), [input(right)], to), key)
    }
}
