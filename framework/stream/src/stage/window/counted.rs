//! Windows of so many records of a key.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::aggregate::Aggregate;
use crate::key::Key;
use crate::operator::{KeyedOperator, OperatorCx, Output, SideTag};
use crate::state::State;
use crate::time::Timestamp;
use crate::window::{AtEnd, CountWindow, Window};

/// Records that are in no result when the input ends: nobody can read it, so they are counted.
const LEFT: SideTag<()> = SideTag::new("left-at-end");

/// The open windows of one key.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "Acc: Serialize", deserialize = "Acc: DeserializeOwned"))]
pub(crate) struct Open<Acc> {
    /// Records since the last window began.
    since: u64,
    /// Oldest first, each with its records.
    windows: VecDeque<(u64, Acc)>,
    /// Records that are in no result yet.
    fresh: u64,
}

impl<Acc> Default for Open<Acc> {
    fn default() -> Self {
        Self { since: 0, windows: VecDeque::new(), fresh: 0 }
    }
}

impl<Acc: Serialize + DeserializeOwned + 'static> State for Open<Acc> {
    fn is_empty(&self) -> bool {
        self.since == 0 && self.windows.is_empty()
    }
}

/// Aggregates the records of a key in windows of so many. Every open window has an accumulator of
/// its own: a record is taken in `size / every` times.
pub(crate) struct CountOperator<K, T, A> {
    pub(crate) aggregate: Arc<A>,
    pub(crate) window: CountWindow<AtEnd>,
    pub(crate) types: PhantomData<fn(K, T)>,
}

impl<K: Key, T: 'static, A: Aggregate<K, T>> KeyedOperator for CountOperator<K, T, A> {
    type Key = K;
    type Input = T;
    type Output = A::Output;
    type State = Open<A::Acc>;

    fn process(
        &mut self,
        state: &mut Self::State,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<A::Output>,
    ) -> Result<()> {
        if state.is_empty() {
            cx.timer_at(Timestamp::MAX);
        }
        if state.since == 0 {
            state.windows.push_back((0, self.aggregate.create()));
        }
        state.since = (state.since + 1) % self.window.every;
        state.fresh += 1;
        for (count, acc) in &mut state.windows {
            self.aggregate.add(acc, &row);
            *count += 1;
        }
        if state.windows.front().is_some_and(|w| w.0 >= self.window.size)
            && let Some((_, acc)) = state.windows.pop_front()
        {
            state.fresh = 0;
            out.emit(self.aggregate.finish(cx.key().clone(), Window::GLOBAL, acc));
        }
        if state.is_empty() {
            cx.delete_timer(Timestamp::MAX);
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Self::State,
        _: Timestamp,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<A::Output>,
    ) -> Result<()> {
        let left = std::mem::take(state);
        match self.window.at_end {
            AtEnd::Emit => {
                for (_, acc) in left.windows {
                    out.emit(self.aggregate.finish(cx.key().clone(), Window::GLOBAL, acc));
                }
            }
            AtEnd::Drop => (0..left.fresh).for_each(|_| cx.side(&LEFT, ())),
        }
        Ok(())
    }
}
