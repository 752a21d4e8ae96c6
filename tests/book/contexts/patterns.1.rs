use afflux::prelude::*;
use afflux::stream::{Pattern, Stream};
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Event { customer: u64, item: u64, kind: u8 }
impl Event {
    fn is_order(&self) -> bool { self.kind == 0 }
    fn is_change(&self) -> bool { self.kind == 1 }
    fn is_shipped(&self) -> bool { self.kind == 2 }
    fn is_cancel(&self) -> bool { self.kind == 3 }
}
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Suspect { customer: u64, changes: usize }
fn f(events: Stream<Event>) {
    //> here
    suspects.count("all");
    late.count("late");
}
