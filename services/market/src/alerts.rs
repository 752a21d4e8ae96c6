//! The contract of the alerts: what other services and people may ask.

use afflux::prelude::*;

use crate::layering::Alert;

/// Why there is no answer.
#[derive(RpcError, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub enum AlertsError {
    /// Nothing is known against this account.
    #[rpc(code = NotFound)]
    NoAlert {
        /// The account that was asked for.
        account: u32,
    },
}

/// Accounts that have probably layered, as the pipeline `market` finds them.
#[derive(Service)]
#[service(name = "market.alerts", version = "1.0", error = AlertsError)]
pub enum Alerts {
    /// Takes alerts; one that is there already is the same, so a repetition does no harm.
    #[rpc(idempotent)]
    Raised {
        /// The alerts.
        alerts: Vec<Alert>,
    },
    /// The latest alerts, the latest first.
    #[rpc(returns = Vec<Alert>, idempotent)]
    Latest {
        /// How many at most.
        count: u32,
    },
    /// The alerts of one account, the earliest first.
    #[rpc(returns = Vec<Alert>, idempotent)]
    Against {
        /// The account.
        account: u32,
    },
}
