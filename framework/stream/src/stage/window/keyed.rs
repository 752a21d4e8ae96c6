//! The windows of one key, one record at a time: what the panes of a whole task cannot do.
//!
//! Sessions, windows of the clock, and windows that fire more than once (triggers, allowed
//! lateness) run here; [`WindowStage`](super::WindowStage) is faster for the others.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use afflux_wire::Status;

use crate::Result;
use crate::aggregate::Aggregate;
use crate::key::Key;
use crate::operator::{KeyedOperator, OperatorCx, Output, SideTag};
use crate::poison::{Doing, while_doing};
use crate::state::State;
use crate::time::Timestamp;
use crate::window::{Firing, Pace, Panes, Timing, Trigger, Window};

/// Where a record belongs.
#[derive(Clone, Copy, Debug)]

pub(crate) enum Assign {
    /// Windows of one size.
    Fixed(Panes),
    /// Sessions with this gap in milliseconds.
    Session(i64),
    /// One window over all of time.
    Global,
}

/// What the windows of an operator are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowRules {
    pub(crate) assign: Assign,
    /// By the clock instead of event time.
    pub(crate) by_clock: bool,
    pub(crate) trigger: Trigger,
    /// How long after its end a window takes late records, in milliseconds.
    pub(crate) lateness: i64,
    /// Whether late records go to a side output.
    pub(crate) aside: bool,
}

/// How accumulators merge, where the windows need it.
pub(crate) struct Merge<A, Acc> {
    pub(crate) merge: fn(&A, &mut Acc, &Acc),
}

impl<A, Acc> Clone for Merge<A, Acc> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A, Acc> Copy for Merge<A, Acc> {}

/// A window of one key.
#[derive(Serialize, Deserialize)]
struct Live<Acc> {
    start: i64,
    end: i64,
    acc: Acc,
    /// Records that are in no result.
    fresh: u64,
    firings: u32,
    /// Whether the end has passed.
    over: bool,
    /// The earliest timer that was asked for it.
    timer: Option<i64>,
    /// When the clock makes it fire; `i64::MAX`: not.
    due: i64,
}

/// The windows of one key, ordered by start.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "Acc: Serialize", deserialize = "Acc: DeserializeOwned"))]
pub(crate) struct LiveWindows<Acc>(Vec<Live<Acc>>);

impl<Acc> Default for LiveWindows<Acc> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<Acc: Serialize + DeserializeOwned + 'static> State for LiveWindows<Acc> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Aggregates the records of a key in windows.
pub(crate) struct WindowOperator<K, T, A: Aggregate<K, T>, O> {
    pub(crate) aggregate: Arc<A>,
    pub(crate) rules: WindowRules,
    pub(crate) merge: Option<Merge<A, A::Acc>>,
    pub(crate) result: fn(Firing, A::Output) -> O,
    pub(crate) types: PhantomData<fn(K, T)>,
}

/// The tag of late records.
pub(crate) const fn late_tag<T>() -> SideTag<T> {
    SideTag::new("late")
}

/// Whether a window is still needed after a firing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Stays,
    Ends,
}

impl<K: Key, T: 'static, A: Aggregate<K, T>, O: 'static> WindowOperator<K, T, A, O> {
    /// The moment at which a window is forgotten.
    fn purge_at(&self, end: i64) -> i64 {
        end.saturating_add(self.rules.lateness)
    }

    fn ask(&self, cx: &mut OperatorCx<'_, K>, at: i64) {
        let at = Timestamp::from_millis(at);
        if self.rules.by_clock { cx.clock_timer_at(at) } else { cx.timer_at(at) }
    }

    /// Makes sure that a timer comes no later than the next thing to do.
    fn watch(&self, live: &mut Live<A::Acc>, cx: &mut OperatorCx<'_, K>) {
        let next = if live.over { self.purge_at(live.end) } else { live.end };
        if live.timer.is_none_or(|timer| next < timer) {
            self.ask(cx, next);
            live.timer = Some(next);
        }
    }

    fn open(&self, start: i64, end: i64, reached: i64) -> Live<A::Acc> {
        let over = end <= reached;
        let acc = self.aggregate.create();
        Live { start, end, acc, fresh: 0, firings: 0, over, timer: None, due: i64::MAX }
    }

    /// The index of the window with these bounds, made when it is absent.
    fn at(&self, state: &mut LiveWindows<A::Acc>, window: Window, reached: i64) -> usize {
        let (start, end) = (window.start.millis(), window.end.millis());
        match state.0.binary_search_by_key(&start, |l| l.start) {
            Ok(index) => index,
            Err(index) => {
                state.0.insert(index, self.open(start, end, reached));
                index
            }
        }
    }

    /// The session of a moment, joined from those that the moment connects; none if it is late.
    fn session(&self, state: &mut LiveWindows<A::Acc>, at: i64, gap: i64, reached: i64) -> Option<usize> {
        let end = at.saturating_add(gap);
        let first = state.0.partition_point(|l| l.end <= at);
        let count = state.0.iter().skip(first).take_while(|l| l.start < end).count();
        if count == 0 {
            if self.purge_at(end) <= reached {
                return None;
            }
            state.0.insert(first, self.open(at, end, reached));
            return Some(first);
        }
        let joined: Vec<_> = state.0.drain(first + 1..first + count).collect();
        let live = state.0.get_mut(first)?;
        for other in joined {
            if let Some(Merge { merge }) = self.merge {
                merge(&self.aggregate, &mut live.acc, &other.acc);
            }
            live.end = live.end.max(other.end);
            live.fresh += other.fresh;
            live.firings = live.firings.max(other.firings);
            live.timer = [live.timer, other.timer].into_iter().flatten().min();
            live.due = live.due.min(other.due);
        }
        live.start = live.start.min(at);
        live.end = live.end.max(end);
        live.over = live.end <= reached;
        Some(first)
    }

    fn emit(
        &self,
        firing: Firing,
        (start, end): (i64, i64),
        acc: A::Acc,
        cx: &OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) {
        let window = Window { start: Timestamp::from_millis(start), end: Timestamp::from_millis(end) };
        let _doing = while_doing(|| Doing::of(format!("{} of key", super::in_words(window)), cx.key()));
        let row = (self.result)(firing, self.aggregate.finish(cx.key().clone(), window, acc));
        if self.rules.by_clock || end == i64::MAX { out.emit(row) } else { out.emit_at(row, window.last()) }
    }

    /// Emits the result of a window.
    fn fire(
        &self,
        live: &mut Live<A::Acc>,
        timing: Timing,
        after: After,
        cx: &OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) {
        let mut acc = self.aggregate.create();
        match &self.merge {
            Some(Merge { merge }) if after == After::Stays && !self.rules.trigger.purging => {
                merge(&self.aggregate, &mut acc, &live.acc);
            }
            _ => std::mem::swap(&mut acc, &mut live.acc),
        }
        let firing = Firing { timing, index: live.firings };
        live.firings = live.firings.saturating_add(1);
        live.fresh = 0;
        live.due = i64::MAX;
        self.emit(firing, (live.start, live.end), acc, cx, out);
    }

    /// Takes a record into a window, which fires if the trigger says so.
    fn add(&self, live: &mut Live<A::Acc>, row: &T, cx: &mut OperatorCx<'_, K>, out: &mut Output<O>) {
        self.aggregate.add(&mut live.acc, row);
        live.fresh += 1;
        let (pace, timing) = if live.over {
            (self.rules.trigger.late, Timing::Late)
        } else {
            (self.rules.trigger.early, Timing::Early)
        };
        match pace {
            Some(Pace::Records(n)) if live.fresh >= n => self.fire(live, timing, After::Stays, cx, out),
            Some(Pace::Time(span)) if live.due == i64::MAX => {
                live.due = cx.now().millis().saturating_add(span);
                cx.clock_timer_at(Timestamp::from_millis(live.due));
            }
            _ => {}
        }
        self.watch(live, cx);
    }

    /// Fires and forgets what a moment of its own time ends.
    fn settle(
        &self,
        state: &mut LiveWindows<A::Acc>,
        at: i64,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) {
        state.0.retain_mut(|live| {
            let purged = self.purge_at(live.end) <= at;
            let after = if purged { After::Ends } else { After::Stays };
            if !live.over && live.end <= at {
                live.over = true;
                let Trigger { at_end, purging, .. } = self.rules.trigger;
                if at_end && !purging || live.fresh > 0 && (at_end || purged) {
                    self.fire(live, Timing::OnTime, after, cx, out);
                }
            }
            if purged {
                if live.fresh > 0 {
                    self.fire(live, Timing::Late, After::Ends, cx, out);
                }
                return false;
            }
            if live.timer.is_some_and(|timer| timer <= at) {
                live.timer = None;
                self.watch(live, cx);
            }
            true
        });
    }
}

impl<K: Key, T: 'static, A: Aggregate<K, T>, O: 'static> KeyedOperator for WindowOperator<K, T, A, O> {
    type Key = K;
    type Input = T;
    type Output = O;
    type State = LiveWindows<A::Acc>;

    fn process(
        &mut self,
        state: &mut Self::State,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        let global = matches!(self.rules.assign, Assign::Global);
        let (at, reached) = if self.rules.by_clock {
            (cx.now().millis(), cx.now().millis())
        } else if global {
            (0, i64::MIN)
        } else {
            let time =
                cx.time().ok_or_else(|| Status::internal("a record without event time in a window of it"))?;
            (time.millis(), cx.watermark().millis())
        };
        let mut late = true;
        match self.rules.assign {
            Assign::Fixed(panes) => {
                for start in panes.windows_of(at) {
                    let window = panes.window(start);
                    if self.purge_at(window.end.millis()) > reached {
                        late = false;
                        let index = self.at(state, window, reached);
                        if let Some(live) = state.0.get_mut(index) {
                            self.add(live, &row, cx, out);
                        }
                    }
                }
            }
            Assign::Session(gap) => {
                if let Some(index) = self.session(state, at, gap, reached)
                    && let Some(live) = state.0.get_mut(index)
                {
                    late = false;
                    self.add(live, &row, cx, out);
                }
            }
            Assign::Global => {
                late = false;
                let index = self.at(state, Window::GLOBAL, reached);
                if let Some(live) = state.0.get_mut(index) {
                    self.add(live, &row, cx, out);
                }
            }
        }
        if late {
            cx.count_late();
            if self.rules.aside {
                cx.side(&late_tag(), row);
            }
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Self::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        self.settle(state, at.millis(), cx, out);
        Ok(())
    }

    fn on_clock(
        &mut self,
        state: &mut Self::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<O>,
    ) -> Result<()> {
        if self.rules.by_clock {
            self.settle(state, at.millis(), cx, out);
        }
        for live in &mut state.0 {
            if live.due <= at.millis() {
                let timing = if live.over { Timing::Late } else { Timing::Early };
                self.fire(live, timing, After::Stays, cx, out);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
