//! q7: the highest bids of each ten seconds.

use super::prelude::*;

/// One of the highest bids of a window.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Highest(pub SharedBid);

/// How many parts the bids of a window are looked through in, so that all tasks take part.
const PARTS: u64 = 64;

/// Finds the highest bids of each tumbling window of ten seconds, all of them where several are equal:
/// first in every part of the auctions, then among what the parts have found.
pub fn q7(flow: &Flow, log: &Log, out: impl Sink<Highest>) {
    let window = Tumbling::of(secs(10));
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .key_by(|bid| bid.auction % PARTS)
        .window(window)
        .late(Late::Drop)
        .aggregate("highest-of-part", fold(Vec::new, keep_highest, |_, _, bids| bids))
        .flat_map(|bids| bids)
        .key_by(move |bid| window.window_of(bid.date_time).start)
        .window(window)
        .late(Late::Drop)
        .aggregate("highest", fold(Vec::new, keep_highest, |_, _, bids| bids))
        .flat_map(|bids| bids)
        .map(Highest)
        .sink("answer", out);
}

/// Keeps `bid` if it is as high as those kept, and only it if it is higher.
fn keep_highest(kept: &mut Vec<SharedBid>, bid: &SharedBid) {
    let highest = kept.first().map_or(0, |kept| kept.price);
    if bid.price < highest {
        return;
    }
    if bid.price > highest {
        kept.clear();
    }
    kept.push(Arc::clone(bid));
}

impl Answer for Highest {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.0.auction as i64, self.0.price as i64]
    }
}
