//! q3: who sells in some states.

use super::prelude::*;

/// An auction of category 10 and who sells it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LocalSeller {
    /// The seller.
    pub person: Arc<Person>,
    /// The auction.
    pub auction: u64,
}

/// The category that is asked for.
const CATEGORY: u64 = 10;
/// The states that are asked for.
const STATES: [&str; 3] = ["or", "id", "ca"];

/// Joins the auctions of category 10 with their sellers, where these live in Oregon, Idaho or California. A
/// seller may open an auction at any time after they registered, so both sides are kept for good.
pub fn q3(flow: &Flow, log: &Log, out: impl Sink<LocalSeller>) {
    let auctions = flow
        .source("auctions", log.auctions())
        .watermarks(in_order())
        .filter(|auction| auction.category == CATEGORY)
        .map(|auction| (auction.seller, auction.id))
        .key_by_ref(|(seller, _)| seller);
    let persons = flow
        .source("persons", log.persons())
        .watermarks(in_order())
        .filter(|person| STATES.contains(&person.state.as_str()))
        .key_by_ref(|person| &person.id);
    auctions
        .join(persons)
        .unbounded()
        .inner("sellers", |(_, auction), person| LocalSeller {
            person: Arc::clone(person),
            auction: *auction,
        })
        .sink("answer", out);
}

impl Answer for LocalSeller {
    const COLUMNS: &'static [Column] = &[Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.auction as i64]
    }
}
