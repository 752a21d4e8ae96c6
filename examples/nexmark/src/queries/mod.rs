//! The queries. Each reads the [`Log`] and ends in a sink of its rows; [`build`] finds one by its name.

mod c0;
mod q0;
mod q1;
mod q10;
mod q11;
mod q12;
mod q13;
mod q14;
mod q15;
mod q16;
mod q17;
mod q18;
mod q19;
mod q2;
mod q20;
mod q21;
mod q22;
mod q23;
mod q3;
mod q4;
mod q5;
mod q6;
mod q7;
mod q8;
mod q9;
mod waiting;
mod winning;

use std::path::Path;
use std::sync::Arc;

use afflux::prelude::*;

use crate::digest::Tally;
use crate::events::{Bid, Entry};
use crate::source::Log;

pub use c0::{Valley, c0};
pub use q0::q0;
pub use q1::{InEuro, q1};
pub use q2::{Picked, q2};
pub use q3::{LocalSeller, q3};
pub use q4::{CategoryPrice, q4};
pub use q5::{Hot, q5};
pub use q6::{SellerPrice, q6};
pub use q7::{Highest, q7};
pub use q8::{NewSeller, q8};
pub use q9::q9;
pub use q10::{q10, q10_written};
pub use q11::{BidsInSession, q11};
pub use q12::{BidsInTime, PerTenSeconds, q12};
pub use q13::{Enriched, SIDE_ROWS, q13, side_table};
pub use q14::{Calculated, TimeOfDay, q14};
pub use q15::{DayStats, q15};
pub use q16::{ChannelStats, q16};
pub use q17::{AuctionStats, q17};
pub use q18::{LastBid, q18};
pub use q19::{Ranked, q19};
pub use q20::{BidOnAuction, q20};
pub use q21::{WithChannel, q21};
pub use q22::{WithDirectories, q22};
pub use q23::{SellerBid, q23};
pub use winning::Won;

/// The names of all queries.
pub const QUERIES: &[&str] = &[
    "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8", "q9", "q10", "q11", "q12", "q13", "q14", "q15",
    "q16", "q17", "q18", "q19", "q20", "q21", "q22", "q23", "c0",
];

/// No event comes more than this after a later one.
pub(crate) const OUT_OF_ORDER: std::time::Duration = secs(4);

/// How watermarks follow the events.
pub(crate) fn in_order() -> Watermarks {
    BoundedOutOfOrder::by(OUT_OF_ORDER)
}

/// A bid, as most answers hold it.
pub(crate) type SharedBid = Arc<Bid>;

/// Builds the query of this name, ending in the tally; q10 ends in files below `files` instead.
///
/// # Errors
/// When there is none of this name.
pub fn build(query: &str, flow: &Flow, log: &Log, out: Tally, files: &Path) -> afflux_stream::Result<()> {
    match query {
        "q0" => q0(flow, log, out),
        "q1" => q1(flow, log, out),
        "q2" => q2(flow, log, out),
        "q3" => q3(flow, log, out),
        "q4" => q4(flow, log, out),
        "q5" => q5(flow, log, out),
        "q6" => q6(flow, log, out),
        "q7" => q7(flow, log, out),
        "q8" => q8(flow, log, out),
        "q9" => q9(flow, log, out),
        "q10" => q10(flow, log, files),
        "q11" => q11(flow, log, out),
        "q12" => q12(flow, log, out),
        "q13" => q13(flow, log, out),
        "q14" => q14(flow, log, out),
        "q15" => q15(flow, log, out),
        "q16" => q16(flow, log, out),
        "q17" => q17(flow, log, out),
        "q18" => q18(flow, log, out),
        "q19" => q19(flow, log, out),
        "q20" => q20(flow, log, out),
        "q21" => q21(flow, log, out),
        "q22" => q22(flow, log, out),
        "q23" => q23(flow, log, out),
        "c0" => c0(flow, log, out),
        other => {
            return Err(Status::invalid(format!(
                "there is no query `{other}`; there are: {}",
                QUERIES.join(", ")
            )));
        }
    }
    Ok(())
}

/// A price band of the statistics: below 10,000, below 1,000,000, and above.
pub(crate) const fn band(price: u64) -> usize {
    if price < 10_000 {
        0
    } else if price < 1_000_000 {
        1
    } else {
        2
    }
}

/// Whom an event is about.
pub(crate) fn person_of(entry: &Entry) -> u64 {
    match entry {
        Entry::Person(person) => person.id,
        Entry::Auction(auction) => auction.seller,
        Entry::Bid(bid) => bid.bidder,
    }
}

/// What every query's file needs.
pub(crate) mod prelude {
    pub(crate) use std::sync::Arc;

    pub(crate) use afflux::prelude::*;
    pub(crate) use afflux_stream::Sink;

    pub(crate) use super::{SharedBid, band, in_order, person_of};
    pub(crate) use crate::digest::{Answer, Column};
    pub(crate) use crate::events::{Auction, Bid, Entry, Person};
    pub(crate) use crate::source::Log;
}
