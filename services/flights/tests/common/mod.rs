//! The batch computation that every test of the pipeline compares with: plain loops, no engine.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use afflux_flights::flights_file;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// Where the program looks for its input, below its working directory.
const INPUT: &str = "services/flights/data/flights.csv.gz";

/// The whole input, uncompressed.
pub(crate) fn input() -> String {
    let mut text = String::new();
    decoded().read_to_string(&mut text).unwrap();
    text
}

/// The header and the first rows of the input.
pub(crate) fn first_rows(rows: usize) -> String {
    let mut text = String::new();
    for line in decoded().lines().take(rows + 1) {
        text.push_str(&line.unwrap());
        text.push('\n');
    }
    text
}

/// Decompressed only as far as it is read: unoptimised, the whole takes a second.
fn decoded() -> BufReader<GzDecoder<File>> {
    BufReader::new(GzDecoder::new(File::open(flights_file()).unwrap()))
}

/// Puts this input where a program that runs in `directory` looks for it; returns its path.
pub(crate) fn place(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join(INPUT);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    file.write_all(text.as_bytes()).unwrap();
    file.finish().unwrap();
    path
}

/// `out/hourly-delays.csv` of an input as a batch job writes it, line by line.
pub(crate) fn oracle(input: &str) -> Vec<String> {
    #[derive(Default)]
    struct Hour {
        flights: u32,
        delays: Vec<i64>,
    }
    let mut hours: BTreeMap<(String, String, String), Hour> = BTreeMap::new();
    for line in csv::Reader::from_reader(input.as_bytes()).into_records() {
        let line = line.unwrap();
        // 2013-01-01T10:15:00Z, minutes later, …, carrier (4th), …, origin (7th).
        let start = format!("{}:00:00Z", &line[0][..13]);
        let hour = hours.entry((start, line[6].to_owned(), line[3].to_owned())).or_default();
        hour.flights += 1;
        if !line[1].is_empty() {
            hour.delays.push(line[1].parse().unwrap());
        }
    }
    let header = "window_start,origin,carrier,flights,cancelled,delayed_15,total_delay_min,max_delay_min";
    let rows = hours.into_iter().map(|((start, origin, carrier), Hour { flights, delays })| {
        let cancelled = flights as usize - delays.len();
        let late = delays.iter().filter(|d| **d >= 15).count();
        let max = delays.iter().max().map(i64::to_string).unwrap_or_default();
        let total = if delays.is_empty() { String::new() } else { delays.iter().sum::<i64>().to_string() };
        format!("{start},{origin},{carrier},{flights},{cancelled},{late},{total},{max}")
    });
    [header.to_owned()].into_iter().chain(rows).collect()
}

/// The output is the batch's, byte for byte; else the first line that differs is told.
pub(crate) fn assert_equal(out: &Path, expected: &[String]) {
    let text = fs::read_to_string(out).unwrap();
    let mut lines = text.lines();
    for (number, line) in (1..).zip(expected) {
        assert_eq!(lines.next(), Some(line.as_str()), "line {number}");
    }
    assert_eq!(lines.next(), None, "a line too many");
    assert!(text == expected.join("\n") + "\n", "the lines are equal, their ends are not");
}
