//! A pattern on a keyed stream: events in the order of time, then the search.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use afflux_wire::{Code, Status};

use super::matcher::{Found, Search};
use super::{Matched, PARTIAL_MATCHES_MAX, Pattern};
use crate::NoPolicy;
use crate::Result;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::operator::{KeyedOperator, OperatorCx, Output, SideTag};
use crate::state::State;
use crate::stream::{Record, Stream};
use crate::time::Timestamp;
use crate::window::{DropLate, SideLate};

/// A keyed stream and a pattern to search for, with a policy `L` for late events.
#[must_use = "say `.late(…)` where time can be late, then `.select(…)`"]
pub struct Matching<T: Record, F: KeyOf<T>, L = NoPolicy> {
    keyed: KeyedStream<T, F>,
    pattern: Pattern<T>,
    policy: std::marker::PhantomData<L>,
}

impl<T: Record, F: KeyOf<T>> KeyedStream<T, F> {
    /// Searches the events of each key for a pattern. With event time they are taken in its
    /// order, once the watermark has passed them; without, as they come.
    ///
    /// ```
    /// use afflux_stream::{BoundedOutOfOrder, Flow, JobSettings, Late, Pattern, Timestamp, generate, millis_of, secs};
    /// let flow = Flow::new("logins", JobSettings::default());
    /// flow.source("tries", generate(100, |i| (i % 5, i % 3 == 0, i as i64)))
    ///     .watermarks_by(BoundedOutOfOrder::by(millis_of(10)), |t| Timestamp::from_millis(t.2))
    ///     .key_by(|t| t.0)
    ///     .pattern(Pattern::begin("fail", |t: &(u64, bool, i64), _| !t.1).times(3).consecutive().within(secs(60)))
    ///     .late(Late::Drop)
    ///     .select("three-failures", |user, failures| (*user, failures.of("fail").count() as u64))
    ///     .count("alerts");
    /// # flow.finish().unwrap();
    /// ```
    pub fn pattern(self, pattern: Pattern<T>) -> Matching<T, F> {
        Matching { keyed: self, pattern, policy: std::marker::PhantomData }
    }
}

impl<T: Record, F: KeyOf<T>> Matching<T, F> {
    /// Says what becomes of events that come after the watermark has passed them.
    pub fn late<L>(self, _: L) -> Matching<T, F, L> {
        Matching { keyed: self.keyed, pattern: self.pattern, policy: std::marker::PhantomData }
    }
}

/// The side output of late events.
const fn late_tag<T>() -> SideTag<T> {
    SideTag::new("late")
}
/// The side output of matches that were not complete in time.
const fn timeout_tag<P>() -> SideTag<P> {
    SideTag::new("timed-out")
}

impl<T: Record, F: KeyOf<T>> Matching<T, F, DropLate> {
    /// Makes a row of each match. Late events are counted and dropped.
    pub fn select<O: 'static>(
        self,
        name: &str,
        select: impl Fn(&F::Key, &Matched<'_, T>) -> O + Send + Sync + 'static,
    ) -> Stream<O> {
        let rule =
            Arc::new(Rule::new(self.pattern, select, |_: &F::Key, _: &Matched<'_, T>| None::<()>, false));
        search(self.keyed, name, rule).0
    }

    /// The same, and a row of each match that was not complete `within` its time.
    pub fn select_with_timeouts<O: 'static, P: Record>(
        self,
        name: &str,
        select: impl Fn(&F::Key, &Matched<'_, T>) -> O + Send + Sync + 'static,
        timed_out: impl Fn(&F::Key, &Matched<'_, T>) -> P + Send + Sync + 'static,
    ) -> (Stream<O>, Stream<P>) {
        let timed_out = move |key: &F::Key, matched: &Matched<'_, T>| Some(timed_out(key, matched));
        let rule = Arc::new(Rule::new(self.pattern, select, timed_out, false));
        let (matches, sides) = search(self.keyed, name, rule);
        let timeouts = sides.get(&timeout_tag::<P>());
        (matches, timeouts)
    }
}

impl<T: Record, F: KeyOf<T>> Matching<T, F, SideLate> {
    /// Makes a row of each match; late events make a stream of their own.
    pub fn select<O: 'static>(
        self,
        name: &str,
        select: impl Fn(&F::Key, &Matched<'_, T>) -> O + Send + Sync + 'static,
    ) -> (Stream<O>, Stream<T>) {
        let rule =
            Arc::new(Rule::new(self.pattern, select, |_: &F::Key, _: &Matched<'_, T>| None::<()>, true));
        let (matches, sides) = search(self.keyed, name, rule);
        let late = sides.get(&late_tag::<T>());
        (matches, late)
    }
}

fn search<T, F, S, E, O, P>(
    keyed: KeyedStream<T, F>,
    name: &str,
    rule: Arc<Rule<T, S, E>>,
) -> (Stream<O>, crate::operator::SideOutputs)
where
    T: Record,
    F: KeyOf<T>,
    S: Fn(&F::Key, &Matched<'_, T>) -> O + Send + Sync + 'static,
    E: Fn(&F::Key, &Matched<'_, T>) -> Option<P> + Send + Sync + 'static,
    O: 'static,
    P: 'static,
{
    let flow = keyed.flow().clone();
    let timed = keyed.is_timed();
    for mistake in rule.pattern.check(timed) {
        flow.refuse(Status::invalid(format!("pattern `{name}`: {mistake}")));
    }
    if rule.pattern.within_ms.is_none() {
        flow.warn(
            name,
            "keeps unfinished matches for ever: their number grows with the events. Say `.within(…)` in the pattern, \
             or accept it where matches are always finished soon",
        );
    }
    let stages: Vec<_> = rule.pattern.stages.iter().map(|s| s.name).collect();
    let detail = format!("pattern {}", stages.join(", "));
    keyed.operate_with_sides(name, &detail, move || Searching {
        rule: Arc::clone(&rule),
        timed,
        types: std::marker::PhantomData,
    })
}

/// What is searched for, and what is made of it.
pub(crate) struct Rule<T, S, E> {
    pattern: Pattern<T>,
    select: S,
    timed_out: E,
    keeps_late: bool,
}

impl<T, S, E> Rule<T, S, E> {
    const fn new(pattern: Pattern<T>, select: S, timed_out: E, keeps_late: bool) -> Self {
        Self { pattern, select, timed_out, keeps_late }
    }
}

/// The operator of one task.
struct Searching<K, T, S, E, O, P> {
    rule: Arc<Rule<T, S, E>>,
    timed: bool,
    types: std::marker::PhantomData<fn(K) -> (O, P)>,
}

/// What is remembered of a key.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: serde::de::DeserializeOwned"))]
pub(crate) struct Events<T> {
    /// Not in order yet: the watermark has not passed them.
    waiting: Vec<(i64, T)>,
    search: Search<T>,
}

impl<T> Default for Events<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), search: Search::default() }
    }
}

impl<T: Record> State for Events<T> {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.search.is_empty()
    }
}

impl<K, T, S, E, O, P> Searching<K, T, S, E, O, P>
where
    K: Key,
    T: Record,
    S: Fn(&K, &Matched<'_, T>) -> O,
    E: Fn(&K, &Matched<'_, T>) -> Option<P>,
    P: 'static,
{
    fn hand_out(&self, found: &Found, search: &Search<T>, cx: &mut OperatorCx<'_, K>, out: &mut Output<O>) {
        let pattern = &self.rule.pattern;
        for taken in &found.matches {
            let row = (self.rule.select)(cx.key(), &search.matched(pattern, taken));
            match search.ended_at(pattern, taken) {
                Some(time) => out.emit_at(row, Timestamp::from_millis(time)),
                None => out.emit(row),
            }
        }
        for taken in &found.timed_out {
            if let Some(row) = (self.rule.timed_out)(cx.key(), &search.matched(pattern, taken)) {
                cx.side(&timeout_tag::<P>(), row);
            }
        }
    }

    fn advance(
        &self,
        search: &mut Search<T>,
        time: i64,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let pattern = &self.rule.pattern;
        let found = search.advance(pattern, time, row);
        self.hand_out(&found, search, cx, out);
        search.prune();
        if search.unfinished() > PARTIAL_MATCHES_MAX {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "a key has {} unfinished matches, more than {PARTIAL_MATCHES_MAX}: shorten `within`, use `next` or \
                     `followed_by` instead of `followed_by_any` and `allow_combinations`, or skip after a match",
                    search.unfinished()
                ),
            ));
        }
        if let Some(within) = pattern.within_ms
            && search.has_begun_at(time)
        {
            cx.timer_at(Timestamp::from_millis(time.saturating_add(within)));
        }
        Ok(())
    }
}

impl<K, T, S, E, O, P> KeyedOperator for Searching<K, T, S, E, O, P>
where
    K: Key,
    T: Record,
    S: Fn(&K, &Matched<'_, T>) -> O + Send + Sync + 'static,
    E: Fn(&K, &Matched<'_, T>) -> Option<P> + Send + Sync + 'static,
    O: 'static,
    P: 'static,
{
    type Key = K;
    type Input = T;
    type Output = O;
    type State = Events<T>;

    fn process(
        &mut self,
        state: &mut Events<T>,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let Some(time) = cx.time().filter(|_| self.timed) else {
            return self.advance(&mut state.search, 0, row, cx, out);
        };
        if time < cx.watermark() {
            if self.rule.keeps_late {
                cx.side(&late_tag::<T>(), row);
            }
            cx.count_late();
            return Ok(());
        }
        // Others of this very moment may come until the watermark is behind it.
        cx.timer_at(Timestamp::from_millis(time.millis().saturating_add(1)));
        state.waiting.push((time.millis(), row));
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Events<T>,
        at: Timestamp,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let rule = Arc::clone(&self.rule);
        let due = state.waiting.extract_if(.., |event| event.0 < at.millis());
        let mut due: Vec<_> = due.collect();
        due.sort_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| match &rule.pattern.order {
                Some(order) => order(&a.1, &b.1),
                None => std::cmp::Ordering::Equal,
            })
        });
        for (time, row) in due {
            self.advance(&mut state.search, time, row, cx, out)?;
        }
        let found = state.search.expire(&rule.pattern, at.millis());
        self.hand_out(&found, &state.search, cx, out);
        state.search.prune();
        Ok(())
    }
}
