//! Window joins: pairs of records that are in the same window.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frames::{Frames, JoinWindow};
use super::{Alone, Behind, ByTime, Join};
use crate::Result;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::merge::Either;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::state::State;
use crate::stream::Record;
use crate::time::Timestamp;
use crate::window::{LatePolicy, NoPolicy, Window};

/// A join within windows.
#[must_use = "say `.late(…)`, then `.inner(…)`, `.left(…)`, `.right(…)`, `.full(…)` or `.co_group(…)`"]
pub struct WindowJoin<L: 'static, R: 'static, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P = NoPolicy> {
    pub(super) join: Join<L, R, F, G>,
    pub(super) frames: Frames,
    pub(super) wrong: Option<String>,
    policy: PhantomData<fn() -> P>,
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> Join<L, R, F, G> {
    /// Records of a key meet when they are in the same window, once in every window that they share.
    ///
    /// Both sides need event time. A record all of whose windows have fired is late; what becomes of
    /// it is said by `late`.
    ///
    /// ```
    /// use afflux_stream::{BoundedOutOfOrder, Flow, JobSettings, Late, Timestamp, Tumbling, minutes, secs, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let time = |row: &(u32, i64)| Timestamp::from_millis(row.1);
    /// let bound = || BoundedOutOfOrder::by(secs(5));
    /// let people = flow.source("people", vec_source(vec![(7, 0)])).watermarks_by(bound(), time);
    /// let orders = flow.source("orders", vec_source(vec![(7, 40_000)])).watermarks_by(bound(), time);
    /// people
    ///     .key_by(|person| person.0)
    ///     .join(orders.key_by(|order| order.0))
    ///     .window(Tumbling::of(minutes(1)))
    ///     .late(Late::Drop)
    ///     .inner("in-their-first-minute", |window, person, _order| (window.start, person.0))
    ///     .count("pairs");
    /// flow.finish().unwrap();
    /// ```
    pub fn window(self, window: impl JoinWindow) -> WindowJoin<L, R, F, G> {
        let (frames, wrong) = (window.frames(), window.wrong());
        WindowJoin { join: self, frames, wrong, policy: PhantomData }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> WindowJoin<L, R, F, G> {
    /// Says what becomes of records all of whose windows have fired, of either side:
    /// [`Late::Drop`](crate::Late::Drop) counts and drops them, [`Late::Side`](crate::Late::Side)
    /// makes them a second stream of [`Either`].
    pub fn late<P: LatePolicy>(self, _: P) -> WindowJoin<L, R, F, G, P> {
        WindowJoin { join: self.join, frames: self.frames, wrong: self.wrong, policy: PhantomData }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P: LatePolicy> WindowJoin<L, R, F, G, P> {
    /// Pairs only, as soon as both are there. The name identifies the step's state in checkpoints.
    ///
    /// A pair's event time is the last moment of the window.
    pub fn inner<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Window, &L, &R) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::NONE, move |w, l: Option<&L>, r: Option<&R>| Some(join(w, l?, r?)))
    }

    /// Pairs, and each left record in each of its windows in which it has met none, when the window
    /// has ended.
    pub fn left<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Window, &L, Option<&R>) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::LEFT, move |w, l: Option<&L>, r: Option<&R>| Some(join(w, l?, r)))
    }

    /// Pairs, and each right record that has met none; see [`left`](Self::left).
    pub fn right<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Window, Option<&L>, &R) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::RIGHT, move |w, l: Option<&L>, r: Option<&R>| Some(join(w, l, r?)))
    }

    /// Pairs, and each record of either side that has met none; see [`left`](Self::left).
    pub fn full<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Window, Option<&L>, Option<&R>) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::BOTH, move |w, l: Option<&L>, r: Option<&R>| Some(join(w, l, r)))
    }

    fn run<O: 'static, J>(self, name: &str, alone: Alone, join: J) -> P::Streams<Either<L, R>, O>
    where
        J: Fn(Window, Option<&L>, Option<&R>) -> Option<O> + Send + Sync + 'static,
    {
        let (frames, behind, join) = (self.frames, Behind::of::<P>(), Arc::new(join));
        let detail = format!("{} join, {}, {}", alone.name(), frames.name(), behind.name());
        let met = self.join.meet(name, Some("joins records of the same window"));
        met.refuse(name, self.wrong);
        met.operate::<P, _>(name, &detail, move || InWindows {
            frames,
            alone,
            behind,
            join: Arc::clone(&join),
            types: PhantomData,
        })
    }
}

/// The records of one key whose windows have not all fired, of both sides.
#[derive(Serialize, Deserialize)]
#[serde(bound(
    serialize = "L: Serialize, R: Serialize",
    deserialize = "L: DeserializeOwned, R: DeserializeOwned"
))]
pub(super) struct Framed<L, R> {
    pub(super) left: ByTime<L>,
    pub(super) right: ByTime<R>,
}

impl<L, R> Default for Framed<L, R> {
    fn default() -> Self {
        Self { left: ByTime::default(), right: ByTime::default() }
    }
}

impl<L: Record, R: Record> State for Framed<L, R> {
    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.right.is_empty()
    }
}

impl<L, R> Framed<L, R> {
    /// Lets go of what is in no window that ends after `end`.
    pub(super) fn purge(&mut self, frames: Frames, end: i64) {
        while self.left.first_time().is_some_and(|t| frames.last_end(t) <= end) {
            self.left.pop_before(i64::MAX);
        }
        while self.right.first_time().is_some_and(|t| frames.last_end(t) <= end) {
            self.right.pop_before(i64::MAX);
        }
    }
}

struct InWindows<K, L, R, O, J> {
    frames: Frames,
    alone: Alone,
    behind: Behind,
    join: Arc<J>,
    types: PhantomData<fn(K, L, R) -> O>,
}

impl<K, L, R, O, J> KeyedOperator for InWindows<K, L, R, O, J>
where
    K: Key,
    L: Record,
    R: Record,
    O: 'static,
    J: Fn(Window, Option<&L>, Option<&R>) -> Option<O> + 'static,
{
    type Key = K;
    type Input = Either<L, R>;
    type Output = O;
    type State = Framed<L, R>;

    fn process(
        &mut self,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let (time, fired) = (cx.time().unwrap_or_default().millis(), cx.watermark().millis());
        let Frames { size, .. } = self.frames;
        let last_end = self.frames.last_end(time);
        if last_end <= fired {
            self.behind.take(row, cx);
            return Ok(());
        }
        if self.alone.any() {
            for window in self.frames.shared(time, time, fired) {
                cx.timer_at(window.end);
            }
        } else {
            cx.timer_at(Timestamp::from_millis(last_end));
        }
        let (from, to) = (time.saturating_sub(size - 1), time.saturating_add(size - 1));
        match row {
            Either::Left(row) => {
                for (other, right) in state.right.range(state.right.within(from, to)) {
                    for window in self.frames.shared(time, other, fired) {
                        if let Some(pair) = (self.join)(window, Some(&row), Some(right)) {
                            out.emit_at(pair, window.last());
                        }
                    }
                }
                state.left.insert(time, row);
            }
            Either::Right(row) => {
                for (other, left) in state.left.range(state.left.within(from, to)) {
                    for window in self.frames.shared(time, other, fired) {
                        if let Some(pair) = (self.join)(window, Some(left), Some(&row)) {
                            out.emit_at(pair, window.last());
                        }
                    }
                }
                state.right.insert(time, row);
            }
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Self::State,
        at: Timestamp,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let window = self.frames.ending(at.millis());
        let (from, to) = (window.start.millis(), window.last().millis());
        let (left, right) = (state.left.within(from, to), state.right.within(from, to));
        // All records of a key in a window meet: one is alone when its other side is empty.
        if self.alone.left && right.is_empty() {
            let alone = state.left.range(left.clone());
            alone
                .filter_map(|(_, row)| (self.join)(window, Some(row), None))
                .for_each(|row| out.emit_at(row, window.last()));
        }
        if self.alone.right && left.is_empty() {
            let alone = state.right.range(right);
            alone
                .filter_map(|(_, row)| (self.join)(window, None, Some(row)))
                .for_each(|row| out.emit_at(row, window.last()));
        }
        state.purge(self.frames, at.millis());
        Ok(())
    }
}
