//! The sum of each two numbers that follow each other: a sliding window of 2 records, every 1.

use afflux::prelude::*;
use afflux::stream::{AtEnd, CountWindow, JobSettings};
use afflux::testing::RunBounded;

pub(crate) async fn run() -> Result<()> {
    let flow = Flow::new("pairs", JobSettings::default());
    let sums = flow
        .source("numbers", generate(6, |i| i + 1))
        .untimed()
        .key_by(|_| ()) // all of one key: a window over the whole stream
        .window(CountWindow::of(2).every(1).at_end(AtEnd::Drop))
        .aggregate("sum", fold(|| 0, |sum, n: &u64| *sum += n, |(), _, sum: u64| sum))
        .collect("sums");
    flow.run_bounded().await?;
    println!("pairs: {:?}", sums.take());
    Ok(())
}
