//! q0: every bid, as it is.

use super::prelude::*;

/// Passes bids through: what the engine itself costs.
pub fn q0(flow: &Flow, log: &Log, out: impl Sink<SharedBid>) {
    flow.source("bids", log.bids()).watermarks(in_order()).sink("answer", out);
}

impl Answer for SharedBid {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.auction as i64, self.bidder as i64, self.price as i64]
    }
}
