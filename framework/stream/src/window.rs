//! Windows: finite stretches of event time that keyed records are gathered in.

mod clocked;
mod count;
mod firing;
mod late;
mod panes;
mod session;
mod sliding;
mod trigger;
mod triggered;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{Timestamp, millis};

pub use clocked::ProcessingTime;
pub use count::{AtEnd, CountWindow, Undeclared};
pub use firing::{Firing, Timing};
pub use late::{DropLate, Late, LatePolicy, LateRows, LateStreams, NeverLate, NoPolicy, SideLate};
pub(crate) use panes::Panes;
pub use session::Session;
pub use sliding::{Sliding, SlidingSize};
pub(crate) use trigger::Pace;
pub use trigger::{Every, Trigger};
pub use triggered::{EventTime, Marked, Marks, Plain, Rules, Triggered, Triggers, WindowDescription};

/// A stretch of event time `[start, end)`.
///
/// ```
/// use afflux_stream::{Timestamp, Tumbling, hours};
/// let hour = Tumbling::of(hours(1)).window_of(Timestamp::from_millis(3_600_001));
/// assert_eq!(hour.start.millis(), 3_600_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The first moment in it.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

impl Window {
    /// All of time.
    pub const GLOBAL: Window = Window { start: Timestamp::MIN, end: Timestamp::MAX };

    /// The last moment in it: the event time of its result.
    pub const fn last(&self) -> Timestamp {
        Timestamp::from_millis(self.end.millis().saturating_sub(1))
    }
}

/// Windows of one size, side by side, aligned to 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling {
    size_ms: i64,
}

impl Tumbling {
    /// Windows of this size (at least one millisecond).
    pub fn of(size: Duration) -> Self {
        Self { size_ms: millis(size).max(1) }
    }

    /// The window of a moment.
    pub fn window_of(&self, t: Timestamp) -> Window {
        let start = t.millis().div_euclid(self.size_ms).saturating_mul(self.size_ms);
        self.starting(start)
    }

    pub(crate) fn starting(&self, start_ms: i64) -> Window {
        Window {
            start: Timestamp::from_millis(start_ms),
            end: Timestamp::from_millis(start_ms.saturating_add(self.size_ms)),
        }
    }

    pub(crate) const fn size_ms(&self) -> i64 {
        self.size_ms
    }
}

/// One window over all of time: its result comes when the input has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global;
