//! q5: the auctions that most is bid on.

use super::prelude::*;

/// An auction with as many bids as any in a window.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hot {
    /// The auction.
    pub auction: u64,
    /// Its bids in the window.
    pub bids: u64,
    /// The window.
    pub window: Window,
}

/// Finds, every two seconds, the auctions with most bids in the last ten, all of them where several have as
/// many.
pub fn q5(flow: &Flow, log: &Log, out: impl Sink<Hot>) {
    let every = secs(2);
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .map(|bid| bid.auction)
        .key_by_ref(|auction| auction)
        .window(Sliding::of(secs(10)).every(every))
        .late(Late::Drop)
        .aggregate(
            "bids-of-auction",
            fold(
                || 0,
                |bids, _: &u64| *bids += 1,
                |auction, window: Window, bids: u64| Hot { auction, bids, window },
            )
            .merging(|bids, more| *bids += more),
        )
        // The result of a window has its last moment as its time, so each lies in a window of its own here.
        .key_by(|hot| hot.window.start)
        .window(Tumbling::of(every))
        .late(Late::Drop)
        .aggregate("hottest", fold(Vec::new, keep_hottest, |_, _, hottest| hottest))
        .flat_map(|hottest| hottest)
        .sink("answer", out);
}

/// Keeps `hot` if it has as many bids as those kept, and only it if it has more.
fn keep_hottest(kept: &mut Vec<Hot>, hot: &Hot) {
    let most = kept.first().map_or(0, |kept| kept.bids);
    if hot.bids < most {
        return;
    }
    if hot.bids > most {
        kept.clear();
    }
    kept.push(*hot);
}

impl Answer for Hot {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.auction as i64, self.bids as i64]
    }
}
