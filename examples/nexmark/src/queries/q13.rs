//! q13: bids with a value from a bounded side input.

use super::prelude::*;

/// A bid and what the side input says of it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Enriched {
    /// The bid.
    pub bid: SharedBid,
    /// The side input's value.
    pub value: u64,
}

/// Rows of the side input.
pub const SIDE_ROWS: u64 = 10_000;

/// The side input: a value for each key below [`SIDE_ROWS`].
pub fn side_table() -> Vec<u64> {
    (0..SIDE_ROWS).map(|key| key.wrapping_mul(key) % 9_973).collect()
}

/// Joins each bid with a side input on its auction modulo [`SIDE_ROWS`]. The side input is bounded and
/// small: every task holds all of it from the start.
pub fn q13(flow: &Flow, log: &Log, out: impl Sink<Enriched>) {
    let side = side_table();
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .map(move |bid| (side.get((bid.auction % SIDE_ROWS) as usize).copied(), bid))
        .filter(|(value, _)| value.is_some())
        .map(|(value, bid)| Enriched { bid, value: value.unwrap_or_default() })
        .sink("answer", out);
}

impl Answer for Enriched {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bid.price as i64, self.value as i64]
    }
}
