use afflux::prelude::*;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
pub enum Orders {
    /// Places an order.
    Place { order: u64 },
}
async fn f(node: afflux::Node, cx: &mut Cx) -> Result {
    //> here
    Ok(())
}
