//! Which lane of a mailbox is next. Pure: no queue, no clock.

use afflux_wire::contract::Priority;

/// Messages of the high lane in a row while others wait.
const HIGH_IN_A_ROW_MAX: u32 = 16;

/// Messages of the other lanes after which a waiting low one has its turn.
const OTHERS_PER_LOW: u32 = 64;

/// What the lanes have had.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    highs: u32,
    others: u32,
}

impl Lanes {
    /// The lane whose turn it is, of those in which a message waits.
    ///
    /// High goes first, but lets one other pass after [`HIGH_IN_A_ROW_MAX`]; low goes last, but has one turn
    /// in [`OTHERS_PER_LOW`].
    pub(crate) fn next(&mut self, high: bool, normal: bool, low: bool) -> Option<Priority> {
        let lane = if low && self.others >= OTHERS_PER_LOW {
            Priority::Low
        } else if high && (self.highs < HIGH_IN_A_ROW_MAX || !normal) {
            Priority::High
        } else if normal {
            Priority::Normal
        } else if low {
            Priority::Low
        } else {
            return None;
        };
        match lane {
            Priority::High => {
                self.highs += 1;
                self.others += 1;
            }
            Priority::Normal => {
                self.highs = 0;
                self.others += 1;
            }
            Priority::Low => (self.highs, self.others) = (0, 0),
        }
        Some(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lanes: &mut Lanes, waiting: (bool, bool, bool), turns: u32) -> (u32, u32, u32) {
        let mut counts = (0, 0, 0);
        for _ in 0..turns {
            match lanes.next(waiting.0, waiting.1, waiting.2) {
                Some(Priority::High) => counts.0 += 1,
                Some(Priority::Normal) => counts.1 += 1,
                Some(Priority::Low) => counts.2 += 1,
                None => panic!("something waits"),
            }
        }
        counts
    }

    #[test]
    fn every_lane_that_waits_gets_its_share_however_full_the_others_are() {
        let (high, normal, low) = counts(&mut Lanes::default(), (true, true, true), 6_500);
        assert_eq!(low, 100);
        assert!(normal >= 300 && high >= 15 * normal, "{high} {normal}");
    }

    #[test]
    fn a_lane_alone_gets_everything() {
        for (waiting, counted) in [
            ((true, false, false), (100, 0, 0)),
            ((false, true, false), (0, 100, 0)),
            ((false, false, true), (0, 0, 100)),
        ] {
            assert_eq!(counts(&mut Lanes::default(), waiting, 100), counted);
        }
        assert_eq!(Lanes::default().next(false, false, false), None);
    }

    #[test]
    fn the_first_of_each_lane_come_in_the_order_of_their_priority() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.next(true, true, true), Some(Priority::High));
        assert_eq!(lanes.next(false, true, true), Some(Priority::Normal));
        assert_eq!(lanes.next(false, false, true), Some(Priority::Low));
    }
}
