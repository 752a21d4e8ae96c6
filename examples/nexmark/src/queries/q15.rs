//! q15: statistics of each day, with distinct counts.

use super::prelude::*;

/// What happened in a day. Arrays are by price band: below 10,000, below 1,000,000, and above.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct DayStats {
    /// When the day began, UTC.
    pub day: Timestamp,
    /// Bids by band.
    pub bids: [u64; 3],
    /// Distinct bidders.
    pub bidders: u64,
    /// Distinct bidders by band.
    pub bidders_of: [u64; 3],
    /// Distinct auctions.
    pub auctions: u64,
    /// Distinct auctions by band.
    pub auctions_of: [u64; 3],
}

/// Whom or what a bid counts for: of a bidder even, of an auction odd.
type Subject = u64;

/// Counts bids, bidders and auctions of each day.
///
/// A distinct count is a number of keys: each bid counts for its bidder and for its auction, keyed by
/// them over all tasks; then each bidder and auction of a day counts once. No task holds a set.
pub fn q15(flow: &Flow, log: &Log, out: impl Sink<DayStats>) {
    let day = Tumbling::of(hours(24));
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .flat_map(|bid: SharedBid| {
            let band = band(bid.price);
            [(bid.bidder * 2, band), (bid.auction * 2 + 1, band)]
        })
        .key_by_ref(|(subject, _)| subject)
        .window(day)
        .late(Late::Drop)
        .aggregate(
            "subjects",
            fold(
                || [0_u64; 3],
                |bids, (_, band): &(Subject, usize)| bids[*band] += 1,
                |subject, window: Window, bids| one_subject(subject, window.start, bids),
            ),
        )
        .key_by_ref(|stats| &stats.day)
        .window(day)
        .late(Late::Drop)
        .aggregate("day", fold(DayStats::default, DayStats::add, |_, _, stats| stats))
        .sink("answer", out);
}

/// What one bidder or auction adds to its day.
fn one_subject(subject: Subject, day: Timestamp, bids: [u64; 3]) -> DayStats {
    let seen = bids.map(|n| u64::from(n > 0));
    if subject.is_multiple_of(2) {
        DayStats { day, bidders: 1, bidders_of: seen, ..DayStats::default() }
    } else {
        // Every bid has one auction: the bids are counted here.
        DayStats { day, bids, auctions: 1, auctions_of: seen, ..DayStats::default() }
    }
}

impl DayStats {
    fn add(&mut self, other: &DayStats) {
        self.day = other.day;
        self.bidders += other.bidders;
        self.auctions += other.auctions;
        for band in 0..3 {
            self.bids[band] += other.bids[band];
            self.bidders_of[band] += other.bidders_of[band];
            self.auctions_of[band] += other.auctions_of[band];
        }
    }
}

impl Answer for DayStats {
    const COLUMNS: &'static [Column] = &[Column::Whole; 12];
    fn cells(&self) -> impl AsRef<[i64]> {
        let ([a, b, c], [d, e, f], [g, h, i]) = (self.bids, self.bidders_of, self.auctions_of);
        [a + b + c, a, b, c, self.bidders, d, e, f, self.auctions, g, h, i].map(|n| n as i64)
    }
}
