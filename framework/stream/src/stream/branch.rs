//! One stream that becomes several: copies, splits, side streams.

use std::marker::PhantomData;
use std::sync::Arc;

use super::exchange::forwarded;
use super::{Record, Stream};
use crate::flow::Open;
use crate::graph::{Exchange, OperatorKind};
use crate::merge::Either;
use crate::stage::Next;
use crate::stage::branch::{Branch, Deal};
use crate::stage::divide::Divide;
use crate::stage::filter_map::FilterMap;
use crate::stage::fused::Step;

impl<T: 'static, P: Step<Out = T>> Stream<T, P> {
    /// One record for some records, none for the others.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let numbers = flow.source("numbers", generate(9, |i| i)).untimed();
    /// numbers.filter_map(|i| (i > 3).then_some(i * 10)).count("large");
    /// flow.finish().unwrap();
    /// ```
    pub fn filter_map<U: 'static, F>(self, f: F) -> Stream<U, impl Step<In = P::In, Out = U>>
    where
        F: Fn(T) -> Option<U> + Send + Sync + 'static,
    {
        self.with_step("filter_map", |before| FilterMap { before, f, out: PhantomData })
    }

    /// Two streams of records of different types: what the closure makes [`Either::Left`] goes on in the
    /// same task, what it makes [`Either::Right`] begins in a task of its own.
    ///
    /// ```
    /// use afflux_stream::{Either, Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let numbers = flow.source("numbers", generate(9, |i| i)).untimed();
    /// let (halves, odd) = numbers.divide(|i| if i % 2 == 0 { Either::Left(i / 2) } else { Either::Right(i.to_string()) });
    /// halves.count("halves");
    /// odd.filter(|text| text.len() > 1).count("odd");
    /// flow.finish().unwrap();
    /// ```
    pub fn divide<L: 'static, R: Record, F>(self, f: F) -> (Stream<L>, Stream<R>)
    where
        F: Fn(T) -> Either<L, R> + Send + Sync + 'static,
    {
        let this = self.settle();
        let (flow, chain, timed, before) = (this.flow, this.chain, this.timed, this.open);
        let name = flow.auto_name("divide");
        flow.add_operator(&name, OperatorKind::Transform, "divide", chain);
        let edge = flow.new_edge(chain, flow.new_chain(flow.parallelism_of(chain)), Exchange::Forward);
        let f = Arc::new(f);
        let open: Open<L> = Arc::new(move |cx, next| {
            let aside = Box::new(cx.forward_output::<R>(edge)?);
            before(cx, Box::new(Divide::new(Arc::clone(&f), aside, cx.meter.operator(&name), next)))
        });
        (Stream::new(flow.clone(), chain, timed, open), forwarded(flow, timed, edge))
    }
}

impl<T: Record, P: Step<Out = T>> Stream<T, P> {
    /// The same stream `N` times, each record cloned for each.
    ///
    /// The first goes on in the same task; each other one begins in a task of its own. They share one
    /// pace: the slowest holds the others back.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let [all, squares, odd] = flow.source("numbers", generate(9, |i| i)).untimed().fork();
    /// all.count("all");
    /// squares.map(|i| i * i).count("squares");
    /// odd.filter(|i| i % 2 == 1).count("odd");
    /// flow.finish().unwrap();
    /// ```
    pub fn fork<const N: usize>(self) -> [Stream<T>; N]
    where
        T: Clone,
    {
        self.branch("fork", Deal::Copy(T::clone))
    }

    /// The same stream twice; see [`fork`](Self::fork).
    pub fn tee(self) -> (Stream<T>, Stream<T>)
    where
        T: Clone,
    {
        let [first, second] = self.branch("tee", Deal::Copy(T::clone));
        (first, second)
    }

    /// `N` streams, each record in the one whose number the closure gives. A number from `N` on fails
    /// the task with the operator's name.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let [even, odd] = flow.source("numbers", generate(9, |i| i)).untimed().split(|i| (i % 2) as usize);
    /// even.count("even");
    /// odd.count("odd");
    /// flow.finish().unwrap();
    /// ```
    pub fn split<const N: usize>(
        self,
        choose: impl Fn(&T) -> usize + Send + Sync + 'static,
    ) -> [Stream<T>; N] {
        self.branch("split", Deal::Pick(Arc::new(choose)))
    }

    /// Takes the records that meet a predicate out of the stream into a second one: `(rest, aside)`.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let (rest, large) = flow.source("numbers", generate(9, |i| i)).untimed().side(|i| *i > 5);
    /// rest.count("rest");
    /// large.count("large");
    /// flow.finish().unwrap();
    /// ```
    pub fn side(self, aside: impl Fn(&T) -> bool + Send + Sync + 'static) -> (Stream<T>, Stream<T>) {
        let [rest, aside] = self.branch("side", Deal::Pick(Arc::new(move |row| usize::from(aside(row)))));
        (rest, aside)
    }

    fn branch<const N: usize>(self, kind: &str, deal: Deal<T>) -> [Stream<T>; N] {
        const { assert!(N > 0, "a stream cannot be split into none") };
        let this = self.settle();
        let flow = this.flow.clone();
        let name = flow.auto_name(kind);
        flow.add_operator(&name, OperatorKind::Transform, &format!("{kind} into {N}"), this.chain);
        let width = flow.parallelism_of(this.chain);
        let edges: Vec<_> =
            (1..N).map(|_| flow.new_edge(this.chain, flow.new_chain(width), Exchange::Forward)).collect();
        let (chain, timed, before) = (this.chain, this.timed, this.open);
        let gates = edges.clone();
        let open: Open<T> = Arc::new(move |cx, next| {
            let mut outs: Vec<Next<T>> = vec![next];
            for edge in &gates {
                outs.push(Box::new(cx.forward_output::<T>(*edge)?));
            }
            let meter = cx.meter.operator(&name);
            before(cx, Box::new(Branch::new(name.clone(), deal.clone(), outs, meter)))
        });
        let first = Stream::new(flow.clone(), chain, timed, open);
        // A chain as long as the array: the first stream, then one an edge.
        let mut streams =
            std::iter::once(first).chain(edges.into_iter().map(|edge| forwarded(flow.clone(), timed, edge)));
        std::array::from_fn(|_| match streams.next() {
            Some(stream) => stream,
            None => unreachable!("one stream and N - 1 edges"),
        })
    }
}
