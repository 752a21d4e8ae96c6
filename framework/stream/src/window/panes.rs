//! The stretches that windows of one size share.

use super::Window;
use crate::time::Timestamp;

/// Windows of `size` that begin at every multiple of `slide`, cut into panes that each window is a
/// whole number of. All in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panes {
    size: i64,
    slide: i64,
    pane: i64,
}

impl Panes {
    /// Windows of at least 1 ms.
    pub(crate) fn new(size: i64, slide: i64) -> Self {
        let (size, slide) = (size.max(1), slide.max(1));
        let (mut a, mut b) = (size, slide);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Self { size, slide, pane: a }
    }

    /// The length of a pane.
    pub(crate) const fn pane(&self) -> i64 {
        self.pane
    }

    /// Where the pane of a moment starts.
    pub(crate) const fn pane_of(&self, t: i64) -> i64 {
        t.div_euclid(self.pane).saturating_mul(self.pane)
    }

    /// Where the last window starts that holds a moment.
    pub(crate) const fn last_window_of(&self, t: i64) -> i64 {
        t.div_euclid(self.slide).saturating_mul(self.slide)
    }

    /// Where the first window starts that ends after a moment.
    pub(crate) const fn first_window_ending_after(&self, t: i64) -> i64 {
        (t.saturating_sub(self.size).div_euclid(self.slide) + 1).saturating_mul(self.slide)
    }

    /// The window that starts here.
    pub(crate) const fn window(&self, start: i64) -> Window {
        Window {
            start: Timestamp::from_millis(start),
            end: Timestamp::from_millis(start.saturating_add(self.size)),
        }
    }

    /// The starts of the windows that hold a moment, earliest first.
    pub(crate) fn windows_of(&self, t: i64) -> impl Iterator<Item = i64> + use<> {
        let (last, slide) = (self.last_window_of(t), self.slide);
        let mut next = Some(self.first_window_ending_after(t));
        std::iter::from_fn(move || {
            let start = next.filter(|s| *s <= last)?;
            next = start.checked_add(slide);
            Some(start)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_moment_is_in_its_windows_and_in_no_other(size in 1_i64..200, slide in 1_i64..200, t in -5_000_i64..5_000) {
            let slide = slide.min(size);
            let panes = Panes::new(size, slide);
            let expected: Vec<i64> =
                (-6_000 / slide..=6_000 / slide).map(|n| n * slide).filter(|s| *s <= t && t < s + size).collect();
            prop_assert_eq!(panes.windows_of(t).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(panes.last_window_of(t), *expected.last().unwrap());
            let pane = panes.pane_of(t);
            prop_assert!(pane <= t && t < pane + panes.pane());
            prop_assert!(expected.iter().all(|s| *s <= pane && pane + panes.pane() <= s + size));
        }
    }

    #[test]
    fn the_ends_of_time_overflow_nothing() {
        let panes = Panes::new(1_000, 7);
        for t in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            assert!(panes.windows_of(t).count() <= 144);
            let _ = (panes.pane_of(t), panes.window(panes.last_window_of(t)));
        }
    }
}
