use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    #[rpc(streams = u64, returns = u8)]
    Watch { since: u64 },
    #[rpc(oneway, streams = u64)]
    Follow { id: u64 },
    #[rpc(oneway, accepts = u64)]
    Import { id: u64 },
    #[rpc(oneway, returns = u64)]
    Touch { id: u64 },
    #[rpc(accepts = "Line", returns = u64)]
    Load { id: u64 },
}

fn main() {}
