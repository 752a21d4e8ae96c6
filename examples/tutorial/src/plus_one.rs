//! Adds one to each number.

use afflux::prelude::*;
use afflux::stream::JobSettings;
use afflux::testing::RunBounded;

pub(crate) async fn run() -> Result<()> {
    let flow = Flow::new("plus-one", JobSettings::default());
    let numbers = flow.source("numbers", generate(100, |i| i)).untimed().map(|n| n + 1).collect("plus-one");
    flow.run_bounded().await?;

    let numbers = numbers.take_sorted();
    println!("plus one: {} numbers, from {} to {}", numbers.len(), numbers[0], numbers[99]);
    Ok(())
}
