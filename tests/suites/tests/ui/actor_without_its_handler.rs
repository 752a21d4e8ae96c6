use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    #[rpc(returns = u64)]
    Count { sku: String },
}

#[derive(Actor)]
#[actor(serves(Orders), mailbox = 16)]
struct Desk;

fn main() {}
