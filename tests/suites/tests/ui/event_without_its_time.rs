use afflux::prelude::*;

#[derive(Event)]
struct Departure {
    at: Timestamp,
    origin: String,
}

#[derive(Event)]
struct Arrival {
    #[event(time)]
    scheduled: Timestamp,
    #[event(time)]
    actual: Timestamp,
}

#[derive(Event)]
struct Delay {
    #[event(time)]
    at: Option<Timestamp>,
}

fn main() {}
