//! q19: the ten highest bids of each auction.

use afflux_stream::top_n;

use super::prelude::*;

/// One of the highest bids of an auction.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The bid.
    pub bid: SharedBid,
    /// 1 for the highest.
    pub rank: u64,
}

/// Bids kept of an auction.
const KEPT: usize = 10;

/// Ranks the bids of each auction by their price and keeps ten.
pub fn q19(flow: &Flow, log: &Log, out: impl Sink<Ranked>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .key_by(|bid| bid.auction)
        .window(Global)
        .aggregate("highest", top_n(KEPT, |bid: &SharedBid| bid.price))
        .flat_map(|ranking| ranking.rows.into_iter().zip(1..).map(|(bid, rank)| Ranked { bid, rank }))
        .sink("answer", out);
}

impl Answer for Ranked {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bid.price as i64, self.rank as i64]
    }
}
