//! What a contract says of where its calls go.

use std::time::Duration;

use afflux::contract::{Hedge, Params, key_hash};
use afflux::prelude::*;

/// A shop.
#[derive(Service)]
#[service(name = "test.shop", version = "1.0")]
pub enum Shop {
    /// By its customer.
    #[rpc(returns = u64, idempotent, route = "customer", hedge = "p95")]
    Orders {
        /// Whose.
        customer: String,
        /// How many.
        limit: u32,
    },
    /// After a while.
    #[rpc(returns = u64, readonly, hedge = "20ms")]
    Count,
    /// Anywhere, once.
    Clear,
}

#[test]
fn a_method_is_routed_by_the_parameter_it_names() {
    let of = |customer: &str, limit| ShopOrders { customer: customer.into(), limit }.key();
    assert_eq!(of("ann", 1), Some(key_hash("ann")));
    assert_eq!(of("ann", 1), of("ann", 2));
    assert_ne!(of("ann", 1), of("bob", 1));
    assert_eq!(ShopClear {}.key(), None);
}

#[test]
fn a_method_is_hedged_when_it_says_so() {
    assert_eq!(ShopOrders::HEDGE, Some(Hedge::P95));
    assert_eq!(ShopCount::HEDGE, Some(Hedge::After(Duration::from_millis(20))));
    assert_eq!(ShopClear::HEDGE, None);
}
