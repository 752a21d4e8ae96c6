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
        .window(Global)
        .aggregate("last", fold(|| None, keep_last, |_, _, last| last))
        .flat_map(|last: Option<(Timestamp, SharedBid)>| last.map(|(_, bid)| bid))
        .map(LastBid)
        .sink("answer", out);
}

/// Keeps `bid` if it is later than what is kept. The time stands beside the bid, so that an earlier bid need not be
/// looked at where it lies.
fn keep_last(last: &mut Option<(Timestamp, SharedBid)>, bid: &SharedBid) {
    if last.as_ref().is_none_or(|(at, _)| *at <= bid.date_time) {
        *last = Some((bid.date_time, Arc::clone(bid)));
    }
}

impl Answer for LastBid {
    const COLUMNS: &'static [Column] = &[Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.0.date_time.millis()]
    }
}
