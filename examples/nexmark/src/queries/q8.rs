//! q8: who sells at once.

use super::prelude::*;

/// A person who opened an auction in the window in which they registered.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NewSeller {
    /// The person.
    pub id: u64,
    /// Their name.
    pub name: String,
    /// When the window began.
    pub window_start: Timestamp,
}

/// What is known of a person in a window.
#[derive(Serialize, Deserialize, Default)]
struct Seen {
    registered: Option<Arc<Person>>,
    sells: bool,
}

/// Finds those who registered and opened an auction in the same tumbling window of ten seconds: a
/// distinct join in windows, which is one aggregate over the events of both kinds.
pub fn q8(flow: &Flow, log: &Log, out: impl Sink<NewSeller>) {
    flow.source("persons-and-auctions", log.persons_and_auctions())
        .watermarks(in_order())
        .key_by(person_of)
        .window(Tumbling::of(secs(10)))
        .late(Late::Drop)
        .aggregate(
            "seen",
            fold(
                Seen::default,
                |seen, entry| match entry {
                    Entry::Person(person) => seen.registered = Some(Arc::clone(person)),
                    Entry::Auction(_) | Entry::Bid(_) => seen.sells = true,
                },
                |id, window: Window, seen: Seen| {
                    let person = seen.registered.filter(|_| seen.sells)?;
                    Some(NewSeller { id, name: person.name.clone(), window_start: window.start })
                },
            ),
        )
        .flat_map(|seller| seller)
        .sink("answer", out);
}

impl Answer for NewSeller {
    const COLUMNS: &'static [Column] = &[Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.id as i64]
    }
}
