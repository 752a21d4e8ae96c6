//! The actor behind [`Board`](crate::Board).

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use afflux::prelude::*;

use crate::board::{Board, BoardError, BoardHandler, OriginNow};
use crate::hourly::HourlyDelay;

/// Rows that the board keeps; the oldest hours go first.
pub const BOARD_ROWS_MAX: usize = 1_000_000;

/// Rows that `Worst` gives at most.
pub const WORST_ROWS_MAX: u32 = 1_000;

/// Closed hours by airport, hour and carrier, in memory: a fresh board is filled by the pipeline.
#[derive(Actor, Default)]
#[actor(serves(Board), mailbox = 256, overflow = "wait")]
pub struct DelayBoard {
    /// The rows of an hour are sorted by airport and carrier, and each is there once.
    hours: BTreeMap<Timestamp, Vec<HourlyDelay>>,
    /// The latest closed hour of each airport ever seen.
    latest: BTreeMap<String, Timestamp>,
    rows: usize,
}

impl DelayBoard {
    /// An empty board.
    ///
    /// # Errors
    /// None.
    pub fn open() -> Result<Self, Status> {
        Ok(Self::default())
    }

    fn origin_now(&self, origin: &str, hour: Timestamp) -> OriginNow {
        let rows = || self.hours.get(&hour).into_iter().flatten().filter(|row| row.origin == origin);
        let sum = |of: fn(&HourlyDelay) -> u64| rows().map(of).sum::<u64>();
        let (flights, cancelled) = (sum(|row| row.flights), sum(|row| row.cancelled));
        let delay = rows().filter_map(|row| row.total_delay_min).sum::<i64>();
        let worst = rows().filter_map(|row| Some((row.mean_delay_min()?, row)));
        let worst = worst.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)));
        let left = flights.saturating_sub(cancelled);
        OriginNow {
            origin: origin.to_owned(),
            hour: hour.to_string(),
            flights,
            cancelled,
            delayed_15: sum(|row| row.delayed_15),
            mean_delay_min: (left > 0).then(|| delay as f64 / left as f64),
            worst_carrier: worst.map(|(_, row)| row.carrier.clone()),
        }
    }

    fn upsert(&mut self, row: HourlyDelay) {
        match self.latest.get_mut(&row.origin) {
            Some(latest) => *latest = row.window_start.max(*latest),
            None => {
                self.latest.insert(row.origin.clone(), row.window_start);
            }
        }
        let hour = self.hours.entry(row.window_start).or_default();
        let key = (row.origin.as_str(), row.carrier.as_str());
        match hour.binary_search_by(|known| (known.origin.as_str(), known.carrier.as_str()).cmp(&key)) {
            Ok(at) => hour[at] = row,
            Err(at) => {
                hour.insert(at, row);
                self.rows += 1;
            }
        }
        while self.rows > BOARD_ROWS_MAX {
            let Some((_, oldest)) = self.hours.pop_first() else { break };
            self.rows -= oldest.len();
        }
    }
}

impl BoardHandler for DelayBoard {
    async fn closed(&mut self, _: &mut Cx, windows: Vec<HourlyDelay>) -> Result<(), Fault<BoardError>> {
        for row in windows {
            self.upsert(row);
        }
        Ok(())
    }

    async fn latest(&mut self, _: &mut Cx, origin: String) -> Result<Vec<HourlyDelay>, Fault<BoardError>> {
        let Some(latest) = self.latest.get(&origin) else {
            let known = self.latest.keys().cloned().collect();
            return Err(BoardError::NoSuchOrigin { origin, known }.into());
        };
        let rows = self.hours.get(latest).into_iter().flatten();
        Ok(rows.filter(|row| row.origin == origin).cloned().collect())
    }

    async fn now(&mut self, _: &mut Cx) -> Result<Vec<OriginNow>, Fault<BoardError>> {
        Ok(self.latest.iter().map(|(origin, hour)| self.origin_now(origin, *hour)).collect())
    }

    async fn worst(&mut self, _: &mut Cx, top: u32) -> Result<Vec<HourlyDelay>, Fault<BoardError>> {
        if top == 0 || top > WORST_ROWS_MAX {
            let what = format!("top is {top}: ask for 1 to {WORST_ROWS_MAX} rows");
            return Err(Status::invalid(what).into());
        }
        // The best of the worst is on top, so that it is the one to go.
        let mut worst = BinaryHeap::with_capacity(top as usize + 1);
        for row in self.hours.values().flatten() {
            if let Some(mean) = row.mean_delay_min() {
                worst.push(Reverse(Delayed { mean, row }));
                if worst.len() > top as usize {
                    worst.pop();
                }
            }
        }
        Ok(worst.into_sorted_vec().into_iter().map(|Reverse(delayed)| delayed.row.clone()).collect())
    }
}

/// A row, ordered by its mean delay; of equal ones the earlier row counts as the longer delay.
struct Delayed<'b> {
    mean: f64,
    row: &'b HourlyDelay,
}

impl Ord for Delayed<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.mean.total_cmp(&other.mean).then_with(|| other.row.cmp(self.row))
    }
}

impl PartialOrd for Delayed<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Delayed<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_airport_shows_its_latest_hour_over_all_carriers() {
        let row =
            |hour: i64, origin: &str, carrier: &str, flights, cancelled, total: Option<i64>| HourlyDelay {
                window_start: Timestamp::from_millis(hour * 3_600_000),
                origin: origin.into(),
                carrier: carrier.into(),
                flights,
                cancelled,
                delayed_15: 1,
                total_delay_min: total,
                max_delay_min: total,
            };
        let mut board = DelayBoard::default();
        for row in [
            row(1, "JFK", "UA", 9, 0, Some(900)),
            row(2, "JFK", "AA", 3, 1, Some(10)),
            row(2, "JFK", "DL", 1, 0, Some(70)),
            row(2, "JFK", "DL", 2, 0, Some(50)), // again: in place of the one before
            row(2, "EWR", "UA", 1, 1, None),
        ] {
            board.upsert(row);
        }
        assert_eq!(board.rows, 4);
        let hour = Timestamp::from_millis(2 * 3_600_000);
        let jfk = board.origin_now("JFK", hour);
        assert_eq!((jfk.flights, jfk.cancelled, jfk.delayed_15), (5, 1, 2));
        assert_eq!((jfk.mean_delay_min, jfk.worst_carrier.as_deref()), (Some(15.0), Some("DL")));
        assert_eq!(jfk.hour, "1970-01-01T02:00:00Z");
        let ewr = board.origin_now("EWR", hour);
        assert_eq!((ewr.flights, ewr.mean_delay_min, ewr.worst_carrier), (1, None, None));
    }
}
