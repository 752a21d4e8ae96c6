//! Rows of a key that wait until their order is certain.

use afflux_stream::OperatorCx;

use super::prelude::*;
use super::winning::after;

/// Rows, while one of an earlier time may still come. Part of an operator's state.
#[derive(Serialize, Deserialize)]
pub(crate) struct Waiting<T> {
    rows: Vec<(Timestamp, T)>,
    /// The earliest timer that was asked for.
    timer: Option<Timestamp>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), timer: None }
    }
}

impl<T: Ord> Waiting<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lets a row of this time wait.
    pub(crate) fn push(&mut self, at: Timestamp, row: T, cx: &mut OperatorCx<'_, u64>) {
        self.rows.push((at, row));
        self.call_after(at, cx);
    }

    /// What nothing can precede any more, in order: by time, equal times by the row. To be asked when a
    /// timer fires.
    pub(crate) fn take_due(&mut self, cx: &mut OperatorCx<'_, u64>) -> Vec<(Timestamp, T)> {
        self.rows.sort_unstable();
        let later = self.rows.partition_point(|(at, _)| *at < cx.watermark());
        let later = self.rows.split_off(later);
        let due = std::mem::replace(&mut self.rows, later);
        self.timer = None;
        if let Some(at) = self.rows.first().map(|row| row.0) {
            self.call_after(at, cx);
        }
        due
    }

    /// One timer for all that wait, not one a row.
    fn call_after(&mut self, at: Timestamp, cx: &mut OperatorCx<'_, u64>) {
        if self.timer.is_none_or(|timer| after(at) < timer) {
            self.timer = Some(after(at));
            cx.timer_at(after(at));
        }
    }
}
