//! Doubles the even numbers of 1 to 1,000, in four tasks.

use afflux::prelude::*;
use afflux::stream::{JobSettings, Partitioning};
use afflux::testing::RunBounded;

pub(crate) async fn run() -> Result<()> {
    let flow = Flow::new("doubled", JobSettings { parallelism: 4, ..JobSettings::default() });
    let doubled = flow
        .source("numbers", generate(1_000, |i| i + 1))
        .untimed()
        .partition(Partitioning::hash(|n: &u64| *n)) // the same number goes to the same task each time
        .filter(|n| n % 2 == 0)
        .map(|n| n * 2)
        .collect("doubled");
    flow.run_bounded().await?;

    let doubled = doubled.take_sorted();
    println!(
        "doubled: {} numbers, the last is {}, together {}",
        doubled.len(),
        doubled[499],
        doubled.iter().sum::<u64>()
    );
    Ok(())
}
