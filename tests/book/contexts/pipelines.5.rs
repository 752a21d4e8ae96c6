use afflux::prelude::*;
use afflux::stream::Stream;
#[derive(Service)]
#[service(name = "shop.prices", version = "1.0")]
pub enum Prices {
    /// What it costs.
    #[rpc(returns = u64, idempotent)]
    Of { sku: String },
}
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order { sku: String }
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Priced { order: Order, price: u64 }
fn f(orders: Stream<Order>) {
    //> here
    priced.count("all");
    dead.count("dead");
}
