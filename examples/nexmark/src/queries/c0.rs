//! c0: an auction whose price fell and rose again.

use afflux_stream::{KeyedOperator, OperatorCx, Output, State};

use super::prelude::*;
use super::waiting::Waiting;

/// Prices of an auction that fell, once or several times in a row, and then rose.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Valley {
    /// The auction.
    pub auction: u64,
    /// The price before the first fall.
    pub from: u64,
    /// The lowest.
    pub bottom: u64,
    /// The price that rose.
    pub to: u64,
    /// How often it fell.
    pub falls: u64,
}

/// Finds where the price of an auction's bids, in the order of their time, falls one or more times and then
/// rises. After a match the next may begin with the row that ended it. Bids of one moment are ordered by
/// bidder, then price.
pub fn c0(flow: &Flow, log: &Log, out: impl Sink<Valley>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .map(|bid| (bid.auction, bid.date_time, Offer { bidder: bid.bidder, price: bid.price }))
        .key_by_ref(|(auction, ..)| auction)
        .operate("valleys", "the price falls, then rises", || Valleys)
        .sink("answer", out);
}

/// What matters of a bid: bids of one moment are in the order of these fields.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    bidder: u64,
    price: u64,
}

/// What is known of an auction's bids.
#[derive(Serialize, Deserialize, Default)]
struct Prices {
    /// Bids, while an earlier one may still come.
    waiting: Waiting<Offer>,
    /// The last price before them.
    last: Option<u64>,
    /// Where the fall that is under way began, and how often the price fell since.
    falling: Option<(u64, u64)>,
}

impl State for Prices {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.last.is_none()
    }
}

impl Prices {
    /// The next price; returns a valley's beginning, bottom and number of falls if it ends one.
    fn next(&mut self, price: u64) -> Option<(u64, u64, u64)> {
        let last = self.last.replace(price)?;
        if price < last {
            let (from, falls) = self.falling.unwrap_or((last, 0));
            self.falling = Some((from, falls + 1));
            return None;
        }
        // Equal prices end a fall without a match.
        let (from, falls) = self.falling.take()?;
        (price > last).then_some((from, last, falls))
    }
}

struct Valleys;

impl KeyedOperator for Valleys {
    type Key = u64;
    type Input = (u64, Timestamp, Offer);
    type Output = Valley;
    type State = Prices;

    fn process(
        &mut self,
        prices: &mut Prices,
        (_, at, offer): Self::Input,
        cx: &mut OperatorCx<'_, u64>,
        _: &mut Output<Valley>,
    ) -> Result<(), Status> {
        prices.waiting.push(at, offer, cx);
        Ok(())
    }

    fn on_timer(
        &mut self,
        prices: &mut Prices,
        _: Timestamp,
        cx: &mut OperatorCx<'_, u64>,
        out: &mut Output<Valley>,
    ) -> Result<(), Status> {
        for (at, offer) in prices.waiting.take_due(cx) {
            if let Some((from, bottom, falls)) = prices.next(offer.price) {
                out.emit_at(Valley { auction: *cx.key(), from, bottom, to: offer.price, falls }, at);
            }
        }
        Ok(())
    }
}

impl Answer for Valley {
    const COLUMNS: &'static [Column] = &[Column::Sum; 4];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.from as i64, self.bottom as i64, self.to as i64, self.falls as i64]
    }
}
