//! q18: the last bid of each bidder on each auction.

use super::prelude::*;

/// The last bid of a bidder on an auction.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LastBid(pub SharedBid);

/// Keeps the last bid, by its time, of each bidder and auction.
pub fn q18(flow: &Flow, log: &Log, out: impl Sink<LastBid>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .key_by(|bid| (bid.bidder, bid.auction))
        .deduplicate()
        .last("last")
        .map(LastBid)
        .sink("answer", out);
}

impl Answer for LastBid {
    const COLUMNS: &'static [Column] = &[Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.0.date_time.millis()]
    }
}
