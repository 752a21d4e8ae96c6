//! Reading CSV files: what is read, what is refused, and going on from a checkpoint.
#![allow(clippy::unwrap_used)] // in the helpers of tests too

use std::fs;
use std::io::Write;
use std::path::Path;
use std::task::{Context, Poll, Waker};

use afflux_connectors::Csv;
use afflux_stream::{Batch, IoContext, OnError, ReadState, Result, Source, SplitReader, Timestamp};
use afflux_wire::{Code, Status};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flight {
    at: Timestamp,
    departure_delay_min: Option<i64>,
    origin: String,
}

const HEADER: &str = "at,departure_delay_min,origin\n";

fn context(on_error: OnError) -> IoContext {
    IoContext { on_error, ..IoContext::new("test", "flights") }
}

type Reader = Box<dyn SplitReader<Flight>>;

fn open(path: &Path, position: Option<&[u8]>, on_error: OnError) -> Result<Reader> {
    let source = Csv::<Flight>::path(path);
    let cx = context(on_error);
    let splits = source.splits(&cx)?;
    Source::open(&source, &splits[0], position, &cx)
}

/// Reads to the end, `rows_max` rows at a time.
fn read(reader: &mut Reader, rows_max: usize) -> Result<Vec<Flight>> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut batch = Batch::default();
    loop {
        match reader.poll_read(&mut cx, &mut batch, rows_max) {
            Poll::Ready(Ok(ReadState::End)) => return Ok(batch.rows),
            Poll::Ready(Err(status)) => return Err(status),
            _ => {}
        }
    }
}

fn read_text(text: &[u8], on_error: OnError) -> (Result<Vec<Flight>>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.csv");
    fs::write(&path, text).unwrap();
    match open(&path, None, on_error) {
        Err(status) => (Err(status), 0),
        Ok(mut reader) => (read(&mut reader, 3), reader.skipped()),
    }
}

fn refusal(text: &[u8]) -> Status {
    read_text(text, OnError::Fail).0.unwrap_err()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn rows(count: usize) -> (String, Vec<Flight>) {
    let mut text = HEADER.to_owned();
    let flights = (0..count).map(|i| Flight {
        at: Timestamp::from_millis(i as i64 * 60_000),
        departure_delay_min: (i % 3 != 0).then_some(i as i64 - 5),
        origin: ["JFK", "a \"quoted\", one", "two\nlines"][i % 3].to_owned(),
    });
    let flights: Vec<_> = flights.collect();
    for f in &flights {
        let delay = f.departure_delay_min.map(|d| d.to_string()).unwrap_or_default();
        text += &format!("{},{delay},\"{}\"\n", f.at, f.origin.replace('"', "\"\""));
    }
    (text, flights)
}

#[test]
fn a_compressed_file_of_several_members_reads_like_a_plain_one() {
    let dir = tempfile::tempdir().unwrap();
    let (text, expected) = rows(5000);
    let (plain, compressed) = (dir.path().join("f.csv"), dir.path().join("g.csv.gz"));
    fs::write(&plain, &text).unwrap();
    let (head, tail) = text.as_bytes().split_at(1000);
    fs::write(&compressed, [gzip(head), gzip(tail)].concat()).unwrap();
    for path in [&plain, &compressed] {
        let mut reader = open(path, None, OnError::Fail).unwrap();
        assert_eq!(read(&mut reader, 1024).unwrap(), expected);
        assert_eq!(reader.progress(), path.metadata().unwrap().len());
    }
}

#[test]
fn each_file_of_a_directory_is_a_split_with_its_size() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("b.csv"), HEADER).unwrap();
    fs::write(dir.path().join("a.csv"), format!("{HEADER}1970-01-01T00:00:00Z,,JFK\n")).unwrap();
    let splits = Csv::<Flight>::path(dir.path()).splits(&context(OnError::Fail)).unwrap();
    let sizes: Vec<_> = splits.iter().map(|s| s.size).collect();
    assert_eq!(sizes, [Some(30 + 26), Some(30)]);
    assert!(splits[0].id.ends_with("a.csv"), "{splits:?}");
}

#[test]
fn a_wrong_value_is_reported_with_file_line_column_value_and_expectation() {
    let text = format!("{HEADER}1970-01-01T00:00:00Z,,JFK\n1970-01-01T00:00:00Z,abc,JFK\n");
    let status = refusal(text.as_bytes());
    assert_eq!(status.code, Code::InvalidArgument);
    let expected = "f.csv line 3, column departure_delay_min (2): `abc` is not an integer or empty";
    assert!(status.message.ends_with(expected), "{status}");
    let status = refusal(format!("{HEADER}noon,,JFK\n").as_bytes());
    assert!(status.message.contains("f.csv line 2, column at (1): expected a moment"), "{status}");
}

#[test]
fn the_line_is_that_of_the_file_whatever_ends_its_lines() {
    for (end, mark) in [("\n", ""), ("\r\n", ""), ("\n", "\u{feff}"), ("\r\n", "\u{feff}")] {
        let text = "at,departure_delay_min,origin\n\n1970-01-01T00:00:00Z,,\"two\nlines\"\n1970-01-01T00:00:00Z,x,JFK\n";
        let status = refusal(format!("{mark}{}", text.replace('\n', end)).as_bytes());
        let part = "f.csv line 5, column departure_delay_min";
        assert!(status.message.contains(part), "{end:?} {mark:?} {status}");
    }
}

#[test]
fn a_row_with_another_number_of_fields_names_the_column() {
    let status = refusal(format!("{HEADER}1970-01-01T00:00:00Z,5\n").as_bytes());
    let part = "line 2, column origin (3): missing; the row has 2 fields, expected 3: `at`";
    assert!(status.message.contains(part), "{status}");
    let status = refusal(format!("{HEADER}1970-01-01T00:00:00Z,5,JFK,more\n").as_bytes());
    let part = "line 2, column 4 has no name: `more` is one field too many; the row has 4, expected 3";
    assert!(status.message.contains(part), "{status}");
}

#[test]
fn bytes_that_are_no_text_are_the_rows_fault() {
    let text = [HEADER.as_bytes(), b"1970-01-01T00:00:00Z,,J\xffK\n1970-01-01T00:00:00Z,,JFK\n"].concat();
    let status = refusal(&text);
    assert!(status.message.contains("line 2, column origin (3): not UTF-8 text from byte 2"), "{status}");
    let (flights, skipped) = read_text(&text, OnError::Skip);
    assert_eq!((flights.unwrap().len(), skipped), (1, 1));
}

#[test]
fn malformed_rows_are_skipped_and_counted_where_one_asks_for_it() {
    let bad = "1970-01-01T00:00:00Z,abc,JFK\n1970-01-01T00:00:00Z\nnoon,,JFK\n".repeat(5);
    let good = "1970-01-01T00:00:00Z,1,JFK\n";
    let (flights, skipped) = read_text(format!("{HEADER}{good}{bad}{good}").as_bytes(), OnError::Skip);
    assert_eq!((flights.unwrap().len(), skipped), (2, 15));
}

#[test]
fn a_missing_column_stops_the_pipeline_even_where_rows_are_skipped() {
    let text = b"at,departure_delay_min,orgin\n1970-01-01T00:00:00Z,,JFK\n";
    let status = read_text(text, OnError::Skip).0.unwrap_err();
    let part = "there is no column `origin`; the file has `at`, `departure_delay_min`, `orgin`";
    assert!(status.message.contains(part), "{status}");
}

#[test]
fn a_file_that_is_empty_cut_off_or_not_gzip_says_so() {
    let status = refusal(b"");
    assert!(status.message.contains("is empty: expected a header row"), "{status}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.csv.gz");
    let whole = gzip(rows(5000).0.as_bytes());
    for (bytes, part) in [(&whole[..whole.len() / 2], "cut off"), (HEADER.as_bytes(), "not gzip data")] {
        fs::write(&path, bytes).unwrap();
        let status = open(&path, None, OnError::Skip).and_then(|mut r| read(&mut r, 64)).unwrap_err();
        assert_eq!(status.code, Code::DataLoss);
        assert!(status.message.contains("f.csv.gz near line ") && status.message.contains(part), "{status}");
    }
}

#[test]
fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.csv.gz");
    let mut text = format!("{HEADER}1970-01-01T00:00:00Z,,\"").into_bytes();
    text.resize(text.len() + (afflux_connectors::ROW_BYTES_MAX as usize) * 2, b'x');
    fs::write(&path, gzip(&text)).unwrap();
    let mut reader = open(&path, None, OnError::Skip).unwrap();
    let status = read(&mut reader, 64).unwrap_err();
    assert!(status.message.contains("a quote that is never closed"), "{status}");
}

#[test]
fn a_file_that_became_shorter_than_the_checkpoint_is_data_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.csv");
    fs::write(&path, rows(10).0).unwrap();
    let mut reader = open(&path, None, OnError::Fail).unwrap();
    read(&mut reader, 4).unwrap();
    let position = reader.position();
    fs::write(&path, rows(7).0).unwrap();
    let status = open(&path, Some(&position), OnError::Fail).err().unwrap();
    assert_eq!(status.code, Code::DataLoss);
    assert!(status.message.contains("has 7 rows, but 10"), "{status}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_restore_anywhere_reads_every_row_once(count in 0_usize..60, cut in 0_usize..60, step in 1_usize..9, bad in 0_usize..5) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.csv.gz");
        let (mut text, expected) = rows(count);
        text += &"1970-01-01T00:00:00Z,abc,JFK\n".repeat(bad);
        fs::write(&path, gzip(text.as_bytes())).unwrap();
        let mut first = open(&path, None, OnError::Skip).unwrap();
        let mut batch = Batch::default();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..cut.div_ceil(step) {
            let _ = first.poll_read(&mut cx, &mut batch, step);
        }
        let mut second = open(&path, Some(&first.position()), OnError::Skip).unwrap();
        let mut all = batch.rows;
        all.extend(read(&mut second, step).unwrap());
        prop_assert_eq!(all, expected);
        prop_assert_eq!(second.skipped(), bad as u64);
    }

    #[test]
    fn any_bytes_give_rows_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400), named: bool) {
        let text = if named { [HEADER.as_bytes(), &bytes].concat() } else { bytes };
        let _ = read_text(&text, OnError::Skip);
        let _ = read_text(&text, OnError::Fail);
    }
}
