//! The pipeline against a batch computation of the same file: plain loops, no engine.

#![allow(clippy::unwrap_used)] // in the helpers of tests too

mod common;

use std::fs;
use std::future::{Future, pending};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use afflux::actor::{ActorMetrics, ActorPath, Place, ServiceEntry, Spec, Threads};
use afflux::contract::{CallMeta, Caller, Handle, MethodSpec, Outgoing, Started, Target};
use afflux::prelude::*;
use afflux_actor::Clock;
use afflux_flights::{
    Board, BoardClient, BoardError, DelayBoard, HourlyDelay, flights_file, hourly_delays_of,
};
use afflux_stream::job::start_local;
use afflux_stream::{JobSettings, Plan, TaskReading};

/// `out/hourly-delays.csv` as a batch job writes it, line by line.
fn expected() -> &'static [String] {
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    LINES.get_or_init(|| common::oracle(&common::input()))
}

fn assert_equal(out: &Path) {
    common::assert_equal(out, expected());
}

/// A mesh of one board.
struct OneBoard(Vec<ServiceEntry>);

impl Caller for OneBoard {
    fn start(
        &self,
        target: &Target,
        _: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        let entry = self.0.iter().find(|s| s.name == &*target.service).unwrap();
        call.deliver(&*entry.endpoint, meta)?;
        Ok(Started::Local)
    }
    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(pending())
    }
    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(pending())
    }
    fn now(&self) -> Instant {
        Instant::now()
    }
}

fn board() -> Arc<dyn Caller> {
    let spec = Spec::new(ActorPath::new("board"), ActorMetrics::unregistered());
    let board = Place::current().unwrap().spawn(spec, DelayBoard::open);
    Arc::new(OneBoard(DelayBoard::services(board.address())))
}

fn plan(parallelism: u32, out: &Path) -> Plan {
    plan_of(&flights_file(), parallelism, out)
}

fn plan_of(flights: &Path, parallelism: u32, out: &Path) -> Plan {
    let settings = JobSettings { parallelism, ..JobSettings::default() };
    let flow = Flow::new("hourly-delays", settings);
    hourly_delays_of(&flow, flights, out).unwrap();
    flow.finish().unwrap()
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline_slots(2).unwrap())
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

/// Lines of the batch as rows, the last hour of an origin only.
fn latest_of(origin: &str) -> Vec<String> {
    let of_origin = || expected().iter().filter(|line| line[20..].starts_with(&format!(",{origin},")));
    let latest = &of_origin().next_back().unwrap()[..20];
    of_origin().filter(|line| line.starts_with(latest)).cloned().collect()
}

fn line_of(row: &HourlyDelay) -> String {
    let text = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    format!(
        "{},{},{},{},{},{},{},{}",
        row.window_start,
        row.origin,
        row.carrier,
        row.flights,
        row.cancelled,
        row.delayed_15,
        text(row.total_delay_min),
        text(row.max_delay_min)
    )
}

/// Length and CRC-32 as a Python script over the same file gives them: the oracle's oracle.
#[test]
fn two_batch_computations_agree() {
    let text = expected().join("\n") + "\n";
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    assert_eq!((expected().len(), text.len(), crc.sum()), (116_905, 4_685_174, 0xdca1_0137));
}

/// What the autoscaler's plot is made from (`framework/afflux/src/autoscale`).
#[test]
fn the_departures_of_two_weeks_that_the_autoscaler_is_tried_on_are_those_of_the_records() {
    let mut hours = [[0_u32; 24]; 14];
    for line in common::input().lines().filter(|l| l.starts_with("2013-02") || l.starts_with("2013-01-31")) {
        let mut cells = line.split(',');
        let scheduled = cells.next().unwrap();
        // One without a delay was cancelled.
        let Ok(delay) = cells.next().unwrap().parse::<i64>() else { continue };
        let number = |at: usize| scheduled[at..at + 2].parse::<i64>().unwrap();
        // Minutes since the first of February: its eve is the day 0.
        let day = if scheduled.starts_with("2013-01") { 0 } else { number(8) };
        let left = (day - 1) * 1_440 + number(11) * 60 + number(14) + delay;
        let (day, hour) = (left.div_euclid(1_440) + 1, left.rem_euclid(1_440) / 60);
        if let Some(hours) = usize::try_from(day - 4).ok().and_then(|at| hours.get_mut(at)) {
            hours[hour as usize] += 1;
        }
    }
    let day = |(at, hours): (usize, &[u32; 24])| {
        let flights: Vec<String> = hours.iter().map(ToString::to_string).collect();
        format!("2013-02-{:02} {}\n", at + 4, flights.join(" "))
    };
    let text: String = hours.iter().enumerate().map(day).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../framework/afflux/src/autoscale/departures.txt");
    assert_eq!(text, fs::read_to_string(path).unwrap());
}

#[test]
fn the_output_equals_a_batch_computation_at_any_parallelism() {
    let dir = tempfile::tempdir().unwrap();
    for parallelism in [1, 2, 4] {
        let out = dir.path().join(format!("{parallelism}/hourly-delays.csv"));
        let plan = plan(parallelism, &out);
        let readings = afflux_actor::test::system(|| async move {
            let run = start_local(&plan, threads(), clock(), Some(board()), None).unwrap();
            run.finish().await.unwrap()
        });
        assert_equal(&out);
        assert_eq!(records_in(&readings, "flights"), 336_776);
        assert_eq!(records_in(&readings, "out"), expected().len() as u64 - 1);
        assert_eq!(records_in(&readings, "too-late"), 0, "no flight is a day late");
    }
}

/// Records that an operator of a run has taken in.
fn records_in(readings: &[TaskReading], operator: &str) -> u64 {
    let operators = readings.iter().flat_map(|t| &t.operators);
    operators.filter(|o| o.name == operator).map(|o| o.records_in).sum()
}

/// A directory with every other flight in one file and the rest in another, so that both of two
/// source tasks are at work.
fn in_two_files(dir: &Path) -> PathBuf {
    let dir = dir.join("flights");
    fs::create_dir(&dir).unwrap();
    let text = common::input();
    let (header, lines) = text.split_once('\n').unwrap();
    for half in 0..2 {
        let lines: Vec<_> = [header].into_iter().chain(lines.lines().skip(half).step_by(2)).collect();
        fs::write(dir.join(format!("{half}.csv")), lines.join("\n")).unwrap();
    }
    dir
}

#[test]
fn a_checkpoint_and_a_restore_in_the_middle_give_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("hourly-delays.csv");
    let plan = plan_of(&in_two_files(dir.path()), 2, &out);
    afflux_actor::test::system(|| async move {
        let board = board();
        let mut restore = None;
        let mut read = 0;
        for epoch in 1..=3 {
            let caller = Some(Arc::clone(&board));
            let mut run = start_local(&plan, threads(), clock(), caller, restore.take()).unwrap();
            while records_in(&run.readings(), "flights") < 80_000 {
                afflux_actor::test::turns(1).await;
            }
            // The run is dropped with what it has done since, as if it had died here.
            restore = Some(run.checkpoint(epoch).await.unwrap());
            read += 80_000;
        }
        let run = start_local(&plan, threads(), clock(), Some(board), restore).unwrap();
        let rest = records_in(&run.finish().await.unwrap(), "flights");
        assert!(rest <= 336_776 - read, "{rest} were read again");
    });
    assert_equal(&out);
}

#[test]
fn the_board_answers_with_what_the_pipeline_closed() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(2, &dir.path().join("out.csv"));
    afflux_actor::test::system(|| async move {
        let caller = board();
        let handle = Handle::<Board>::new(Some(Arc::clone(&caller)), Target::service(Board::NAME));
        let board = BoardClient::from(handle);
        let error = board.latest("JFK".into()).await.unwrap_err();
        let none = BoardError::NoSuchOrigin { origin: "JFK".into(), known: vec![] };
        assert_eq!(error.typed(), Some(&none));

        start_local(&plan, threads(), clock(), Some(caller), None).unwrap().finish().await.unwrap();

        for origin in ["EWR", "JFK", "LGA"] {
            let rows = board.latest(origin.into()).await.unwrap();
            assert_eq!(rows.iter().map(line_of).collect::<Vec<_>>(), latest_of(origin));
        }
        let error = board.latest("LHR".into()).await.unwrap_err();
        let known = ["EWR", "JFK", "LGA"].map(String::from).to_vec();
        assert_eq!(error.typed(), Some(&BoardError::NoSuchOrigin { origin: "LHR".into(), known }));
        assert_eq!(error.code(), Code::NotFound);

        let worst = board.worst(5).await.unwrap();
        let means: Vec<f64> = worst.iter().filter_map(HourlyDelay::mean_delay_min).collect();
        // The longest delay of the year, 1,301 minutes, was the only flight of its row.
        assert_eq!((means.len(), means[0]), (5, 1301.0));
        assert!(means.is_sorted_by(|a, b| a >= b), "{means:?}");
        assert!(worst.iter().all(|row| expected().contains(&line_of(row))));
        assert_eq!(board.worst(0).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(board.worst(1001).await.unwrap_err().code(), Code::InvalidArgument);
    });
}
