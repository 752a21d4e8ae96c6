//! Streaming methods over HTTP, through a node that does not offer them itself: Server-Sent Events, and a line an item.

#![allow(clippy::unwrap_used, missing_docs, reason = "these are tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder};
use afflux_mesh::{MemoryNetwork, Transport};
use serde_json::{Value, json};

/// Limits every wait.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
pub enum FeedError {
    #[rpc(code = ResourceExhausted, retry_after_ms = 1500)]
    UsedUp { left: u32 },
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
pub struct Tick {
    pub number: u64,
}

/// Feeds.
#[derive(Service)]
#[service(name = "shop.feed", version = "1.0", error = FeedError)]
pub enum Feed {
    /// Sends so many; then ends, or fails.
    #[rpc(streams = Tick)]
    Count { to: u64, fails: bool },
    /// Fails before the first item.
    #[rpc(streams = Tick)]
    Refuse,
    /// Sends until nobody listens.
    #[rpc(streams = Tick)]
    Endless,
    #[rpc(accepts = Tick, returns = u64)]
    Sum,
}

#[derive(Actor)]
#[actor(serves(Feed))]
struct Desk {
    left: Arc<AtomicBool>,
}

impl FeedHandler for Desk {
    async fn count(
        &mut self,
        _: &mut Cx,
        to: u64,
        fails: bool,
        mut out: Emit<Tick>,
    ) -> Result<(), Fault<FeedError>> {
        for number in 0..to {
            out.send(Tick { number }).await?;
        }
        if fails { Err(FeedError::UsedUp { left: 3 }.into()) } else { Ok(()) }
    }
    async fn refuse(&mut self, _: &mut Cx, _: Emit<Tick>) -> Result<(), Fault<FeedError>> {
        Err(FeedError::UsedUp { left: 0 }.into())
    }
    async fn endless(&mut self, _: &mut Cx, mut out: Emit<Tick>) -> Result<(), Fault<FeedError>> {
        let mut number = 0;
        while out.send(Tick { number }).await.is_ok() {
            number += 1;
        }
        self.left.store(true, Ordering::SeqCst);
        Ok(())
    }
    async fn sum(&mut self, _: &mut Cx, mut ticks: Incoming<Tick>) -> Result<u64, Fault<FeedError>> {
        let mut sum = 0;
        while let Some(tick) = ticks.next().await {
            sum += tick?.number;
        }
        Ok(sum)
    }
}

fn node(id: &str, transport: &Transport, join: Option<&Node>, admin: &str) -> NodeBuilder {
    let settings = Settings {
        node_id: id.into(),
        node_listen: "host:0".into(),
        node_join: join.map(Node::address).unwrap_or_default(),
        node_slots: 1,
        admin_listen: admin.into(),
        drain_grace_ms: 200,
        ..Settings::default()
    };
    NodeBuilder::new(settings).transport(transport.clone()).inline()
}

/// Sends a request over a real socket.
fn request(address: SocketAddr, line: &str, accept: &str, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nAccept: {accept}"
    );
    write!(socket, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    socket
}

/// Asks, and reads to the end: status, head, and the body out of its chunks.
async fn ask(address: SocketAddr, line: &str, accept: &str, body: Value) -> (u16, String, String) {
    let (line, accept, body) = (line.to_owned(), accept.to_owned(), body.to_string());
    tokio::task::spawn_blocking(move || {
        let mut answer = Vec::new();
        request(address, &line, &accept, &body).read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = String::new();
        if !head.to_lowercase().contains("transfer-encoding: chunked") {
            return (status, head.to_owned(), rest.to_owned());
        }
        loop {
            let (length, more) = rest.split_once("\r\n").expect("a chunk: the answer was cut");
            let length = usize::from_str_radix(length, 16).unwrap();
            if length == 0 {
                return (status, head.to_owned(), body);
            }
            body.push_str(&more[..length]);
            rest = &more[length + 2..];
        }
    })
    .await
    .unwrap()
}

/// A node that serves, one that is the door, and its admin port.
struct Scene {
    server: Node,
    door: Node,
    at: SocketAddr,
    left: Arc<AtomicBool>,
}

impl Scene {
    async fn new() -> Self {
        let transport = Transport::Memory(MemoryNetwork::default());
        let left = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&left);
        let server = node("a", &transport, None, "");
        let server = server.service("desk", move || Ok::<_, Error>(Desk { left: Arc::clone(&seen) }));
        let server = server.start().await.unwrap();
        let door = node("b", &transport, Some(&server), "127.0.0.1:0").start().await.unwrap();
        server.ready().await;
        door.ready().await;
        let at = door.admin_address().unwrap();
        Self { server, door, at, left }
    }

    async fn close(self) {
        self.door.close().await;
        self.server.close().await;
    }
}

const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";

fn of_line(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn a_stream_is_a_line_an_item_and_says_how_it_ended() {
    afflux::actor::system(|| async {
        let scene = Scene::new().await;
        let count = "POST /rpc/shop.feed/Count";
        // More than the credits of one window.
        let (status, head, body) = ask(scene.at, count, LINES, json!({ "to": 5_000, "fails": false })).await;
        assert_eq!(status, 200);
        assert!(head.to_lowercase().contains("content-type: application/x-ndjson"), "{head}");
        let lines: Vec<Value> = body.lines().filter(|line| !line.is_empty()).map(of_line).collect();
        assert_eq!(lines.len(), 5_001);
        for (number, line) in lines[..5_000].iter().enumerate() {
            assert_eq!(*line, json!({ "item": { "number": number } }));
        }
        assert_eq!(lines[5_000], json!({ "end": null }));

        let (status, _, body) = ask(scene.at, count, LINES, json!({ "to": 2, "fails": true })).await;
        assert_eq!(status, 200, "the head was sent long before");
        let lines: Vec<Value> = body.lines().filter(|line| !line.is_empty()).map(of_line).collect();
        assert_eq!(lines.len(), 3, "{body}");
        assert_eq!(lines[1], json!({ "item": { "number": 1 } }));
        let error = &lines[2]["error"];
        assert_eq!((&error["code"], &error["http"]), (&json!("RESOURCE_EXHAUSTED"), &json!(429)));
        assert_eq!(error["details"]["data"], json!({ "UsedUp": { "left": 3 } }));
        scene.close().await;
    })
    .unwrap();
}

#[test]
fn a_stream_is_events_with_numbers_and_the_last_is_end_or_error() {
    afflux::actor::system(|| async {
        let scene = Scene::new().await;
        let get = "GET /rpc/shop.feed/Count?params=%7B%22to%22%3A2%2C%22fails%22%3Afalse%7D";
        let (status, head, body) = ask(scene.at, get, EVENTS, json!({})).await;
        assert_eq!(status, 200, "{body}");
        let head = head.to_lowercase();
        assert!(head.contains("content-type: text/event-stream") && head.contains("no-store"), "{head}");
        let items =
            "id: 0\nevent: item\ndata: {\"number\":0}\n\nid: 1\nevent: item\ndata: {\"number\":1}\n\n";
        assert_eq!(body, format!("{items}event: end\ndata: null\n\n"));

        let post = "POST /rpc/shop.feed/Count";
        let (_, _, body) = ask(scene.at, post, EVENTS, json!({ "to": 2, "fails": true })).await;
        let error = body.strip_prefix(items).expect("the items come first");
        let error = error.strip_prefix("event: error\ndata: ").expect(error);
        assert_eq!(of_line(error)["details"]["type"], "UsedUp");
        scene.close().await;
    })
    .unwrap();
}

#[test]
fn what_fails_before_the_first_item_is_a_status_of_http() {
    afflux::actor::system(|| async {
        let scene = Scene::new().await;
        for accept in [EVENTS, LINES] {
            let (status, _, body) = ask(scene.at, "POST /rpc/shop.feed/Refuse", accept, json!({})).await;
            assert_eq!((status, &of_line(&body)["code"]), (429, &json!("RESOURCE_EXHAUSTED")), "{accept}");
            let (status, _, body) =
                ask(scene.at, "POST /rpc/shop.feed/Count", accept, json!({ "to": "x" })).await;
            assert_eq!(status, 400, "{body}");
            assert!(body.contains("fails: is missing"), "{body}");
        }
        let (status, _, body) = ask(scene.at, "POST /rpc/shop.feed/Sum", LINES, json!({})).await;
        assert_eq!(status, 501);
        assert!(body.contains("takes a stream of items"), "{body}");
        scene.close().await;
    })
    .unwrap();
}

#[test]
fn a_client_that_goes_away_cancels_the_handler() {
    afflux::actor::system(|| async {
        let scene = Scene::new().await;
        for accept in [EVENTS, LINES] {
            let at = scene.at;
            scene.left.store(false, Ordering::SeqCst);
            tokio::task::spawn_blocking(move || {
                let mut socket = request(at, "POST /rpc/shop.feed/Endless", accept, "{}");
                let mut seen = Vec::new();
                while !String::from_utf8_lossy(&seen).contains("\"number\":9") {
                    let mut part = [0; 4_096];
                    let bytes = socket.read(&mut part).unwrap();
                    assert!(bytes > 0, "the stream ended");
                    seen.extend_from_slice(&part[..bytes]);
                }
            })
            .await
            .unwrap();
            let begun = Instant::now();
            while !scene.left.load(Ordering::SeqCst) {
                assert!(begun.elapsed() < PATIENCE, "{accept}: the handler goes on for nobody");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        scene.close().await;
    })
    .unwrap();
}
