use afflux::prelude::*;
use afflux::connectors::Files;
#[derive(Clone, Debug, Serialize, Deserialize, Event)]
struct Reading {
    #[event(time)]
    at: Timestamp,
}
fn f(flow: &Flow) {
    //> here
    readings.count("all");
    ahead.count("ahead");
}
