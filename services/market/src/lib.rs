//! A market's feed as a stream: bars of every minute, and layered orders found as they are withdrawn.
//!
//! Reading order: [`Entry`] (what comes in), [`Feed`] (where it comes from), [`market`] (the pipeline), [`Bar`]
//! and [`Alert`] (what comes out), [`layering`] (the pattern), [`Alerts`] (the service that the pipeline tells),
//! [`AlertDesk`] (the actor behind it); [`Expected`] (what must come out, by plain loops).

mod alert_desk;
mod alerts;
mod bars;
mod entry;
mod expected;
mod feed;
mod layering;
mod market;

pub use alert_desk::{ALERTS_MAX, AlertDesk, LATEST_MAX};
pub use alerts::{
    Alerts, AlertsAgainst, AlertsClient, AlertsError, AlertsHandler, AlertsLatest, AlertsRaised,
};
pub use bars::{Bar, BarAcc, BarOf};
pub use entry::{Action, Entry, LARGE_ORDER_SHARES, Side};
pub use expected::{Expected, verify};
pub use feed::{DELAY_MAX, Feed};
pub use layering::{Alert, LAYERING_MAX, layering};
pub use market::{OUTPUT, market, market_of};
