//! What must come out of a feed: plain loops over its entries, no engine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use afflux::prelude::*;
use afflux_rehearsal::{Difference, compare};

use crate::entry::{Action, Entry};
use crate::feed::Feed;
use crate::layering::LAYERING_MAX;
use crate::market::OUTPUT;

const MINUTE_MS: i64 = 60_000;

/// The lines of both files, headers included, and what they add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Of `bars.csv`.
    pub bars: Vec<String>,
    /// Of `alerts.csv`.
    pub alerts: Vec<String>,
    trades: u64,
    shares: u64,
    cents: u64,
}

impl Expected {
    /// What must come out of this feed.
    pub fn of(feed: &Feed) -> Self {
        let mut entries: Vec<&Entry> = feed.entries().iter().collect();
        entries.sort_by_key(|entry| entry.sequence);
        let mut expected = Self { alerts: alerts(&entries), ..Self::default() };
        expected.add_bars(&entries);
        expected
    }

    fn add_bars(&mut self, entries: &[&Entry]) {
        let mut minutes: BTreeMap<(i64, &str), Vec<(u64, u64)>> = BTreeMap::new();
        for trade in entries.iter().filter(|entry| entry.action == Action::Traded) {
            let minute = trade.at.millis() / MINUTE_MS * MINUTE_MS;
            minutes.entry((minute, &trade.symbol)).or_default().push((trade.price_cents, trade.shares));
        }
        self.bars.push("minute,symbol,open,high,low,close,trades,volume,vwap".to_owned());
        for ((minute, symbol), trades) in minutes {
            let mut prices: Vec<u64> = trades.iter().map(|(price, _)| *price).collect();
            let (open, close) = (prices[0], prices[prices.len() - 1]);
            prices.sort_unstable();
            let (low, high) = (prices[0], prices[prices.len() - 1]);
            let volume: u64 = trades.iter().map(|(_, shares)| shares).sum();
            let paid: u64 = trades.iter().map(|(price, shares)| price * shares).sum();
            let vwap = (2 * paid + volume) / (2 * volume);
            let (minute, count) = (Timestamp::from_millis(minute), trades.len());
            self.bars.push(format!("{minute},{symbol},{open},{high},{low},{close},{count},{volume},{vwap}"));
            (self.trades, self.shares, self.cents) =
                (self.trades + count as u64, self.shares + volume, self.cents + paid);
        }
    }

    /// Compares the files in a directory with what is expected.
    ///
    /// # Errors
    /// The first line that differs.
    pub fn compare(&self, out: &Path) -> Result<(), Difference> {
        compare(&out.join("bars.csv"), &self.bars)?;
        compare(&out.join("alerts.csv"), &self.alerts)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trades, shares, cents, .. } = self;
        let (bars, alerts) = (self.bars.len() - 1, self.alerts.len() - 1);
        write!(f, "{bars} bars of {trades} trades, {shares} shares for {cents} cents; {alerts} alerts")
    }
}

/// The lines of `alerts.csv`: of each account and symbol, every pair of large orders is tried.
fn alerts(entries: &[&Entry]) -> Vec<String> {
    let mut books: BTreeMap<(u32, &str), Vec<&Entry>> = BTreeMap::new();
    for &entry in entries {
        books.entry((entry.account, &entry.symbol)).or_default().push(entry);
    }
    let mut alerts = Vec::new();
    for ((account, symbol), book) in books {
        for (i, pair) in book.windows(2).enumerate() {
            let (first, second) = (pair[0], pair[1]);
            if !first.places_large_order() || !second.places_large_order() || first.side != second.side {
                continue;
            }
            let mut rest = book[i + 2..].iter();
            let trade = rest.find(|e| e.action == Action::Traded && e.side != first.side);
            let withdrawal = rest.find(|e| e.action == Action::Withdrawn && e.order == first.order);
            let (Some(trade), Some(withdrawal)) = (trade, withdrawal) else { continue };
            let stood = withdrawal.at.millis() - first.at.millis();
            if stood < LAYERING_MAX.as_millis() as i64 {
                let line = format!(
                    "{},{account},{symbol},{},{},{},{},{stood}",
                    withdrawal.at,
                    first.order,
                    first.shares + second.shares,
                    trade.shares,
                    trade.price_cents
                );
                alerts.push(((withdrawal.at, account, symbol, first.order), line));
            }
        }
    }
    alerts.sort();
    let header = "at,account,symbol,order,layered,traded,price_cents,stood_ms".to_owned();
    [header].into_iter().chain(alerts.into_iter().map(|(_, line)| line)).collect()
}

/// Compares what the pipeline `market` has written with what its generator expects.
///
/// # Errors
/// The first line that differs.
pub fn verify() -> Result<String> {
    let expected = Expected::of(Feed::the_hour());
    expected.compare(Path::new(OUTPUT))?;
    Ok(format!("  expected {expected}\noutput equals what the generator expects"))
}
