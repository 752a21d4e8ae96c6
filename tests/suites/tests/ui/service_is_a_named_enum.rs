use afflux::prelude::*;

#[derive(Service)]
struct Orders {
    id: u64,
}

#[derive(Service)]
enum Stock {
    Count { sku: String },
}

#[derive(Service)]
#[service(name = "Shop Admin")]
enum Admin {
    Stop,
}

fn main() {}
