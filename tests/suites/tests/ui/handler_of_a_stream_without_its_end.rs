use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    #[rpc(streams = u64)]
    Watch { since: u64 },
}

struct Desk;

impl OrdersHandler for Desk {
    async fn watch(&mut self, _: &mut Cx, since: u64) -> Result<(), Fault> {
        let _ = since;
        Ok(())
    }
}

fn main() {}
