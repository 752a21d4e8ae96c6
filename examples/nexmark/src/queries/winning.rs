//! The winning bid of an auction: what q4, q6 and q9 begin with.

use afflux_stream::{KeyedOperator, OperatorCx, Output, State, Stream};

use super::prelude::*;

/// An auction that is over, and the highest bid placed while it was open.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Won {
    /// The auction.
    pub auction: Arc<Auction>,
    /// The highest bid, the earliest of equal ones.
    pub bid: SharedBid,
}

/// The auctions of the log that were won, each once and as soon as it is certain: when no bid that would
/// count can come any more.
pub(crate) fn winning(flow: &Flow, log: &Log) -> Stream<Won> {
    flow.source("auctions-and-bids", log.auctions_and_bids())
        .watermarks(in_order())
        .key_by(auction_of)
        .operate("winning", "the highest bid of an open auction", || Winning)
}

/// Which auction an event is about; nobody asks for a person.
pub(crate) fn auction_of(entry: &Entry) -> u64 {
    match entry {
        Entry::Auction(auction) => auction.id,
        Entry::Bid(bid) => bid.auction,
        Entry::Person(_) => u64::MAX,
    }
}

/// What is known of an auction.
#[derive(Serialize, Deserialize, Default)]
struct Known {
    auction: Option<Arc<Auction>>,
    best: Option<SharedBid>,
    /// Bids that came before their auction.
    early: Vec<SharedBid>,
}

impl State for Known {
    fn is_empty(&self) -> bool {
        self.auction.is_none() && self.early.is_empty()
    }
}

impl Known {
    fn take(&mut self, bid: SharedBid) {
        let counts = self.auction.as_ref().is_some_and(|auction| auction.is_open_at(bid.date_time));
        if counts && self.best.as_ref().is_none_or(|best| beats(&bid, best)) {
            self.best = Some(bid);
        }
    }
}

/// Whether a bid wins against another, whichever came first. Of equal bids at one moment the lower bidder
/// wins, so that the answer does not depend on who reads faster.
fn beats(bid: &Bid, other: &Bid) -> bool {
    (bid.price, other.date_time, other.bidder) > (other.price, bid.date_time, bid.bidder)
}

struct Winning;

impl KeyedOperator for Winning {
    type Key = u64;
    type Input = Entry;
    type Output = Won;
    type State = Known;

    fn process(
        &mut self,
        known: &mut Known,
        entry: Entry,
        cx: &mut OperatorCx<'_, u64>,
        _: &mut Output<Won>,
    ) -> Result<(), Status> {
        match entry {
            Entry::Auction(auction) => {
                cx.timer_at(after(auction.expires));
                known.auction = Some(auction);
                for bid in std::mem::take(&mut known.early) {
                    known.take(bid);
                }
            }
            Entry::Bid(bid) if known.auction.is_some() => known.take(bid),
            // It counts only if its auction was opened before it, and then that is about to come.
            Entry::Bid(bid) => {
                if known.early.is_empty() {
                    cx.timer_at(after(bid.date_time));
                }
                known.early.push(bid);
            }
            Entry::Person(_) => {}
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        known: &mut Known,
        at: Timestamp,
        cx: &mut OperatorCx<'_, u64>,
        out: &mut Output<Won>,
    ) -> Result<(), Status> {
        if known.auction.as_ref().is_some_and(|auction| after(auction.expires) == at) {
            let Known { auction, best, .. } = std::mem::take(known);
            if let (Some(auction), Some(bid)) = (auction, best) {
                out.emit(Won { auction, bid });
            }
            return Ok(());
        }
        known.early.retain(|bid| bid.date_time >= at);
        if let Some(next) = known.early.iter().map(|bid| bid.date_time).min() {
            cx.timer_at(after(next));
        }
        Ok(())
    }
}

/// The moment after this one: at this watermark nothing of the moment itself can come any more.
pub(crate) fn after(moment: Timestamp) -> Timestamp {
    moment + millis_of(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_stream::Harness;

    fn bid(price: u64, at: i64, bidder: u64) -> Entry {
        Entry::Bid(Arc::new(Bid {
            auction: 1,
            bidder,
            price,
            channel: String::new(),
            url: String::new(),
            date_time: Timestamp::from_millis(at),
            extra: String::new(),
        }))
    }

    fn auction(opened: i64, expires: i64) -> Entry {
        Entry::Auction(Arc::new(Auction {
            id: 1,
            item_name: String::new(),
            description: String::new(),
            initial_bid: 0,
            reserve: 0,
            date_time: Timestamp::from_millis(opened),
            expires: Timestamp::from_millis(expires),
            seller: 0,
            category: 0,
            extra: String::new(),
        }))
    }

    #[test]
    fn both_ends_of_an_auction_are_open_and_the_earliest_of_equal_bids_wins() {
        let mut winning = Harness::of(Winning);
        for (entry, at) in [
            (bid(9, 99, 1), 99),
            (bid(3, 100, 2), 100),
            (auction(100, 200), 100),
            (bid(5, 200, 4), 200),
            (bid(5, 150, 3), 150),
            (bid(8, 201, 5), 201),
        ] {
            winning.push(1, entry, at).unwrap();
        }
        winning.watermark(200).unwrap();
        assert!(winning.take().is_empty());
        winning.watermark(201).unwrap();
        let won = winning.take();
        assert_eq!((won.len(), won[0].bid.bidder), (1, 3));
    }

    #[test]
    fn a_bid_whose_auction_is_not_there_is_forgotten_when_it_cannot_come_any_more() {
        let mut winning = Harness::of(Winning);
        winning.push(1, bid(9, 100, 1), 100).unwrap();
        winning.push(1, bid(9, 105, 1), 105).unwrap();
        winning.watermark(105).unwrap();
        assert_eq!(winning.state(&1).map(|known| known.early.len()), Some(1));
        winning.watermark(106).unwrap();
        assert!(winning.state(&1).is_none());
    }
}
