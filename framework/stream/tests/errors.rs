//! Records that a closure refuses: the job fails, they are counted, or they go aside and come again.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_stream::job::run_local;
use afflux_stream::{
    Batch, BoundedOutOfOrder, DeadLetter, DeadReason, Errors, Flow, IoContext, JobSettings, Record, Result,
    Sink, SinkWriter, Stream, TaskReading, Timestamp, generate, millis_of, replay, vec_source,
};
use proptest::prelude::*;

struct Collect<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}
impl<T: Send + 'static> Sink<T> for Collect<T> {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        Ok(Box::new(self.clone()))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}
impl<T: Send> SinkWriter<T> for Collect<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.0.lock().unwrap().append(&mut batch.rows);
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}
impl<T> Collect<T> {
    fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort_unstable();
    rows
}

fn flow(parallelism: u32) -> Flow {
    Flow::new("p", JobSettings { parallelism, ..JobSettings::default() })
}

fn run(flow: Flow) -> Result<Vec<TaskReading>> {
    let plan = flow.finish()?;
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        run_local(&plan, threads, Clock::starting_at(SystemTime::UNIX_EPOCH)).await
    })
}

/// Every `every`-th number is refused.
fn halve(every: u64) -> impl Fn(&u64) -> std::result::Result<u64, String> + Clone {
    move |i| if i % every == 0 { Err(format!("{i} is refused")) } else { Ok(i * 2) }
}

fn numbers(flow: &Flow, count: u64) -> Stream<u64> {
    flow.source("numbers", generate(count, |i| i))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(3)), |i| Timestamp::from_millis(*i as i64))
}

fn sunk<T: Record>(stream: Stream<T>, name: &str) -> Collect<T> {
    let out = Collect::default();
    stream.sink(name, out.clone());
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn what_is_refused_is_missing_and_counted_or_aside_and_comes_again(
        count in 0_u64..5_000, every in 1_u64..20, parallelism in 1_u32..5, spread in any::<bool>(),
    ) {
        let f = halve(every);
        let good: Vec<u64> = (0..count).filter(|i| i % every != 0).map(|i| i * 2).collect();
        let bad: Vec<u64> = (0..count).filter(|i| i % every == 0).collect();
        let start = |flow: &Flow| {
            let numbers = numbers(flow, count);
            if spread { numbers.rebalance() } else { numbers }
        };

        let skipping = flow(parallelism);
        let out = sunk(start(&skipping).try_map("halve", f.clone(), Errors::Skip), "out");
        let readings = run(skipping).unwrap();
        let errors: u64 = readings.iter().flat_map(|t| &t.operators).filter(|o| o.name == "halve").map(|o| o.errors).sum();
        prop_assert_eq!(errors, bad.len() as u64);
        prop_assert_eq!(sorted(out.take()), good.clone());

        let aside = flow(parallelism);
        let (results, dead) = start(&aside).try_map("halve", f, Errors::DeadLetter);
        let (out, dead) = (sunk(results, "out"), sunk(dead, "dead"));
        let readings = run(aside).unwrap();
        let letters: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.dead_errors).sum();
        prop_assert_eq!(letters, bad.len() as u64);
        prop_assert_eq!(sorted(out.take()), good);
        let letters = dead.take();
        for letter in &letters {
            prop_assert_eq!(&letter.error, &format!("{} is refused", letter.record));
            prop_assert_eq!(letter.at, Some(Timestamp::from_millis(letter.record as i64)));
            prop_assert_eq!((letter.operator.as_str(), letter.reason, letter.attempt), ("halve", DeadReason::Error, 1));
        }
        prop_assert_eq!(sorted(letters.iter().map(|l| l.record).collect()), bad.clone());

        // The cause is mended: the same records come from the letters, whose text is what a file holds.
        let text: Vec<String> = letters.iter().map(|l| serde_json::to_string(l).unwrap()).collect();
        let read: Vec<DeadLetter<u64>> = text.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        let again = flow(parallelism);
        let out = sunk(again.source("dead", replay(vec_source(read)).of("halve")).untimed(), "out");
        run(again).unwrap();
        prop_assert_eq!(sorted(out.take()), bad);
    }
}

#[test]
fn a_failing_record_fails_the_job_with_operator_error_and_record() {
    #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
    struct Flight {
        carrier: String,
    }
    let flow = flow(2);
    flow.source(
        "flights",
        generate(3_000, |i| Flight { carrier: format!("c{i}").repeat(if i == 2_000 { 500 } else { 1 }) }),
    )
    .untimed()
    .try_map(
        "classify",
        |f| if f.carrier.len() > 100 { Err("carrier is too long") } else { Ok(f.carrier.len() as u64) },
        Errors::Fail,
    )
    .count("n");
    let error = run(flow).unwrap_err();
    assert!(
        error
            .message
            .contains("operator classify: carrier is too long; the record: Flight { carrier: \"c2000c2000")
    );
    assert!(error.message.len() < 600, "{}", error.message.len());
    assert_eq!(error.code, afflux_wire::Code::InvalidArgument);
}

#[test]
fn a_replay_of_one_operator_leaves_the_letters_of_others_and_does_not_stall_on_them() {
    let letter = |i: u64| DeadLetter {
        record: i,
        operator: if i % 5_000 == 4_999 { "rare" } else { "other" }.to_owned(),
        error: String::new(),
        reason: DeadReason::Timeout,
        at: None,
        attempt: 4,
    };
    let flow = flow(1);
    let out = sunk(flow.source("dead", replay(generate(20_000, letter)).of("rare")).untimed(), "out");
    run(flow).unwrap();
    assert_eq!(out.take(), [4_999, 9_999, 14_999, 19_999]);
}

#[test]
fn a_letter_keeps_the_watermark_it_entered_behind() {
    // Both streams go through windows: a letter behind its watermark would be late.
    use afflux_stream::{Late, Tumbling, Window, fold};
    let flow = flow(2);
    let (results, dead) = numbers(&flow, 10_000).try_map("halve", halve(3), Errors::DeadLetter);
    let counted = fold(|| 0_u64, |n, _: &DeadLetter<u64>| *n += 1, |_, w: Window, n| (w.start.millis(), n));
    let per_second = dead.key_by(|_| 0_u8).window(Tumbling::of(millis_of(1_000))).late(Late::Drop);
    let out = sunk(per_second.aggregate("per-second", counted), "out");
    results.count("n");
    let readings = run(flow).unwrap();
    assert_eq!(readings.iter().flat_map(|t| &t.operators).map(|o| o.late).sum::<u64>(), 0);
    let expected: Vec<(i64, u64)> = (0..10)
        .map(|s| (s * 1_000, (s * 1_000..(s + 1) * 1_000).filter(|i| i % 3 == 0).count() as u64))
        .collect();
    assert_eq!(sorted(out.take()), expected);
}
