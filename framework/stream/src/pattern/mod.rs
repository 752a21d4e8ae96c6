//! Patterns of events (complex event processing): what must follow what, on the records of a key.
//!
//! The model is that of SASE+ (Agrawal et al., Efficient Pattern Matching over Event Streams,
//! SIGMOD 2008) with the words of Flink's CEP library. A pattern is a row of stages; a match
//! gives each stage its events, in the order of event time. Between the last event taken and the
//! next one taken by a stage,
//!
//! - `next`: nothing stands between;
//! - `followed_by`: what stands between does not meet the stage's condition;
//! - `followed_by_any`: anything may stand between.
//!
//! The events of one stage with `times` or `one_or_more` follow each other in the same three ways
//! (`followed_by` unless `consecutive` or `allow_combinations` says otherwise).

mod matcher;
mod operator;

use std::cmp::Ordering;
use std::ops::{RangeFrom, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

pub use matcher::Matched;
pub use operator::Matching;

/// Stages of a pattern at most.
pub const PATTERN_STAGES_MAX: usize = 60;
/// Unfinished matches of one key at most; more is an error.
pub const PARTIAL_MATCHES_MAX: usize = 10_000;

type Condition<T> = Arc<dyn Fn(&T, &Matched<'_, T>) -> bool + Send + Sync>;
type Order<T> = Arc<dyn Fn(&T, &T) -> Ordering + Send + Sync>;

/// What may stand between two events of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contiguity {
    /// Nothing.
    Strict,
    /// What does not meet the condition.
    Relaxed,
    /// Anything.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Not {
    /// The very next event.
    Next,
    /// Any event until the stage behind begins.
    Until,
}

pub(crate) struct Guard<T> {
    pub(crate) not: Not,
    pub(crate) condition: Condition<T>,
}

pub(crate) struct Stage<T> {
    pub(crate) name: &'static str,
    pub(crate) condition: Condition<T>,
    /// From the stage before.
    pub(crate) link: Contiguity,
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// Between the events of this stage.
    pub(crate) inner: Contiguity,
    pub(crate) greedy: bool,
    /// What must not come between the stage before and this.
    pub(crate) guards: Vec<Guard<T>>,
}

/// Where the search goes on after a match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterMatch {
    /// Everywhere: every possible match is found.
    #[default]
    NoSkip,
    /// At the event after the first of the match.
    ToNext,
    /// At the event after the last of the match.
    PastLast,
    /// At the first event of this stage.
    ToFirst(&'static str),
    /// At the last event of this stage.
    ToLast(&'static str),
}

/// How many events a stage takes: `3`, `2..=4` or `2..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    min: u32,
    max: u32,
}

impl From<u32> for Times {
    fn from(n: u32) -> Self {
        Self { min: n, max: n }
    }
}
impl From<RangeInclusive<u32>> for Times {
    fn from(range: RangeInclusive<u32>) -> Self {
        Self { min: *range.start(), max: *range.end() }
    }
}
impl From<RangeFrom<u32>> for Times {
    fn from(range: RangeFrom<u32>) -> Self {
        Self { min: range.start, max: u32::MAX }
    }
}

/// A pattern over the records of one key.
///
/// A condition sees the record and what the match has taken so far.
///
/// ```
/// use afflux_stream::{AfterMatch, Pattern, minutes};
/// // The price falls once or more, then rises.
/// let v = Pattern::begin("start", |_: &u64, _| true)
///     .next("down", |price, m| m.last_taken().is_some_and(|last| price < last))
///     .one_or_more()
///     .consecutive()
///     .greedy()
///     .next("up", |price, m| m.last_taken().is_some_and(|last| price > last))
///     .within(minutes(10))
///     .after_match(AfterMatch::ToLast("up"));
/// ```
#[must_use = "a pattern is searched for with `.pattern(…)` on a keyed stream"]
pub struct Pattern<T> {
    pub(crate) stages: Vec<Stage<T>>,
    /// What must not come behind the last stage.
    pub(crate) ending: Vec<Guard<T>>,
    pub(crate) within_ms: Option<i64>,
    pub(crate) after: AfterMatch,
    pub(crate) order: Option<Order<T>>,
    pub(crate) mistakes: Vec<String>,
}

impl<T: 'static> Pattern<T> {
    /// A pattern that begins with an event that meets this condition.
    pub fn begin(
        name: &'static str,
        condition: impl Fn(&T, &Matched<'_, T>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let pattern = Self {
            stages: Vec::new(),
            ending: Vec::new(),
            within_ms: None,
            after: AfterMatch::default(),
            order: None,
            mistakes: Vec::new(),
        };
        pattern.stage(name, Contiguity::Any, Arc::new(condition))
    }

    /// Directly behind, an event that meets this condition.
    pub fn next(
        self,
        name: &'static str,
        condition: impl Fn(&T, &Matched<'_, T>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.stage(name, Contiguity::Strict, Arc::new(condition))
    }

    /// Later, the first event that meets this condition.
    pub fn followed_by(
        self,
        name: &'static str,
        condition: impl Fn(&T, &Matched<'_, T>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.stage(name, Contiguity::Relaxed, Arc::new(condition))
    }

    /// Later, any event that meets this condition: one match for each.
    pub fn followed_by_any(
        self,
        name: &'static str,
        condition: impl Fn(&T, &Matched<'_, T>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.stage(name, Contiguity::Any, Arc::new(condition))
    }

    /// Directly behind, no event that meets this condition.
    pub fn not_next(self, condition: impl Fn(&T, &Matched<'_, T>) -> bool + Send + Sync + 'static) -> Self {
        self.guard(Not::Next, Arc::new(condition))
    }

    /// Until the stage behind begins, no event that meets this condition. At the end of a pattern
    /// it needs `within`: the match is complete when that time is over.
    pub fn not_followed_by(
        self,
        condition: impl Fn(&T, &Matched<'_, T>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.guard(Not::Until, Arc::new(condition))
    }

    /// The last stage takes so many events: `3`, `2..=4` or `2..`.
    pub fn times(mut self, times: impl Into<Times>) -> Self {
        let times = times.into();
        let mistake = times.min == 0 || times.max < times.min;
        let stage = self.last("times");
        (stage.min, stage.max) = (times.min.max(1), times.max);
        let name = stage.name;
        if mistake {
            self.mistakes.push(format!(
                "stage `{name}` takes {} to {} events: from 1 on, and the second not below the first; \
                 for none at all say `.optional()`",
                times.min, times.max
            ));
        }
        self
    }

    /// The last stage takes one event or more.
    pub fn one_or_more(self) -> Self {
        self.times(1..)
    }

    /// The last stage may take no event.
    pub fn optional(mut self) -> Self {
        self.last("optional").min = 0;
        self
    }

    /// The last stage takes as many events as it can, and leaves none that it could take to the
    /// stage behind.
    pub fn greedy(mut self) -> Self {
        self.last("greedy").greedy = true;
        self
    }

    /// Nothing stands between the events of the last stage.
    pub fn consecutive(mut self) -> Self {
        self.last("consecutive").inner = Contiguity::Strict;
        self
    }

    /// Anything may stand between the events of the last stage: every combination is a match.
    pub fn allow_combinations(mut self) -> Self {
        self.last("allow_combinations").inner = Contiguity::Any;
        self
    }

    /// The last event of a match comes less than this after its first.
    pub fn within(mut self, span: Duration) -> Self {
        self.within_ms = Some(crate::time::millis(span).max(1));
        self
    }

    /// Where the search goes on after a match. Of matches that end with one event, that which
    /// began first comes first, then that with the most events.
    pub const fn after_match(mut self, after: AfterMatch) -> Self {
        self.after = after;
        self
    }

    /// Orders events of one event time; without it they are taken in the order in which they
    /// come, which is not the same in each run where several tasks send them.
    pub fn order_by<O: Ord>(mut self, key: impl Fn(&T) -> O + Send + Sync + 'static) -> Self {
        self.order = Some(Arc::new(move |a, b| key(a).cmp(&key(b))));
        self
    }

    fn stage(mut self, name: &'static str, link: Contiguity, condition: Condition<T>) -> Self {
        if self.stages.iter().any(|s| s.name == name) {
            self.mistakes
                .push(format!("two stages are named `{name}`: a match could not tell their events apart"));
        }
        if self.stages.len() == PATTERN_STAGES_MAX {
            self.mistakes
                .push(format!("a pattern has at most {PATTERN_STAGES_MAX} stages; `{name}` is one more"));
            return self;
        }
        let guards = std::mem::take(&mut self.ending);
        let inner = Contiguity::Relaxed;
        self.stages.push(Stage { name, condition, link, min: 1, max: 1, inner, greedy: false, guards });
        self
    }

    fn guard(mut self, not: Not, condition: Condition<T>) -> Self {
        self.ending.push(Guard { not, condition });
        self
    }

    fn last(&mut self, option: &str) -> &mut Stage<T> {
        if !self.ending.is_empty() {
            self.mistakes
                .push(format!("`{option}` stands behind a `not_…`: put it directly behind its stage"));
        }
        let last = self.stages.len() - 1;
        &mut self.stages[last]
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self, timed: bool) -> Vec<String> {
        let mut mistakes = self.mistakes.clone();
        if self.stages.iter().all(|s| s.min == 0) {
            mistakes.push("every stage is optional: nothing at all would be a match".to_owned());
        }
        if let Some(last) = self.stages.last().filter(|s| s.greedy && self.ending.is_empty()) {
            mistakes.push(format!(
                "`{}` is greedy and the last stage: a match would never know that it is complete; put a \
                 stage behind it, or leave `greedy` away to get a match at each event",
                last.name
            ));
        }
        if self.ending.iter().any(|g| g.not == Not::Next) {
            mistakes.push(
                "`not_next` ends the pattern: say with `.next(…)` or `.followed_by(…)` what comes instead"
                    .to_owned(),
            );
        }
        if !self.ending.is_empty() && self.within_ms.is_none() {
            mistakes.push(
                "`not_followed_by` ends the pattern: `.within(…)` has to say how long to wait".to_owned(),
            );
        }
        if self.within_ms.is_some() && !timed {
            mistakes.push("`within` needs event time, but the source has none: say `.watermarks(…)` instead of `.untimed()`".to_owned());
        }
        if let AfterMatch::ToFirst(name) | AfterMatch::ToLast(name) = self.after
            && !self.stages.iter().any(|s| s.name == name)
        {
            let names: Vec<_> = self.stages.iter().map(|s| s.name).collect();
            mistakes
                .push(format!("the search goes on at stage `{name}`, which is none of {}", names.join(", ")));
        }
        mistakes
    }
}
