//! q2: the bids on some auctions.

use super::prelude::*;

/// What is asked of a bid.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The auction.
    pub auction: u64,
    /// The price.
    pub price: u64,
}

/// Keeps the bids on every 123rd auction.
pub fn q2(flow: &Flow, log: &Log, out: impl Sink<Picked>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .filter(|bid| bid.auction.is_multiple_of(123))
        .map(|bid| Picked { auction: bid.auction, price: bid.price })
        .sink("answer", out);
}

impl Answer for Picked {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.auction as i64, self.price as i64]
    }
}
