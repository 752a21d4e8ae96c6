mod contract {
use afflux::prelude::*;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
pub enum Orders {
    /// Places an order.
    Place { order: String },
}
}
use contract::*;
async fn f(node: &afflux::Node, order: String, customer: String) -> afflux::Result {
    //> here
    Ok(())
}
