//! What happens at the auction: persons register, open auctions and bid.

use std::sync::Arc;

use afflux::prelude::*;

/// Somebody registers.
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Unique among persons.
    pub id: u64,
    /// Full name.
    pub name: String,
    /// Electronic mail.
    pub email_address: String,
    /// Four groups of four digits.
    pub credit_card: String,
    /// A city of the United States.
    pub city: String,
    /// Its state, in two lower-case letters.
    pub state: String,
    /// When it happened.
    #[event(time)]
    pub date_time: Timestamp,
    /// Padding.
    pub extra: String,
}

/// Somebody offers an item.
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Auction {
    /// Unique among auctions.
    pub id: u64,
    /// What is sold.
    pub item_name: String,
    /// More about it.
    pub description: String,
    /// The first price, in cents.
    pub initial_bid: u64,
    /// The least price at which it is sold, in cents.
    pub reserve: u64,
    /// When it opened.
    #[event(time)]
    pub date_time: Timestamp,
    /// The last moment at which a bid counts.
    pub expires: Timestamp,
    /// The [`Person::id`] of who sells.
    pub seller: u64,
    /// One of a few numbers.
    pub category: u64,
    /// Padding.
    pub extra: String,
}

impl Auction {
    /// Whether a bid of this moment counts; both ends do.
    pub fn is_open_at(&self, moment: Timestamp) -> bool {
        (self.date_time..=self.expires).contains(&moment)
    }
}

/// Somebody offers a price. The auction may not have been opened yet, or be over.
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Bid {
    /// The [`Auction::id`].
    pub auction: u64,
    /// The [`Person::id`].
    pub bidder: u64,
    /// In cents.
    pub price: u64,
    /// Where the bidder came from.
    pub channel: String,
    /// The page with the bid.
    pub url: String,
    /// When it happened.
    #[event(time)]
    pub date_time: Timestamp,
    /// Padding.
    pub extra: String,
}

/// One of the three.
///
/// It is shared, not copied: an event passes from operator to operator at the price of a pointer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Somebody registered.
    Person(Arc<Person>),
    /// An auction was opened.
    Auction(Arc<Auction>),
    /// A bid was placed.
    Bid(Arc<Bid>),
}

impl Entry {
    /// The person, if it is one.
    pub fn person(&self) -> Option<Arc<Person>> {
        if let Entry::Person(person) = self { Some(Arc::clone(person)) } else { None }
    }

    /// The auction, if it is one.
    pub fn auction(&self) -> Option<Arc<Auction>> {
        if let Entry::Auction(auction) = self { Some(Arc::clone(auction)) } else { None }
    }

    /// The bid, if it is one.
    pub fn bid(&self) -> Option<Arc<Bid>> {
        if let Entry::Bid(bid) = self { Some(Arc::clone(bid)) } else { None }
    }
}

impl Event for Entry {
    fn event_time(&self) -> Timestamp {
        match self {
            Entry::Person(person) => person.date_time,
            Entry::Auction(auction) => auction.date_time,
            Entry::Bid(bid) => bid.date_time,
        }
    }
}

fn moment(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis as i64)
}

impl From<nexmark::event::Event> for Entry {
    fn from(event: nexmark::event::Event) -> Self {
        use nexmark::event::Event as Made;
        match event {
            Made::Person(p) => Entry::Person(Arc::new(Person {
                id: p.id as u64,
                name: p.name,
                email_address: p.email_address,
                credit_card: p.credit_card,
                city: p.city,
                state: p.state,
                date_time: moment(p.date_time),
                extra: p.extra,
            })),
            Made::Auction(a) => Entry::Auction(Arc::new(Auction {
                id: a.id as u64,
                item_name: a.item_name,
                description: a.description,
                initial_bid: a.initial_bid as u64,
                reserve: a.reserve as u64,
                date_time: moment(a.date_time),
                expires: moment(a.expires),
                seller: a.seller as u64,
                category: a.category as u64,
                extra: a.extra,
            })),
            Made::Bid(b) => Entry::Bid(Arc::new(Bid {
                auction: b.auction as u64,
                bidder: b.bidder as u64,
                price: b.price as u64,
                channel: b.channel,
                url: b.url,
                date_time: moment(b.date_time),
                extra: b.extra,
            })),
        }
    }
}
