//! The last record of each key of all time: one record a key, and one timer that is never moved.

use std::marker::PhantomData;

use super::dedupe::Ties;
use crate::Result;
use crate::key::Key;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::stream::Record;
use crate::time::Timestamp;

/// What [`Deduplicate::last`](super::Deduplicate::last) does without a time to live.
pub(super) struct Latest<K, T> {
    pub(super) ties: Ties<T>,
    pub(super) key: PhantomData<fn(K)>,
}

impl<K: Key, T: Record> KeyedOperator for Latest<K, T> {
    type Key = K;
    type Input = T;
    type Output = T;
    type State = Option<(i64, T)>;

    fn process(
        &mut self,
        state: &mut Option<(i64, T)>,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        _: &mut Output<T>,
    ) -> Result<()> {
        let timed = cx.time().is_some();
        let time = cx.time().unwrap_or_else(|| cx.now()).millis();
        match state {
            None => {
                cx.timer_at(Timestamp::MAX);
                *state = Some((time, row));
            }
            // Of two that come in one millisecond of the clock, the later counts.
            Some((at, last)) if time > *at || !timed || time == *at && (self.ties)(&row, last).is_gt() => {
                (*at, *last) = (time, row);
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Option<(i64, T)>,
        _: Timestamp,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<T>,
    ) -> Result<()> {
        if let Some((_, last)) = state.take() {
            out.emit(last);
        }
        Ok(())
    }
}
