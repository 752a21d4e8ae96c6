//! Windows that end when a key falls silent.

use std::time::Duration;

use crate::time::millis;

/// Windows of activity: records of a key less than `gap` apart are in one session, a gap of `gap`
/// or more splits. The window of a session reaches from its first record to its last plus the gap.
///
/// A record between two sessions may join them, so the aggregate says how accumulators merge:
/// [`MergeAggregate`](crate::MergeAggregate).
///
/// ```
/// use afflux_stream::{Session, secs};
/// let visits = Session::gap(secs(10));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub(crate) gap_ms: i64,
}

impl Session {
    /// Sessions that a silence of this length ends (at least one millisecond).
    pub fn gap(gap: Duration) -> Self {
        Self { gap_ms: millis(gap).max(1) }
    }
}
