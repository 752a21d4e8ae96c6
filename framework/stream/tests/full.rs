//! A stage that makes more rows than there is room for keeps the rest, and no watermark overtakes it.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;

use afflux_stream::{Flow, Late, Monotonous, Session, Stream, Timestamp, Tumbling, generate, millis_of};
use common::{Collect, run, settings};

/// Rows that each result of the first windows becomes: some batches.
const COPIES: u64 = 5_000;

/// Results of the first windows; the last of them come at the end of the input, at once.
const RESULTS: u64 = 20;

/// Counts, in windows, far more rows than any queue takes, made of each result at once.
fn counted(results: Stream<u64>, out: Collect<u64>) {
    results
        .flat_map(|key| (0..COPIES).map(move |copy| key * COPIES + copy))
        .key_by(|row| row % 16)
        .window(Tumbling::of(millis_of(1_000)))
        .late(Late::Drop)
        .count("copies")
        .map(|(_, _, count)| count)
        .sink("out", out);
}

fn all_arrive(parallelism: u32, results: impl FnOnce(&Flow) -> Stream<u64>) {
    let flow = Flow::new("full", settings(parallelism));
    let out = Collect::default();
    counted(results(&flow), out.clone());
    let readings = run(flow.finish().unwrap());
    let late: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.late).sum();
    assert_eq!((out.sorted().iter().sum::<u64>(), late), (RESULTS * COPIES, 0), "parallelism {parallelism}");
}

macro_rules! keyed {
    ($flow:expr) => {
        $flow
            .source("keys", generate(RESULTS, |i| i))
            .watermarks_by(Monotonous::times(), |_| Timestamp::from_millis(0))
            .key_by(|key| *key)
    };
}

#[test]
fn what_panes_give_at_their_end_is_taken_before_the_watermark_passes() {
    for parallelism in [1, 2, 4] {
        all_arrive(parallelism, |flow| {
            let windows = keyed!(flow).window(Tumbling::of(millis_of(1_000))).late(Late::Drop);
            windows.count("results").flat_map(|(key, _, _)| [key])
        });
    }
}

#[test]
fn what_timers_give_at_the_end_is_taken_before_the_watermark_passes() {
    for parallelism in [1, 2, 4] {
        all_arrive(parallelism, |flow| {
            let windows = keyed!(flow).window(Session::gap(millis_of(10))).late(Late::Drop);
            windows.count("results").flat_map(|(key, _, _)| [key])
        });
    }
}
