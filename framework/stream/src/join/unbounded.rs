//! Joins in which every record of a key meets every other, whenever they come.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::near::Between;
use super::{Alone, Behind, Held, Join};
use crate::Result;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::merge::Either;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::state::State;
use crate::stream::{Record, Stream};
use crate::time::{Timestamp, millis};

/// A join without windows: every pair of records of one key comes out once.
#[must_use = "say `.ttl(…)` if you can, then `.inner(…)`, `.left(…)`, `.right(…)` or `.full(…)`"]
pub struct UnboundedJoin<L: 'static, R: 'static, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> {
    join: Join<L, R, F, G>,
    ttl: Option<Duration>,
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> Join<L, R, F, G> {
    /// Every record meets every record of the other side with its key, before it or after it.
    ///
    /// Both sides are kept: for ever, or for the [`ttl`](UnboundedJoin::ttl).
    pub fn unbounded(self) -> UnboundedJoin<L, R, F, G> {
        UnboundedJoin { join: self, ttl: None }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> UnboundedJoin<L, R, F, G> {
    /// Records are forgotten after this long (at least a millisecond).
    ///
    /// Where both sides have event time, two records meet when their times are less than this apart:
    /// the result does not depend on the order in which they come. A record behind the watermark
    /// meets what is still there. Where there is none, the clock counts: a record meets those that
    /// came less than this before it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Pairs only. The name identifies the step's state in checkpoints.
    ///
    /// A pair's event time is the later of the two.
    pub fn inner<O: 'static>(
        self,
        name: &str,
        join: impl Fn(&L, &R) -> O + Send + Sync + 'static,
    ) -> Stream<O> {
        self.run(name, Alone::NONE, move |l: Option<&L>, r: Option<&R>| Some(join(l?, r?)))
    }

    /// Pairs, and each left record that has met none, once: when its time to live is over, or when
    /// the input has ended. Its event time is that moment, for the watermark has passed its own.
    pub fn left<O: 'static>(
        self,
        name: &str,
        join: impl Fn(&L, Option<&R>) -> O + Send + Sync + 'static,
    ) -> Stream<O> {
        self.run(name, Alone::LEFT, move |l: Option<&L>, r: Option<&R>| Some(join(l?, r)))
    }

    /// Pairs, and each right record that has met none; see [`left`](Self::left).
    pub fn right<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Option<&L>, &R) -> O + Send + Sync + 'static,
    ) -> Stream<O> {
        self.run(name, Alone::RIGHT, move |l: Option<&L>, r: Option<&R>| Some(join(l, r?)))
    }

    /// Pairs, and each record of either side that has met none; see [`left`](Self::left).
    pub fn full<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Option<&L>, Option<&R>) -> O + Send + Sync + 'static,
    ) -> Stream<O> {
        self.run(name, Alone::BOTH, move |l: Option<&L>, r: Option<&R>| Some(join(l, r)))
    }

    fn run<O: 'static, J>(self, name: &str, alone: Alone, join: J) -> Stream<O>
    where
        J: Fn(Option<&L>, Option<&R>) -> Option<O> + Send + Sync + 'static,
    {
        let met = self.join.meet(name, None);
        let join = Arc::new(join);
        let Some(ttl) = self.ttl else {
            met.flow.warn(
                name,
                "keeps every record of both sides for ever; its state grows with every record that comes. \
                 Put `.ttl(…)` behind `.unbounded()`, or join `.between(…)` or in a `.window(…)`",
            );
            let detail = format!("{} join, unbounded", alone.name());
            let make = move || Unbounded { alone, join: Arc::clone(&join), types: PhantomData };
            return met.both.operate(name, &detail, make);
        };
        let near = millis(ttl).max(1) - 1;
        let detail = format!("{} join, unbounded, kept {} ms", alone.name(), near + 1);
        met.both.operate(name, &detail, move || Between {
            lower: -near,
            upper: near,
            alone,
            behind: Behind::Joined,
            join: Arc::clone(&join),
            types: PhantomData,
        })
    }
}

/// All records of one key, with their times.
#[derive(Serialize, Deserialize)]
#[serde(bound(
    serialize = "L: Serialize, R: Serialize",
    deserialize = "L: DeserializeOwned, R: DeserializeOwned"
))]
struct All<L, R> {
    left: Vec<(i64, Held<L>)>,
    right: Vec<(i64, Held<R>)>,
}

impl<L, R> Default for All<L, R> {
    fn default() -> Self {
        Self { left: Vec::new(), right: Vec::new() }
    }
}

impl<L: Record, R: Record> State for All<L, R> {
    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.right.is_empty()
    }
}

/// Joins everything with everything.
struct Unbounded<K, L, R, O, J> {
    alone: Alone,
    join: Arc<J>,
    types: PhantomData<fn(K, L, R) -> O>,
}

impl<K, L, R, O, J> KeyedOperator for Unbounded<K, L, R, O, J>
where
    K: Key,
    L: Record,
    R: Record,
    O: 'static,
    J: Fn(Option<&L>, Option<&R>) -> Option<O> + 'static,
{
    type Key = K;
    type Input = Either<L, R>;
    type Output = O;
    type State = All<L, R>;

    fn process(
        &mut self,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let time = cx.time().map_or(0, Timestamp::millis);
        let later = |other: i64| Timestamp::from_millis(time.max(other));
        if self.alone.any() {
            cx.timer_at(Timestamp::MAX);
        }
        match row {
            Either::Left(row) => {
                for (at, right) in &mut state.right {
                    right.met = true;
                    if let Some(pair) = (self.join)(Some(&row), Some(&right.row)) {
                        out.emit_at(pair, later(*at));
                    }
                }
                let met = !state.right.is_empty();
                state.left.push((time, Held { row, met }));
            }
            Either::Right(row) => {
                for (at, left) in &mut state.left {
                    left.met = true;
                    if let Some(pair) = (self.join)(Some(&left.row), Some(&row)) {
                        out.emit_at(pair, later(*at));
                    }
                }
                let met = !state.left.is_empty();
                state.right.push((time, Held { row, met }));
            }
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Self::State,
        _: Timestamp,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let All { left, right } = std::mem::take(state);
        if self.alone.left {
            let alone = left.iter().filter(|(_, held)| !held.met);
            alone.filter_map(|(_, held)| (self.join)(Some(&held.row), None)).for_each(|row| out.emit(row));
        }
        if self.alone.right {
            let alone = right.iter().filter(|(_, held)| !held.met);
            alone.filter_map(|(_, held)| (self.join)(None, Some(&held.row))).for_each(|row| out.emit(row));
        }
        Ok(())
    }
}
