//! Counts the words of a text of 100 words.

use afflux::prelude::*;
use afflux::stream::{JobSettings, vec_source};
use afflux::testing::RunBounded;

const LINES: [&str; 10] = [
    "the river rises and the river falls and nobody",
    "counts the water that goes by but the bridge",
    "does for the bridge has time and has stones",
    "and each stone has seen the water come and",
    "go since the first stone was laid by the",
    "people of the town who wanted to cross and",
    "did and came back in the evening with bread",
    "and with stories of the other side where the",
    "water looked the same but the words for it were",
    "other words and the people were people too as ever they had been long before any bridge stood",
];

pub(crate) async fn run() -> Result<()> {
    let flow = Flow::new("words", JobSettings { parallelism: 2, ..JobSettings::default() });
    let counts = flow
        .source("text", vec_source(LINES.map(str::to_owned).to_vec()))
        .untimed()
        .flat_map(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .key_by(String::clone)
        .window(Global) // the input ends: one result a word
        .aggregate("count", fold(|| 0_u64, |n, _: &String| *n += 1, |word: String, _, n| (n, word)))
        .collect("counts");
    flow.run_bounded().await?;

    let counts = counts.take_sorted();
    println!("words: {} in all, {} different", counts.iter().map(|c| c.0).sum::<u64>(), counts.len());
    for (n, word) in counts.iter().rev().take(3) {
        println!("  {word} {n}");
    }
    Ok(())
}
