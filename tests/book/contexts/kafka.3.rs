use afflux::connectors::{Kafka, KafkaMessage};
use afflux::prelude::*;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    customer: String,
}
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Placed {
    at: Option<Timestamp>,
    order: Order,
}
fn f(flow: &Flow, kafka: Kafka) {
    let source =
    //> here
    ;
    flow.source("orders", source).untimed().count("all");
}
