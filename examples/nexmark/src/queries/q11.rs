//! q11: how much each bidder bids at a time.

use afflux_stream::Session;

use super::prelude::*;

/// The bids of a bidder between two pauses.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct BidsInSession {
    /// The bidder.
    pub bidder: u64,
    /// From the first bid to ten seconds after the last.
    pub session: Window,
    /// How many.
    pub bids: u64,
}

/// Counts the bids of each bidder and session; a pause of ten seconds or more ends a session.
pub fn q11(flow: &Flow, log: &Log, out: impl Sink<BidsInSession>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .map(|bid| bid.bidder)
        .key_by_ref(|bidder| bidder)
        .window(Session::gap(secs(10)))
        .late(Late::Drop)
        .aggregate(
            "sessions",
            fold(
                || 0,
                |bids, _: &u64| *bids += 1,
                |bidder, session: Window, bids: u64| BidsInSession { bidder, session, bids },
            )
            .merging(|bids, more| *bids += more),
        )
        .sink("answer", out);
}

impl Answer for BidsInSession {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Max];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bids as i64, self.bids as i64]
    }
}
