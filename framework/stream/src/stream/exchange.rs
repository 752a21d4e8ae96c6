//! Where records cross from task to task: exchanges, and the ends of chains without one.

use std::sync::Arc;

use afflux_wire::Status;

use super::{Record, SourceStream, Stream};
use crate::context::{EdgeId, TaskContext};
use crate::flow::{Flow, Open};
use crate::gate::partition::Routing;
use crate::graph::Exchange;
use crate::partitioning::{PARTITIONS_MAX, Partitioning};
use crate::source::Source;
use crate::stage::fused::{Step, Whole};
use crate::task::Chain;

/// The stream behind a forward edge.
pub(super) fn forwarded<T: Record>(flow: Flow, timed: bool, edge: EdgeId) -> Stream<T> {
    let open: Open<T> = Arc::new(move |cx, first| {
        Ok(Box::new(Chain::of_records(Box::new(cx.forward_input::<T>(edge)?), first, cx)?))
    });
    Stream::new(flow, edge.to_chain, timed, open)
}

/// Refuses a number of tasks that cannot be; tells whether it can.
fn possible(flow: &Flow, chain: u32, tasks: u32) -> bool {
    let possible = (1..=PARTITIONS_MAX).contains(&(tasks as usize));
    if !possible {
        flow.refuse(Status::invalid(format!(
            "pipeline {}: `.parallelism({tasks})` behind {}: from 1 to {PARTITIONS_MAX} tasks are possible",
            flow.pipeline(),
            flow.last_of(chain)
        )));
    }
    possible
}

impl<S: Source> SourceStream<S> {
    /// Reads with this many tasks instead of `pipeline.parallelism`.
    pub fn parallelism(self, tasks: u32) -> Self {
        if possible(&self.flow, self.chain, tasks) {
            self.flow.set_parallelism(self.chain, tasks);
        }
        self
    }
}

impl<T: 'static, P: Step<Out = T>> Stream<T, P> {
    /// Deals records out over the tasks of the next operators as the [`Partitioning`] says. What one
    /// task sends to another keeps its order.
    pub fn partition(self, partitioning: Partitioning<T>) -> Stream<T>
    where
        T: Record,
    {
        let this = self.settle();
        if let Some(problem) = &partitioning.problem {
            let (pipeline, last) = (this.flow.pipeline(), this.flow.last_of(this.chain));
            this.flow.refuse(Status::invalid(format!("pipeline {pipeline}: behind {last}: {problem}")));
        }
        let to = match partitioning.tasks {
            Some(tasks) => tasks,
            None => this.flow.width_behind(this.chain),
        };
        let routing = partitioning.routing;
        this.exchange_by(to, partitioning.exchange, move |cx| routing(cx.subtask))
    }

    /// The next exchange leads to this many tasks instead of `pipeline.parallelism`.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(9, |i| i)).untimed().parallelism(3).rebalance().count("n");
    /// assert_eq!(flow.finish().unwrap().widths(), [1, 3]);
    /// ```
    ///
    /// Where no exchange follows, [`Flow::finish`] refuses it: `map` and its like run where their
    /// records come from.
    pub fn parallelism(self, tasks: u32) -> Self {
        if possible(&self.flow, self.chain, tasks) {
            self.flow.want(self.chain, tasks);
        }
        self
    }

    /// Ends the chain here: what follows runs in actors of its own, each fed by the one task of the
    /// same number, so that nothing changes its order.
    pub fn forward(self) -> Stream<T>
    where
        T: Record,
    {
        self.settle().cut()
    }

    /// Gives the closures in front of it (`map`, `filter`, `inspect`) an actor of their own.
    ///
    /// An operator with a name is isolated by [`forward`](Self::forward) in front of it and behind it;
    /// all of them by the setting `pipeline.chaining = off`.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(9, |i| i)).untimed().map(|i| i * i).isolate().count("squares");
    /// assert_eq!(flow.finish().unwrap().graph().chains.len(), 3);
    /// ```
    pub fn isolate(self) -> Stream<T>
    where
        T: Record,
        P::In: Record,
    {
        if let Some(whole) = self.whole {
            return Stream::new(self.flow, self.chain, self.timed, whole).cut();
        }
        let before = Stream::<P::In>::new(self.flow, self.chain, self.timed, self.open).cut();
        Stream {
            flow: before.flow,
            chain: before.chain,
            timed: before.timed,
            open: before.open,
            whole: None,
            step: self.step,
            steps: self.steps,
        }
        .settle()
        .cut()
    }

    /// Names the closures in front of it (`map`, `filter`, `inspect`): in graphs, metrics and errors
    /// they are called so instead of by what they are and a number.
    pub fn named(self, name: &str) -> Stream<T> {
        if let Some(whole) = self.whole {
            let last = self.flow.last_of(self.chain);
            self.flow.refuse(Status::invalid(format!(
                "pipeline {}: `.named(\"{name}\")` behind {last}: it names the `map`, `filter` and `inspect` in \
                 front of it, and there is none",
                self.flow.pipeline()
            )));
            return Stream::new(self.flow, self.chain, self.timed, whole);
        }
        self.settle_as(name.to_owned())
    }
}

impl<T: Record> Stream<T, Whole<T>> {
    /// Ends this chain and begins another behind an exchange; none where one task feeds one.
    pub(crate) fn exchange_by(
        self,
        to: u32,
        exchange: Exchange,
        routing: impl Fn(&TaskContext) -> Routing<T> + Send + Sync + 'static,
    ) -> Stream<T> {
        let from = self.flow.parallelism_of(self.chain);
        if from == 1 && to == 1 {
            return self.link();
        }
        let chain = self.flow.new_chain(to);
        let edge = self.flow.new_edge(self.chain, chain, exchange);
        let open = self.open;
        self.flow
            .close(self.chain, Arc::new(move |cx| open(cx, Box::new(cx.output::<T>(edge, routing(cx))?))));
        let open: Open<T> = Arc::new(move |cx, first| {
            Ok(Box::new(Chain::of_records(Box::new(cx.input::<T>(&[edge])?), first, cx)?))
        });
        Stream::new(self.flow, chain, self.timed, open)
    }

    /// Ends the chain in a forward edge.
    pub(crate) fn cut(self) -> Stream<T> {
        let chain = self.flow.new_chain(self.flow.parallelism_of(self.chain));
        let edge = self.flow.new_edge(self.chain, chain, Exchange::Forward);
        let open = self.open;
        self.flow.close(self.chain, Arc::new(move |cx| open(cx, Box::new(cx.forward_output::<T>(edge)?))));
        forwarded(self.flow, self.timed, edge)
    }

    /// What stands between two operators with names: nothing, or a forward edge where chaining is off.
    pub(crate) fn link(self) -> Stream<T> {
        let alone = self.flow.settings().chaining || self.flow.is_empty(self.chain);
        if alone { self } else { self.cut() }
    }
}
