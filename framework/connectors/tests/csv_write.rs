//! Writing CSV files: what is written, when it is seen, and going on from a checkpoint.
#![allow(clippy::unwrap_used)] // in the helpers of tests too

use std::fs;
use std::path::Path;
use std::task::{Context, Poll, Waker};

use afflux_connectors::Csv;
use afflux_stream::{Batch, IoContext, Result, Sink, SinkWriter, Source, Timestamp};
use afflux_wire::Code;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    window_start: Timestamp,
    origin: String,
    max_delay_min: Option<i64>,
}

const HEADER: &str = "window_start,origin,max_delay_min\n";

fn context() -> IoContext {
    IoContext::new("test", "out")
}

type Writer = Box<dyn SinkWriter<Row>>;

fn plain(path: &Path, state: Option<&[u8]>) -> Result<Writer> {
    Sink::open(&Csv::<Row>::path(path), state, &context())
}

fn ordered(path: &Path, state: Option<&[u8]>) -> Result<Writer> {
    Csv::<Row>::path(path).ordered_by_window().open(state, &context())
}

fn row(hour: i64, origin: &str) -> (i64, Row) {
    let start = hour * 3_600_000;
    let row = Row {
        window_start: Timestamp::from_millis(start),
        origin: origin.to_owned(),
        max_delay_min: (origin != "EWR").then_some(hour),
    };
    (start + 3_599_999, row)
}

fn write(writer: &mut Writer, rows: &[(i64, Row)]) {
    let mut batch =
        Batch { rows: rows.iter().map(|r| r.1.clone()).collect(), times: rows.iter().map(|r| r.0).collect() };
    writer.write(&mut batch).unwrap();
    assert!(batch.is_empty() && batch.times.is_empty());
}

fn passed(writer: &mut Writer, hour: i64) {
    writer.watermark(Timestamp::from_millis(hour * 3_600_000)).unwrap();
}

#[test]
fn a_file_is_seen_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/on/the/way/x.csv");
    let mut writer = plain(&path, None).unwrap();
    write(&mut writer, &[row(1, "JFK"), row(0, "EWR")]);
    writer.snapshot(1).unwrap();
    assert!(!path.exists());
    writer.end().unwrap();
    let expected = format!("{HEADER}1970-01-01T01:00:00Z,JFK,1\n1970-01-01T00:00:00Z,EWR,\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn an_attempt_that_ends_early_leaves_an_older_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    fs::write(&path, "older").unwrap();
    let mut writer = plain(&path, None).unwrap();
    write(&mut writer, &[row(1, "JFK")]);
    drop(writer);
    assert_eq!(fs::read_to_string(&path).unwrap(), "older");
    plain(&path, None).unwrap().end().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), HEADER, "the new one starts anew");
}

#[test]
fn windows_are_written_sorted_and_once_the_watermark_has_passed_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let part = dir.path().join("x.csv.part");
    let mut writer = ordered(&path, None).unwrap();
    write(&mut writer, &[row(1, "LGA"), row(0, "LGA"), row(1, "EWR"), row(0, "JFK")]);
    passed(&mut writer, 0);
    writer.snapshot(1).unwrap();
    assert_eq!(fs::read_to_string(&part).unwrap(), "");
    passed(&mut writer, 1);
    writer.snapshot(2).unwrap();
    let first = format!("{HEADER}1970-01-01T00:00:00Z,JFK,0\n1970-01-01T00:00:00Z,LGA,0\n");
    assert_eq!(fs::read_to_string(&part).unwrap(), first);
    writer.end().unwrap();
    let rest = "1970-01-01T01:00:00Z,EWR,\n1970-01-01T01:00:00Z,LGA,1\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), first + rest);
}

#[test]
fn an_attempt_that_goes_on_is_not_disturbed_by_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let mut old = plain(&path, None).unwrap();
    write(&mut old, &[row(0, "JFK")]);
    let state = old.snapshot(1).unwrap();
    write(&mut old, &[row(7, "JFK")]);
    let mut new = plain(&path, Some(&state)).unwrap();
    write(&mut new, &[row(1, "JFK")]);
    assert_eq!(old.snapshot(2).unwrap_err().code, Code::Aborted);
    assert_eq!(old.end().unwrap_err().code, Code::Aborted);
    drop(old);
    new.end().unwrap();
    let expected = format!("{HEADER}1970-01-01T00:00:00Z,JFK,0\n1970-01-01T01:00:00Z,JFK,1\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn a_restore_after_the_end_goes_on_from_the_finished_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let mut first = ordered(&path, None).unwrap();
    write(&mut first, &[row(0, "JFK"), row(1, "JFK")]);
    passed(&mut first, 1);
    let state = first.snapshot(1).unwrap();
    first.end().unwrap();
    let whole = fs::read(&path).unwrap();
    ordered(&path, Some(&state)).unwrap().end().unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn a_changed_or_lost_unfinished_file_is_data_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let mut writer = plain(&path, None).unwrap();
    write(&mut writer, &[row(0, "JFK")]);
    let state = writer.snapshot(1).unwrap();
    drop(writer);
    let part = dir.path().join("x.csv.part");
    let text = fs::read_to_string(&part).unwrap();
    fs::write(&part, text.replace("JFK", "LGA")).unwrap();
    let status = plain(&path, Some(&state)).err().unwrap();
    assert_eq!(status.code, Code::DataLoss);
    assert!(status.message.contains("x.csv.part"), "{status}");
    fs::remove_file(&part).unwrap();
    let status = plain(&path, Some(&state)).err().unwrap();
    assert!(status.message.contains("x.csv`: no such file"), "{status}");
    let status = plain(&path, Some(b"junk")).err().unwrap();
    assert_eq!(status.code, Code::DataLoss);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let status = plain(dir.path(), None).err().unwrap();
    assert!(status.message.contains("is a directory; name the file"), "{status}");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let status = plain(&file.join("x.csv"), None).err().unwrap();
    assert!(status.message.contains("cannot make the directory"), "{status}");
}

fn some_rows() -> impl Strategy<Value = Vec<(i64, Row)>> {
    let text = prop_oneof![Just("JFK".to_owned()), "[ -~\"\n,é]{0,6}"];
    let row = (0_i64..4, text, any::<Option<i64>>()).prop_map(|(hour, origin, max_delay_min)| {
        let (time, row) = row(hour, "");
        (time, Row { origin, max_delay_min, ..row })
    });
    proptest::collection::vec(row, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(rows in some_rows()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        let mut writer = plain(&path, None).unwrap();
        write(&mut writer, &rows);
        writer.end().unwrap();
        let source = Csv::<Row>::path(&path);
        let splits = source.splits(&context()).unwrap();
        let mut reader = Source::open(&source, &splits[0], None, &context()).unwrap();
        let mut batch = Batch::default();
        let mut cx = Context::from_waker(Waker::noop());
        prop_assert!(matches!(reader.poll_read(&mut cx, &mut batch, 100), Poll::Ready(Ok(_))));
        prop_assert_eq!(batch.rows, rows.into_iter().map(|r| r.1).collect::<Vec<_>>());
    }

    #[test]
    fn a_restore_anywhere_gives_the_same_bytes(
        rows in some_rows(), cut in 0_usize..40, lost in 0_usize..40, in_order: bool, hour in 0_i64..4,
    ) {
        let open = |path: &Path, state: Option<&[u8]>| if in_order { ordered(path, state) } else { plain(path, state) };
        let dir = tempfile::tempdir().unwrap();
        let cut = cut.min(rows.len());
        let (before, after) = rows.split_at(cut);
        // A watermark at the cut: what comes behind it is not older.
        let after: Vec<_> = after.iter().map(|(t, r)| (t + 14_400_000, r.clone())).collect();
        let straight = dir.path().join("a.csv");
        let mut writer = open(&straight, None).unwrap();
        write(&mut writer, before);
        passed(&mut writer, hour);
        write(&mut writer, &after);
        writer.end().unwrap();

        let broken = dir.path().join("b.csv");
        let mut writer = open(&broken, None).unwrap();
        write(&mut writer, before);
        let state = writer.snapshot(1).unwrap();
        passed(&mut writer, 9);
        write(&mut writer, &after[..lost.min(after.len())]);
        drop(writer);
        for _ in 0..2 {
            // The second time the first restore has failed in turn.
            let mut writer = open(&broken, Some(&state)).unwrap();
            passed(&mut writer, hour);
            write(&mut writer, &after);
            drop(writer);
        }
        let mut writer = open(&broken, Some(&state)).unwrap();
        passed(&mut writer, hour);
        write(&mut writer, &after);
        writer.end().unwrap();
        prop_assert_eq!(fs::read(&straight).unwrap(), fs::read(&broken).unwrap());
    }
}
