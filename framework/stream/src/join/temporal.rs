//! Temporal lookups (as-of joins): each left record with the right record of its moment.

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Behind, ByTime, Join};
use crate::Result;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::merge::Either;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::rank::by_bytes;
use crate::state::State;
use crate::stream::Record;
use crate::time::{Timestamp, millis};
use crate::window::{LatePolicy, NoPolicy};

/// The end of a version's life is looked for this many times in its length.
const GRAINS: i64 = 8;

type Ties<T> = Arc<dyn Fn(&T, &T) -> Ordering + Send + Sync>;

/// A lookup of each left record in the versions that the right side is.
#[must_use = "say `.late(…)`, then `.inner(…)` or `.left(…)`"]
pub struct AsOfJoin<L: 'static, R: 'static, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P = NoPolicy> {
    join: Join<L, R, F, G>,
    max_age: Option<Duration>,
    ties: Ties<R>,
    policy: PhantomData<fn() -> P>,
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> Join<L, R, F, G> {
    /// Each left record meets one right record: the latest of its key at or before its own event time.
    ///
    /// Both sides need event time. The answer comes when the watermark has passed the left record's
    /// time, so it does not depend on the order in which records come. Of right records of one
    /// moment the greatest counts, by [`ties`](AsOfJoin::ties) or else by their bytes (MessagePack).
    /// Versions that no left record can ask for any more are let go of.
    ///
    /// ```
    /// use afflux_stream::{BoundedOutOfOrder, Flow, JobSettings, Late, Timestamp, hours, minutes, secs, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// let time = |row: &(String, i64, u32)| Timestamp::from_millis(row.1);
    /// let bound = || BoundedOutOfOrder::by(secs(5));
    /// let orders = flow.source("orders", vec_source(vec![("CHF".to_string(), 9_000, 20)])).watermarks_by(bound(), time);
    /// let rates = flow.source("rates", vec_source(vec![("CHF".to_string(), 0, 107)])).watermarks_by(bound(), time);
    /// orders
    ///     .key_by(|order| order.0.clone())
    ///     .join(rates.key_by(|rate| rate.0.clone()))
    ///     .as_of()
    ///     .max_age(hours(24))
    ///     .late(Late::Drop)
    ///     .left("converted", |order, rate| rate.map(|rate| order.2 * rate.2))
    ///     .count("orders-in-euros");
    /// flow.finish().unwrap();
    /// ```
    pub fn as_of(self) -> AsOfJoin<L, R, F, G> {
        AsOfJoin { join: self, max_age: None, ties: Arc::new(by_bytes::<R>), policy: PhantomData }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P> AsOfJoin<L, R, F, G, P> {
    /// A right record counts up to this age, included; what is older is none.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// How right records of the same key and moment are ordered: the greatest counts.
    pub fn ties(mut self, order: impl Fn(&R, &R) -> Ordering + Send + Sync + 'static) -> Self {
        self.ties = Arc::new(order);
        self
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>> AsOfJoin<L, R, F, G> {
    /// Says what becomes of records behind the watermark, of either side: [`Late::Drop`](crate::Late::Drop)
    /// counts and drops them, [`Late::Side`](crate::Late::Side) counts them and makes them a second stream of [`Either`].
    pub fn late<P: LatePolicy>(self, _: P) -> AsOfJoin<L, R, F, G, P> {
        AsOfJoin { join: self.join, max_age: self.max_age, ties: self.ties, policy: PhantomData }
    }
}

impl<L: Record, R: Record, F: KeyOf<L>, G: KeyOf<R, Key = F::Key>, P: LatePolicy> AsOfJoin<L, R, F, G, P> {
    /// Left records that find one. The name identifies the step's state in checkpoints.
    ///
    /// Results have the event time of the left record.
    pub fn inner<O: 'static>(
        self,
        name: &str,
        join: impl Fn(&L, &R) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, "inner", move |l: &L, r: Option<&R>| Some(join(l, r?)))
    }

    /// All left records, with the right record or without.
    pub fn left<O: 'static>(
        self,
        name: &str,
        join: impl Fn(&L, Option<&R>) -> O + Send + Sync + 'static,
    ) -> P::Streams<Either<L, R>, O> {
        self.run(name, "left", move |l: &L, r: Option<&R>| Some(join(l, r)))
    }

    fn run<O: 'static, J>(self, name: &str, kind: &str, join: J) -> P::Streams<Either<L, R>, O>
    where
        J: Fn(&L, Option<&R>) -> Option<O> + Send + Sync + 'static,
    {
        let (ties, behind, join) = (self.ties, Behind::of::<P>(), Arc::new(join));
        let met = self.join.meet(name, Some("looks up what was valid at a moment"));
        let max_age = self.max_age.map(millis);
        let age = max_age.map_or_else(|| "any age".to_owned(), |age| format!("at most {age} ms old"));
        if max_age.is_none() {
            met.flow.warn(
                name,
                "keeps the latest right record of every key it has ever seen; its state grows with the number \
                 of keys. Put `.max_age(…)` behind `.as_of()`, or accept it for a bounded set of keys",
            );
        }
        let detail = format!("{kind} join as of, {age}, {}", behind.name());
        met.operate::<P, _>(name, &detail, move || AsOf {
            max_age,
            ties: Arc::clone(&ties),
            behind,
            join: Arc::clone(&join),
            types: PhantomData,
        })
    }
}

/// What is remembered of one key.
#[derive(Serialize, Deserialize)]
#[serde(bound(
    serialize = "L: Serialize, R: Serialize",
    deserialize = "L: DeserializeOwned, R: DeserializeOwned"
))]
struct Versions<L, R> {
    /// Left records whose version may still come.
    waiting: ByTime<L>,
    /// One a moment.
    versions: ByTime<R>,
}

impl<L, R> Default for Versions<L, R> {
    fn default() -> Self {
        Self { waiting: ByTime::default(), versions: ByTime::default() }
    }
}

impl<L: Record, R: Record> State for Versions<L, R> {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.versions.is_empty()
    }
}

struct AsOf<K, L, R, O, J> {
    max_age: Option<i64>,
    ties: Ties<R>,
    behind: Behind,
    join: Arc<J>,
    types: PhantomData<fn(K, L) -> O>,
}

impl<K, L, R, O, J> AsOf<K, L, R, O, J> {
    /// Lets go of the versions that no left record from `now` on can ask for.
    fn purge(&self, versions: &mut ByTime<R>, now: i64) {
        let current = versions.within(i64::MIN, now).end;
        versions.drop_first(current.saturating_sub(1));
        if let Some(age) = self.max_age {
            versions.drop_first(versions.within(i64::MIN, now.saturating_sub(age).saturating_sub(1)).end);
        }
    }

    fn version<'v>(&self, versions: &'v ByTime<R>, time: i64) -> Option<&'v R> {
        let index = versions.within(i64::MIN, time).end.checked_sub(1)?;
        let age = time.saturating_sub(versions.time(index)?);
        if self.max_age.is_some_and(|max| age > max) { None } else { versions.get(index) }
    }
}

impl<K, L, R, O, J> KeyedOperator for AsOf<K, L, R, O, J>
where
    K: Key,
    L: Record,
    R: Record,
    O: 'static,
    J: Fn(&L, Option<&R>) -> Option<O> + 'static,
{
    type Key = K;
    type Input = Either<L, R>;
    type Output = O;
    type State = Versions<L, R>;

    fn process(
        &mut self,
        state: &mut Self::State,
        row: Self::Input,
        cx: &mut OperatorCx<'_, K>,
        _: &mut Output<O>,
    ) -> Result<()> {
        let (time, watermark) = (cx.time().unwrap_or_default().millis(), cx.watermark().millis());
        if time < watermark {
            self.behind.take(row, cx);
            return Ok(());
        }
        match row {
            Either::Left(row) => {
                // A version of this very moment may come until the watermark is behind it.
                cx.timer_at(Timestamp::from_millis(time.saturating_add(1)));
                state.waiting.insert(time, row);
            }
            Either::Right(row) => {
                let versions = &mut state.versions;
                let same = versions.within(time, time);
                match versions.get(same.start).filter(|_| !same.is_empty()) {
                    Some(other) if (self.ties)(&row, other).is_gt() => versions.replace(same.start, row),
                    Some(_) => {}
                    None => versions.insert(time, row),
                }
                self.purge(versions, watermark);
                if let Some(age) = self.max_age {
                    let (end, grain) = (time.saturating_add(age).saturating_add(1), (age / GRAINS).max(1));
                    let end = end.saturating_add(grain - 1).div_euclid(grain).saturating_mul(grain);
                    cx.timer_at(Timestamp::from_millis(end));
                } else if versions.len() > 1 {
                    cx.timer_at(Timestamp::from_millis(time.saturating_add(1)));
                }
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
        while let Some((time, row)) = state.waiting.pop_before(at.millis()) {
            if let Some(found) = (self.join)(&row, self.version(&state.versions, time)) {
                out.emit_at(found, Timestamp::from_millis(time));
            }
        }
        self.purge(&mut state.versions, at.millis());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Harness;

    type Found = (u32, Option<u32>);

    type Lookup = fn(&u32, Option<&u32>) -> Option<Found>;

    fn as_of(max_age: Option<i64>) -> AsOf<u8, u32, u32, Found, Lookup> {
        let join = Arc::new((|l, r| Some((*l, r.copied()))) as Lookup);
        AsOf { max_age, ties: Arc::new(u32::cmp), behind: Behind::Dropped, join, types: PhantomData }
    }

    #[test]
    fn a_left_record_waits_for_versions_of_its_very_moment() {
        let mut lookup = Harness::of(as_of(Some(10)));
        lookup.push(1, Either::Left(7), 100).unwrap();
        lookup.push(1, Either::Right(1), 90).unwrap();
        lookup.watermark(100).unwrap();
        assert!(lookup.take().is_empty());
        lookup.push(1, Either::Right(2), 100).unwrap();
        lookup.push(1, Either::Right(3), 100).unwrap();
        lookup.push(1, Either::Right(2), 100).unwrap();
        lookup.watermark(101).unwrap();
        assert_eq!(lookup.take_timed(), [((7, Some(3)), 100)], "the greatest of its moment, at its own time");
    }

    #[test]
    fn the_age_is_included_and_old_versions_go() {
        let mut lookup = Harness::of(as_of(Some(10)));
        lookup.push(1, Either::Right(1), 90).unwrap();
        lookup.push(1, Either::Left(7), 100).unwrap();
        lookup.push(1, Either::Left(8), 101).unwrap();
        lookup.watermark(200).unwrap();
        assert_eq!(lookup.take(), [(7, Some(1)), (8, None)]);
        assert!(lookup.state(&1).is_none(), "nothing is kept of a key whose versions are too old");
    }

    #[test]
    fn without_an_age_the_current_version_stays_alone() {
        let mut lookup = Harness::of(as_of(None));
        for at in 0..100 {
            lookup.push(1, Either::Right(at as u32), at).unwrap();
        }
        lookup.watermark(50).unwrap();
        assert_eq!(lookup.state(&1).unwrap().versions.first_time(), Some(50));
        lookup.watermark(100).unwrap();
        assert_eq!(lookup.state(&1).unwrap().versions.len(), 1);
        lookup.push(1, Either::Left(7), 500).unwrap();
        lookup.watermark(501).unwrap();
        assert_eq!(lookup.take(), [(7, Some(99))]);
    }
}
