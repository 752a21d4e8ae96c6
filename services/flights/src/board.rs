//! The contract of the board: what other services and people may ask it.

use afflux::prelude::*;

use crate::hourly::HourlyDelay;

/// Why the board does not answer.
#[derive(RpcError, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub enum BoardError {
    /// No flight of this airport was ever seen.
    #[rpc(code = NotFound)]
    NoSuchOrigin {
        /// What was asked for.
        origin: String,
        /// The airports there are.
        known: Vec<String>,
    },
}

/// The latest closed hour of an airport, over all of its carriers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct OriginNow {
    /// The airport.
    pub origin: String,
    /// The beginning of the hour, RFC 3339, UTC.
    pub hour: String,
    /// Flights that should have left in this hour.
    pub flights: u64,
    /// Those without a recorded departure.
    pub cancelled: u64,
    /// Those that left at least 15 minutes late.
    pub delayed_15: u64,
    /// The mean departure delay of those that left, in minutes; none when none left.
    pub mean_delay_min: Option<f64>,
    /// The carrier with the longest mean delay.
    pub worst_carrier: Option<String>,
}

/// Delays by hour, airport and carrier, as the pipeline `hourly-delays` closes them.
#[derive(Service)]
#[service(name = "flights.board", version = "1.0", error = BoardError)]
pub enum Board {
    /// Takes closed hours; one that is there already is replaced, so a repetition does no harm.
    #[rpc(idempotent)]
    Closed {
        /// The hours, each of one airport and carrier.
        windows: Vec<HourlyDelay>,
    },
    /// The latest closed hour of an airport: a row a carrier.
    #[rpc(returns = Vec<HourlyDelay>, idempotent)]
    Latest {
        /// The airport, such as `JFK`.
        origin: String,
    },
    /// What the airports' displays would show: each airport's latest closed hour over all carriers.
    #[rpc(returns = Vec<OriginNow>, readonly)]
    Now,
    /// The rows with the longest mean delay, the longest first.
    #[rpc(returns = Vec<HourlyDelay>, idempotent)]
    Worst {
        /// How many.
        top: u32,
    },
}
