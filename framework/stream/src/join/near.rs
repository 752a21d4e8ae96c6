//! The operator of records that meet when their times are near.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Alone, Behind, ByTime, Held};
use crate::Result;
use crate::key::Key;
use crate::merge::Either;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::state::State;
use crate::stream::Record;
use crate::time::Timestamp;

/// A record of an inner join is kept up to this part of the interval longer than it is needed, so
/// that not every record asks for a timer of its own.
const GRAINS: i64 = 8;

/// The records of one key that may still be met, of both sides.
#[derive(Serialize, Deserialize)]
#[serde(bound(
    serialize = "L: Serialize, R: Serialize",
    deserialize = "L: DeserializeOwned, R: DeserializeOwned"
))]
pub(super) struct Near<L, R> {
    left: ByTime<Held<L>>,
    right: ByTime<Held<R>>,
}

impl<L, R> Default for Near<L, R> {
    fn default() -> Self {
        Self { left: ByTime::default(), right: ByTime::default() }
    }
}

impl<L: Record, R: Record> State for Near<L, R> {
    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.right.is_empty()
    }
}

/// Joins a left record at `t` with the right records from `t + lower` to `t + upper`, both included,
/// in milliseconds of event time or, where there is none, of the clock.
pub(super) struct Between<K, L, R, O, J> {
    pub(super) lower: i64,
    pub(super) upper: i64,
    pub(super) alone: Alone,
    pub(super) behind: Behind,
    pub(super) join: Arc<J>,
    pub(super) types: PhantomData<fn(K, L, R) -> O>,
}

/// Which clock the times of this stream are of.
struct Times {
    timed: bool,
    time: i64,
    /// Nothing before this comes any more, unless it is late.
    past: i64,
}

impl Times {
    fn of<K: Key>(cx: &OperatorCx<'_, K>) -> Self {
        match cx.time() {
            Some(time) => Self { timed: true, time: time.millis(), past: cx.watermark().millis() },
            None => Self { timed: false, time: cx.now().millis(), past: i64::MIN },
        }
    }
}

impl<K: Key, L: Record, R: Record, O, J> Between<K, L, R, O, J>
where
    J: Fn(Option<&L>, Option<&R>) -> Option<O>,
{
    /// When the state is looked through for a record that nobody can meet from `end` on.
    fn timer(&self, end: i64, times: &Times, cx: &mut OperatorCx<'_, K>) {
        let grain =
            if self.alone.any() { 1 } else { (self.upper.saturating_sub(self.lower) / GRAINS).max(1) };
        let at = end.saturating_add(grain - 1).div_euclid(grain).saturating_mul(grain);
        let at = Timestamp::from_millis(at);
        if times.timed { cx.timer_at(at) } else { cx.clock_timer_at(at) }
    }

    /// Lets go of what nobody can meet any more.
    fn purge(&self, state: &mut Near<L, R>, at: Timestamp, out: &mut Output<O>) {
        // The record's own time may lie behind what the watermark has promised.
        let emit = |row: Option<O>, end: i64, time: i64, out: &mut Output<O>| match row {
            Some(row) if at == Timestamp::MAX => out.emit(row),
            Some(row) => out.emit_at(row, Timestamp::from_millis(end.max(time))),
            None => {}
        };
        while state.left.first_time().is_some_and(|t| t.saturating_add(self.upper) < at.millis()) {
            let Some((time, left)) = state.left.pop_before(i64::MAX) else { break };
            if !left.met && self.alone.left {
                let end = time.saturating_add(self.upper).saturating_add(1);
                emit((self.join)(Some(&left.row), None), end, time, out);
            }
        }
        while state.right.first_time().is_some_and(|t| t.saturating_sub(self.lower) < at.millis()) {
            let Some((time, right)) = state.right.pop_before(i64::MAX) else { break };
            if !right.met && self.alone.right {
                let end = time.saturating_sub(self.lower).saturating_add(1);
                emit((self.join)(None, Some(&right.row)), end, time, out);
            }
        }
    }
}

impl<K, L, R, O, J> KeyedOperator for Between<K, L, R, O, J>
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
    type State = Near<L, R>;

    fn process(
        &mut self,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let times = Times::of(cx);
        let time = times.time;
        if time < times.past && self.behind != Behind::Joined {
            self.behind.take(row, cx);
            return Ok(());
        }
        let later = |other: i64| Timestamp::from_millis(time.max(other));
        let mut met = false;
        match row {
            Either::Left(row) => {
                let near =
                    state.right.within(time.saturating_add(self.lower), time.saturating_add(self.upper));
                for (at, right) in state.right.range_mut(near) {
                    (met, right.met) = (true, true);
                    if let Some(pair) = (self.join)(Some(&row), Some(&right.row)) {
                        out.emit_at(pair, later(at));
                    }
                }
                let end = time.saturating_add(self.upper).saturating_add(1);
                if times.past < end {
                    state.left.insert(time, Held { row, met });
                    self.timer(end, &times, cx);
                    return Ok(());
                }
                if !met
                    && self.alone.left
                    && let Some(alone) = (self.join)(Some(&row), None)
                {
                    out.emit(alone);
                }
            }
            Either::Right(row) => {
                let near =
                    state.left.within(time.saturating_sub(self.upper), time.saturating_sub(self.lower));
                for (at, left) in state.left.range_mut(near) {
                    (met, left.met) = (true, true);
                    if let Some(pair) = (self.join)(Some(&left.row), Some(&row)) {
                        out.emit_at(pair, later(at));
                    }
                }
                let end = time.saturating_sub(self.lower).saturating_add(1);
                if times.past < end {
                    state.right.insert(time, Held { row, met });
                    self.timer(end, &times, cx);
                    return Ok(());
                }
                if !met
                    && self.alone.right
                    && let Some(alone) = (self.join)(None, Some(&row))
                {
                    out.emit(alone);
                }
            }
        }
        // Late, and nobody who comes can meet it.
        if time < times.past && !met {
            cx.count_late();
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
        self.purge(state, at, out);
        Ok(())
    }

    fn on_clock(
        &mut self,
        state: &mut Self::State,
        at: Timestamp,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        self.purge(state, at, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Harness;
    use crate::join::late_tag;

    type Both = Either<u32, u32>;

    #[allow(clippy::type_complexity)]
    fn join(
        (lower, upper): (i64, i64),
        alone: Alone,
        behind: Behind,
    ) -> Between<
        u8,
        u32,
        u32,
        (Option<u32>, Option<u32>),
        fn(Option<&u32>, Option<&u32>) -> Option<(Option<u32>, Option<u32>)>,
    > {
        let join = Arc::new((|l, r| Some((l.copied(), r.copied()))) as fn(Option<&u32>, Option<&u32>) -> _);
        Between { lower, upper, alone, behind, join, types: PhantomData }
    }

    #[test]
    fn what_is_late_goes_aside_and_joins_nothing() {
        let mut near = Harness::of(join((-10, 10), Alone::NONE, Behind::Aside));
        near.keep_side::<Both>(&late_tag());
        near.push(1, Either::Left(1), 100).unwrap();
        near.watermark(105).unwrap();
        near.push(1, Either::Right(2), 104).unwrap();
        near.push(1, Either::Right(3), 105).unwrap();
        assert_eq!(near.take(), [(Some(1), Some(3))]);
        assert_eq!(near.take_side::<Both>(&late_tag()), [Either::Right(2)]);
    }

    #[test]
    fn with_a_time_to_live_what_is_late_meets_what_is_still_there() {
        let mut near = Harness::of(join((-10, 10), Alone::NONE, Behind::Joined));
        near.push(1, Either::Left(1), 100).unwrap();
        near.watermark(105).unwrap();
        near.push(1, Either::Right(2), 104).unwrap();
        assert_eq!(near.take_timed(), [((Some(1), Some(2)), 104)]);
    }

    #[test]
    fn the_watermark_lets_go_of_what_nobody_can_meet_and_the_alone_come_out_then() {
        let mut near = Harness::of(join((-5, 10), Alone::BOTH, Behind::Dropped));
        near.push(1, Either::Left(1), 100).unwrap();
        near.push(1, Either::Right(2), 80).unwrap();
        near.watermark(85).unwrap();
        assert!(near.take().is_empty(), "a left record at 85 would meet the right one");
        near.watermark(86).unwrap();
        assert_eq!(near.take_timed(), [((None, Some(2)), 86)]);
        near.watermark(110).unwrap();
        assert!(near.state(&1).is_some());
        near.watermark(111).unwrap();
        assert_eq!(near.take_timed(), [((Some(1), None), 111)]);
        assert!(near.state(&1).is_none() && near.timers().is_empty());
    }

    #[test]
    fn the_state_of_an_inner_join_ends_an_eighth_of_the_interval_late_at_most() {
        let mut near = Harness::of(join((0, 80), Alone::NONE, Behind::Dropped));
        for at in 0..80 {
            near.push(1, Either::Left(at as u32), at).unwrap();
        }
        assert!(near.timers().len() <= 10, "{} timers for 80 records", near.timers().len());
        near.watermark(170).unwrap();
        assert!(near.state(&1).is_none());
    }
}
