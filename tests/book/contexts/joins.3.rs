use std::collections::BTreeMap;
use afflux::prelude::*;
use afflux::stream::Stream;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order { customer: u64, item: String, count: u64 }
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Limit { item: String, most: u64 }
fn f(orders: Stream<Order>, limits: Stream<Limit>) {
    let much =
    //> here
    ;
    much.count("all");
}
