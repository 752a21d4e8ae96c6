use afflux::prelude::*;
use afflux::stream::Stream;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bid { auction: u64 }
fn f(bids: Stream<Bid>) {
    //> here
    per_auction.count("all");
    late.count("late");
}
