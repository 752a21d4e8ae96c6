#[afflux::main]
fn main() {}
