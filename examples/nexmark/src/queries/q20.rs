//! q20: bids with their auction, of one category.

use afflux_stream::{KeyedOperator, OperatorCx, Output, State};

use super::prelude::*;
use super::winning::auction_of;

/// A bid on an auction of category 10.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BidOnAuction {
    /// The bid.
    pub bid: SharedBid,
    /// Its auction.
    pub auction: Arc<Auction>,
}

/// The category that is asked for.
const CATEGORY: u64 = 10;

/// Joins each bid with its auction and keeps those of category 10. An auction is kept for good; a bid only
/// until its auction has come.
pub fn q20(flow: &Flow, log: &Log, out: impl Sink<BidOnAuction>) {
    flow.source("auctions-and-bids", log.auctions_and_bids())
        .watermarks(in_order())
        .key_by(auction_of)
        .operate("auctions", "bid ⋈ auction", || Auctions)
        .sink("answer", out);
}

/// What is known of an auction.
#[derive(Serialize, Deserialize)]
enum Known {
    /// Nothing yet: the bids wait for it.
    Waiting(Vec<SharedBid>),
    /// It is of the category.
    Wanted(Arc<Auction>),
    /// It is of another.
    Unwanted,
}

impl Default for Known {
    fn default() -> Self {
        Known::Waiting(Vec::new())
    }
}

impl State for Known {
    fn is_empty(&self) -> bool {
        matches!(self, Known::Waiting(bids) if bids.is_empty())
    }
}

struct Auctions;

impl KeyedOperator for Auctions {
    type Key = u64;
    type Input = Entry;
    type Output = BidOnAuction;
    type State = Known;

    fn process(
        &mut self,
        known: &mut Known,
        entry: Entry,
        _: &mut OperatorCx<'_, u64>,
        out: &mut Output<BidOnAuction>,
    ) -> Result<(), Status> {
        match (entry, &mut *known) {
            (Entry::Bid(bid), Known::Wanted(auction)) => {
                out.emit(BidOnAuction { bid, auction: Arc::clone(auction) });
            }
            (Entry::Bid(bid), Known::Waiting(bids)) => bids.push(bid),
            (Entry::Auction(auction), Known::Waiting(bids)) if auction.category == CATEGORY => {
                for bid in bids.drain(..) {
                    out.emit(BidOnAuction { bid, auction: Arc::clone(&auction) });
                }
                *known = Known::Wanted(auction);
            }
            (Entry::Auction(_), Known::Waiting(_)) => *known = Known::Unwanted,
            _ => {}
        }
        Ok(())
    }
}

impl Answer for BidOnAuction {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bid.price as i64, self.auction.seller as i64]
    }
}
