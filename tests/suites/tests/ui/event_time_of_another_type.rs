use afflux::prelude::*;

struct Ticks(u64);

#[derive(Event)]
struct Departure {
    #[event(time)]
    at: Ticks,
}

fn main() {}
