//! Operators that may fail on a record.

use std::fmt::{Debug, Display};
use std::sync::Arc;

use super::exchange::forwarded;
use super::{Record, Stream};
use crate::Result;
use crate::context::{EdgeId, TaskContext};
use crate::errors::{DeadLetter, ErrorAction, ErrorPolicy};
use crate::flow::Open;
use crate::graph::{Exchange, OperatorKind};
use crate::meter::Meter;
use crate::stage::Next;
use crate::stage::faults::Faults;
use crate::stage::fused::Step;
use crate::stage::try_map::TryMap;

/// Where an operator's dead letters go: the edge, where the policy has one.
#[derive(Clone, Copy)]
pub(super) struct Letters(ErrorAction, Option<EdgeId>);

impl Letters {
    pub(super) fn new<T: Record, X: ErrorPolicy<T>>(stream: &Stream<T>) -> Self {
        let edge = (X::ACTION == ErrorAction::Letter).then(|| {
            let side = stream.flow.new_chain(stream.flow.parallelism_of(stream.chain));
            stream.flow.new_edge(stream.chain, side, Exchange::Forward)
        });
        Self(X::ACTION, edge)
    }

    /// What the policy is called in graphs.
    pub(super) fn detail(self) -> &'static str {
        match self.0 {
            ErrorAction::Fail => "errors fail",
            ErrorAction::Skip => "errors skipped",
            ErrorAction::Letter => "errors aside",
        }
    }

    /// The policy at work in one task.
    pub(super) fn open<T: Record + Debug>(
        self,
        cx: &TaskContext,
        operator: &str,
        meter: &Arc<Meter>,
    ) -> Result<Faults<T>> {
        let letters = match self.1 {
            Some(edge) => Some(Box::new(cx.forward_output::<DeadLetter<T>>(edge)?) as Next<DeadLetter<T>>),
            None => None,
        };
        Ok(Faults::new(operator.to_owned(), self.0, letters, Arc::clone(meter)))
    }

    /// What the operator gives.
    pub(super) fn streams<T: Record, U: 'static, X: ErrorPolicy<T>>(
        self,
        results: Stream<U>,
    ) -> X::Streams<U> {
        let (flow, timed) = (results.flow.clone(), results.timed);
        X::streams(results, move || match self.1 {
            Some(edge) => forwarded(flow, timed, edge),
            None => unreachable!("a policy with letters has an edge for them"),
        })
    }
}

impl<T: Record + Debug, P: Step<Out = T>> Stream<T, P> {
    /// One record for each record, or an error. `errors` says what becomes of a record that gave one:
    /// [`Errors::Fail`], [`Errors::Skip`] or [`Errors::DeadLetter`], which gives a second stream.
    ///
    /// The closure borrows the record, so that it is whole when it fails.
    ///
    /// ```
    /// use afflux_stream::{Errors, Flow, JobSettings, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let (numbers, dead) = flow
    ///     .source("lines", vec_source(vec!["1".to_owned(), "x".to_owned()]))
    ///     .untimed()
    ///     .try_map("parse", |line| line.parse::<u64>(), Errors::DeadLetter);
    /// numbers.count("numbers");
    /// dead.count("dead-letters"); // or a sink of JSON lines, to be fed again by `replay`
    /// flow.finish().unwrap();
    /// ```
    ///
    /// [`Errors::Fail`]: crate::Errors::Fail
    /// [`Errors::Skip`]: crate::Errors::Skip
    /// [`Errors::DeadLetter`]: crate::Errors::DeadLetter
    pub fn try_map<U, E, F, X>(self, name: &str, f: F, _errors: X) -> X::Streams<U>
    where
        U: 'static,
        E: Display + 'static,
        F: Fn(&T) -> std::result::Result<U, E> + Send + Sync + 'static,
        X: ErrorPolicy<T>,
    {
        let this = self.settle().link();
        let letters = Letters::new::<T, X>(&this);
        this.flow.add_operator(
            name,
            OperatorKind::Transform,
            &format!("try_map, {}", letters.detail()),
            this.chain,
        );
        let (operator, f) = (name.to_owned(), Arc::new(f));
        let (flow, chain, timed, before) = (this.flow, this.chain, this.timed, this.open);
        let open: Open<U> = Arc::new(move |cx, next| {
            let meter = cx.meter.operator(&operator);
            let faults = letters.open(cx, &operator, &meter)?;
            before(cx, Box::new(TryMap::new(Arc::clone(&f), faults, meter, next)))
        });
        letters.streams::<T, U, X>(Stream::new(flow, chain, timed, open))
    }
}
