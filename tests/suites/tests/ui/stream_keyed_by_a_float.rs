use afflux::prelude::*;

fn prices(flow: &Flow) {
    let prices = flow.source("prices", generate(9, |i| i as f64)).untimed();
    let _ = prices.key_by(|price| *price);
}

fn main() {}
