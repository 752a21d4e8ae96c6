//! q16: statistics of each channel and day, with distinct counts.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::prelude::*;

/// What happened in a channel in a day. Arrays are by price band, as in q15.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ChannelStats {
    /// The channel.
    pub channel: String,
    /// When the day began, UTC.
    pub day: Timestamp,
    /// Bids by band.
    pub bids: [u64; 3],
    /// Distinct bidders, and by band.
    pub bidders: (u64, [u64; 3]),
    /// Distinct auctions, and by band.
    pub auctions: (u64, [u64; 3]),
}

/// Who or what was seen, and in which bands: a bit each.
type Seen = HashMap<u64, u8, BuildHasherDefault<KeyHasher>>;

/// Hashes numbers as keys are hashed: the same in every run, as all in a pipeline.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).key_hash();
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is kept of a channel and day.
#[derive(Serialize, Deserialize, Default)]
struct Day {
    bids: [u64; 3],
    bidders: Seen,
    auctions: Seen,
}

/// Counts bids, bidders and auctions of each channel and day.
pub fn q16(flow: &Flow, log: &Log, out: impl Sink<ChannelStats>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .key_by_ref(|bid| &bid.channel)
        .window(Tumbling::of(hours(24)))
        .late(Late::Drop)
        .aggregate(
            "channels",
            fold(
                Day::default,
                |day, bid: &SharedBid| {
                    let band = band(bid.price);
                    day.bids[band] += 1;
                    *day.bidders.entry(bid.bidder).or_default() |= 1 << band;
                    *day.auctions.entry(bid.auction).or_default() |= 1 << band;
                },
                |channel, window: Window, day: Day| ChannelStats {
                    channel,
                    day: window.start,
                    bids: day.bids,
                    bidders: distinct(&day.bidders),
                    auctions: distinct(&day.auctions),
                },
            ),
        )
        .sink("answer", out);
}

/// How many were seen, and how many in each band.
fn distinct(seen: &Seen) -> (u64, [u64; 3]) {
    let of = |band: u8| seen.values().filter(|bands| *bands & (1 << band) != 0).count() as u64;
    (seen.len() as u64, [of(0), of(1), of(2)])
}

impl Answer for ChannelStats {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bids.iter().sum::<u64>() as i64, self.bidders.0 as i64, self.auctions.0 as i64]
    }
}
