//! Interval joins: records that meet when their times are near.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::near::Between;
use super::{Alone, Behind, Join};
use crate::keyed::KeyOf;
use crate::merge::Either;
use crate::stream::Record;
use crate::time::millis;
use crate::window::{LatePolicy, NoPolicy};

/// How far from another moment, before it or after it; in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset(i64);

impl Offset {
    /// The moment itself.
    pub const ZERO: Offset = Offset(0);

    /// This long before it.
    pub fn before(duration: Duration) -> Self {
        Self(-millis(duration))
    }

    /// This long after it.
    pub fn after(duration: Duration) -> Self {
        Self(millis(duration))
    }

    /// Milliseconds after it; negative: before it.
    pub const fn millis(self) -> i64 {
        self.0
    }
}

/// A join of records near in time.
#[must_use = "say `.late(…)`, then `.inner(…)`, `.left(…)`, `.right(…)` or `.full(…)`"]
pub struct IntervalJoin<L: 'static, R: 'static, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P = NoPolicy> {
    join: Join<L, R, F, G>,
    /// Both included, in milliseconds.
    lower: i64,
    upper: i64,
    policy: PhantomData<fn() -> P>,
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> Join<L, R, F, G> {
    /// A left record at `t` meets the right records from `t + lower` to `t + upper`, both included.
    ///
    /// Both sides need event time. A record is kept until the watermark says that nothing can meet
    /// it any more. A record behind the watermark is late; what becomes of it is said by `late`.
    ///
    /// ```
    /// use afflux_stream::{BoundedOutOfOrder, Flow, JobSettings, Late, Offset, Timestamp, minutes, secs, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let time = |row: &(u32, i64)| Timestamp::from_millis(row.1);
    /// let bound = || BoundedOutOfOrder::by(secs(5));
    /// let clicks = flow.source("clicks", vec_source(vec![(7, 0)])).watermarks_by(bound(), time);
    /// let orders = flow.source("orders", vec_source(vec![(7, 60_000)])).watermarks_by(bound(), time);
    /// clicks
    ///     .key_by(|click| click.0)
    ///     .join(orders.key_by(|order| order.0))
    ///     .between(Offset::ZERO, Offset::after(minutes(10)))
    ///     .late(Late::Drop)
    ///     .inner("bought", |click, order| (click.0, order.1 - click.1))
    ///     .count("bought-within-ten-minutes");
    /// flow.finish().unwrap();
    /// ```
    pub fn between(self, lower: Offset, upper: Offset) -> IntervalJoin<L, R, F, G> {
        IntervalJoin { join: self, lower: lower.0, upper: upper.0, policy: PhantomData }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P> IntervalJoin<L, R, F, G, P> {
    /// Excludes the right record at exactly `t + lower`.
    pub fn exclusive_lower(mut self) -> Self {
        self.lower = self.lower.saturating_add(1);
        self
    }

    /// Excludes the right record at exactly `t + upper`.
    pub fn exclusive_upper(mut self) -> Self {
        self.upper = self.upper.saturating_sub(1);
        self
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> IntervalJoin<L, R, F, G> {
    /// Says what becomes of records behind the watermark, of either side: [`Late::Drop`](crate::Late::Drop)
    /// counts and drops them, [`Late::Side`](crate::Late::Side) counts them and makes them a second stream of [`Either`].
    pub fn late<P: LatePolicy>(self, _: P) -> IntervalJoin<L, R, F, G, P> {
        IntervalJoin { join: self.join, lower: self.lower, upper: self.upper, policy: PhantomData }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P: LatePolicy>
    IntervalJoin<L, R, F, G, P>
{
    /// Pairs only. The name identifies the step's state in checkpoints.
    ///
    /// A pair's event time is the later of the two.
    pub fn inner<O: 'static>(
        self,
        name: &str,
        join: impl Fn(&L, &R) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::NONE, move |l: Option<&L>, r: Option<&R>| Some(join(l?, r?)))
    }

    /// Pairs, and each left record that has met none, once the watermark says that it will meet
    /// none. Its event time is that moment where its own has been passed.
    pub fn left<O: 'static>(
        self,
        name: &str,
        join: impl Fn(&L, Option<&R>) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::LEFT, move |l: Option<&L>, r: Option<&R>| Some(join(l?, r)))
    }

    /// Pairs, and each right record that has met none; see [`left`](Self::left).
    pub fn right<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Option<&L>, &R) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::RIGHT, move |l: Option<&L>, r: Option<&R>| Some(join(l, r?)))
    }

    /// Pairs, and each record of either side that has met none; see [`left`](Self::left).
    pub fn full<O: 'static>(
        self,
        name: &str,
        join: impl Fn(Option<&L>, Option<&R>) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, Alone::BOTH, move |l: Option<&L>, r: Option<&R>| Some(join(l, r)))
    }

    fn run<O: 'static, J>(self, name: &str, alone: Alone, join: J) -> P::Streams<Either<L, R>, O>
    where
        J: Fn(Option<&L>, Option<&R>) -> Option<O> + Send + Sync + 'static,
    {
        let Self { lower, upper, .. } = self;
        let met = self.join.meet(name, Some("joins records that are near in time"));
        let wrong = (lower > upper).then(|| {
            format!(
                "joins what is between {lower} ms and {upper} ms, which is nothing (what is excluded is left \
                 out): the lower bound of `.between(lower, upper)` has to be the earlier"
            )
        });
        met.refuse(name, wrong);
        let behind = Behind::of::<P>();
        let detail = format!("{} join between {lower} and {upper} ms, {}", alone.name(), behind.name());
        let join = Arc::new(join);
        met.operate::<P, _>(name, &detail, move || Between {
            lower,
            upper,
            alone,
            behind,
            join: Arc::clone(&join),
            types: PhantomData,
        })
    }
}
