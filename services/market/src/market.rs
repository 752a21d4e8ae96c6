//! The pipeline: a feed into bars of a minute and into alerts.

use std::path::Path;

use afflux::prelude::*;

use crate::alerts::AlertsRaised;
use crate::bars::BarOf;
use crate::entry::Action;
use crate::feed::{DELAY_MAX, Feed};
use crate::layering::{Alert, layering};

/// Where the results go, below the working directory.
pub const OUTPUT: &str = "out/market";

/// The pipeline `market`: the generated hour into `out/market/bars.csv` and `out/market/alerts.csv`, and
/// every alert to the service `market.alerts`.
///
/// # Errors
/// What the builder refuses.
pub fn market(flow: &Flow) -> Result<()> {
    market_of(flow, Feed::the_hour(), OUTPUT)
}

/// The same of another feed, into another directory.
///
/// # Errors
/// What the builder refuses.
pub fn market_of(flow: &Flow, feed: &Feed, out: impl AsRef<Path>) -> Result<()> {
    let out = out.as_ref();
    let (entries, orders) =
        flow.source("feed", feed.source()).watermarks(BoundedOutOfOrder::by(DELAY_MAX)).tee();

    let (bars, late) = entries
        .filter(|e| e.action == Action::Traded)
        .key_by_ref(|e| &e.symbol)
        .window(Tumbling::of(minutes(1)))
        .late(Late::Side)
        .aggregate("bars", BarOf);
    bars.sink("out-bars", Csv::path(out.join("bars.csv")).ordered_by_window());
    late.count("too-late-for-a-bar");

    let (alerts, late) = orders
        .key_by(|e| (e.account, e.symbol.clone()))
        .pattern(layering())
        .late(Late::Side)
        .select("layering", Alert::of);
    alerts
        .filter_map(|alert| alert)
        .tell("desk", |alerts| AlertsRaised { alerts })
        .sink("out-alerts", Csv::path(out.join("alerts.csv")).ordered_by_window());
    late.count("too-late-for-an-alert");
    Ok(())
}
