use afflux::prelude::*;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
pub enum Orders {
    /// Takes an order, and gives its number.
    #[rpc(returns = u64)]
    Place { sku: String, quantity: u32 },
}
//> here
