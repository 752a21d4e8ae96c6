use afflux::prelude::*;

/// Windows do not compile until they say what becomes of what could be lost.
fn numbers(flow: &Flow) {
    let numbers = |name: &str| {
        flow.source(name, generate(1, |i| i))
            .watermarks_by(BoundedOutOfOrder::by(secs(1)), |i| Timestamp::from_millis(*i as i64))
            .key_by_ref(|i| i)
    };
    // Records can come too late: what then?
    numbers("a").window(Tumbling::of(secs(1))).sum("no-policy", |i| *i).count("sums");
    // Records are left at the end: what then?
    let _ = numbers("b").window(CountWindow::of(2));
    // Nothing is late for a window over all of time.
    let _ = numbers("c").window(Global).allowed_lateness(secs(1));
}

fn main() {}
