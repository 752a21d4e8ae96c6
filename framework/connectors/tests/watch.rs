//! A directory watched for new files: what is read, when, once, and from a checkpoint on.
#![allow(clippy::unwrap_used)] // in the helpers of tests too

use std::future::poll_fn;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::{fs, task::Poll};

use afflux_actor::test::paused;
use afflux_connectors::Files;
use afflux_stream::{Batch, IoContext, OnError, ReadState, Result, Source, SplitReader};
use afflux_wire::Code;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

type Reader<T> = Box<dyn SplitReader<T>>;

fn context(on_error: OnError) -> IoContext {
    IoContext { on_error, ..IoContext::new("test", "inbox") }
}

fn open(dir: &Path, position: Option<&[u8]>, on_error: OnError) -> Result<Reader<String>> {
    let source = Files::watch(dir).poll_every(Duration::from_secs(60)).text();
    let cx = context(on_error);
    let splits = source.splits(&cx)?;
    source.open(&splits[0], position, &cx)
}

/// Reads until the reader says that it has caught up.
async fn caught_up<T>(reader: &mut Reader<T>) -> Result<Vec<T>> {
    let mut batch = Batch::default();
    loop {
        match poll_fn(|cx| reader.poll_read(cx, &mut batch, 2)).await? {
            ReadState::More => {}
            ReadState::CaughtUp => return Ok(batch.rows),
            ReadState::End => panic!("a watched directory has no end"),
        }
    }
}

/// Waits for records, polls of the directory long, and reads until the reader has caught up again.
async fn next<T>(reader: &mut Reader<T>) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    while rows.is_empty() {
        rows = caught_up(reader).await?;
    }
    Ok(rows)
}

/// Lets the clock pass so many polls of the directory, in which nothing may come.
async fn silence<T>(reader: &mut Reader<T>, polls: u32) {
    let mut batch = Batch::default();
    let quiet = tokio::time::timeout(
        Duration::from_secs(60) * polls,
        poll_fn(|cx| match reader.poll_read(cx, &mut batch, 100) {
            Poll::Ready(Ok(ReadState::CaughtUp)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }),
    );
    assert!(quiet.await.is_err() && batch.rows.is_empty(), "{} rows came", batch.rows.len());
}

#[test]
fn new_files_are_read_once_in_the_order_of_their_names() {
    paused(|| async {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b.txt"), "b1\nb2\n").unwrap();
        fs::write(dir.path().join("a.txt"), "a1\na2\na3").unwrap();
        let mut reader = open(dir.path(), None, OnError::Fail).unwrap();
        assert_eq!(next(&mut reader).await.unwrap(), ["a1", "a2", "a3", "b1", "b2"]);
        silence(&mut reader, 5).await;
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"c1\n").unwrap();
        fs::write(dir.path().join("c.txt.gz"), packed.finish().unwrap()).unwrap();
        // Under other names while they are written, and empty.
        fs::write(dir.path().join("d.txt.part"), "d1\n").unwrap();
        fs::write(dir.path().join(".e.txt"), "e1\n").unwrap();
        fs::write(dir.path().join("f.txt"), "").unwrap();
        assert_eq!(next(&mut reader).await.unwrap(), ["c1"]);
        silence(&mut reader, 5).await;
        fs::rename(dir.path().join("d.txt.part"), dir.path().join("d.txt")).unwrap();
        assert_eq!(next(&mut reader).await.unwrap(), ["d1"]);
    });
}

#[test]
fn a_file_is_not_read_while_it_grows() {
    paused(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = open(dir.path(), None, OnError::Fail).unwrap();
        assert!(caught_up(&mut reader).await.unwrap().is_empty());
        let mut file = fs::File::create(dir.path().join("a.txt")).unwrap();
        for line in 0..20 {
            writeln!(file, "line {line}").unwrap();
            // One poll of the directory between two writes.
            silence(&mut reader, 1).await;
        }
        assert_eq!(next(&mut reader).await.unwrap().len(), 20);
    });
}

#[test]
fn from_every_position_the_rest_follows_exactly() {
    paused(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for name in ["a", "b", "c"] {
            let lines: Vec<String> = (0..7).map(|i| format!("{name}{i}")).collect();
            fs::write(dir.path().join(format!("{name}.txt")), lines.join("\n")).unwrap();
            expected.extend(lines);
        }
        let mut reader = open(dir.path(), None, OnError::Fail).unwrap();
        let mut read: Vec<String> = Vec::new();
        while read.len() < expected.len() {
            let position = reader.position();
            let mut again = open(dir.path(), Some(&position), OnError::Fail).unwrap();
            let mut rest = Vec::new();
            while read.len() + rest.len() < expected.len() {
                rest.extend(next(&mut again).await.unwrap());
            }
            assert_eq!(rest, expected[read.len()..]);
            silence(&mut again, 3).await;
            let mut batch = Batch::default();
            poll_fn(|cx| reader.poll_read(cx, &mut batch, 2)).await.unwrap();
            read.extend(batch.rows);
        }
        assert_eq!(read, expected);
        let status = open(dir.path(), Some(b""), OnError::Fail).err().unwrap();
        assert_eq!(status.code, Code::DataLoss);
    });
}

#[test]
fn a_name_is_forgotten_with_its_file_and_not_before() {
    paused(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "one\n").unwrap();
        let mut reader = open(dir.path(), None, OnError::Fail).unwrap();
        assert_eq!(next(&mut reader).await.unwrap(), ["one"]);
        fs::write(&path, "one and more\n").unwrap();
        silence(&mut reader, 5).await;
        let long = reader.position().len();
        fs::remove_file(&path).unwrap();
        silence(&mut reader, 2).await;
        assert!(reader.position().len() < long);
        fs::write(&path, "two\n").unwrap();
        assert_eq!(next(&mut reader).await.unwrap(), ["two"]);
    });
}

#[test]
fn several_readers_share_the_files_and_read_each_once() {
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    struct Row {
        n: u32,
    }
    paused(|| async {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..20 {
            fs::write(dir.path().join(format!("{n}.csv")), format!("n\n{n}\n")).unwrap();
            fs::write(dir.path().join(format!("{n}.jsonl")), format!("{{\"n\":{n}}}\n")).unwrap();
        }
        let cx = context(OnError::Fail);
        for source in
            [Files::watch(dir.path()).splits(3).csv::<Row>(), Files::watch(dir.path()).splits(3).json()]
        {
            let mut rows = Vec::new();
            let splits = source.splits(&cx).unwrap();
            assert_eq!(splits.len(), 3);
            for split in &splits {
                let mine = next(&mut source.open(split, None, &cx).unwrap()).await.unwrap();
                assert!(mine.len() < 20);
                rows.extend(mine);
            }
            rows.sort();
            assert_eq!(rows, (0..20).map(|n| Row { n }).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_damaged_file_stops_the_pipeline_or_is_counted_and_passed_over() {
    paused(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"a1\na2\n").unwrap();
        let packed = packed.finish().unwrap();
        fs::write(dir.path().join("a.txt.gz"), &packed[..packed.len() - 9]).unwrap();
        fs::write(dir.path().join("b.txt"), "b1\n\u{e9}\n").unwrap();
        fs::write(dir.path().join("c.txt"), b"c1\n\xe9\nc3\n").unwrap();
        let mut reader = open(dir.path(), None, OnError::Fail).unwrap();
        let status = next(&mut reader).await.unwrap_err();
        assert!(status.message.contains("a.txt.gz") && status.message.contains("cut off"), "{status}");
        let mut reader = open(dir.path(), None, OnError::Skip).unwrap();
        let rows = next(&mut reader).await.unwrap();
        assert_eq!(rows[rows.len() - 4..], ["b1", "\u{e9}", "c1", "c3"]);
        assert_eq!(reader.skipped(), 2);
        silence(&mut reader, 3).await;
        let again = open(dir.path(), Some(&reader.position()), OnError::Skip).unwrap();
        assert_eq!(again.skipped(), 2);
    });
}

#[test]
fn what_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let status = open(&dir.path().join("none"), None, OnError::Fail).err().unwrap();
    assert!(status.code == Code::NotFound && status.message.contains("cannot watch"), "{status}");
    fs::write(dir.path().join("f"), "x").unwrap();
    let status = open(&dir.path().join("f"), None, OnError::Fail).err().unwrap();
    assert!(status.message.contains("is a file; name the directory"), "{status}");
}
