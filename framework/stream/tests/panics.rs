//! What a panic was at work on, where no record is to blame alone: it is named, and hidden where records are.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use afflux_actor::{Clock, Threads};
use afflux_stream::job::run_local;
use afflux_stream::{
    Aggregate, AsyncMap, Batch, BoundedOutOfOrder, Flow, IoContext, JobSettings, KeyedOperator, Late,
    MergeAggregate, OperatorCx, Output, PoisonSettings, Result, Session, Sink, SinkWriter, Sliding,
    Timestamp, Tumbling, Window, generate, millis_of,
};

const NUMBERS: u64 = 100;

/// Emits a key some time after its first record; dies over the last key.
struct Alarm {
    by_clock: bool,
}

impl KeyedOperator for Alarm {
    type Key = (u64, String);
    type Input = u64;
    type Output = u64;
    type State = Option<u64>;
    fn process(
        &mut self,
        state: &mut Option<u64>,
        row: u64,
        cx: &mut OperatorCx<'_, (u64, String)>,
        _: &mut Output<u64>,
    ) -> Result<()> {
        if state.replace(row).is_none() {
            if self.by_clock {
                cx.clock_timer_in(Duration::from_secs(60));
            } else {
                cx.timer_at(Timestamp::from_millis(90));
            }
        }
        Ok(())
    }
    fn on_timer(
        &mut self,
        _: &mut Option<u64>,
        _: Timestamp,
        cx: &mut OperatorCx<'_, (u64, String)>,
        out: &mut Output<u64>,
    ) -> Result<()> {
        assert!(cx.key().0 != 9, "it cannot be");
        out.emit(cx.key().0);
        Ok(())
    }
    fn on_clock(
        &mut self,
        state: &mut Option<u64>,
        at: Timestamp,
        cx: &mut OperatorCx<'_, (u64, String)>,
        out: &mut Output<u64>,
    ) -> Result<()> {
        self.on_timer(state, at, cx, out)
    }
}

/// Counts; dies over the result of one window of one key.
struct Dies;

impl Aggregate<u64, u64> for Dies {
    type Acc = u64;
    type Output = u64;
    fn create(&self) -> u64 {
        0
    }
    fn add(&self, acc: &mut u64, _: &u64) {
        *acc += 1;
    }
    fn finish(&self, key: u64, window: Window, acc: u64) -> u64 {
        assert!(key != 3 || window.start.millis() < 50, "it cannot be");
        acc
    }
}

impl MergeAggregate<u64, u64> for Dies {
    fn merge(&self, into: &mut u64, from: &u64) {
        *into += from;
    }
}

/// A sink that dies in one of the things that it is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Broken {
    Write,
    Flush,
    End,
}

impl Sink<u64> for Broken {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(*self))
    }
    fn kind(&self) -> &'static str {
        "broken"
    }
}

impl SinkWriter<u64> for Broken {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        assert!(*self != Broken::Write, "it cannot be");
        batch.clear();
        Ok(())
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        assert!(*self != Broken::Flush, "it cannot be");
        Poll::Ready(Ok(()))
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        assert!(*self != Broken::End, "it cannot be");
        Ok(())
    }
}

/// The failure of a pipeline over the numbers, each a millisecond of event time.
fn failure(shows: bool, build: impl Fn(&Flow, afflux_stream::Stream<u64>)) -> String {
    let poison = PoisonSettings { show: shows, ..PoisonSettings::default() };
    let flow = Flow::new("p", JobSettings { poison, ..JobSettings::default() });
    let numbers = flow
        .source("numbers", generate(NUMBERS, |i| i))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(0)), |i| Timestamp::from_millis(*i as i64));
    build(&flow, numbers);
    let plan = flow.finish().unwrap();
    let ran = afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        run_local(&plan, threads, Clock::starting_at(SystemTime::UNIX_EPOCH)).await
    });
    ran.unwrap_err().message
}

#[test]
fn a_timer_is_named_with_its_moment_and_its_key_and_hidden_where_records_are() {
    let late = |by_clock| {
        move |_: &Flow, numbers: afflux_stream::Stream<u64>| {
            numbers
                .key_by(|i| (i % 10, "key".to_owned()))
                .operate("late", "late", move || Alarm { by_clock })
                .count("n");
        }
    };
    let error = failure(true, late(false));
    let named = "operator late panicked: it cannot be; at work on the timer 1970-01-01T00:00:00.09Z of key [9,\"key\"]";
    assert!(error.contains(named), "{error}");
    let error = failure(true, late(true));
    assert!(error.contains("at work on the timer of the clock 1970-01-01T00:01:00"), "{error}");
    assert!(error.contains("of key [9,\"key\"]"), "{error}");
    let error = failure(false, late(false));
    assert!(error.contains("at work on the timer 1970-01-01T00:00:00.09Z of key (digest "), "{error}");
    assert!(!error.contains("\"key\""), "{error}");
}

#[test]
fn a_window_that_fires_is_named_and_its_key_where_windows_are_those_of_a_key() {
    let error = failure(true, |_, numbers| {
        numbers
            .key_by(|i| i % 5)
            .window(Tumbling::of(millis_of(20)))
            .late(Late::Drop)
            .aggregate("sum", Dies)
            .count("n");
    });
    let window = "the window [1970-01-01T00:00:00.06Z, 1970-01-01T00:00:00.08Z)";
    // Its key is not kept beside the result before something has panicked.
    assert!(error.contains(&format!("operator sum panicked: it cannot be; at work on {window}")), "{error}");
    let error = failure(true, |_, numbers| {
        let sliding = Sliding::of(millis_of(20)).every(millis_of(10));
        numbers.key_by(|i| i % 5).window(sliding).late(Late::Drop).aggregate("sum", Dies).count("n");
    });
    assert!(error.contains("at work on the window [1970-01-01T00:00:00.05Z, "), "{error}");
    let error = failure(true, |_, numbers| {
        numbers
            .filter(|i| *i > 60)
            .key_by(|i| i % 5)
            .window(Session::gap(millis_of(7)))
            .late(Late::Drop)
            .aggregate("sum", Dies)
            .count("n");
    });
    assert!(error.contains("operator sum panicked: it cannot be; at work on the window ["), "{error}");
    assert!(error.contains(") of key 3"), "{error}");
}

#[test]
fn the_question_of_an_async_map_is_named_by_its_record_among_those_that_wait() {
    let error = failure(true, |_, numbers| {
        numbers
            .async_map("ask", AsyncMap::unordered().in_flight(50), |_, i| async move {
                // Others are on their way at the same time.
                tokio::task::yield_now().await;
                assert!(i != 42, "it cannot be");
                Ok(i)
            })
            .count("n");
    });
    let named = "operator ask panicked: it cannot be; at work on the question about the record 42";
    assert!(error.contains(named), "{error}");
}

#[test]
fn a_sink_is_named_with_what_it_was_asked_for() {
    for (broken, doing) in [
        (Broken::Write, "at work on a batch of "),
        (Broken::Flush, "at work on the flush behind a batch of "),
        (Broken::End, "at work on the end of its output"),
    ] {
        let error = failure(true, move |_, numbers| numbers.sink("out", broken));
        assert!(error.contains("operator out panicked: it cannot be") && error.contains(doing), "{error}");
    }
}
