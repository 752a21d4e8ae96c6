//! q9: the winning bid of each auction.

use super::prelude::*;
use super::winning::{Won, winning};

/// Finds the highest bid placed while an auction was open, the earliest of equal ones: a row an auction,
/// when it is over.
pub fn q9(flow: &Flow, log: &Log, out: impl Sink<Won>) {
    winning(flow, log).sink("answer", out);
}

impl Answer for Won {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.auction.id as i64, self.bid.price as i64]
    }
}
