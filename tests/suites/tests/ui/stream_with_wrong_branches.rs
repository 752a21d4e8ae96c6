use afflux::prelude::*;

fn prices(flow: &Flow) {
    let [one, two] = flow.source("numbers", generate(9, |i| i)).untimed().split(|i| i % 2 == 0);
    one.count("one");
    two.count("two");
}

fn errors(flow: &Flow) {
    // The policy for errors decides whether there is a second stream.
    let (good, bad) =
        flow.source("lines", generate(9, |i| i)).untimed().try_map("parse", |i| u32::try_from(*i), Errors::Skip);
    good.count("good");
    bad.count("bad");
}

fn main() {}
