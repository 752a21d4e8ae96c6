use afflux::prelude::*;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
pub enum Orders {
    #[rpc(streams = String)]
    Watch { since: u64 },
    #[rpc(accepts = String, returns = u64)]
    Import { batch: String },
    #[rpc(accepts = String, streams = u32)]
    Chat,
}
async fn f(orders: OrdersClient, line: String) -> Result {
    //> here
    Ok(())
}
