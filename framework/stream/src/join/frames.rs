//! The windows of joins: of one size, beginning at every multiple of a step.

use crate::time::Timestamp;
use crate::window::{Sliding, Tumbling, Window};

/// Windows of one size in milliseconds, one beginning at every multiple of the step.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    pub(super) size: i64,
    pub(super) step: i64,
}

/// Windows that joins know: [`Tumbling`] and [`Sliding`].
pub trait JoinWindow {
    #[doc(hidden)]
    fn frames(&self) -> Frames;
    /// Why these windows cannot be used, if they cannot.
    #[doc(hidden)]
    fn wrong(&self) -> Option<String> {
        None
    }
}

impl JoinWindow for Tumbling {
    fn frames(&self) -> Frames {
        Frames { size: self.size_ms(), step: self.size_ms() }
    }
}

impl JoinWindow for Sliding {
    fn frames(&self) -> Frames {
        Frames { size: self.size_ms, step: self.slide_ms }
    }
    fn wrong(&self) -> Option<String> {
        Sliding::wrong(self)
    }
}

impl Frames {
    /// The end of the last window that a moment is in.
    pub(super) fn last_end(self, time: i64) -> i64 {
        self.last_start(time).saturating_add(self.size)
    }

    fn last_start(self, time: i64) -> i64 {
        time.div_euclid(self.step).saturating_mul(self.step)
    }

    /// The window that ends at a moment.
    pub(super) fn ending(self, end: i64) -> Window {
        Window {
            start: Timestamp::from_millis(end.saturating_sub(self.size)),
            end: Timestamp::from_millis(end),
        }
    }

    /// The windows that two moments share, the last first; of one that end after `fired` only.
    pub(super) fn shared(self, a: i64, b: i64, fired: i64) -> impl Iterator<Item = Window> {
        let (earlier, later) = (a.min(b), a.max(b));
        let first = self.last_start(earlier);
        (0..)
            .map_while(move |n: i64| first.checked_sub(n.checked_mul(self.step)?))
            .map(move |start| start.saturating_add(self.size))
            .take_while(move |end| *end > later && *end > fired)
            .map(move |end| self.ending(end))
    }

    pub(super) fn name(self) -> String {
        if self.size == self.step {
            format!("tumbling {} ms", self.size)
        } else {
            format!("sliding {} ms every {} ms", self.size, self.step)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shared_windows_are_those_that_hold_both(
            step in 1_i64..20, steps in 1_i64..6, extra in 0_i64..20, a in -100_i64..100, b in -100_i64..100,
        ) {
            let frames = Frames { size: step * steps + extra.min(step - 1), step };
            let all = (-200..200).map(|n| n * step).map(|start| (start, start + frames.size));
            let holds = |w: &(i64, i64), t: i64| w.0 <= t && t < w.1;
            let mut expected: Vec<_> = all.filter(|w| holds(w, a) && holds(w, b)).collect();
            expected.reverse();
            let shared = frames.shared(a, b, i64::MIN).map(|w| (w.start.millis(), w.end.millis()));
            prop_assert_eq!(shared.collect::<Vec<_>>(), expected);
        }
    }
}
