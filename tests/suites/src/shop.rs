//! A contract as a crate of its own publishes it: what a server serves and a client calls.
#![deny(warnings, clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]

use afflux::prelude::*;

/// What is ordered.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Order {
    /// Its number.
    pub id: u64,
    /// What is in it.
    pub sku: String,
    /// A field that an older caller does not send.
    #[serde(default)]
    pub note: Option<String>,
}

impl Order {
    /// An order without a note.
    #[must_use]
    pub fn of(id: u64, sku: &str) -> Self {
        Self { id, sku: sku.to_owned(), note: None }
    }
}

/// An order that was taken. Not `Clone`: nothing needs that of an answer.
#[derive(Serialize, Deserialize, JsonSchema, Debug, PartialEq)]
pub struct Receipt {
    /// The order's number.
    pub id: u64,
    /// What it costs, in cents.
    pub total_cents: u64,
}

/// Why an order fails.
#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug, PartialEq)]
pub enum OrderError {
    /// There is none with this number.
    #[rpc(code = NotFound)]
    NoSuch {
        /// The number.
        id: u64,
    },
    /// Come again.
    #[rpc(code = ResourceExhausted, retry_after_ms = 50)]
    Busy,
}

/// Takes orders.
#[derive(Service)]
#[service(name = "shop.orders", version = "1.2", error = OrderError)]
pub enum Orders {
    /// Places an order.
    #[rpc(returns = Receipt, deadline = "2s")]
    Place {
        /// What to place.
        order: Order,
        /// Costs more. A parameter that an older caller does not send.
        #[serde(default)]
        rush: bool,
    },
    /// An order that was placed.
    #[rpc(returns = Order, idempotent)]
    Get {
        /// Its number.
        id: u64,
    },
    /// Counts something; nobody waits for it.
    #[rpc(oneway)]
    Touch {
        /// How much.
        id: u64,
    },
    /// A name that is a word of the language, no parameters, and no answer but that it was done.
    Loop,
}
