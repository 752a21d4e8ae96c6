use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders", versoin = "1.2")]
enum Orders {
    Get { id: u64 },
}

#[derive(Service)]
#[service(name = "shop.stock")]
enum Stock {
    #[rpc(retruns = u64)]
    Count { sku: String },
    #[rpc(returns = "u64", deadline = 2)]
    Left { sku: String },
    #[rpc(deadline = "2 sec", idempotent = true)]
    Take { sku: String },
}

fn main() {}
