//! q3: who sells in some states.

use afflux_stream::{KeyedOperator, OperatorCx, Output, State};

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
    flow.source(
        "persons-and-auctions",
        log.select(|entry| Some(entry.clone()).filter(|e| e.bid().is_none())),
    )
    .watermarks(in_order())
    .filter(|entry| match entry {
        Entry::Person(person) => STATES.contains(&person.state.as_str()),
        Entry::Auction(auction) => auction.category == CATEGORY,
        Entry::Bid(_) => false,
    })
    .key_by(person_of)
    .operate("sellers", "person ⋈ auction", || Sellers)
    .sink("answer", out);
}

/// What is known of a person.
#[derive(Serialize, Deserialize, Default)]
struct Known {
    person: Option<Arc<Person>>,
    /// Auctions that came before their seller.
    early: Vec<u64>,
}

impl State for Known {
    fn is_empty(&self) -> bool {
        self.person.is_none() && self.early.is_empty()
    }
}

struct Sellers;

impl KeyedOperator for Sellers {
    type Key = u64;
    type Input = Entry;
    type Output = LocalSeller;
    type State = Known;

    fn process(
        &mut self,
        known: &mut Known,
        entry: Entry,
        _: &mut OperatorCx<'_, u64>,
        out: &mut Output<LocalSeller>,
    ) -> Result<(), Status> {
        match (entry, &known.person) {
            (Entry::Person(person), _) => {
                for auction in known.early.drain(..) {
                    out.emit(LocalSeller { person: Arc::clone(&person), auction });
                }
                known.person = Some(person);
            }
            (Entry::Auction(auction), Some(person)) => {
                out.emit(LocalSeller { person: Arc::clone(person), auction: auction.id });
            }
            (Entry::Auction(auction), None) => known.early.push(auction.id),
            (Entry::Bid(_), _) => {}
        }
        Ok(())
    }
}

impl Answer for LocalSeller {
    const COLUMNS: &'static [Column] = &[Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.auction as i64]
    }
}
