use afflux::prelude::*;
use afflux::stream::Stream;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Click { user: u64 }
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order { user: u64 }
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bought { user: u64 }
impl Bought {
    fn of(click: &Click, _: &Order) -> Self {
        Self { user: click.user }
    }
}
fn f(clicks: Stream<Click>, orders: Stream<Order>) {
    let (bought, late) =
    //> here
    ;
    bought.count("all");
    late.count("late");
}
