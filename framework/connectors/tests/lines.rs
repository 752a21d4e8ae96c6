//! Files of lines: what is read and written, what is refused, and going on from a checkpoint.
#![allow(clippy::unwrap_used)] // in the helpers of tests too

use std::fs;
use std::path::Path;
use std::process::Command;
use std::task::{Context, Poll, Waker};

use afflux_connectors::{Csv, JsonLines, LINE_BYTES_MAX, TextLines};
use afflux_stream::{Batch, IoContext, OnError, ReadState, Result, Sink, SinkWriter, Source, SplitReader};
use afflux_wire::{Code, Status};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    at: i64,
    sensor: String,
    value: Option<f64>,
}

type Reader = Box<dyn SplitReader<Reading>>;
type Writer = Box<dyn SinkWriter<Reading>>;

fn context(on_error: OnError) -> IoContext {
    IoContext { on_error, ..IoContext::new("test", "readings") }
}

fn open(path: &Path, position: Option<&[u8]>, on_error: OnError) -> Result<Reader> {
    let source = JsonLines::<Reading>::path(path);
    let cx = context(on_error);
    let splits = source.splits(&cx)?;
    Source::open(&source, &splits[0], position, &cx)
}

fn writer(path: &Path, state: Option<&[u8]>) -> Result<Writer> {
    Sink::open(&JsonLines::<Reading>::path(path), state, &context(OnError::Fail))
}

/// Reads at most so many rows.
fn some(reader: &mut Reader, rows: usize) -> Result<(Vec<Reading>, ReadState)> {
    let mut batch = Batch::default();
    match reader.poll_read(&mut Context::from_waker(Waker::noop()), &mut batch, rows) {
        Poll::Ready(state) => Ok((batch.rows, state?)),
        // Lines that were passed over; it has woken its task.
        Poll::Pending => Ok((batch.rows, ReadState::More)),
    }
}

fn all(reader: &mut Reader) -> Result<Vec<Reading>> {
    let mut rows = Vec::new();
    loop {
        let (more, state) = some(reader, 100)?;
        rows.extend(more);
        if state == ReadState::End {
            return Ok(rows);
        }
    }
}

fn readings(count: usize) -> Vec<Reading> {
    let reading = |i: usize| Reading {
        at: i as i64 * 1000,
        sensor: ["north", "süd \"2\"", "two\nlines"][i % 3].to_owned(),
        value: (!i.is_multiple_of(4)).then_some(i as f64 / 8.0),
    };
    (0..count).map(reading).collect()
}

fn write(path: &Path, rows: &[Reading]) {
    let mut writer = writer(path, None).unwrap();
    for rows in rows.chunks(700) {
        writer.write(&mut Batch::untimed(rows.to_vec())).unwrap();
    }
    writer.end().unwrap();
}

fn refusal(text: &[u8]) -> Status {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    fs::write(&path, text).unwrap();
    all(&mut open(&path, None, OnError::Fail).unwrap()).unwrap_err()
}

#[test]
fn a_file_of_no_rows_is_a_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    for (name, empty) in [("r.jsonl", true), ("r.jsonl.gz", false), ("r.jsonl.zst", false)] {
        let path = dir.path().join(name);
        write(&path, &[]);
        assert_eq!(fs::read(&path).unwrap().is_empty(), empty, "{name}");
        assert_eq!(all(&mut open(&path, None, OnError::Fail).unwrap()).unwrap(), []);
    }
}

#[test]
fn what_is_written_is_read_again_plain_and_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let rows = readings(20_000);
    let mut sizes = Vec::new();
    for name in ["r.jsonl", "r.jsonl.gz", "r.jsonl.zst"] {
        let path = dir.path().join(name);
        write(&path, &rows);
        let mut reader = open(&path, None, OnError::Fail).unwrap();
        assert!(all(&mut reader).unwrap() == rows, "{name}");
        let size = path.metadata().unwrap().len();
        assert_eq!(reader.progress(), size);
        sizes.push(size);
        assert!(!dir.path().join(format!("{name}.part")).exists());
    }
    assert!(sizes[1] * 4 < sizes[0] && sizes[2] * 4 < sizes[0], "{sizes:?}");
}

#[test]
fn the_tools_of_others_read_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let rows = readings(9_000);
    let plain = dir.path().join("r.jsonl");
    write(&plain, &rows);
    for (name, tool) in [("r.jsonl.gz", "gzip"), ("r.jsonl.zst", "zstd")] {
        let path = dir.path().join(name);
        write(&path, &rows);
        // Not on every machine.
        let Ok(output) = Command::new(tool).arg("-dc").arg(&path).output() else { continue };
        assert!(output.status.success() && output.stdout == fs::read(&plain).unwrap(), "{tool}");
    }
}

#[test]
fn csv_files_are_compressed_by_their_names_too() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["r.csv.zst", "r.csv.gz"] {
        let path = dir.path().join(name);
        let sink = Csv::<Reading>::path(&path);
        let mut writer = Sink::open(&sink, None, &context(OnError::Fail)).unwrap();
        writer.write(&mut Batch::untimed(readings(5_000))).unwrap();
        writer.end().unwrap();
        assert!(path.metadata().unwrap().len() < 60_000, "{name}");
        let cx = context(OnError::Fail);
        let splits = sink.splits(&cx).unwrap();
        let mut reader = Source::open(&sink, &splits[0], None, &cx).unwrap();
        assert!(all(&mut reader).unwrap() == readings(5_000));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn from_every_position_the_rest_follows_exactly(
        count in 0_usize..300,
        first in 1_usize..120,
        name in prop::sample::select(vec!["r.jsonl", "r.jsonl.gz", "r.jsonl.zst"]),
        ended in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let rows = readings(count);
        write(&path, &rows);
        if name == "r.jsonl" && !ended && count > 0 {
            let text = fs::read(&path).unwrap();
            fs::write(&path, &text[..text.len() - 1]).unwrap();
        }
        let mut reader = open(&path, None, OnError::Fail).unwrap();
        let mut read = Vec::new();
        loop {
            let position = reader.position();
            let mut again = open(&path, Some(&position), OnError::Fail).unwrap();
            prop_assert_eq!(&all(&mut again).unwrap(), &rows[read.len()..]);
            let (more, state) = some(&mut reader, first).unwrap();
            read.extend(more);
            if state == ReadState::End { break; }
        }
        let mut again = open(&path, Some(&reader.position()), OnError::Fail).unwrap();
        prop_assert!(all(&mut again).unwrap().is_empty());
        prop_assert_eq!(read, rows);
    }

    #[test]
    fn a_writer_goes_on_exactly_where_the_checkpoint_was(
        cuts in prop::collection::vec(0_usize..2_000, 1..5),
        lost in 0_usize..900,
        name in prop::sample::select(vec!["r.jsonl", "r.jsonl.gz", "r.jsonl.zst"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let rows = readings(cuts.iter().sum());
        let mut state: Option<Vec<u8>> = None;
        let mut begin = 0;
        for cut in cuts {
            let mut writer = writer(&path, state.as_deref()).unwrap();
            writer.write(&mut Batch::untimed(rows[begin..begin + cut].to_vec())).unwrap();
            state = Some(writer.snapshot(1).unwrap());
            // Written behind the checkpoint by an attempt that then dies.
            writer.write(&mut Batch::untimed(readings(lost))).unwrap();
            begin += cut;
        }
        writer(&path, state.as_deref()).unwrap().end().unwrap();
        prop_assert!(all(&mut open(&path, None, OnError::Fail).unwrap()).unwrap() == rows);
    }

    #[test]
    fn a_compressed_file_that_is_cut_is_an_error_with_file_and_byte(
        name in prop::sample::select(vec!["r.jsonl.gz", "r.jsonl.zst"]),
        part in 0.02_f64..0.98,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        write(&path, &readings(3_000));
        let bytes = fs::read(&path).unwrap();
        let cut = (bytes.len() as f64 * part) as usize;
        fs::write(&path, &bytes[..cut]).unwrap();
        for on_error in [OnError::Fail, OnError::Skip] {
            let status = all(&mut open(&path, None, on_error).unwrap()).unwrap_err();
            prop_assert_eq!(status.code, Code::DataLoss);
            let expected = format!("cut off behind its byte {cut}; copy it again");
            prop_assert!(status.message.contains(name) && status.message.contains(&expected), "{}", status);
        }
    }
}

#[test]
fn a_wrong_line_is_named_with_file_line_column_field_value_and_cure() {
    let status = refusal(
        b"{\"at\":1,\"sensor\":\"a\",\"value\":null}\n\n{\"at\":\"noon\",\"sensor\":\"a\",\"value\":null}\n",
    );
    assert_eq!(status.code, Code::InvalidArgument);
    let expected =
        "r.jsonl line 3, column 12: field `at`, invalid type: string \"noon\", expected i64; the line is `{";
    assert!(status.message.contains(expected), "{status}");
    assert!(status.message.ends_with("source.on_error=skip"), "{status}");
}

#[test]
fn wrong_lines_are_counted_when_they_are_to_be_skipped_and_the_count_survives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    let good = "{\"at\":1,\"sensor\":\"a\",\"value\":null}\n";
    fs::write(&path, format!("{good}nonsense\n{good}{{}}\n\n{good}")).unwrap();
    let mut reader = open(&path, None, OnError::Skip).unwrap();
    assert_eq!(some(&mut reader, 3).unwrap().0.len(), 2);
    assert_eq!(reader.skipped(), 1);
    let mut again = open(&path, Some(&reader.position()), OnError::Skip).unwrap();
    assert_eq!(all(&mut again).unwrap().len(), 1);
    assert_eq!(again.skipped(), 2);
}

#[test]
fn a_line_without_end_does_not_fill_the_memory() {
    let mut text = vec![b'x'; LINE_BYTES_MAX + 10];
    let status = refusal(&text);
    assert!(
        status.message.contains("line 1, longer than 16777216 bytes; is a line end missing?"),
        "{status}"
    );
    text.extend(b"\n{\"at\":1,\"sensor\":\"a\",\"value\":null}\n");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    fs::write(&path, text).unwrap();
    let mut reader = open(&path, None, OnError::Skip).unwrap();
    assert_eq!((all(&mut reader).unwrap().len(), reader.skipped()), (1, 1));
}

#[test]
fn a_file_that_was_changed_since_the_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    write(&path, &readings(10));
    let mut reader = open(&path, None, OnError::Fail).unwrap();
    some(&mut reader, 5).unwrap();
    let position = reader.position();
    write(&path, &readings(2));
    let status = open(&path, Some(&position), OnError::Fail).err().unwrap();
    assert!(status.code == Code::DataLoss && status.message.contains("bytes of text"), "{status}");
    fs::write(&path, "x".repeat(5_000)).unwrap();
    let status = open(&path, Some(&position), OnError::Fail).err().unwrap();
    assert!(status.code == Code::DataLoss && status.message.contains("was changed"), "{status}");
    let status = open(&path, Some(b"old"), OnError::Fail).err().unwrap();
    assert!(status.message.contains("24 bytes, got 3"), "{status}");
}

#[test]
fn a_compressed_file_that_is_none_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for (name, packing) in [("r.jsonl.gz", "gzip"), ("r.jsonl.zst", "zstd")] {
        let path = dir.path().join(name);
        fs::write(&path, "{\"at\":1}\n{\"at\":1}\n").unwrap();
        let status = all(&mut open(&path, None, OnError::Fail).unwrap()).unwrap_err();
        assert_eq!(status.code, Code::DataLoss);
        assert!(status.message.contains(&format!("not {packing} data, as the name says")), "{status}");
    }
}

#[test]
fn text_lines_are_texts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.txt.gz");
    let cx = context(OnError::Fail);
    let mut writer = Sink::open(&TextLines::path(&path), None, &cx).unwrap();
    let rows = vec!["one".to_owned(), String::new(), "drei ß".to_owned()];
    writer.write(&mut Batch::untimed(rows.clone())).unwrap();
    let status = writer.write(&mut Batch::untimed(vec!["a\nb".to_owned()])).unwrap_err();
    assert!(status.message.contains("it would become two lines"), "{status}");
    writer.end().unwrap();
    let source = TextLines::path(dir.path());
    let splits = source.splits(&cx).unwrap();
    let mut reader = Source::open(&source, &splits[0], None, &cx).unwrap();
    let mut batch = Batch::default();
    let read = reader.poll_read(&mut Context::from_waker(Waker::noop()), &mut batch, 10);
    assert!(matches!(read, Poll::Ready(Ok(ReadState::End))));
    assert_eq!(batch.rows, rows);
}
