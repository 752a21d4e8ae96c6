//! Layering: large orders that are there to be seen, and gone when they have had their effect.

use std::time::Duration;

use afflux::prelude::*;
use afflux::stream::{Matched, Pattern};

use crate::entry::{Action, Entry};

/// From the first large order until it is withdrawn: less than this.
pub const LAYERING_MAX: Duration = secs(5);

/// An account that has probably layered. Sorted as its fields are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// When the first layer was withdrawn.
    pub at: Timestamp,
    /// Who.
    pub account: u32,
    /// What was traded.
    pub symbol: String,
    /// The order that was the first layer.
    pub order: u64,
    /// Shares of both layers, offered or asked for and never meant.
    pub layered: u64,
    /// Shares that were traded on the other side meanwhile.
    pub traded: u64,
    /// At what price, in cents.
    pub price_cents: u64,
    /// How long the first layer stood, in milliseconds.
    pub stood_ms: i64,
}

impl Alert {
    /// What a match says; none of no match of [`layering`].
    pub fn of((account, symbol): &(u32, String), found: &Matched<'_, Entry>) -> Option<Self> {
        let (layer, trade, withdrawal) =
            (found.first("layer")?, found.first("trade")?, found.first("withdrawal")?);
        Some(Self {
            at: withdrawal.at,
            account: *account,
            symbol: symbol.clone(),
            order: layer.order,
            layered: layer.shares.saturating_add(found.first("second layer")?.shares),
            traded: trade.shares,
            price_cents: trade.price_cents,
            stood_ms: withdrawal.at.millis().saturating_sub(layer.at.millis()),
        })
    }
}

/// An account places two large orders on one side of a symbol, one directly behind the other; then it
/// trades on the other side; then it withdraws the first large order; all within five seconds.
pub fn layering() -> Pattern<Entry> {
    Pattern::begin("layer", |e: &Entry, _| e.places_large_order())
        .next("second layer", |e, m| {
            e.places_large_order() && m.first("layer").is_some_and(|layer| e.side == layer.side)
        })
        .followed_by("trade", |e, m| {
            e.action == Action::Traded && m.first("layer").is_some_and(|layer| e.side == layer.side.other())
        })
        .followed_by("withdrawal", |e, m| {
            e.action == Action::Withdrawn && m.first("layer").is_some_and(|layer| e.order == layer.order)
        })
        .within(LAYERING_MAX)
        .order_by(|e| e.sequence)
}
