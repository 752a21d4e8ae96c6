use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    #[rpc(returns = u64)]
    Count { sku: String },
}

async fn count(orders: OrdersClient) -> Result<u64, CallError> {
    orders.count(7).await
}

fn main() {}
