use afflux::prelude::*;

#[derive(Operator)]
#[operator(input = u64, output = String, key = String)]
struct Spike {
    #[state(ttl = "1h")]
    last: ValueState<u64>,
}

fn main() {}
