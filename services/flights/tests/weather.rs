//! The pipeline `weather-impact` against a batch computation of the same files: plain loops, no engine.

#![allow(clippy::unwrap_used)] // in the helpers of tests too

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use afflux::actor::Threads;
use afflux::prelude::*;
use afflux_actor::Clock;
use afflux_flights::{flights_file, weather_file, weather_impact_of};
use afflux_sandbox::Program;
use afflux_stream::job::start_local;
use afflux_stream::{JobSettings, Plan, TaskReading};
use flate2::read::GzDecoder;

/// `out/weather-impact.csv` as a batch job writes it, line by line.
fn expected() -> &'static [String] {
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    LINES.get_or_init(|| oracle(&common::input(), &weather()))
}

fn weather() -> String {
    let mut weather = String::new();
    GzDecoder::new(File::open(weather_file()).unwrap()).read_to_string(&mut weather).unwrap();
    weather
}

/// Milliseconds since 1970 of a moment as the files have it.
fn millis(at: &str) -> i64 {
    at.parse::<Timestamp>().unwrap().millis()
}

fn oracle(flights: &str, weather: &str) -> Vec<String> {
    // By airport: when, wind, precipitation.
    let mut observations: BTreeMap<String, Vec<(i64, String, String)>> = BTreeMap::new();
    for line in csv::Reader::from_reader(weather.as_bytes()).into_records() {
        let line = line.unwrap();
        let observation = (millis(&line[0]), line[6].to_owned(), line[8].to_owned());
        observations.entry(line[1].to_owned()).or_default().push(observation);
    }
    #[derive(Default)]
    struct Sums {
        flights: u32,
        delays: Vec<i64>,
    }
    let mut sums: BTreeMap<(String, &str, &str), Sums> = BTreeMap::new();
    for line in csv::Reader::from_reader(flights.as_bytes()).into_records() {
        let line = line.unwrap();
        let at = millis(&line[0]);
        let of_origin = &observations[&line[6]];
        let last = of_origin[..of_origin.partition_point(|o| o.0 <= at)].last();
        let (mut wind, mut precipitation) = ("unknown", "unknown");
        if let Some((_, speed, inches)) = last.filter(|o| at - o.0 <= 2 * 3_600_000) {
            if !speed.is_empty() {
                wind = match speed.parse::<f64>().unwrap() {
                    speed if speed < 10.0 => "0-10",
                    speed if speed < 20.0 => "10-20",
                    speed if speed < 30.0 => "20-30",
                    _ => "30+",
                };
            }
            if !inches.is_empty() {
                precipitation = if inches.parse::<f64>().unwrap() > 0.0 { "some" } else { "none" };
            }
        }
        let sums = sums.entry((line[0][..10].to_owned(), wind, precipitation)).or_default();
        sums.flights += 1;
        if !line[1].is_empty() {
            sums.delays.push(line[1].parse().unwrap());
        }
    }
    let rows = sums.into_iter().map(|((day, wind, precipitation), Sums { flights, delays })| {
        let cancelled = flights as usize - delays.len();
        let total = if delays.is_empty() { String::new() } else { delays.iter().sum::<i64>().to_string() };
        format!("{day},{wind},{precipitation},{flights},{cancelled},{total}")
    });
    let header = "day,wind,precipitation,flights,cancelled,total_delay_min";
    [header.to_owned()].into_iter().chain(rows).collect()
}

fn plan(parallelism: u32, out: &Path) -> Plan {
    let flow = Flow::new("weather-impact", JobSettings { parallelism, ..JobSettings::default() });
    weather_impact_of(&flow, flights_file(), weather_file(), out).unwrap();
    flow.finish().unwrap()
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline_slots(2).unwrap())
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

/// Records that an operator of a run has taken in.
fn records_in(readings: &[TaskReading], operator: &str) -> u64 {
    let operators = readings.iter().flat_map(|t| &t.operators);
    operators.filter(|o| o.name == operator).map(|o| o.records_in).sum()
}

/// Length and CRC-32 as a Python script over the same files gives them: the oracle's oracle.
#[test]
fn two_batch_computations_agree() {
    let text = expected().join("\n") + "\n";
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    assert_eq!((expected().len(), text.len(), crc.sum()), (1_129, 36_356, 0x1aab_c1c3));
}

#[test]
fn the_output_equals_a_batch_computation_at_any_parallelism() {
    let dir = tempfile::tempdir().unwrap();
    for parallelism in [1, 2, 4] {
        let out = dir.path().join(format!("{parallelism}/weather-impact.csv"));
        let plan = plan(parallelism, &out);
        assert_eq!(plan.warnings(), [""; 0]);
        let readings = afflux_actor::test::system(|| async move {
            start_local(&plan, threads(), clock(), None, None).unwrap().finish().await.unwrap()
        });
        common::assert_equal(&out, expected());
        assert_eq!(records_in(&readings, "flights"), 336_776);
        assert_eq!(records_in(&readings, "weather"), 26_115);
        assert_eq!(records_in(&readings, "out"), expected().len() as u64 - 1);
        assert_eq!(records_in(&readings, "too-late") + records_in(&readings, "too-late-for-its-day"), 0);
    }
}

#[test]
fn a_checkpoint_and_a_restore_in_the_middle_give_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("weather-impact.csv");
    let plan = plan(2, &out);
    afflux_actor::test::system(|| async move {
        let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
        while records_in(&run.readings(), "flights") < 150_000 {
            afflux_actor::test::turns(1).await;
        }
        // The run is dropped with what it has done since, as if it had died here.
        let restore = run.checkpoint(1).await.unwrap();
        drop(run);
        let run = start_local(&plan, threads(), clock(), None, Some(restore)).unwrap();
        let rest = records_in(&run.finish().await.unwrap(), "flights");
        assert!(rest > 0 && rest <= 336_776 - 150_000, "{rest} were read again");
    });
    common::assert_equal(&out, expected());
}

#[test]
fn three_nodes_write_the_same_file() {
    let program = Program::new(env!("CARGO_BIN_EXE_flights"));
    let flights = common::first_rows(20_000);
    common::place(program.directory(), &flights);
    let line = program.json(&["dev", "weather-impact", "--parallelism", "3", "--json"]);
    assert_eq!((line["pipeline"].as_str(), line["nodes"].as_u64()), (Some("weather-impact"), Some(3)));
    let expected = oracle(&flights, &weather());
    common::assert_equal(&program.directory().join("out/weather-impact.csv"), &expected);
    assert_eq!(line["late"], 0);
}
