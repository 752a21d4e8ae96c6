use afflux::prelude::*;
type Order = String;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
pub enum Orders {
    /// An order.
    //> here
}
