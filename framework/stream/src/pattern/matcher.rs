//! The search: unfinished matches, each with what it may still do.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{AfterMatch, Contiguity, Not, Pattern};

/// An event that some match may need.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept<T> {
    pub(crate) seq: u64,
    pub(crate) time: i64,
    pub(crate) row: T,
}

/// An unfinished match.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Partial {
    /// The stage that took the last event.
    stage: u8,
    /// Events that it has taken.
    count: u32,
    /// What may still be done: bit `stage`: take another; bit `j` above: go on to stage `j`; the
    /// bit behind the last stage: be complete when the time is over.
    open: u64,
    began_at: i64,
    /// Stage and event, in order.
    taken: Vec<(u8, u64)>,
}

impl Partial {
    fn first(&self) -> u64 {
        self.taken.first().map_or(0, |t| t.1)
    }
    fn last(&self) -> u64 {
        self.taken.last().map_or(0, |t| t.1)
    }
}

/// What is known of the events of one key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Search<T> {
    next: u64,
    /// In order, without gaps.
    events: VecDeque<Kept<T>>,
    partial: Vec<Partial>,
}

impl<T> Default for Search<T> {
    fn default() -> Self {
        Self { next: 0, events: VecDeque::new(), partial: Vec::new() }
    }
}

/// The events that a match has taken.
pub struct Matched<'a, T> {
    pattern: &'a Pattern<T>,
    taken: &'a [(u8, u64)],
    events: &'a VecDeque<Kept<T>>,
}

impl<'a, T> Matched<'a, T> {
    fn row(&self, seq: u64) -> Option<&'a Kept<T>> {
        let first = self.events.front()?.seq;
        self.events.get(usize::try_from(seq.checked_sub(first)?).ok()?)
    }

    /// The events that this stage has taken, in order.
    pub fn of(&self, stage: &str) -> impl Iterator<Item = &'a T> {
        let place = self.pattern.stages.iter().position(|s| s.name == stage);
        let taken = self.taken.iter().filter(move |t| Some(usize::from(t.0)) == place);
        taken.filter_map(|t| self.row(t.1)).map(|kept| &kept.row).collect::<Vec<_>>().into_iter()
    }

    /// The first event of this stage.
    pub fn first(&self, stage: &str) -> Option<&'a T> {
        self.of(stage).next()
    }

    /// The last event of this stage so far.
    pub fn last(&self, stage: &str) -> Option<&'a T> {
        self.of(stage).last()
    }

    /// The event taken last, by whichever stage.
    pub fn last_taken(&self) -> Option<&'a T> {
        self.row(self.taken.last()?.1).map(|kept| &kept.row)
    }

    /// All events, in order, each with the name of its stage.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'a T)> {
        let named = self.taken.iter().filter_map(|(stage, seq)| {
            Some((self.pattern.stages.get(usize::from(*stage))?.name, &self.row(*seq)?.row))
        });
        named.collect::<Vec<_>>().into_iter()
    }
}

/// What an event made of the unfinished matches.
#[derive(Default)]
pub(crate) struct Found {
    /// The events of each match that is complete.
    pub(crate) matches: Vec<Vec<(u8, u64)>>,
    /// The same of those whose time is over.
    pub(crate) timed_out: Vec<Vec<(u8, u64)>>,
}

impl<T> Search<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.partial.len()
    }

    /// Whether an unfinished match began at this moment.
    pub(crate) fn has_begun_at(&self, time: i64) -> bool {
        self.partial.iter().any(|p| p.began_at == time)
    }

    pub(crate) fn matched<'a>(&'a self, pattern: &'a Pattern<T>, taken: &'a [(u8, u64)]) -> Matched<'a, T> {
        Matched { pattern, taken, events: &self.events }
    }

    /// The event time of the last event of a match.
    pub(crate) fn ended_at(&self, pattern: &Pattern<T>, taken: &[(u8, u64)]) -> Option<i64> {
        let last = taken.last()?.1;
        self.matched(pattern, taken).row(last).map(|kept| kept.time)
    }

    /// Takes the next event in order. What it completes is found, each match with what is skipped
    /// after it gone already.
    pub(crate) fn advance(&mut self, pattern: &Pattern<T>, time: i64, row: T) -> Found {
        let mut found = self.expire(pattern, time);
        let seq = self.next;
        self.next += 1;
        self.events.push_back(Kept { seq, time, row });
        let mut complete = Vec::new();
        let mut after = Vec::with_capacity(self.partial.len() + 1);
        for partial in std::mem::take(&mut self.partial) {
            self.step(pattern, partial, seq, &mut after, &mut complete);
        }
        self.begin(pattern, seq, time, &mut after, &mut complete);
        self.partial = after;
        self.skip(pattern, complete, &mut found);
        found
    }

    /// Ends the matches whose time is over at this moment: those that waited for nothing to come
    /// are complete, the others are timed out.
    pub(crate) fn expire(&mut self, pattern: &Pattern<T>, now: i64) -> Found {
        let mut found = Found::default();
        let Some(within) = pattern.within_ms else { return found };
        let ending = 1_u64 << pattern.stages.len();
        let over = |p: &Partial| now.saturating_sub(p.began_at) >= within;
        if !self.partial.iter().any(over) {
            return found;
        }
        let (over, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.partial).into_iter().partition(over);
        self.partial = rest;
        let (complete, timed_out): (Vec<_>, Vec<_>) = over.into_iter().partition(|p| p.open & ending != 0);
        found.timed_out = timed_out.into_iter().map(|p| p.taken).collect();
        self.skip(pattern, complete.into_iter().map(|p| p.taken).collect(), &mut found);
        found
    }

    /// Forgets the events that no unfinished match needs.
    pub(crate) fn prune(&mut self) {
        let needed = self.partial.iter().map(Partial::first).min().unwrap_or(self.next);
        while self.events.front().is_some_and(|kept| kept.seq < needed) {
            self.events.pop_front();
        }
    }

    /// What may be done behind a stage that has taken `count` events.
    fn open_behind(pattern: &Pattern<T>, stage: usize, count: u32) -> u64 {
        let mut open = 0_u64;
        let Some(this) = pattern.stages.get(stage) else { return 0 };
        if count < this.max {
            open |= 1 << stage;
        }
        if count < this.min {
            return open;
        }
        for (index, next) in pattern.stages.iter().enumerate().skip(stage + 1) {
            open |= 1 << index;
            if next.min > 0 {
                return open;
            }
        }
        if !pattern.ending.is_empty() {
            open |= 1 << pattern.stages.len();
        }
        open
    }

    /// Whether a match that stands at this stage with so many events is complete.
    fn completes(pattern: &Pattern<T>, stage: usize, count: u32) -> bool {
        pattern.ending.is_empty()
            && pattern.stages.get(stage).is_some_and(|s| count >= s.min)
            && pattern.stages.iter().skip(stage + 1).all(|s| s.min == 0)
    }

    fn meets(&self, pattern: &Pattern<T>, stage: usize, taken: &[(u8, u64)], seq: u64) -> bool {
        let matched = self.matched(pattern, taken);
        match (pattern.stages.get(stage), matched.row(seq)) {
            (Some(stage), Some(kept)) => (stage.condition)(&kept.row, &matched),
            _ => false,
        }
    }

    /// Whether a guard between the stage that stands and `to` speaks against this event.
    /// `taking`: stage `to` would take it, so it does not stand between.
    fn guarded(&self, pattern: &Pattern<T>, partial: &Partial, to: usize, seq: u64, taking: bool) -> bool {
        let matched = self.matched(pattern, &partial.taken);
        let Some(kept) = matched.row(seq) else { return false };
        let stages = pattern.stages.iter().take(to + 1).skip(usize::from(partial.stage) + 1);
        let ending = if to == pattern.stages.len() { pattern.ending.as_slice() } else { &[] };
        stages.flat_map(|s| &s.guards).chain(ending).any(|guard| {
            let concerns = match guard.not {
                Not::Next => seq == partial.last() + 1,
                Not::Until => !taking,
            };
            concerns && (guard.condition)(&kept.row, &matched)
        })
    }

    /// Begins a match with this event, at the first stage or behind optional ones.
    fn begin(
        &self,
        pattern: &Pattern<T>,
        seq: u64,
        time: i64,
        after: &mut Vec<Partial>,
        complete: &mut Vec<Vec<(u8, u64)>>,
    ) {
        for (index, stage) in pattern.stages.iter().enumerate() {
            if self.meets(pattern, index, &[], seq) {
                self.enter(pattern, index, 1, time, vec![(index as u8, seq)], after, complete);
            }
            if stage.min > 0 {
                break;
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // the parts of a match that is being made
    fn enter(
        &self,
        pattern: &Pattern<T>,
        stage: usize,
        count: u32,
        began_at: i64,
        taken: Vec<(u8, u64)>,
        after: &mut Vec<Partial>,
        complete: &mut Vec<Vec<(u8, u64)>>,
    ) {
        if Self::completes(pattern, stage, count) {
            complete.push(taken.clone());
        }
        let open = Self::open_behind(pattern, stage, count);
        if open != 0 {
            after.push(Partial { stage: stage as u8, count, open, began_at, taken });
        }
    }

    /// What an event makes of one unfinished match: some that take it, and itself if it may pass
    /// the event by.
    fn step(
        &self,
        pattern: &Pattern<T>,
        mut partial: Partial,
        seq: u64,
        after: &mut Vec<Partial>,
        complete: &mut Vec<Vec<(u8, u64)>>,
    ) {
        let here = usize::from(partial.stage);
        let next = seq == partial.last() + 1;
        let took = |to: usize| {
            let mut taken = partial.taken.clone();
            taken.push((to as u8, seq));
            taken
        };
        let mut rest = partial.open;
        let inner = pattern.stages.get(here).map_or(Contiguity::Strict, |s| s.inner);
        if rest & (1 << here) != 0 {
            let meets = self.meets(pattern, here, &partial.taken, seq);
            if meets && (next || inner != Contiguity::Strict) {
                self.enter(pattern, here, partial.count + 1, partial.began_at, took(here), after, complete);
                if pattern.stages.get(here).is_some_and(|s| s.greedy) {
                    return;
                }
            }
            let lost = match inner {
                Contiguity::Strict => true,
                Contiguity::Relaxed => meets,
                Contiguity::Any => false,
            };
            if lost {
                rest &= !(1 << here);
            }
        }
        for (to, stage) in pattern.stages.iter().enumerate().skip(here + 1) {
            if rest & (1 << to) == 0 {
                continue;
            }
            let meets = self.meets(pattern, to, &partial.taken, seq);
            if meets
                && (next || stage.link != Contiguity::Strict)
                && !self.guarded(pattern, &partial, to, seq, true)
            {
                self.enter(pattern, to, 1, partial.began_at, took(to), after, complete);
            }
            let lost = match stage.link {
                Contiguity::Strict => true,
                Contiguity::Relaxed => meets,
                Contiguity::Any => false,
            };
            if lost || self.guarded(pattern, &partial, to, seq, false) {
                rest &= !(1 << to);
            }
        }
        let ending = pattern.stages.len();
        if rest & (1 << ending) != 0 && self.guarded(pattern, &partial, ending, seq, false) {
            rest &= !(1 << ending);
        }
        if rest != 0 {
            partial.open = rest;
            after.push(partial);
        }
    }

    /// Takes the complete matches in their order; each removes what it skips.
    fn skip(&mut self, pattern: &Pattern<T>, mut complete: Vec<Vec<(u8, u64)>>, found: &mut Found) {
        let first = |taken: &[(u8, u64)]| taken.first().map_or(0, |t| t.1);
        complete.sort_by(|a, b| {
            first(a).cmp(&first(b)).then_with(|| b.len().cmp(&a.len())).then_with(|| a.cmp(b))
        });
        let mut queue = VecDeque::from(complete);
        while let Some(taken) = queue.pop_front() {
            let at = |name: &str, last: bool| {
                let place = pattern.stages.iter().position(|s| s.name == name);
                let mut of = taken.iter().filter(|t| Some(usize::from(t.0)) == place).map(|t| t.1);
                if last { of.next_back() } else { of.next() }
            };
            let began = first(&taken);
            let ended = taken.last().map_or(0, |t| t.1);
            let skipped = |start: u64| match pattern.after {
                AfterMatch::NoSkip => false,
                AfterMatch::ToNext => start == began,
                AfterMatch::PastLast => start <= ended,
                AfterMatch::ToFirst(name) => at(name, false).is_some_and(|to| start < to),
                AfterMatch::ToLast(name) => at(name, true).is_some_and(|to| start < to),
            };
            self.partial.retain(|p| !skipped(p.first()));
            queue.retain(|other| !skipped(first(other)));
            found.matches.push(taken);
        }
    }
}
