//! Records over HTTP, by requests over real sockets of loopback.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used)] // in the helpers of tests too

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use afflux_actor::test::system;
use afflux_connectors::{EventSink, HttpIngest, SUBSCRIBER_EVENTS_MAX, ServerSentEvents};
use afflux_stream::{Batch, IoContext, OnError, Sink, SinkWriter, Source, SplitReader};
use afflux_wire::Code;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
}

type Reader = Box<dyn SplitReader<Order>>;

fn context() -> IoContext {
    IoContext { on_error: OnError::Fail, ..IoContext::new("test", "http") }
}

/// No test waits for ever.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap()
}

/// Opens the source `name` and polls it until it listens.
async fn open(http: &HttpIngest, name: &str) -> (Reader, SocketAddr) {
    let source = http.source::<Order>(name);
    let splits = source.splits(&context()).unwrap();
    let mut reader = source.open(&splits[0], None, &context()).unwrap();
    let bound = http.bound();
    let listening = poll_fn(|cx| {
        if let Poll::Ready(state) = reader.poll_read(cx, &mut Batch::default(), 1) {
            state.unwrap();
            cx.waker().wake_by_ref();
        }
        bound.get().map_or(Poll::Pending, Poll::Ready)
    });
    let address = soon(listening).await;
    (reader, address)
}

async fn ids(reader: &mut Reader, count: usize) -> Vec<u64> {
    let mut batch = Batch::default();
    while batch.rows.len() < count {
        let left = count - batch.rows.len();
        soon(poll_fn(|cx| reader.poll_read(cx, &mut batch, left))).await.unwrap();
    }
    batch.rows.into_iter().map(|o| o.id).collect()
}

/// One request: the head and the body of its answer.
async fn request(address: SocketAddr, head: &str, body: &[u8]) -> (String, String) {
    let mut socket = soon(TcpStream::connect(address)).await.unwrap();
    let length = body.len();
    let head = format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses may close before it has read all.
    let _ = socket.write_all(body).await;
    let mut text = Vec::new();
    let _ = soon(socket.read_to_end(&mut text)).await;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

async fn post(address: SocketAddr, name: &str, content_type: &str, body: &[u8]) -> (String, String) {
    let head = format!("POST /ingest/{name} HTTP/1.1\r\nContent-Type: {content_type}");
    request(address, &head, body).await
}

fn has_status(answer: &(String, String), status: u16) -> bool {
    answer.0.starts_with(&format!("http/1.1 {status} "))
}

#[test]
fn what_is_posted_comes_out_whatever_form_it_has() {
    system(|| async {
        let http = HttpIngest::listen("127.0.0.1:0");
        let (mut orders, address) = open(&http, "orders").await;
        let (mut returns, again) = open(&http, "returns").await;
        assert_eq!(address, again);
        for (content_type, body) in [
            ("application/json", &br#"{"id":1}"#[..]),
            ("application/json; charset=utf-8", br#"[{"id":2},{"id":3}]"#),
            ("application/x-ndjson", b"{\"id\":4}\n{\"id\":5}\n"),
            ("application/msgpack", b"\x92\x81\xa2id\x06\x81\xa2id\x07"),
        ] {
            let answer = post(address, "orders", content_type, body).await;
            assert!(has_status(&answer, 202) && answer.1.contains("accepted"), "{answer:?}");
        }
        assert!(has_status(&post(address, "returns", "application/json", br#"{"id":9}"#).await, 202));
        assert_eq!(ids(&mut orders, 7).await, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(ids(&mut returns, 1).await, [9]);
    });
}

#[test]
fn a_full_queue_is_told_with_when_to_come_again_and_takes_nothing() {
    system(|| async {
        let http = HttpIngest::listen("127.0.0.1:0").queue_rows(3);
        let (mut reader, address) = open(&http, "orders").await;
        assert!(has_status(
            &post(address, "orders", "application/json", br#"[{"id":1},{"id":2}]"#).await,
            202
        ));
        let answer = post(address, "orders", "application/json", br#"[{"id":3},{"id":4}]"#).await;
        assert!(has_status(&answer, 429) && answer.0.contains("retry-after: 1"), "{answer:?}");
        assert!(answer.1.contains("2 records wait already, and the queue holds 3"), "{answer:?}");
        assert_eq!(ids(&mut reader, 2).await, [1, 2]);
        assert!(has_status(
            &post(address, "orders", "application/json", br#"[{"id":3},{"id":4}]"#).await,
            202
        ));
        assert_eq!(ids(&mut reader, 2).await, [3, 4]);
        let many = serde_json::to_vec(&vec![Order { id: 0 }; 4]).unwrap();
        assert!(has_status(&post(address, "orders", "application/json", &many).await, 413));
    });
}

#[test]
fn what_is_refused_is_refused_with_the_reason_and_counted() {
    system(|| async {
        let http = HttpIngest::listen("127.0.0.1:0").body_bytes(100).token("secret");
        let (reader, address) = open(&http, "orders").await;
        let answer = post(address, "orders", "application/json", br#"{"id":1}"#).await;
        assert!(has_status(&answer, 401) && answer.0.contains("www-authenticate: bearer"), "{answer:?}");
        let wrong =
            "POST /ingest/orders HTTP/1.1\r\nContent-Type: application/json\r\nAuthorization: Bearer secreT";
        assert!(has_status(&request(address, wrong, br#"{"id":1}"#).await, 401));
        let head = "HTTP/1.1\r\nAuthorization: Bearer secret\r\nContent-Type:";
        let orders = format!("POST /ingest/orders {head}");
        let long = [b' '; 101];
        for (head, body, status, part) in [
            (format!("{orders} application/json"), &br#"{"id":1}"#[..], 202, "accepted"),
            (format!("{orders} application/json"), br#"[{"id":1},{"id":-2}]"#, 400, "field `[1].id`"),
            (format!("{orders} application/json"), &long, 413, "longer than 100 bytes"),
            (format!("{orders} text/plain"), br#"{"id":1}"#, 415, "application/msgpack"),
            (
                format!("{orders} application/json\r\nContent-Encoding: gzip"),
                b"x",
                415,
                "`Content-Encoding: gzip` is not taken",
            ),
            (format!("POST /ingest/order {head} application/json"), b"", 404, "there is orders"),
            (format!("GET /ingest/orders {head} application/json"), b"", 405, "with POST"),
            (format!("POST /nowhere {head} application/json"), b"", 404, "/ingest/NAME"),
        ] {
            let answer = request(address, &head, body).await;
            assert!(has_status(&answer, status) && answer.1.contains(part), "{head} {answer:?}");
        }
        assert_eq!(reader.skipped(), 1);
    });
}

#[test]
fn a_confirmed_post_is_answered_when_the_sinks_have_it() {
    system(|| async {
        let http = HttpIngest::listen("127.0.0.1:0").confirmed_within(Duration::from_secs(20));
        assert!(http.source::<Order>("orders").acknowledges());
        let (mut reader, address) = open(&http, "orders").await;
        let posted = tokio::spawn(async move {
            post(address, "orders", "application/json", br#"[{"id":1},{"id":2}]"#).await
        });
        assert_eq!(ids(&mut reader, 1).await, [1]);
        reader.barrier(1);
        assert_eq!(ids(&mut reader, 1).await, [2]);
        reader.barrier(2);
        reader.completed(1);
        // The second record is not confirmed yet: nothing can have been answered.
        afflux_actor::test::turns(20).await;
        assert!(!posted.is_finished());
        reader.completed(2);
        assert!(has_status(&soon(posted).await.unwrap(), 200));

        let http = HttpIngest::listen("127.0.0.1:0").confirmed_within(Duration::from_millis(50));
        let (_reader, address) = open(&http, "orders").await;
        let answer = post(address, "orders", "application/json", br#"{"id":1}"#).await;
        assert!(has_status(&answer, 504) && answer.1.contains("may still come through"), "{answer:?}");
    });
}

#[test]
fn a_reader_that_ends_frees_its_port_for_the_next_attempt() {
    system(|| async {
        let http = HttpIngest::listen("127.0.0.1:0");
        let (reader, address) = open(&http, "orders").await;
        drop(reader);
        assert_eq!(http.bound().get(), None);
        let again = HttpIngest::listen(address.to_string());
        let (mut reader, bound) = open(&again, "orders").await;
        assert_eq!(bound, address);
        assert!(has_status(&post(address, "orders", "application/json", br#"{"id":1}"#).await, 202));
        assert_eq!(ids(&mut reader, 1).await, [1]);
    });
}

#[test]
fn what_other_machines_reach_needs_a_token() {
    let refused = HttpIngest::listen("0.0.0.0:0").source::<Order>("orders").splits(&context()).unwrap_err();
    assert!(refused.code == Code::PermissionDenied && refused.message.contains(".token("), "{refused}");
    let empty = HttpIngest::listen("0.0.0.0:0").token("").source::<Order>("orders").splits(&context());
    assert_eq!(empty.unwrap_err().code, Code::PermissionDenied);
    assert!(HttpIngest::listen("0.0.0.0:0").token("t").source::<Order>("orders").splits(&context()).is_ok());
    let refused = HttpIngest::listen("127.0.0.1:0").source::<Order>("a/b").splits(&context()).unwrap_err();
    assert!(refused.message.contains("`a/b` cannot be part of an address"), "{refused}");
    let sink = ServerSentEvents::listen("0.0.0.0:0").sink::<Order>("orders");
    let refused = Sink::open(&sink, None, &context()).err().unwrap();
    assert_eq!(refused.code, Code::PermissionDenied);
}

type Writer = Box<dyn SinkWriter<Order>>;

async fn writer(sink: &EventSink<Order>, state: Option<&[u8]>) -> (Writer, SocketAddr) {
    let mut writer = Sink::open(sink, state, &context()).unwrap();
    soon(poll_fn(|cx| writer.poll_ready(cx))).await.unwrap();
    (writer, soon(sink.bound().wait()).await)
}

fn send(writer: &mut Writer, ids: std::ops::Range<u64>) {
    writer.write(&mut Batch::untimed(ids.map(|id| Order { id }).collect())).unwrap();
}

/// A subscriber that is known to be there.
async fn subscribe(address: SocketAddr, more: &str) -> Lines<BufReader<TcpStream>> {
    let mut socket = soon(TcpStream::connect(address)).await.unwrap();
    let head = format!("GET /events/orders HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(socket).lines();
    while soon(lines.next_line()).await.unwrap().unwrap() != ": subscribed" {}
    lines
}

/// The next lines that are part of an event, not of the chunks that HTTP cuts them into.
async fn lines(from: &mut Lines<BufReader<TcpStream>>, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let Some(line) = soon(from.next_line()).await.unwrap() else { break };
        if ["id: ", "data: ", "event: "].iter().any(|start| line.starts_with(start)) {
            found.push(line);
        }
    }
    found
}

#[test]
fn subscribers_are_sent_events_and_get_what_they_missed() {
    system(|| async {
        let sink = ServerSentEvents::listen("127.0.0.1:0").keep(4).sink::<Order>("orders");
        let (mut writer, address) = writer(&sink, None).await;
        send(&mut writer, 0..3);
        let mut subscriber = subscribe(address, "").await;
        send(&mut writer, 3..5);
        let expected = ["id: 4", "data: {\"id\":3}", "id: 5", "data: {\"id\":4}"];
        assert_eq!(lines(&mut subscriber, 4).await, expected);
        let mut back = subscribe(address, "Last-Event-ID: 3\r\n").await;
        assert_eq!(lines(&mut back, 4).await, expected);
        let mut late = subscribe(address, "Last-Event-ID: 0\r\n").await;
        assert_eq!(lines(&mut late, 3).await, ["event: gap", "data: {\"from\":1,\"next\":2}", "id: 2"]);
        let state = writer.snapshot(1).unwrap();
        soon(poll_fn(|cx| writer.poll_end(cx))).await.unwrap();
        assert_eq!(lines(&mut subscriber, 2).await, ["event: end", "data: {}"]);
        // Numbers go on.
        let again = Sink::open(&sink, Some(&state), &context()).unwrap().snapshot(1).unwrap();
        assert_eq!(again, 6_u64.to_le_bytes());
        assert!(Sink::open(&sink, Some(b"x"), &context()).is_err());
    });
}

#[test]
fn a_subscriber_that_reads_nothing_is_let_go_and_holds_nobody_back() {
    system(|| async {
        let sink = ServerSentEvents::listen("127.0.0.1:0").sink::<Order>("orders");
        let dropped = sink.dropped();
        let (mut writer, address) = writer(&sink, None).await;
        let _slow = subscribe(address, "").await;
        let mut sent = 0;
        while dropped() == 0 {
            let more = SUBSCRIBER_EVENTS_MAX as u64;
            send(&mut writer, sent..sent + more);
            sent += more;
            assert!(sent < 100 * 1024 * 1024, "nobody reads, and {sent} events were taken");
        }
        let mut fast = subscribe(address, "").await;
        send(&mut writer, 7..8);
        assert_eq!(lines(&mut fast, 2).await, [format!("id: {}", sent + 1), "data: {\"id\":7}".to_owned()]);
    });
}

#[test]
fn who_may_not_subscribe_is_told_why() {
    system(|| async {
        let sink = ServerSentEvents::listen("127.0.0.1:0").token("t").sink::<Order>("orders");
        let (_writer, address) = writer(&sink, None).await;
        let ask = |more: &'static str| request(address, more, b"");
        assert!(has_status(&ask("GET /events/orders HTTP/1.1").await, 401));
        let answer = ask("GET /events/order HTTP/1.1\r\nAuthorization: Bearer t").await;
        assert!(has_status(&answer, 404) && answer.1.contains("there are orders"), "{answer:?}");
        let answer = ask("GET /events/orders HTTP/1.1\r\nAuthorization: Bearer t\r\nLast-Event-ID: x").await;
        assert!(has_status(&answer, 400) && answer.1.contains("`Last-Event-ID: x`"), "{answer:?}");
    });
}
