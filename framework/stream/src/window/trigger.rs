//! When a window gives a result.

use std::time::Duration;

use crate::time::millis;

/// How often a window gives a result while records come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(pub(crate) Pace);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Records(u64),
    /// Milliseconds.
    Time(i64),
}

impl Every {
    /// After this many records (at least one).
    pub const fn count(records: u64) -> Self {
        Self(Pace::Records(if records == 0 { 1 } else { records }))
    }

    /// By the clock: this long after the first record that is in no result yet (at least one
    /// millisecond). What did not change gives no result.
    pub fn time(span: Duration) -> Self {
        Self(Pace::Time(millis(span).max(1)))
    }
}

/// When a window gives a result. Whatever the trigger, records that are in no result when the
/// window is purged give one more: nothing is lost.
///
/// ```
/// use afflux_stream::{Every, Trigger, secs};
/// // At the window's end; before, once a second while records come; after, for each late record.
/// let trigger = Trigger::event_time().early(Every::time(secs(1)));
/// // Every hundred records, each result of new records only.
/// let hundreds = Trigger::count(100).purging();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// At the window's end: in any case, or only if there is something new.
    pub(crate) at_end: bool,
    pub(crate) early: Option<Pace>,
    pub(crate) late: Option<Pace>,
    pub(crate) purging: bool,
}

impl Trigger {
    /// When the watermark reaches the window's end (for windows of the clock: when the clock
    /// does), and with each late record in the allowed lateness.
    pub const fn event_time() -> Self {
        Self { at_end: true, early: None, late: Some(Pace::Records(1)), purging: false }
    }

    /// After every `records` records of a key and window.
    pub const fn count(records: u64) -> Self {
        let Every(pace) = Every::count(records);
        Self { at_end: false, early: Some(pace), late: Some(pace), purging: false }
    }

    /// By the clock: this long after the first record that is in no result yet.
    pub fn processing_time(span: Duration) -> Self {
        let Every(pace) = Every::time(span);
        Self { at_end: false, early: Some(pace), late: Some(pace), purging: false }
    }

    /// At the window's end, and before it this often.
    #[must_use]
    pub const fn early(self, every: Every) -> Self {
        Self { early: Some(every.0), ..self }
    }

    /// After the window's end this often, while late records are allowed.
    #[must_use]
    pub const fn late(self, every: Every) -> Self {
        Self { late: Some(every.0), ..self }
    }

    /// Forgets what was in a result: each result is of new records only. Without it, each result
    /// is of all records of the window up to now.
    #[must_use]
    pub const fn purging(self) -> Self {
        Self { purging: true, ..self }
    }
}
