use afflux::prelude::*;
use afflux::stream::Stream;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flight { carrier: String, delay: i32 }
fn class(f: &Flight) -> usize {
    usize::from(f.delay > 0)
}
fn f(flights: Stream<Flight>) {
    //> here
    early.union([on_time, late, known, unknown]).count("all");
}
