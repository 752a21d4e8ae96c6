use afflux::prelude::*;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
pub enum Orders {
    /// Nothing.
    Place,
}
async fn f(node: &afflux::Node, desk: ActorRef<Orders>) {
    //> here
}
