//! q23: bids of sellers.

use afflux_stream::{KeyedOperator, OperatorCx, Output, State};

use super::prelude::*;

/// A bid, who placed it, and an auction of theirs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SellerBid {
    /// The bid.
    pub bid: SharedBid,
    /// Who placed it.
    pub person: Arc<Person>,
    /// What they sell themselves.
    pub auction: Arc<Auction>,
}

/// Joins each bid with its bidder and with each auction that the bidder sells. All three know the person by
/// their number, so that the two joins are one.
pub fn q23(flow: &Flow, log: &Log, out: impl Sink<SellerBid>) {
    flow.source("events", log.all())
        .watermarks(in_order())
        .key_by(person_of)
        .operate("seller-bids", "person ⋈ bid ⋈ auction", || SellerBids)
        .sink("answer", out);
}

/// What is known of a person: everything, for good.
#[derive(Serialize, Deserialize, Default)]
struct Known {
    person: Option<Arc<Person>>,
    bids: Vec<SharedBid>,
    auctions: Vec<Arc<Auction>>,
}

impl State for Known {
    fn is_empty(&self) -> bool {
        self.person.is_none() && self.bids.is_empty() && self.auctions.is_empty()
    }
}

struct SellerBids;

impl KeyedOperator for SellerBids {
    type Key = u64;
    type Input = Entry;
    type Output = SellerBid;
    type State = Known;

    fn process(
        &mut self,
        known: &mut Known,
        entry: Entry,
        _: &mut OperatorCx<'_, u64>,
        out: &mut Output<SellerBid>,
    ) -> Result<(), Status> {
        // Each row is made when the last of its three parts comes.
        let (bids, auctions) = match &entry {
            Entry::Bid(bid) => (std::slice::from_ref(bid), known.auctions.as_slice()),
            Entry::Auction(auction) => (known.bids.as_slice(), std::slice::from_ref(auction)),
            Entry::Person(person) => {
                known.person = Some(Arc::clone(person));
                (known.bids.as_slice(), known.auctions.as_slice())
            }
        };
        if let Some(person) = &known.person {
            for bid in bids {
                for auction in auctions {
                    let (bid, auction) = (Arc::clone(bid), Arc::clone(auction));
                    out.emit(SellerBid { bid, person: Arc::clone(person), auction });
                }
            }
        }
        match entry {
            Entry::Bid(bid) => known.bids.push(bid),
            Entry::Auction(auction) => known.auctions.push(auction),
            Entry::Person(_) => {}
        }
        Ok(())
    }
}

impl Answer for SellerBid {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bid.price as i64, self.auction.id as i64]
    }
}
