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
    /// The rows with the longest mean delay, the longest first.
    #[rpc(returns = Vec<HourlyDelay>, idempotent)]
    Worst {
        /// How many.
        top: u32,
    },
}
