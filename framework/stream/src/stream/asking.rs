//! Asking about every record.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use afflux_wire::Status;

use super::fallible::Letters;
use super::{Record, Stream};
use crate::Result;
use crate::asking::{AsyncCx, AsyncMap};
use crate::errors::ErrorPolicy;
use crate::flow::Open;
use crate::graph::OperatorKind;
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::stage::async_map::{Asking, AskingParts, KeyHash};
use crate::stage::fused::Step;

impl<T: Record + Debug + Clone, P: Step<Out = T>> Stream<T, P> {
    /// One record for each record by a future, such as the call of a service, with a bounded number of
    /// them on their way; [`AsyncMap`] says how. When that many have no answer the task reads no more.
    ///
    /// At least once: a checkpoint does not wait for answers. What has none is in it, and is asked
    /// again after a restore with the same [idempotency key](AsyncCx::idempotency_key). Results never
    /// cross a watermark.
    ///
    /// The future runs on the task's own thread: it may wait, and must not block.
    ///
    /// ```
    /// use afflux_stream::{AsyncMap, Flow, JobSettings, generate, secs};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("orders", generate(9, |i| i))
    ///     .untimed()
    ///     // In a program: cx.client::<Prices>().of(order).idempotency_key(cx.idempotency_key()).await?
    ///     .async_map("price", AsyncMap::unordered().in_flight(16).timeout(secs(2)), |_cx, order| async move {
    ///         Ok((order, order * 100))
    ///     })
    ///     .count("priced");
    /// flow.finish().unwrap();
    /// ```
    pub fn async_map<U, F, Fut, X>(self, name: &str, how: AsyncMap<X>, f: F) -> X::Streams<U>
    where
        U: Record,
        F: Fn(AsyncCx, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<U>> + 'static,
        X: ErrorPolicy<T>,
    {
        ask_about(self.settle().link(), name, how, f, None)
    }
}

impl<T: Record + Debug + Clone, K: KeyOf<T>> KeyedStream<T, K> {
    /// The same as [`Stream::async_map`], but the records of a key are asked about one after the other,
    /// in their order, and records of different keys at once. Results of a key keep its order; say
    /// `unordered()`, or a slow key holds back all others.
    ///
    /// ```
    /// use afflux_stream::{AsyncMap, Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let payments = flow.source("payments", generate(9, |i| (i % 3, i))).untimed();
    /// payments
    ///     .key_by(|(account, _)| *account)
    ///     .async_map("book", AsyncMap::unordered(), |_cx, payment| async move { Ok(payment) })
    ///     .count("booked");
    /// flow.finish().unwrap();
    /// ```
    pub fn async_map<U, F, Fut, X>(self, name: &str, how: AsyncMap<X>, f: F) -> X::Streams<U>
    where
        U: Record,
        F: Fn(AsyncCx, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<U>> + 'static,
        X: ErrorPolicy<T>,
    {
        let (stream, key) = self.group().parts();
        ask_about(stream.link(), name, how, f, Some(Arc::new(move |row| key.hash(row))))
    }
}

fn ask_about<T, U, F, Fut, X>(
    this: Stream<T>,
    name: &str,
    how: AsyncMap<X>,
    f: F,
    key: Option<KeyHash<T>>,
) -> X::Streams<U>
where
    T: Record + Debug + Clone,
    U: Record,
    F: Fn(AsyncCx, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<U>> + 'static,
    X: ErrorPolicy<T>,
{
    let terms = how.terms;
    let letters = Letters::new::<T, X>(&this);
    let keyed = if key.is_some() { ", one at a time of a key" } else { "" };
    let detail = format!("{}{keyed}, {}", terms.detail(), letters.detail());
    this.flow.add_operator(name, OperatorKind::Transform, &detail, this.chain);
    if let Some(problem) = terms.problem() {
        this.flow.refuse(Status::invalid(format!("`{name}`: {problem}")));
    }
    let (operator, f) = (name.to_owned(), Arc::new(f));
    let (flow, chain, timed, before) = (this.flow, this.chain, this.timed, this.open);
    let open: Open<U> = Arc::new(move |cx, next| {
        let meter = cx.meter.operator(&operator);
        let parts = AskingParts {
            operator: operator.clone(),
            subtask: cx.subtask,
            parallelism: cx.parallelism(),
            prefix: AsyncCx::prefix(&cx.job, cx.attempt.0, &operator, cx.subtask),
            caller: cx.caller.clone(),
            clock: cx.clock.clone(),
            terms,
            f: Arc::clone(&f),
            key: key.clone(),
            faults: letters.open(cx, &operator, &meter)?,
            meter,
            next,
        };
        before(cx, Box::new(Asking::new(parts, cx.restore.as_deref())?))
    });
    letters.streams::<T, U, X>(Stream::new(flow, chain, timed, open))
}
