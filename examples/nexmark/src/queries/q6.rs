//! q6: the average price of each seller's last ten auctions.

use std::collections::VecDeque;

use afflux_stream::{KeyedOperator, OperatorCx, Output, State};

use super::prelude::*;
use super::waiting::Waiting;
use super::winning::{Won, after, winning};

/// What a seller's last auctions were sold for.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SellerPrice {
    /// The seller.
    pub seller: u64,
    /// The auction that was over last.
    pub auction: u64,
    /// The average winning price of it and the nine before, its fraction cut off.
    pub average: u64,
}

/// Auctions of a seller that the average is taken over.
const LAST: usize = 10;

/// Averages the winning prices of the ten auctions of each seller that were over last, anew with every
/// auction that is over.
pub fn q6(flow: &Flow, log: &Log, out: impl Sink<SellerPrice>) {
    winning(flow, log)
        .key_by(|won| won.auction.seller)
        .operate("last-ten", "the average of ten auctions", || LastTen)
        .sink("answer", out);
}

/// What is known of a seller.
#[derive(Serialize, Deserialize, Default)]
struct Seller {
    /// Prices of the auctions that were over last, the latest at the end.
    last: VecDeque<u64>,
    /// Auctions that are over, while one that was over before may still come: number and price.
    waiting: Waiting<(u64, u64)>,
}

impl State for Seller {
    fn is_empty(&self) -> bool {
        self.last.is_empty() && self.waiting.is_empty()
    }
}

struct LastTen;

impl KeyedOperator for LastTen {
    type Key = u64;
    type Input = Won;
    type Output = SellerPrice;
    type State = Seller;

    fn process(
        &mut self,
        seller: &mut Seller,
        won: Won,
        cx: &mut OperatorCx<'_, u64>,
        _: &mut Output<SellerPrice>,
    ) -> Result<(), Status> {
        // Auctions reach this task from several: their order is that of time.
        seller.waiting.push(after(won.auction.expires), (won.auction.id, won.bid.price), cx);
        Ok(())
    }

    fn on_timer(
        &mut self,
        seller: &mut Seller,
        _: Timestamp,
        cx: &mut OperatorCx<'_, u64>,
        out: &mut Output<SellerPrice>,
    ) -> Result<(), Status> {
        for (at, (auction, price)) in seller.waiting.take_due(cx) {
            seller.last.push_back(price);
            if seller.last.len() > LAST {
                seller.last.pop_front();
            }
            let average = seller.last.iter().sum::<u64>() / seller.last.len() as u64;
            out.emit_at(SellerPrice { seller: *cx.key(), auction, average }, at);
        }
        Ok(())
    }
}

impl Answer for SellerPrice {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.seller as i64, self.auction as i64, self.average as i64]
    }
}
