//! Bars: the trades of one symbol in one minute, in a row.

use afflux::prelude::*;

use crate::entry::Entry;

/// A minute of one symbol. Sorted as its fields are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bar {
    /// The beginning of the minute.
    pub minute: Timestamp,
    /// What was traded.
    pub symbol: String,
    /// Price of the first trade, in cents.
    pub open: u64,
    /// The highest price.
    pub high: u64,
    /// The lowest price.
    pub low: u64,
    /// Price of the last trade.
    pub close: u64,
    /// Trades.
    pub trades: u64,
    /// Shares that were traded.
    pub volume: u64,
    /// The volume-weighted average price: cents that were paid by shares, rounded to the nearest cent, up
    /// where two are as near.
    pub vwap: u64,
}

/// Aggregates trades into a [`Bar`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BarOf;

/// What [`BarOf`] keeps of a minute.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BarAcc {
    /// Sequence and price of the first trade by the exchange's order, however late it came.
    first: Option<(u64, u64)>,
    /// The same of the last.
    last: Option<(u64, u64)>,
    high: Option<u64>,
    low: Option<u64>,
    trades: u64,
    volume: u64,
    /// Cents that were paid.
    turnover: u64,
}

impl Aggregate<String, Entry> for BarOf {
    type Acc = BarAcc;
    type Output = Bar;

    fn create(&self) -> BarAcc {
        BarAcc::default()
    }

    fn add(&self, acc: &mut BarAcc, trade: &Entry) {
        let price = trade.price_cents;
        let print = (trade.sequence, price);
        acc.first = Some(acc.first.map_or(print, |first| first.min(print)));
        acc.last = acc.last.max(Some(print));
        acc.high = acc.high.max(Some(price));
        acc.low = Some(acc.low.map_or(price, |low| low.min(price)));
        acc.trades += 1;
        acc.volume = acc.volume.saturating_add(trade.shares);
        acc.turnover = acc.turnover.saturating_add(price.saturating_mul(trade.shares));
    }

    fn finish(&self, symbol: String, window: Window, acc: BarAcc) -> Bar {
        let price = |print: Option<(u64, u64)>| print.map_or(0, |(_, price)| price);
        Bar {
            minute: window.start,
            symbol,
            open: price(acc.first),
            high: acc.high.unwrap_or(0),
            low: acc.low.unwrap_or(0),
            close: price(acc.last),
            trades: acc.trades,
            volume: acc.volume,
            vwap: acc.turnover.saturating_add(acc.volume / 2).checked_div(acc.volume).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Action, Side};

    /// Trades as sequence, price and shares.
    fn bar(trades: &[(u64, u64, u64)]) -> Bar {
        let mut acc = BarOf.create();
        for &(sequence, price_cents, shares) in trades {
            let trade = Entry {
                at: Timestamp::from_millis(0),
                sequence,
                symbol: "ALDR".into(),
                account: 1,
                order: sequence,
                action: Action::Traded,
                side: Side::Buy,
                price_cents,
                shares,
            };
            BarOf.add(&mut acc, &trade);
        }
        BarOf.finish("ALDR".into(), Tumbling::of(minutes(1)).window_of(Timestamp::from_millis(0)), acc)
    }

    #[test]
    fn first_and_last_are_by_the_exchanges_order_and_not_by_arrival() {
        let bar = bar(&[(2, 120, 1), (3, 90, 1), (1, 100, 1)]);
        assert_eq!((bar.open, bar.high, bar.low, bar.close, bar.trades), (100, 120, 90, 90, 3));
    }

    #[test]
    fn the_average_price_is_rounded_to_the_nearest_cent_and_half_a_cent_up() {
        assert_eq!(bar(&[(1, 100, 3), (2, 101, 1)]).vwap, 100, "100.25");
        assert_eq!(bar(&[(1, 100, 1), (2, 101, 1)]).vwap, 101, "100.5");
        assert_eq!(bar(&[(1, 100, 1), (2, 101, 3)]).vwap, 101, "100.75");
    }
}
