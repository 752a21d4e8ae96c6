//! Windows that overlap.

use std::time::Duration;

use super::Panes;
use crate::time::millis;

/// Windows of one size that begin at every multiple of a step, from 1970-01-01T00:00:00Z on: each
/// record is in `size / step` of them. Windows that begin before the first record and hold it are
/// among them.
///
/// Records are aggregated once, in panes as long as the greatest common divisor of size and step;
/// a window merges its panes when it fires. So the aggregate says how accumulators merge:
/// [`MergeAggregate`](crate::MergeAggregate).
///
/// ```
/// use afflux_stream::{Sliding, secs};
/// let windows = Sliding::of(secs(10)).every(secs(2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    pub(crate) size_ms: i64,
    pub(crate) slide_ms: i64,
}

/// The size of sliding windows; say how far apart they begin with [`every`](SlidingSize::every).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "say how far apart the windows begin: `.every(…)`"]
pub struct SlidingSize {
    size_ms: i64,
}

impl Sliding {
    /// Windows of this size (at least one millisecond).
    pub fn of(size: Duration) -> SlidingSize {
        SlidingSize { size_ms: millis(size).max(1) }
    }

    pub(crate) fn panes(&self) -> Panes {
        Panes::new(self.size_ms, self.slide_ms)
    }

    /// Why these windows cannot be used, if they cannot.
    pub(crate) fn wrong(&self) -> Option<String> {
        (self.slide_ms > self.size_ms).then(|| {
            format!(
                "slides by {} ms over windows of {} ms: records between two windows would be in none; slide by \
                 at most the size",
                self.slide_ms, self.size_ms
            )
        })
    }
}

impl SlidingSize {
    /// A window begins at every multiple of this (at least one millisecond, at most the size).
    pub fn every(self, slide: Duration) -> Sliding {
        Sliding { size_ms: self.size_ms, slide_ms: millis(slide).max(1) }
    }
}
