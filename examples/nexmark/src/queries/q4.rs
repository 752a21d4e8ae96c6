//! q4: the average price of each category.

use super::prelude::*;
use super::winning::winning;

/// What the auctions of a category that are over were sold for.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CategoryPrice {
    /// The category.
    pub category: u64,
    /// Its auctions that were won.
    pub auctions: u64,
    /// Their winning prices together.
    pub sum: u64,
}

impl CategoryPrice {
    /// The average winning price, its fraction cut off.
    pub fn average(&self) -> u64 {
        self.sum / self.auctions.max(1)
    }
}

/// Averages the winning prices of each category: every auction that is over makes a new row of its
/// category, and the last counts.
pub fn q4(flow: &Flow, log: &Log, out: impl Sink<CategoryPrice>) {
    winning(flow, log)
        .map(|won| CategoryPrice { category: won.auction.category, auctions: 1, sum: won.bid.price })
        .key_by_ref(|price| &price.category)
        .reduce("average", |a, b| CategoryPrice {
            auctions: a.auctions + b.auctions,
            sum: a.sum + b.sum,
            ..a
        })
        .sink("answer", out);
}

impl Answer for CategoryPrice {
    const COLUMNS: &'static [Column] = &[Column::Key, Column::Whole];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.category as i64, self.average() as i64]
    }
}
