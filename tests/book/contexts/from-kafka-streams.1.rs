use afflux::connectors::Kafka;
use afflux::prelude::*;
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
struct Customer {
    id: String,
    country: String,
    #[event(time)]
    since: Timestamp,
}
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
struct Order {
    customer: String,
    #[event(time)]
    at: Timestamp,
}
//> here
