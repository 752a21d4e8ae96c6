//! q14: a calculation on each bid.

use super::prelude::*;

/// A bid in the range, with what was calculated.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Calculated {
    /// The bid.
    pub bid: SharedBid,
    /// 0.908 times its price, in thousandths.
    pub thousandths: u64,
    /// When in the day it was placed.
    pub time: TimeOfDay,
    /// How often the letter c occurs in its padding.
    pub letters_c: u64,
}

/// A part of the day, by the hour in UTC.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOfDay {
    /// From eight to before seven in the evening.
    Day,
    /// Before seven in the morning, or from eight in the evening.
    Night,
    /// Between them.
    Other,
}

impl TimeOfDay {
    fn of(moment: Timestamp) -> Self {
        match moment.millis().div_euclid(3_600_000).rem_euclid(24) {
            8..=18 => TimeOfDay::Day,
            0..=6 | 20..=23 => TimeOfDay::Night,
            _ => TimeOfDay::Other,
        }
    }
}

/// Keeps the bids whose converted price lies between one and fifty million, both excluded.
pub fn q14(flow: &Flow, log: &Log, out: impl Sink<Calculated>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .filter(|bid| (1_000_000_001..50_000_000_000).contains(&(bid.price * 908)))
        .map(|bid| Calculated {
            thousandths: bid.price * 908,
            time: TimeOfDay::of(bid.date_time),
            letters_c: bid.extra.bytes().filter(|letter| *letter == b'c').count() as u64,
            bid,
        })
        .sink("answer", out);
}

impl Answer for Calculated {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bid.price as i64, self.letters_c as i64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_has_three_parts() {
        let at = |text: &str| TimeOfDay::of(text.parse().unwrap());
        assert_eq!(at("2015-07-15T08:00:00Z"), TimeOfDay::Day);
        assert_eq!(at("2015-07-15T18:59:59Z"), TimeOfDay::Day);
        assert_eq!(at("2015-07-15T19:00:00Z"), TimeOfDay::Other);
        assert_eq!(at("2015-07-15T07:00:00Z"), TimeOfDay::Other);
        assert_eq!(at("2015-07-15T06:59:59Z"), TimeOfDay::Night);
        assert_eq!(at("2015-07-15T20:00:00Z"), TimeOfDay::Night);
    }
}
