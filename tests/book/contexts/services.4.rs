use afflux::prelude::*;
type Event = String;
type Line = String;
type Summary = u64;
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0")]
#[allow(missing_docs)]
pub enum Orders {
    //> here
}
