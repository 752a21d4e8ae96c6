//! The actor behind [`Board`](crate::Board).

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use afflux::prelude::*;

use crate::board::{Board, BoardError, BoardHandler};
use crate::hourly::HourlyDelay;

/// Rows that the board keeps; the oldest hours go first.
pub const BOARD_ROWS_MAX: usize = 1_000_000;

/// Rows that `Worst` gives at most.
pub const WORST_ROWS_MAX: u32 = 1_000;

/// Closed hours by airport, hour and carrier, in memory: a fresh board is filled by the pipeline.
#[derive(Actor, Default)]
#[actor(serves(Board), mailbox = 256, overflow = "wait")]
pub struct DelayBoard {
    hours: BTreeMap<Timestamp, BTreeMap<(String, String), HourlyDelay>>,
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

    fn upsert(&mut self, row: HourlyDelay) {
        match self.latest.get_mut(&row.origin) {
            Some(latest) => *latest = row.window_start.max(*latest),
            None => {
                self.latest.insert(row.origin.clone(), row.window_start);
            }
        }
        let key = (row.origin.clone(), row.carrier.clone());
        let hour = self.hours.entry(row.window_start).or_default();
        self.rows += usize::from(hour.insert(key, row).is_none());
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
        let rows = self.hours.get(latest).into_iter().flat_map(BTreeMap::values);
        Ok(rows.filter(|row| row.origin == origin).cloned().collect())
    }

    async fn worst(&mut self, _: &mut Cx, top: u32) -> Result<Vec<HourlyDelay>, Fault<BoardError>> {
        if top == 0 || top > WORST_ROWS_MAX {
            let what = format!("top is {top}: ask for 1 to {WORST_ROWS_MAX} rows");
            return Err(Status::invalid(what).into());
        }
        // The best of the worst is on top, so that it is the one to go.
        let mut worst = BinaryHeap::with_capacity(top as usize + 1);
        for row in self.hours.values().flat_map(BTreeMap::values) {
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
