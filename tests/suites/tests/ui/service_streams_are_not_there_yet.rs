use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    #[rpc(streams = u64)]
    Watch { since: u64 },
    #[rpc(oneway, returns = u64)]
    Touch { id: u64 },
}

fn main() {}
