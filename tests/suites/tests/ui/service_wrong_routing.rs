use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    #[rpc(returns = u64, route = "custmer")]
    Get { customer: u64 },
    #[rpc(returns = u64, hedge = "p95")]
    Place { id: u64 },
    #[rpc(returns = u64, idempotent, hedge = "soon")]
    Put { id: u64 },
}

fn main() {}
