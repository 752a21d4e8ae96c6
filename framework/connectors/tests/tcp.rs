//! Lines over TCP, over real sockets of loopback.
#![allow(clippy::unwrap_used)] // in the helpers of tests too

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use afflux_actor::test::{system, turns};
use afflux_connectors::{BoundAddress, TCP_LINE_BYTES_MAX, TCP_OUT_BYTES_MAX, TcpLines};
use afflux_stream::{Batch, IoContext, OnError, ReadState, Result, Sink, SinkWriter, Source, SplitReader};
use afflux_wire::Code;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Reader = Box<dyn SplitReader<String>>;
type Writer = Box<dyn SinkWriter<u64>>;

fn context(on_error: OnError) -> IoContext {
    IoContext { on_error, ..IoContext::new("test", "lines") }
}

/// No test waits for ever.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap()
}

fn open(on_error: OnError) -> (Reader, BoundAddress) {
    let listen = TcpLines::listen("127.0.0.1:0");
    let bound = listen.bound();
    let source = listen.text();
    let cx = context(on_error);
    let splits = source.splits(&cx).unwrap();
    (source.open(&splits[0], None, &cx).unwrap(), bound)
}

/// Reads until there are so many rows.
async fn rows(reader: &mut Reader, count: usize) -> Result<Vec<String>> {
    let mut batch = Batch::default();
    while batch.rows.len() < count {
        soon(poll_fn(|cx| reader.poll_read(cx, &mut batch, 100))).await?;
    }
    Ok(batch.rows)
}

/// The address, once the first poll has bound it.
async fn address(reader: &mut Reader, bound: &BoundAddress) -> std::net::SocketAddr {
    assert!(rows(reader, 0).await.unwrap().is_empty());
    let state = soon(poll_fn(|cx| reader.poll_read(cx, &mut Batch::default(), 1))).await.unwrap();
    assert_eq!(state, ReadState::CaughtUp);
    bound.wait().await
}

#[test]
fn the_lines_of_all_peers_come_in_each_in_its_order() {
    system(|| async {
        let (mut reader, bound) = open(OnError::Fail);
        let address = address(&mut reader, &bound).await;
        let mut peers = Vec::new();
        for peer in 0..5 {
            peers.push(tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                for line in 0..2_000 {
                    // In pieces that end anywhere; the last line has no end.
                    let text = format!("{peer} {line}{}", if line == 1_999 { "" } else { "\r\n" });
                    let (a, b) = text.split_at(line % text.len());
                    stream.write_all(a.as_bytes()).await.unwrap();
                    stream.write_all(b.as_bytes()).await.unwrap();
                }
            }));
        }
        let rows = rows(&mut reader, 10_000).await.unwrap();
        for peer in 0..5 {
            let mine: Vec<_> = rows.iter().filter(|r| r.starts_with(&format!("{peer} "))).cloned().collect();
            assert!(mine == (0..2_000).map(|line| format!("{peer} {line}")).collect::<Vec<_>>());
        }
        assert_eq!((rows.len(), reader.skipped()), (10_000, 0));
    });
}

#[test]
fn a_peer_is_held_back_while_nobody_reads() {
    system(|| async {
        let (mut reader, bound) = open(OnError::Fail);
        let address = address(&mut reader, &bound).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let line = "x".repeat(1_000) + "\n";
        let mut sent = 0;
        // Until the buffers of the operating system are full.
        while tokio::time::timeout(Duration::from_millis(200), stream.write_all(line.as_bytes()))
            .await
            .is_ok()
        {
            sent += 1;
            assert!(sent < 100_000, "nobody reads, and 100 MB were taken");
        }
        assert_eq!(rows(&mut reader, 1).await.unwrap()[0].len(), 1_000);
    });
}

#[test]
fn a_bad_line_stops_the_pipeline_with_its_peer_or_is_counted() {
    system(|| async {
        let (mut reader, bound) = open(OnError::Fail);
        let mut stream = TcpStream::connect(address(&mut reader, &bound).await).await.unwrap();
        stream.write_all(b"good\nbad \xff\n").await.unwrap();
        let status = rows(&mut reader, 2).await.unwrap_err();
        let peer = stream.local_addr().unwrap();
        assert!(status.message.contains(&format!("line 2 of peer {peer}, column 5: not UTF-8")), "{status}");

        let (mut reader, bound) = open(OnError::Skip);
        let to = address(&mut reader, &bound).await;
        let mut stream = TcpStream::connect(to).await.unwrap();
        let sender = tokio::spawn(async move {
            stream.write_all(b"bad \xff\n").await.unwrap();
            stream.write_all(&vec![b'x'; TCP_LINE_BYTES_MAX + 1]).await.unwrap();
            stream.write_all(b"\ngood\ncut off").await.unwrap();
            // An end that is none: what is not yet sent is thrown away and the peer is told so.
            stream
        });
        assert_eq!(rows(&mut reader, 1).await.unwrap(), ["good"]);
        assert_eq!(reader.skipped(), 2);
        let stream = sender.await.unwrap();
        #[allow(deprecated)] // what it warns of, an abrupt end, is what is wanted
        stream.set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        let mut batch = Batch::default();
        soon(poll_fn(|cx| {
            let _ = reader.poll_read(cx, &mut batch, 10).map(|state| state.unwrap());
            if reader.skipped() == 3 { Poll::Ready(()) } else { Poll::Pending }
        }))
        .await;
        assert!(batch.rows.is_empty());
    });
}

#[test]
fn other_machines_are_let_in_only_when_it_is_said() {
    let cx = context(OnError::Fail);
    let status = TcpLines::listen("0.0.0.0:0").text().splits(&cx).unwrap_err();
    assert!(status.code == Code::PermissionDenied && status.message.contains("open_to_network"), "{status}");
    assert!(TcpLines::listen("0.0.0.0:0").open_to_network().text().splits(&cx).is_ok());
}

fn writer(address: &str, patience: Duration) -> Writer {
    let sink = TcpLines::connect(address).patience(patience).json::<u64>();
    Sink::open(&sink, None, &context(OnError::Fail)).unwrap()
}

async fn send(writer: &mut Writer, numbers: std::ops::Range<u64>) {
    soon(poll_fn(|cx| writer.poll_ready(cx))).await.unwrap();
    writer.write(&mut Batch::untimed(numbers.collect())).unwrap();
}

#[test]
fn all_lines_reach_the_peer_and_the_connection_ends_in_order() {
    system(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut writer = writer(&listener.local_addr().unwrap().to_string(), Duration::from_secs(10));
        let reader = tokio::spawn(async move {
            let mut text = String::new();
            listener.accept().await.unwrap().0.read_to_string(&mut text).await.unwrap();
            text
        });
        for batch in 0..100 {
            send(&mut writer, batch * 1_000..(batch + 1) * 1_000).await;
        }
        soon(poll_fn(|cx| writer.poll_end(cx))).await.unwrap();
        let expected: String = (0..100_000).map(|n| format!("{n}\n")).collect();
        assert!(soon(reader).await.unwrap() == expected);
    });
}

#[test]
fn a_peer_that_reads_nothing_holds_the_pipeline_back() {
    system(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut writer = writer(&listener.local_addr().unwrap().to_string(), Duration::from_secs(10));
        let (mut bytes, mut held) = (0, false);
        while !held {
            let ready = poll_fn(|cx| writer.poll_ready(cx));
            held = tokio::time::timeout(Duration::from_millis(300), ready).await.is_err();
            if !held {
                writer.write(&mut Batch::untimed((1_000_000_000..1_000_010_000).collect())).unwrap();
                bytes += 110_000;
            }
            assert!(bytes < 100 * TCP_OUT_BYTES_MAX, "nobody reads, and {bytes} bytes were taken");
        }
    });
}

#[test]
fn a_peer_that_comes_back_gets_what_follows_in_whole_lines() {
    system(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut writer = writer(&address.to_string(), Duration::from_secs(20));
        send(&mut writer, 0..10).await;
        let flush = tokio::join!(soon(poll_fn(|cx| writer.poll_flush(cx))), soon(listener.accept()));
        flush.0.unwrap();
        let mut lines = BufReader::new(flush.1.unwrap().0).lines();
        for n in 0..10 {
            assert_eq!(soon(lines.next_line()).await.unwrap(), Some(n.to_string()));
        }
        drop(lines);
        drop(listener);
        // The reactor hears of it: what is written before that is lost, as TCP has it.
        turns(10).await;
        send(&mut writer, 10..20).await;
        // Nobody is there: it waits.
        let away = tokio::time::timeout(Duration::from_millis(200), poll_fn(|cx| writer.poll_flush(cx)));
        assert!(away.await.is_err());
        let listener = TcpListener::bind(address).await.unwrap();
        let back = tokio::join!(soon(poll_fn(|cx| writer.poll_end(cx))), soon(listener.accept()));
        back.0.unwrap();
        let mut text = String::new();
        back.1.unwrap().0.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, (10..20).map(|n| format!("{n}\n")).collect::<String>());
    });
}

#[test]
fn a_peer_that_stays_away_fails_the_pipeline_with_its_address() {
    system(|| async {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = gone.local_addr().unwrap().to_string();
        drop(gone);
        let mut writer = writer(&address, Duration::from_millis(200));
        send(&mut writer, 0..1).await;
        let status = soon(poll_fn(|cx| writer.poll_flush(cx))).await.unwrap_err();
        assert!(status.code == Code::Unavailable && status.message.contains(&address), "{status}");
        assert!(status.message.contains("start what listens there"), "{status}");
    });
    let sink = TcpLines::connect("nowhere").text();
    let status = Sink::open(&sink, None, &context(OnError::Fail)).err().unwrap();
    assert!(status.message.contains("`nowhere` is not HOST:PORT"), "{status}");
}
