use afflux::prelude::*;

#[derive(Actor)]
struct Nothing;

#[derive(Actor)]
#[actor(serves(Orders), mailbox = "1024")]
struct Mailbox;

#[derive(Actor)]
#[actor(serves(Orders), overflow = "block")]
struct Overflow;

#[derive(Actor)]
#[actor(serves(Orders), restart(max = 5, withing = "30s"))]
struct Restarts;

#[derive(Actor)]
#[actor(serves = Orders)]
struct Serves;

fn main() {}
