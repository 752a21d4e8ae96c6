//! Event time at the source: strategies, idle splits, alignment, records from the future.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use afflux_actor::{Clock, Threads};
use afflux_stream::job::{run_local, start_local};
use afflux_stream::{
    Ahead, Batch, BoundedOutOfOrder, Flow, IoContext, JobSettings, Late, Monotonous, Plan, ReadState, Result,
    Sink, SinkWriter, Source, SourceStream, Split, SplitReader, TaskReading, Timestamp, Tumbling, Watermarks,
    Window, fold, millis_of, minutes, secs, vec_source,
};

/// A split that a test writes to while it is being read.
#[derive(Clone, Default)]
struct Tap(Arc<Mutex<TapState>>);

#[derive(Default)]
struct TapState {
    rows: VecDeque<i64>,
    ended: bool,
    /// Says `Pending` where another reader would say that it is caught up.
    mute: bool,
    waker: Option<Waker>,
}

impl Tap {
    fn give(&self, rows: impl IntoIterator<Item = i64>) {
        let mut state = self.0.lock().unwrap();
        state.rows.extend(rows);
        state.waker.take().into_iter().for_each(Waker::wake);
    }
    fn end(&self) {
        let mut state = self.0.lock().unwrap();
        state.ended = true;
        state.waker.take().into_iter().for_each(Waker::wake);
    }
    fn mute(self) -> Self {
        self.0.lock().unwrap().mute = true;
        self
    }
    fn left(&self) -> usize {
        self.0.lock().unwrap().rows.len()
    }
}

/// A source of taps, one split each.
struct Taps(Vec<Tap>);

impl Source for Taps {
    type Item = i64;
    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let split = |i: usize| Split { id: format!("tap-{i}"), payload: vec![i as u8], size: None };
        Ok((0..self.0.len()).map(split).collect())
    }
    fn open(&self, split: &Split, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SplitReader<i64>>> {
        Ok(Box::new(TapReader { tap: self.0[split.payload[0] as usize].clone(), told: false }))
    }
    fn kind(&self) -> &'static str {
        "taps"
    }
}

struct TapReader {
    tap: Tap,
    told: bool,
}

impl SplitReader<i64> for TapReader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<i64>,
        max: usize,
    ) -> Poll<Result<ReadState>> {
        let mut state = self.tap.0.lock().unwrap();
        let count = state.rows.len().min(max);
        batch.rows.extend(state.rows.drain(..count));
        if state.ended && state.rows.is_empty() {
            return Poll::Ready(Ok(ReadState::End));
        }
        if count > 0 {
            self.told = false;
            return Poll::Ready(Ok(ReadState::More));
        }
        state.waker = Some(cx.waker().clone());
        if self.told || state.mute {
            return Poll::Pending;
        }
        self.told = true;
        Poll::Ready(Ok(ReadState::CaughtUp))
    }
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Start of a window and the number of rows in it, as they come.
#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<(i64, u64)>>>);

impl Sink<(i64, u64)> for Collect {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<(i64, u64)>>> {
        Ok(Box::new(self.clone()))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}

impl SinkWriter<(i64, u64)> for Collect {
    fn write(&mut self, batch: &mut Batch<(i64, u64)>) -> Result<()> {
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

impl Collect {
    fn sorted(&self) -> Vec<(i64, u64)> {
        let mut rows = self.0.lock().unwrap().clone();
        rows.sort_unstable();
        rows
    }
}

fn settings(parallelism: u32) -> JobSettings {
    JobSettings { parallelism, ..JobSettings::default() }
}

/// Rows a second of event time, counted by windows of ten.
fn counted(
    parallelism: u32,
    out: &Collect,
    open: impl FnOnce(SourceStream<Taps>) -> afflux_stream::Stream<i64>,
    taps: &[Tap],
) -> Plan {
    let flow = Flow::new("p", settings(parallelism));
    open(flow.source("taps", Taps(taps.to_vec())))
        .key_by(|_| 0_u32)
        .window(Tumbling::of(secs(10)))
        .late(Late::Drop)
        .aggregate("count", fold(|| 0_u64, |n, _: &i64| *n += 1, |_, w: Window, n| (w.start.millis(), n)))
        .sink("out", out.clone());
    flow.finish().unwrap()
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000))
}

const fn ms(row: &i64) -> Timestamp {
    Timestamp::from_millis(*row)
}

/// Runs a plan on a clock that stands still until nothing else can run.
fn script<F: Future<Output = ()>>(
    plan: Plan,
    slots: usize,
    steps: impl FnOnce(afflux_stream::job::LocalRun) -> F,
) {
    afflux_actor::test::paused(|| async move {
        let threads = Arc::new(Threads::inline_slots(slots).unwrap());
        steps(start_local(&plan, threads, clock(), None, None).unwrap()).await;
    });
}

/// Lets everything run that can, for this long on the clock.
async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

fn operator(readings: &[TaskReading], name: &str) -> afflux_stream::OperatorReading {
    readings.iter().flat_map(|t| &t.operators).find(|o| o.name == name).unwrap().clone()
}

#[test]
fn a_silent_split_that_is_caught_up_holds_windows_back_only_until_it_is_idle() {
    for parallelism in [1, 2] {
        let (taps, out) = ([Tap::default(), Tap::default()], Collect::default());
        let strategy = Monotonous::times().idle_after(secs(30));
        let plan = counted(parallelism, &out, |s| s.watermarks_by(strategy, ms), &taps);
        let [quiet, busy] = taps;
        let seen = out.clone();
        script(plan, 2, |run| async move {
            quiet.give([1_000]);
            busy.give([2_000, 25_000]);
            pass(secs(20)).await;
            assert_eq!(seen.sorted(), [], "the quiet split is not idle yet");
            busy.give([26_000]);
            pass(secs(15)).await;
            assert_eq!(seen.sorted(), [(0, 2)], "parallelism {parallelism}");
            // It comes back behind the watermark: late where its window is gone, counted where not.
            quiet.give([3_000, 27_000]);
            pass(secs(1)).await;
            busy.give([41_000]);
            pass(secs(1)).await;
            assert_eq!(seen.sorted(), [(0, 2)], "it counts again, at 27 s");
            quiet.end();
            busy.end();
            let readings = run.finish().await.unwrap();
            let late: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.late).sum();
            assert_eq!(late, 1);
        });
        assert_eq!(out.sorted(), [(0, 2), (20_000, 3), (40_000, 1)], "parallelism {parallelism}");
    }
}

#[test]
fn a_split_that_never_said_it_was_caught_up_and_one_that_never_idles_hold_for_ever() {
    let strategies =
        [(true, Monotonous::times().idle_after(secs(30))), (false, Monotonous::times().never_idle())];
    for (mute, strategy) in strategies {
        let (quiet, busy, out) = (Tap::default(), Tap::default(), Collect::default());
        let quiet = if mute { quiet.mute() } else { quiet };
        let plan = counted(1, &out, |s| s.watermarks_by(strategy, ms), &[quiet.clone(), busy.clone()]);
        let seen = out.clone();
        script(plan, 1, |run| async move {
            quiet.give([1_000]);
            busy.give([2_000, 25_000]);
            pass(minutes(60)).await;
            assert_eq!(seen.sorted(), [], "mute {mute}");
            quiet.end();
            busy.end();
            run.finish().await.unwrap();
        });
        assert_eq!(out.sorted(), [(0, 2), (20_000, 1)]);
    }
}

#[test]
fn an_aligned_source_keeps_fast_splits_near_the_slowest_within_a_task_and_across_tasks() {
    for parallelism in [1, 2] {
        let (slow, fast, out) = (Tap::default().mute(), Tap::default().mute(), Collect::default());
        let strategy = BoundedOutOfOrder::by(secs(1)).align(secs(10));
        let plan =
            counted(parallelism, &out, |s| s.watermarks_by(strategy, ms), &[slow.clone(), fast.clone()]);
        script(plan, 2, |run| async move {
            // A record a millisecond: a batch is about a second.
            fast.give(0..100_000);
            pass(secs(1)).await;
            assert!(fast.left() >= 100_000 - 1_024, "nothing is known of the slow split: {}", fast.left());
            for at in [0, 20_000, 50_000] {
                slow.give([at]);
                pass(secs(1)).await;
                let read = 100_000 - fast.left() as i64;
                assert!((at + 10_000..=at + 10_000 + 1_024).contains(&read), "{read} read at {at}");
            }
            slow.end();
            pass(secs(1)).await;
            assert_eq!(fast.left(), 0, "an ended split holds nobody");
            fast.end();
            run.finish().await.unwrap();
        });
        let counts: u64 = out.sorted().iter().map(|r| r.1).sum();
        assert_eq!(counts, 100_003, "parallelism {parallelism}");
    }
}

#[test]
fn an_idle_split_does_not_hold_an_aligned_one() {
    let (slow, fast, out) = (Tap::default(), Tap::default().mute(), Collect::default());
    let strategy = Monotonous::times().align(secs(10)).idle_after(secs(5));
    let plan = counted(2, &out, |s| s.watermarks_by(strategy, ms), &[slow.clone(), fast.clone()]);
    script(plan, 2, |run| async move {
        fast.give(0..50_000);
        pass(secs(1)).await;
        assert!(fast.left() > 0);
        pass(secs(10)).await;
        assert_eq!(fast.left(), 0);
        slow.end();
        fast.end();
        run.finish().await.unwrap();
    });
}

#[test]
fn a_record_from_the_future_is_counted_and_never_obeyed() {
    // The calendar stands at 1,000 s.
    let rows = vec![1_000_i64, 2_000, 99_000_000, 3_000, 1_061_000, 1_059_000];
    let out = Collect::default();
    let flow = Flow::new("p", settings(1));
    let (believed, future) = flow
        .source("rows", vec_source(rows.clone()))
        .watermarks_by(Monotonous::times().future(minutes(1), Ahead::Side), ms);
    believed
        .key_by(|_| 0_u32)
        .window(Tumbling::of(secs(10)))
        .late(Late::Drop)
        .aggregate("count", fold(|| 0_u64, |n, _: &i64| *n += 1, |_, w: Window, n| (w.start.millis(), n)))
        .sink("out", out.clone());
    future.map(|row| (row, 1_u64)).sink("future", out.clone());
    let readings = run(flow.finish().unwrap());
    assert_eq!(out.sorted(), [(0, 3), (1_050_000, 1), (1_061_000, 1), (99_000_000, 1)]);
    let source = operator(&readings, "rows");
    assert_eq!((source.records_in, source.records_out, source.future), (6, 4, 2));
    assert_eq!(readings.iter().flat_map(|t| &t.operators).map(|o| o.late).sum::<u64>(), 0);

    let flow = Flow::new("p", settings(1));
    flow.source("rows", vec_source(rows))
        .watermarks_by(Monotonous::times().future(minutes(1), Ahead::Drop), ms)
        .count("all");
    let readings = run(flow.finish().unwrap());
    assert_eq!((operator(&readings, "all").records_in, operator(&readings, "rows").future), (4, 2));
}

fn run(plan: Plan) -> Vec<TaskReading> {
    afflux_actor::test::paused(|| async move {
        run_local(&plan, Arc::new(Threads::inline().unwrap()), clock()).await.unwrap()
    })
}

#[test]
fn watermarks_come_from_code_or_from_records_too() {
    // Records that are negative carry a watermark: no later one is before its size.
    let rows: Vec<i64> = vec![5_000, 1_000, -10_000, 12_000, 3_000, 11_000, -30_000, 31_000];
    let time = |row: &i64| Timestamp::from_millis(row.abs());
    let custom = || {
        let mut latest = i64::MIN;
        move |times: &[i64]| {
            // The rule of the negative records, told by time alone.
            latest = times.iter().copied().filter(|t| t % 10_000 == 0).fold(latest, i64::max);
            Timestamp::from_millis(latest)
        }
    };
    for carried in [true, false] {
        let out = Collect::default();
        let tap = Tap::default();
        let open = |source: SourceStream<Taps>| {
            if carried {
                let carried = |row: &i64| (*row < 0).then(|| Timestamp::from_millis(-row));
                source.watermarks_in(Monotonous::times(), time, carried)
            } else {
                source.watermarks_by(Watermarks::with(custom), time)
            }
        };
        let plan = counted(1, &out, open, std::slice::from_ref(&tap));
        let seen = out.clone();
        let rows = rows.clone();
        script(plan, 1, |run| async move {
            for row in rows {
                tap.give([row]);
                pass(millis_of(20)).await;
            }
            assert_eq!(seen.sorted(), [(0, 2), (10_000, 3)], "carried {carried}");
            tap.end();
            let readings = run.finish().await.unwrap();
            assert_eq!(operator(&readings, "count").late, 1, "3,000 is behind 10,000");
        });
        assert_eq!(out.sorted(), [(0, 2), (10_000, 3), (30_000, 2)]);
    }
}

#[test]
fn a_reading_shows_the_slowest_splits_first_and_no_more_than_eight() {
    let taps: Vec<Tap> = (0..12).map(|_| Tap::default().mute()).collect();
    let out = Collect::default();
    let plan = counted(1, &out, |s| s.watermarks_by(BoundedOutOfOrder::by(secs(1)), ms), &taps);
    script(plan, 1, |run| async move {
        for (i, tap) in taps.iter().enumerate() {
            tap.give([100_000 - 1_000 * i as i64]);
        }
        taps[11].end();
        pass(secs(1)).await;
        let splits = run.readings().remove(0).splits;
        assert_eq!(splits.len(), 8);
        assert_eq!(
            (splits[0].id.as_str(), splits[0].latest_ms, splits[0].watermark_ms),
            ("tap-10", 90_000, 89_000)
        );
        assert_eq!((splits[0].read_at_ms, splits[0].ended), (1_000_000, false));
        taps.iter().for_each(Tap::end);
        run.finish().await.unwrap();
    });
}

#[test]
fn a_restored_split_goes_on_with_the_watermark_that_it_had_promised() {
    let (tap, out) = (Tap::default().mute(), Collect::default());
    let carried = |row: &i64| (*row < 0).then(|| Timestamp::from_millis(-row));
    let plan = || {
        let open = move |source: SourceStream<Taps>| {
            source.watermarks_in(Monotonous::times(), |row: &i64| Timestamp::from_millis(row.abs()), carried)
        };
        counted(1, &out, open, std::slice::from_ref(&tap))
    };
    let first = plan();
    let restore = afflux_actor::test::paused(|| async {
        let threads = Arc::new(Threads::inline().unwrap());
        let mut run = start_local(&first, threads, clock(), None, None).unwrap();
        tap.give([40_000, -30_000]);
        pass(secs(1)).await;
        run.checkpoint(1).await.unwrap()
    });
    let second = plan();
    afflux_actor::test::paused(|| async {
        let threads = Arc::new(Threads::inline().unwrap());
        let run = start_local(&second, threads, clock(), None, Some(restore)).unwrap();
        pass(secs(1)).await;
        let split = run.readings().remove(0).splits.remove(0);
        assert_eq!((split.watermark_ms, split.latest_ms), (30_000, 40_000), "no record has come since");
        assert_eq!(run.readings()[0].watermark_ms, 30_000, "and it is told before any record");
        tap.end();
        run.finish().await.unwrap();
    });
}
