//! One entry of the feed.

use afflux::prelude::*;

/// An order of at least this many shares is a large one.
pub const LARGE_ORDER_SHARES: u64 = 5_000;

/// What the exchange tells of an order: that it was placed, that it has traded, that it was withdrawn.
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When: the event time.
    #[event(time)]
    pub at: Timestamp,
    /// Its place in the exchange's own order, which is the order of `at`, and decides within a millisecond.
    pub sequence: u64,
    /// What is traded, such as `ALDR`.
    pub symbol: String,
    /// Whose order it is.
    pub account: u32,
    /// Which order it is.
    pub order: u64,
    /// What became of it.
    pub action: Action,
    /// Which side of the book it is on.
    pub side: Side,
    /// At what price, in cents a share.
    pub price_cents: u64,
    /// How many shares.
    pub shares: u64,
}

impl Entry {
    /// Whether a large order is placed.
    pub fn places_large_order(&self) -> bool {
        self.action == Action::Placed && self.shares >= LARGE_ORDER_SHARES
    }
}

/// What becomes of an order.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It stands in the book.
    Placed,
    /// All of it was traded.
    Traded,
    /// Its owner took it back.
    Withdrawn,
}

/// A side of the book.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Bids.
    Buy,
    /// Offers.
    Sell,
}

impl Side {
    /// The other side.
    pub const fn other(self) -> Self {
        match self {
            Side::Buy => Side::Sell,
            Side::Sell => Side::Buy,
        }
    }
}
