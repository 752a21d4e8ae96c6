use std::time::Duration;
use afflux::prelude::*;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
pub enum Orders {
    /// Places an order.
    Place { order: String },
    /// An order.
    #[rpc(returns = String, idempotent)]
    Get { id: u64 },
}
async fn f(orders: OrdersClient) -> Result {
    //> here
    Ok(())
}
