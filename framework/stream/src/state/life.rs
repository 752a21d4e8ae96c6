//! How long what is remembered lives.

use serde::{Deserialize, Serialize};

use super::State;

/// When something was written, and how long it lives: absent without a time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub(super) written: i64,
    #[serde(skip)]
    pub(super) ttl: i64,
    #[serde(skip)]
    pub(super) now: i64,
}

impl Life {
    pub(super) fn touch(&mut self) {
        self.written = self.now;
    }
    pub(super) fn over(&self, now: i64) -> bool {
        self.ttl > 0 && now.saturating_sub(self.written) >= self.ttl
    }
    pub(super) fn ends(&self) -> Option<i64> {
        (self.ttl > 0).then(|| self.written.saturating_add(self.ttl))
    }
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is no state of an operator",
    label = "a `#[state]` field is a ValueState, ListState, MapState, ReducingState or AggregatingState",
    note = "what is the same for all keys, such as a limit, is a plain field without `#[state]`"
)]
/// A part of an operator's state whose values may have a time to live; `derive(Operator)` calls it.
pub trait StateField: State {
    /// Says what time it is and how long values live, both in milliseconds; `ttl` 0: for ever.
    /// What has outlived its time is forgotten.
    fn prepare(&mut self, now: i64, ttl: i64);
    /// When something will have outlived its time.
    fn ends_at(&self) -> Option<i64>;
}
