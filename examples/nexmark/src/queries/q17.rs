//! q17: statistics of each auction and day.

use super::prelude::*;

/// The bids of an auction in a day.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuctionStats {
    /// The auction.
    pub auction: u64,
    /// When the day began, UTC.
    pub day: Timestamp,
    /// Bids by price band, as in q15.
    pub bids: [u64; 3],
    /// The lowest price.
    pub min: u64,
    /// The highest.
    pub max: u64,
    /// The mean, its fraction cut off.
    pub mean: u64,
    /// All prices together.
    pub sum: u64,
}

/// What is kept of an auction and day.
#[derive(Serialize, Deserialize, Clone, Copy)]
struct Prices {
    bids: [u64; 3],
    min: u64,
    max: u64,
    sum: u64,
}

/// Counts the bids of each auction and day, and their prices.
pub fn q17(flow: &Flow, log: &Log, out: impl Sink<AuctionStats>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .map(|bid| (bid.auction, bid.price))
        .key_by_ref(|(auction, _)| auction)
        .window(Tumbling::of(hours(24)))
        .late(Late::Drop)
        .aggregate(
            "prices",
            fold(
                || Prices { bids: [0; 3], min: u64::MAX, max: 0, sum: 0 },
                |prices, (_, price): &(u64, u64)| {
                    prices.bids[band(*price)] += 1;
                    prices.min = prices.min.min(*price);
                    prices.max = prices.max.max(*price);
                    prices.sum += price;
                },
                |auction, window: Window, prices: Prices| AuctionStats {
                    auction,
                    day: window.start,
                    bids: prices.bids,
                    min: prices.min,
                    max: prices.max,
                    mean: prices.sum / prices.bids.iter().sum::<u64>().max(1),
                    sum: prices.sum,
                },
            ),
        )
        .sink("answer", out);
}

impl Answer for AuctionStats {
    const COLUMNS: &'static [Column] = &[Column::Sum; 5];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bids.iter().sum::<u64>(), self.min, self.max, self.mean, self.sum].map(|n| n as i64)
    }
}
