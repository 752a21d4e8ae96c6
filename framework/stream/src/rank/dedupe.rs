//! One record of many with the same key: the first or the last.

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::by_bytes;
use super::latest::Latest;
use crate::Result;
use crate::join::ByTime;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::state::State;
use crate::stream::{Record, Stream};
use crate::time::{Timestamp, millis};

pub(super) type Ties<T> = Arc<dyn Fn(&T, &T) -> Ordering + Send + Sync>;

/// A keyed stream of which one record a key is wanted.
#[must_use = "say `.first(…)` or `.last(…)`"]
pub struct Deduplicate<T: 'static, F: KeyOf<T>> {
    keyed: KeyedStream<T, F>,
    ttl: Option<Duration>,
    ties: Ties<T>,
}

impl<T: Record, F: KeyOf<T>> KeyedStream<T, F> {
    /// Keeps one record of each key.
    ///
    /// ```
    /// use afflux_stream::{BoundedOutOfOrder, Flow, JobSettings, Timestamp, hours, minutes, vec_source};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("orders", vec_source(vec![(7_u64, 1_000_i64), (7, 1_500)]))
    ///     .watermarks_by(BoundedOutOfOrder::by(minutes(1)), |order| Timestamp::from_millis(order.1))
    ///     .key_by(|order| order.0)
    ///     .deduplicate()
    ///     .ttl(hours(1))
    ///     .first("once")
    ///     .count("orders-once");
    /// flow.finish().unwrap();
    /// ```
    pub fn deduplicate(self) -> Deduplicate<T, F> {
        Deduplicate { keyed: self, ttl: None, ties: Arc::new(by_bytes::<T>) }
    }
}

impl<T: Record, F: KeyOf<T>> Deduplicate<T, F> {
    /// A key is forgotten after this long (at least a millisecond), counted in event time, or by the
    /// clock where there is none; the next record of the key is a new first.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How records of the same key and event time are ordered: the least is the first, the greatest
    /// the last. Without it their bytes (MessagePack) are compared.
    pub fn ties(mut self, order: impl Fn(&T, &T) -> Ordering + Send + Sync + 'static) -> Self {
        self.ties = Arc::new(order);
        self
    }

    /// The first record of each key by event time. The name identifies the step's state in
    /// checkpoints.
    ///
    /// It comes out when the watermark has passed its time, so that nothing earlier can come; the
    /// order of arrival does not matter. With a `ttl` those less than this behind a first are its
    /// duplicates, and the next one is a first again. A record behind the watermark comes out at
    /// once if its key has no first, or is not remembered any more. Without event time it is the
    /// first to come, at once.
    pub fn first(self, name: &str) -> Stream<T> {
        let detail = match self.ttl {
            Some(ttl) => format!("first of {} ms", millis(ttl).max(1)),
            None => "first".to_owned(),
        };
        let (ttl, ties) = (self.ttl.map(|ttl| millis(ttl).max(1)), self.ties);
        let make = move || First { ttl, ties: Arc::clone(&ties), key: PhantomData };
        let firsts = self.keyed.operate(name, &detail, make);
        if ttl.is_none() {
            firsts.flow.warn(
                name,
                "remembers every key it has ever seen; its state grows with the number of keys. \
                 Put `.ttl(…)` behind `.deduplicate()`, or accept it for a bounded set of keys",
            );
        }
        firsts
    }

    /// The last record of each key by event time: when the input has ended or, with a `ttl`, when
    /// none has followed it for this long. Without event time, the last to come.
    ///
    /// Its event time is the moment it comes out. A record so late that its key would have been
    /// forgotten comes out at once.
    pub fn last(self, name: &str) -> Stream<T> {
        let detail = match self.ttl {
            Some(ttl) => format!("last before {} ms of silence", millis(ttl).max(1)),
            None => "last".to_owned(),
        };
        let (ttl, ties) = (self.ttl.map(|ttl| millis(ttl).max(1)), self.ties);
        if let Some(ttl) = ttl {
            let make = move || Last { ttl, ties: Arc::clone(&ties), key: PhantomData };
            return self.keyed.operate(name, &detail, make);
        }
        let make = move || Latest { ties: Arc::clone(&ties), key: PhantomData };
        let lasts = self.keyed.operate(name, &detail, make);
        lasts.flow.warn(
            name,
            "keeps one record for every key it has ever seen and gives none before the input ends; its \
             state grows with the number of keys. Put `.ttl(…)` behind `.deduplicate()`, or accept it for a \
             bounded input",
        );
        lasts
    }
}

/// What is known of a key whose first record is wanted.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
struct Firsts<T> {
    /// Those that something earlier may still precede; one a moment.
    waiting: ByTime<T>,
    /// Before this moment all are duplicates.
    until: Option<i64>,
}

impl<T> Default for Firsts<T> {
    fn default() -> Self {
        Self { waiting: ByTime::default(), until: None }
    }
}

impl<T: Record> State for Firsts<T> {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.until.is_none()
    }
}

struct First<K, T> {
    ttl: Option<i64>,
    ties: Ties<T>,
    key: PhantomData<fn(K)>,
}

impl<K: Key, T: Record> First<K, T> {
    /// Emits what nothing can precede any more.
    fn settle(&self, state: &mut Firsts<T>, watermark: i64, cx: &mut OperatorCx<'_, K>, out: &mut Output<T>) {
        while let Some((time, row)) = state.waiting.pop_before(watermark) {
            if state.until.is_none_or(|until| time >= until) {
                out.emit_at(row, Timestamp::from_millis(time));
                let until = self.ttl.map_or(i64::MAX, |ttl| time.saturating_add(ttl));
                if self.ttl.is_some() {
                    cx.timer_at(Timestamp::from_millis(until));
                }
                state.until = Some(until);
            }
        }
        if state.until.is_some_and(|until| until <= watermark && until != i64::MAX) {
            state.until = None;
        }
    }
}

impl<K: Key, T: Record> KeyedOperator for First<K, T> {
    type Key = K;
    type Input = T;
    type Output = T;
    type State = Firsts<T>;

    fn process(
        &mut self,
        state: &mut Firsts<T>,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<T>,
    ) -> Result<()> {
        let Some(time) = cx.time().map(Timestamp::millis) else {
            let now = cx.now().millis();
            if state.until.is_none_or(|until| now >= until) {
                out.emit(row);
                let until = self.ttl.map_or(i64::MAX, |ttl| now.saturating_add(ttl));
                if self.ttl.is_some() {
                    cx.clock_timer_at(Timestamp::from_millis(until));
                }
                state.until = Some(until);
            }
            return Ok(());
        };
        if state.until.is_some_and(|until| time < until) {
            return Ok(());
        }
        // For ever: one is enough.
        if self.ttl.is_none() && state.waiting.first_time().is_some_and(|first| first < time) {
            return Ok(());
        }
        let same = state.waiting.within(time, time);
        match state.waiting.get(same.start).filter(|_| !same.is_empty()) {
            Some(other) if (self.ties)(&row, other).is_lt() => state.waiting.replace(same.start, row),
            Some(_) => {}
            None => {
                state.waiting.insert(time, row);
                if self.ttl.is_none() && state.waiting.len() > 1 {
                    state.waiting.remove(1);
                }
                if time >= cx.watermark().millis() {
                    cx.timer_at(Timestamp::from_millis(time.saturating_add(1)));
                }
            }
        }
        self.settle(state, cx.watermark().millis(), cx, out);
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Firsts<T>,
        at: Timestamp,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<T>,
    ) -> Result<()> {
        self.settle(state, at.millis(), cx, out);
        Ok(())
    }

    fn on_clock(
        &mut self,
        state: &mut Firsts<T>,
        at: Timestamp,
        _: &mut OperatorCx<'_, K>,
        _: &mut Output<T>,
    ) -> Result<()> {
        if state.until.is_some_and(|until| until <= at.millis()) {
            state.until = None;
        }
        Ok(())
    }
}

/// The stretches of a key without a silence, each with its last record at its time.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
struct Lasts<T>(ByTime<Stretch<T>>);

/// Records of a key less than the time to live apart.
#[derive(Serialize, Deserialize)]
struct Stretch<T> {
    from: i64,
    last: T,
}

impl<T> Default for Lasts<T> {
    fn default() -> Self {
        Self(ByTime::default())
    }
}

impl<T: Record> State for Lasts<T> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct Last<K, T> {
    ttl: i64,
    ties: Ties<T>,
    key: PhantomData<fn(K)>,
}

impl<K, T: Record> Last<K, T> {
    /// When nothing can follow a record of this time any more.
    fn end(&self, time: i64) -> i64 {
        time.saturating_add(self.ttl)
    }

    /// Joins a stretch with the one before it if there is no silence between them.
    fn close_gap(&self, rows: &mut ByTime<Stretch<T>>, index: usize, from: i64) {
        if let Some(before) = index.checked_sub(1)
            && rows.time(before).is_some_and(|last| from < self.end(last))
            && let Some(removed) = rows.remove(before)
            && let Some(stretch) = rows.get_mut(before)
        {
            stretch.from = removed.from;
        }
    }

    fn settle(&self, state: &mut Lasts<T>, at: i64, out: &mut Output<T>) {
        while state.0.first_time().is_some_and(|time| self.end(time) <= at) {
            let Some((_, stretch)) = state.0.pop_before(i64::MAX) else { break };
            out.emit(stretch.last);
        }
    }
}

impl<K: Key, T: Record> KeyedOperator for Last<K, T> {
    type Key = K;
    type Input = T;
    type Output = T;
    type State = Lasts<T>;

    fn process(
        &mut self,
        state: &mut Lasts<T>,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<T>,
    ) -> Result<()> {
        let timed = cx.time().is_some();
        let time = cx.time().unwrap_or_else(|| cx.now()).millis();
        let rows = &mut state.0;
        // The stretch that ends here or later, if the record is part of it.
        let index = rows.within(time, i64::MAX).start;
        if let Some(at) = rows.time(index)
            && let Some(next) = rows.get_mut(index)
            && next.from < self.end(time)
        {
            let from = next.from.min(time);
            next.from = from;
            // Of two that come in one millisecond of the clock, the later counts.
            if at == time && (!timed || (self.ties)(&row, &next.last).is_gt()) {
                next.last = row;
            }
            self.close_gap(rows, index, from);
            return Ok(());
        }
        rows.insert(time, Stretch { from: time, last: row });
        self.close_gap(rows, index, time);
        let end = Timestamp::from_millis(self.end(time));
        match timed {
            false => cx.clock_timer_at(end),
            true if cx.watermark() < end => cx.timer_at(end),
            true => self.settle(state, cx.watermark().millis(), out),
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Lasts<T>,
        at: Timestamp,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<T>,
    ) -> Result<()> {
        self.settle(state, at.millis(), out);
        Ok(())
    }

    fn on_clock(
        &mut self,
        state: &mut Lasts<T>,
        at: Timestamp,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<T>,
    ) -> Result<()> {
        self.settle(state, at.millis(), out);
        Ok(())
    }
}
