//! Inputs that are cut in another way than when the checkpoint was taken: nothing is lost or counted twice
//! without a word.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use afflux_actor::Threads;
use afflux_stream::job::{LocalRun, deal_again, start_local};
use afflux_stream::{
    Batch, Flow, IoContext, Plan, ReadState, Restore, Result, Source, Split, SplitReader, generate,
};
use afflux_wire::{Code, Status};
use common::{Collect, clock, settings};
use proptest::prelude::*;

fn numbers(records: u64, parallelism: u32, out: &Collect<u64>) -> Plan {
    let flow = Flow::new("numbers", settings(parallelism));
    flow.source("numbers", generate(records, |i| i)).untimed().gather().sink("out", out.clone());
    flow.finish().unwrap()
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline_slots(2).unwrap())
}

/// A checkpoint once the source has read so many rows.
fn checkpoint(plan: Plan, rows: u64) -> Restore {
    afflux_actor::test::system(|| async move {
        let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
        let begun = Instant::now();
        let read = |run: &LocalRun| -> u64 {
            run.readings().iter().filter_map(|task| task.operators.first()).map(|o| o.records_in).sum()
        };
        while read(&run) < rows {
            assert!(begun.elapsed() < Duration::from_secs(30), "the source never read {rows} rows");
            tokio::task::yield_now().await;
        }
        run.checkpoint(1).await.unwrap()
    })
}

fn go_on(plan: Plan, restore: Restore) -> Result<()> {
    afflux_actor::test::system(|| async move {
        start_local(&plan, threads(), clock(), None, Some(restore))?.finish().await.map(drop)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_restored_generator_gives_each_record_once_or_refuses(
        records in 0_u64..20_000, before in 1_u32..5, after in 1_u32..5
    ) {
        let restore = checkpoint(numbers(records, before, &Collect::default()), 0);
        let out = Collect::default();
        let went = go_on(numbers(records, after, &out), restore);
        if before == after {
            went.unwrap();
            prop_assert!(out.sorted().into_iter().eq(0..records));
        } else {
            let error = went.unwrap_err();
            prop_assert_eq!(error.code, Code::FailedPrecondition);
            prop_assert!(error.message.contains(&format!("/{before}`")) || error.message.contains("does not know part"), "{}", error);
        }
    }

    #[test]
    fn the_parts_of_a_generator_are_dealt_to_any_number_of_tasks(
        records in 0_u64..1_000, before in 1_u32..9, after in 1_u32..9
    ) {
        let plan = |parallelism| numbers(records, parallelism, &Collect::default());
        let parts = plan(before).splits().unwrap();
        let dealt = deal_again(&parts, &[], &plan(after).widths());
        let ids = |splits: &[Vec<Vec<Split>>]| {
            let mut ids: Vec<String> = splits.iter().flatten().flatten().map(|s| s.id.clone()).collect();
            ids.sort_unstable();
            ids
        };
        prop_assert_eq!(ids(&dealt), ids(&parts));
        prop_assert_eq!(dealt[0].len(), after as usize);
        let most = dealt[0].iter().map(Vec::len).max().unwrap();
        prop_assert_eq!(most, before.div_ceil(after) as usize);
    }
}

/// Splits of one row each: those named `open-…` then wait for more, the others end.
struct Named(&'static [&'static str]);

struct NamedReader {
    given: bool,
    open: bool,
}

impl Source for Named {
    type Item = u64;
    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        Ok(self.0.iter().map(|id| Split { id: (*id).to_owned(), ..Split::default() }).collect())
    }
    fn open(&self, split: &Split, at: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SplitReader<u64>>> {
        let given = at.is_some();
        if !given && cx.restored && !split.id.starts_with("fresh") {
            return Err(Status::internal(format!("{} has lost its position", split.id)));
        }
        Ok(Box::new(NamedReader { given, open: !cx.restored && split.id.starts_with("open") }))
    }
    fn kind(&self) -> &'static str {
        "named"
    }
}

impl SplitReader<u64> for NamedReader {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<u64>,
        _: usize,
    ) -> Poll<Result<ReadState>> {
        if !std::mem::replace(&mut self.given, true) {
            batch.rows.push(1);
        }
        Poll::Ready(Ok(if self.open { ReadState::CaughtUp } else { ReadState::End }))
    }
    fn position(&self) -> Vec<u8> {
        vec![u8::from(self.given)]
    }
}

#[test]
fn a_split_that_is_gone_before_its_end_is_named_and_one_behind_its_end_is_not_missed() {
    let plan = |names: &'static [&'static str], added: bool, out: &Collect<u64>| {
        let flow = Flow::new("named", settings(1));
        flow.source("rows", Named(names)).untimed().sink("out", out.clone());
        if added {
            flow.source("added", Named(&["done-9"])).untimed().count("counted");
        }
        flow.finish().unwrap()
    };
    let before = || checkpoint(plan(&["open-1", "done-2", "open-3"], false, &Collect::default()), 3);
    let error = go_on(plan(&["done-2", "open-3"], false, &Collect::default()), before()).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    for part in ["source rows", "`open-1`", "--allow-orphaned-state"] {
        assert!(error.message.contains(part), "{error}");
    }
    // What has ended may be gone, what is new is read, and a source that is new begins.
    let out = Collect::default();
    go_on(plan(&["open-1", "open-3", "fresh-4"], true, &out), before()).unwrap();
    assert_eq!(out.sorted(), [1, 1, 1, 1]);
}
