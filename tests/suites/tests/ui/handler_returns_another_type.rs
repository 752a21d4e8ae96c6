use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    #[rpc(returns = u64)]
    Count { sku: String },
}

#[derive(Actor)]
#[actor(serves(Orders))]
struct Desk;

impl OrdersHandler for Desk {
    async fn count(&mut self, _cx: &mut Cx, _sku: String) -> Result<String, Fault> {
        Ok("one".to_owned())
    }
}

fn main() {}
