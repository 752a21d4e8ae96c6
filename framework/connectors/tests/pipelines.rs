//! Connectors in pipelines of the real engine: what comes in goes out, with a checkpoint and a restore too.
#![allow(clippy::unwrap_used)] // in the helpers of tests too

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use afflux_actor::test::system;
use afflux_actor::{Clock, Threads};
use afflux_connectors::{Files, JsonLines, TcpLines, TextLines};
use afflux_stream::job::{run_local, start_local};
use afflux_stream::{Flow, JobSettings, Plan, Restore};
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

fn flow(name: &str, parallelism: u32) -> Flow {
    Flow::new(name, JobSettings { parallelism, ..JobSettings::default() })
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline().unwrap())
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

/// No test waits for ever.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap()
}

/// The lines of all files of a directory that were written to their end, sorted.
fn lines_of(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        assert!(!path.to_str().unwrap().ends_with(".part"), "{} is not finished", path.display());
        lines.extend(fs::read_to_string(path).unwrap().lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

fn evens(input: &Path, output: &Path, parallelism: u32) -> Plan {
    let flow = flow("evens", parallelism);
    flow.source("numbers", JsonLines::<u64>::path(input))
        .untimed()
        .filter(|n| n % 2 == 0)
        .map(|n| n.to_string())
        .sink("out", TextLines::path(output.join("out.txt")));
    flow.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn files_come_out_whole_at_any_parallelism_also_from_a_checkpoint_in_the_middle(
        sizes in prop::collection::vec(0_usize..40_000, 1..6),
        parallelism in 1_u32..=4,
        restored in any::<bool>(),
    ) {
        let (input, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut next = 0;
        for (file, size) in sizes.iter().enumerate() {
            let text: String = (next..next + size).map(|n| format!("{n}\n")).collect();
            next += size;
            let packed = file % 2 == 0;
            let name = format!("{file}.jsonl{}", if packed { ".gz" } else { "" });
            let bytes = if packed {
                use std::io::Write;
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(text.as_bytes()).unwrap();
                packer.finish().unwrap()
            } else {
                text.into_bytes()
            };
            fs::write(input.path().join(name), bytes).unwrap();
        }
        let plan = evens(input.path(), output.path(), parallelism);
        system(|| async {
            let mut restore: Option<Restore> = None;
            if restored {
                let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
                // A run that ended before its checkpoint was complete leaves nothing to go on from.
                restore = soon(run.checkpoint(1)).await.ok();
            }
            let run = start_local(&plan, threads(), clock(), None, restore).unwrap();
            soon(run.finish()).await.unwrap();
        });
        let mut expected: Vec<String> = (0..next).filter(|n| n % 2 == 0).map(|n| n.to_string()).collect();
        expected.sort();
        prop_assert!(lines_of(output.path()) == expected);
    }
}

#[test]
fn what_falls_into_a_watched_directory_goes_out_over_tcp() {
    system(|| async {
        let inbox = tempfile::tempdir().unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let flow = flow("relay", 1);
        flow.source("inbox", Files::watch(inbox.path()).poll_every(Duration::from_millis(20)).text())
            .untimed()
            .map(|line: String| line.to_uppercase())
            .sink("out", TcpLines::connect(peer.local_addr().unwrap().to_string()).text());
        let plan = flow.finish().unwrap();
        let _run = start_local(&plan, threads(), clock(), None, None).unwrap();
        let mut seen: Option<tokio::io::Lines<BufReader<TcpStream>>> = None;
        for n in 0..3 {
            fs::write(inbox.path().join("next.part"), format!("line {n}\n")).unwrap();
            fs::rename(inbox.path().join("next.part"), inbox.path().join(format!("{n}.txt"))).unwrap();
            if seen.is_none() {
                seen = Some(BufReader::new(soon(peer.accept()).await.unwrap().0).lines());
            }
            let line = soon(seen.as_mut().unwrap().next_line()).await.unwrap();
            assert_eq!(line, Some(format!("LINE {n}")));
        }
    });
}

#[test]
fn what_comes_over_tcp_is_checkpointed_into_a_file() {
    system(|| async {
        let dir = tempfile::tempdir().unwrap();
        let listen = TcpLines::listen("127.0.0.1:0");
        let bound = listen.bound();
        let flow = flow("log", 1);
        flow.source("in", listen.json::<BTreeMap<String, u64>>())
            .untimed()
            .sink("out", JsonLines::path(dir.path().join("log.jsonl")));
        let plan = flow.finish().unwrap();
        let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
        let mut stream = TcpStream::connect(soon(bound.wait()).await).await.unwrap();
        stream.write_all(b"{\"a\":1}\n{\"a\":2}\n").await.unwrap();
        let part = dir.path().join("log.jsonl.part");
        let mut epoch = 0;
        let written = soon(async {
            loop {
                epoch += 1;
                run.checkpoint(epoch).await.unwrap();
                let text = fs::read_to_string(&part).unwrap();
                if text.lines().count() == 2 {
                    return text;
                }
            }
        });
        assert_eq!(written.await, "{\"a\":1}\n{\"a\":2}\n");
        // A line that is none ends the job, and the peer's connection with it.
        stream.write_all(b"nonsense\n").await.unwrap();
        let status = soon(run.finish()).await.unwrap_err();
        assert!(status.message.contains("source in: line 3 of peer 127.0.0.1:"), "{status}");
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty());
    });
}

#[test]
fn a_missing_input_is_named_with_the_step() {
    system(|| async {
        let flow = flow("none", 1);
        flow.source("numbers", JsonLines::<u64>::path("no/such.jsonl")).untimed().count("n");
        let status = run_local(&flow.finish().unwrap(), threads(), clock()).await.unwrap_err();
        assert!(status.message.contains("source numbers: cannot read `no/such.jsonl`"), "{status}");
    });
}

#[cfg(feature = "http")]
#[test]
fn a_post_is_confirmed_by_the_round_that_follows_it_and_reaches_subscribers() {
    use afflux_connectors::{HttpIngest, ServerSentEvents};
    system(|| async {
        let http = HttpIngest::listen("127.0.0.1:0").confirmed();
        let sink = ServerSentEvents::listen("127.0.0.1:0").sink::<u64>("squares");
        let (posts, events) = (http.bound(), sink.bound());
        let flow = flow("squares", 1);
        flow.source("numbers", http.source::<u64>("numbers")).untimed().map(|n| n * n).sink("events", sink);
        let plan = flow.finish().unwrap();
        let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
        let mut subscriber = TcpStream::connect(soon(events.wait()).await).await.unwrap();
        let get = "GET /events/squares HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 0\r\n\r\n";
        subscriber.write_all(get.as_bytes()).await.unwrap();
        let mut post = TcpStream::connect(soon(posts.wait()).await).await.unwrap();
        let head =
            "POST /ingest/numbers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close";
        post.write_all(format!("{head}\r\nContent-Length: 7\r\n\r\n[12, 3]").as_bytes()).await.unwrap();
        let answered = tokio::spawn(async move {
            let mut text = String::new();
            post.read_to_string(&mut text).await.unwrap();
            text
        });
        let mut round = 0;
        while !answered.is_finished() {
            round += 1;
            soon(run.confirm(round)).await.unwrap();
        }
        let answer = answered.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{\"accepted\":2}"), "{answer}");
        let mut lines = BufReader::new(subscriber).lines();
        let mut data = Vec::new();
        while data.len() < 2 {
            let line = soon(lines.next_line()).await.unwrap().unwrap();
            data.extend(line.strip_prefix("data: ").map(str::to_owned));
        }
        assert_eq!(data, ["144", "9"]);
    });
}
