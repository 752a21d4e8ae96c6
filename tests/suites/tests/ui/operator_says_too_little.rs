use afflux::prelude::*;

#[derive(Operator)]
#[operator(input = u64, ouput = String)]
struct Spike {
    limit: u64,
}

fn main() {}
