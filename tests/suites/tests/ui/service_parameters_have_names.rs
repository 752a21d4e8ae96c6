use afflux::prelude::*;

#[derive(Service)]
#[service(name = "shop.orders")]
enum Orders {
    Get(u64),
    Put(String, Vec<u8>),
}

fn main() {}
