//! The generator: an hour of an exchange, the same hour each time.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use afflux::prelude::*;
use afflux::stream::Source;
use afflux_rehearsal::{Chance, Zipf, arrivals};

use crate::entry::{Action, Entry, LARGE_ORDER_SHARES, Side};

/// An entry arrives at most this long after it happened.
pub const DELAY_MAX: Duration = secs(2);

/// What is traded, the most traded first.
const SYMBOLS: [&str; 20] = [
    "ALDR", "BORE", "CYGN", "DELF", "ELMS", "FJRD", "GALE", "HYDR", "IRIS", "JADE", "KELP", "LYRA", "MICA",
    "NOVA", "OPAL", "PEAT", "QUAY", "RILL", "SAGE", "TIDE",
];

/// Accounts; the first is the busiest.
const ACCOUNTS: usize = 800;

/// 2026-03-02T14:30:00Z.
const OPENING_MS: i64 = 1_772_461_800_000;

/// Seed and orders of the hour that the program plays.
const SEED: u64 = 2026;
const ORDERS: usize = 40_000;

/// Milliseconds between two orders, at most: as a rule, and while there is news of a symbol.
const PAUSE_MAX_MS: u64 = 210;
const PAUSE_MAX_IN_NEWS_MS: u64 = 30;

/// There is news once in so many orders, and it lasts so many.
const NEWS_ONE_IN: u64 = 3_000;
const NEWS_ORDERS: u32 = 600;

/// One order in so many begins an attempt at layering, or what only looks like one.
const LAYERING_ONE_IN: u64 = 300;

/// The entries of a stretch of trading, in the order in which they arrive. A clone is the same feed.
#[derive(Clone, Debug)]
pub struct Feed {
    entries: Arc<[Entry]>,
}

impl Feed {
    /// The hour that the program plays.
    pub fn the_hour() -> &'static Feed {
        static HOUR: LazyLock<Feed> = LazyLock::new(|| Feed::seeded(SEED, ORDERS));
        &HOUR
    }

    /// What follows from this many orders (and a few more, where somebody layers) of this seed.
    pub fn seeded(seed: u64, orders: usize) -> Self {
        let mut exchange = Exchange::open(seed);
        (0..orders).for_each(|_| exchange.step());
        let Exchange { mut entries, mut chance, .. } = exchange;
        entries.sort_by_key(|entry| entry.at);
        for (sequence, entry) in (1..).zip(&mut entries) {
            entry.sequence = sequence;
        }
        let delay_max_ms = DELAY_MAX.as_millis() as u64;
        Self { entries: arrivals(entries, |entry| entry.at.millis(), delay_max_ms, &mut chance).into() }
    }

    /// All of it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The feed as the source of a pipeline.
    pub fn source(&self) -> impl Source<Item = Entry> + use<> {
        let entries = Arc::clone(&self.entries);
        generate(entries.len() as u64, move |i| entries[i as usize].clone())
    }
}

/// The exchange while its entries are made, not yet in order.
struct Exchange {
    chance: Chance,
    symbols: Zipf,
    accounts: Zipf,
    at: Timestamp,
    /// The price of each symbol, in cents.
    prices: [u64; SYMBOLS.len()],
    /// Of which symbol there is news, and for how many orders more.
    news: Option<(usize, u32)>,
    orders: u64,
    entries: Vec<Entry>,
}

impl Exchange {
    fn open(seed: u64) -> Self {
        let mut chance = Chance::seeded(seed);
        Self {
            prices: SYMBOLS.map(|_| 800 + chance.below(40_000)),
            chance,
            symbols: Zipf::of(SYMBOLS.len()),
            accounts: Zipf::of(ACCOUNTS),
            at: Timestamp::from_millis(OPENING_MS),
            news: None,
            orders: 0,
            entries: Vec::new(),
        }
    }

    /// Somebody acts.
    fn step(&mut self) {
        self.news = match self.news {
            Some((symbol, orders)) => (orders > 0).then_some((symbol, orders.saturating_sub(1))),
            None => {
                self.chance.one_in(NEWS_ONE_IN).then(|| (self.symbols.pick(&mut self.chance), NEWS_ORDERS))
            }
        };
        let pause_max_ms = if self.news.is_some() { PAUSE_MAX_IN_NEWS_MS } else { PAUSE_MAX_MS };
        self.at = self.at + millis_of(self.chance.below(pause_max_ms));
        let symbol = match self.news {
            Some((symbol, _)) if !self.chance.one_in(4) => symbol,
            _ => self.symbols.pick(&mut self.chance),
        };
        let account = self.accounts.pick(&mut self.chance) as u32 + 1;
        if self.chance.one_in(LAYERING_ONE_IN) {
            self.layer(symbol, account);
        } else {
            self.trade(symbol, account);
        }
    }

    /// An order as most are: soon traded, or withdrawn, or left to stand.
    fn trade(&mut self, symbol: usize, account: u32) {
        let shares =
            if self.chance.one_in(80) { LARGE_ORDER_SHARES } else { 100 } * (1 + self.chance.below(5));
        let side = self.chance.of(&[Side::Buy, Side::Sell]);
        let order = self.place(0, symbol, account, side, shares);
        let later_ms = 1 + self.chance.below(8_000);
        match self.chance.below(10) {
            0..6 => self.then(&order, later_ms, Action::Traded),
            6..9 => self.then(&order, later_ms, Action::Withdrawn),
            _ => {}
        }
    }

    /// Two large orders on one side, a trade on the other, and the large orders are gone; or one thing
    /// is different, and it is no layering.
    fn layer(&mut self, symbol: usize, account: u32) {
        let side = self.chance.of(&[Side::Buy, Side::Sell]);
        let (mut second_side, mut bait_side, mut withdrawn_ms) =
            (side, side.other(), 1_500 + self.chance.below(3_400));
        match self.chance.below(8) {
            0 => second_side = side.other(),
            1 => bait_side = side,
            2 => withdrawn_ms = 5_000,
            3 => {
                self.place(100, symbol, account, side, 100);
            }
            _ => {}
        }
        let large = LARGE_ORDER_SHARES * (1 + self.chance.below(4));
        let first = self.place(0, symbol, account, side, large);
        let second = self.place(200, symbol, account, second_side, large);
        let bait = self.place(500, symbol, account, bait_side, 300);
        self.then(&bait, 400, Action::Traded);
        self.then(&first, withdrawn_ms, Action::Withdrawn);
        self.then(&second, withdrawn_ms, Action::Withdrawn);
    }

    /// Places an order after a while, near the symbol's price, which moves by at most a thousandth.
    fn place(&mut self, after_ms: u64, symbol: usize, account: u32, side: Side, shares: u64) -> Entry {
        let step = 1 + self.prices[symbol] / 1_000;
        let price_cents =
            (self.prices[symbol] + self.chance.below(2 * step + 1)).saturating_sub(step).max(100);
        self.prices[symbol] = price_cents;
        self.orders += 1;
        let placed = Entry {
            at: self.at + millis_of(after_ms),
            sequence: 0,
            symbol: SYMBOLS[symbol].to_owned(),
            account,
            order: self.orders,
            action: Action::Placed,
            side,
            price_cents,
            shares,
        };
        self.entries.push(placed.clone());
        placed
    }

    /// What becomes of an order this long after it was placed.
    fn then(&mut self, order: &Entry, after_ms: u64, action: Action) {
        self.entries.push(Entry { at: order.at + millis_of(after_ms), action, ..order.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_feed_each_time_and_another_one_another() {
        let entries = |seed| Feed::seeded(seed, 500).entries().to_vec();
        assert_eq!(entries(1), entries(1));
        assert_ne!(entries(1), entries(2));
    }

    #[test]
    fn the_exchange_orders_entries_by_time_and_none_arrives_too_late() {
        let feed = Feed::seeded(3, 5_000);
        let mut latest = Timestamp::MIN;
        for entry in feed.entries() {
            latest = latest.max(entry.at);
            assert!(entry.at >= latest - DELAY_MAX, "{entry:?}");
        }
        let mut sorted = feed.entries().to_vec();
        sorted.sort_by_key(|entry| entry.sequence);
        assert!(sorted.is_sorted_by_key(|entry| entry.at) && sorted != feed.entries());
    }
}
