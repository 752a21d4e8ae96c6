//! Services as JSON over HTTP, through a node that does not offer them itself.

#![allow(clippy::unwrap_used, missing_docs, reason = "these are tests")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder};
use afflux_mesh::{MemoryNetwork, Transport};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
pub struct Order {
    /// Its number.
    pub id: u64,
    pub qty: u32,
    #[serde(default)]
    pub note: Option<String>,
}

#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
pub enum OrderError {
    #[rpc(code = ResourceExhausted, retry_after_ms = 1500)]
    SoldOut { left: u32 },
}

/// Takes orders.
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0", error = OrderError)]
pub enum Orders {
    /// Places an order.
    #[rpc(returns = u64, idempotent)]
    Place { order: Order },
    /// Says what the caller's context is.
    #[rpc(returns = String)]
    Context,
    /// Never answers.
    Hang,
    #[rpc(oneway)]
    Touch { id: u64 },
}

#[derive(Actor)]
#[actor(serves(Orders))]
struct Desk {
    touched: u64,
}

impl OrdersHandler for Desk {
    async fn place(&mut self, _: &mut Cx, order: Order) -> Result<u64, Fault<OrderError>> {
        match order.qty {
            0 => Err(OrderError::SoldOut { left: 3 }.into()),
            qty => Ok(order.id + u64::from(qty) + self.touched),
        }
    }
    async fn context(&mut self, cx: &mut Cx) -> Result<String, Fault<OrderError>> {
        let meta = cx.meta();
        let key = meta.idempotency_key.as_deref().map(String::from_utf8_lossy);
        Ok(format!("{} {}", meta.trace.map(|t| t.to_string()).unwrap_or_default(), key.unwrap_or_default()))
    }
    async fn hang(&mut self, cx: &mut Cx) -> Result<(), Fault<OrderError>> {
        while !cx.cancelled() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The deadline has passed here, perhaps before it has at the caller's end: both say the same.
        Err(Status::new(Code::DeadlineExceeded, "gave up waiting").into())
    }
    async fn touch(&mut self, _: &mut Cx, id: u64) -> Result<(), Fault<OrderError>> {
        self.touched += id;
        Ok(())
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

/// Sends a request over a real socket: status, head, body.
async fn ask(address: SocketAddr, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let request = [
        match head.contains("Content-Length") {
            true => format!("{head}\r\nConnection: close\r\n\r\n"),
            false => format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()),
        }
        .into_bytes(),
        body.to_vec(),
    ]
    .concat();
    tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(&request).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    })
    .await
    .unwrap()
}

const JSON: &str = "Host: localhost\r\nContent-Type: application/json";

async fn call(address: SocketAddr, method: &str, more: &str, body: Value) -> (u16, Value) {
    let head = format!("POST /rpc/{method} HTTP/1.1\r\n{JSON}{more}");
    let (status, _, body) = ask(address, &head, body.to_string().as_bytes()).await;
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[test]
fn a_service_of_another_node_is_called_with_json() {
    afflux::actor::system(|| async {
        let transport = Transport::Memory(MemoryNetwork::default());
        let server = node("a", &transport, None, "");
        let server = server.service("desk", || Ok::<_, Error>(Desk { touched: 0 })).start().await.unwrap();
        let door = node("b", &transport, Some(&server), "127.0.0.1:0").start().await.unwrap();
        server.ready().await;
        door.ready().await;
        let at = door.admin_address().unwrap();
        let place = "shop.orders/Place";

        assert_eq!(call(at, place, "", json!({ "order": { "id": 7, "qty": 2 } })).await, (200, json!(9)));

        let (status, error) = call(at, place, "", json!({ "order": { "id": 7, "qti": 2 } })).await;
        assert_eq!((status, &error["code"]), (400, &json!("INVALID_ARGUMENT")));
        assert_eq!(
            error["message"],
            "shop.orders/Place: order.qty: is missing (u32); order.qti: there is no such field; did you mean `qty`?"
        );

        let (status, error) = call(at, place, "", json!({ "order": { "id": 7, "qty": 0 } })).await;
        assert_eq!((status, &error["code"]), (429, &json!("RESOURCE_EXHAUSTED")));
        assert_eq!(error["details"]["type"], "SoldOut");
        assert_eq!(error["details"]["data"], json!({ "SoldOut": { "left": 3 } }));
        assert_eq!((&error["details"]["retry_after_ms"], &error["details"]["executed"]), (&json!(1500), &json!("yes")));

        let (status, error) = call(at, "shop.order/Place", "", json!({})).await;
        assert_eq!(status, 404);
        assert!(error["message"].as_str().unwrap().contains("shop.orders"), "{error}");
        let (status, error) = call(at, "shop.orders/Plaice", "", json!({})).await;
        assert_eq!(status, 501);
        assert!(error["message"].as_str().unwrap().contains("Place"), "{error}");

        let started = std::time::Instant::now();
        let (status, error) = call(at, "shop.orders/Hang", "\r\nAfflux-Timeout: 100ms", json!({})).await;
        assert_eq!((status, &error["code"]), (504, &json!("DEADLINE_EXCEEDED")));
        assert!(started.elapsed() < Duration::from_secs(8), "the method's own deadline is ten seconds");

        assert_eq!(call(at, "afflux.node/Info", "", json!({})).await.0, 403);
        server.close().await;
        door.close().await;
    })
    .unwrap();
}

#[test]
fn what_goes_with_a_call_goes_through_and_strangers_do_not() {
    afflux::actor::system(|| async {
        let transport = Transport::Memory(MemoryNetwork::default());
        let builder = node("a", &transport, None, "127.0.0.1:0");
        let server = builder.service("desk", || Ok::<_, Error>(Desk { touched: 0 })).start().await.unwrap();
        server.ready().await;
        let at = server.admin_address().unwrap();

        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let more = format!("\r\ntraceparent: {trace}\r\nIdempotency-Key: k-1");
        let (status, told) = call(at, "shop.orders/Context", &more, json!({})).await;
        assert_eq!(status, 200);
        assert!(told.as_str().unwrap().contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{told}");
        assert!(told.as_str().unwrap().ends_with("k-1"), "{told}");

        assert_eq!(call(at, "shop.orders/Touch", "", json!({ "id": 5 })).await.0, 202);
        let (_, sum) = call(at, "shop.orders/Place", "", json!({ "order": { "id": 1, "qty": 1 } })).await;
        assert_eq!(sum, json!(7), "the one-way call was carried out before");

        // {"order": {"id": 1, "qty": 1}}
        let packed = b"\x81\xa5order\x82\xa2id\x01\xa3qty\x01";
        let head = "POST /rpc/shop.orders/Place HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Type: application/msgpack\r\nAccept: application/msgpack";
        assert_eq!(ask(at, head, packed).await.2, [7]);

        let plain = "POST /rpc/shop.orders/Touch HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain";
        assert_eq!(ask(at, plain, b"{\"id\":1}").await.0, 415);
        for stranger in ["Sec-Fetch-Site: cross-site\r\nHost: localhost", "Host: rebound.example"] {
            let head = format!("POST /rpc/shop.orders/Touch HTTP/1.1\r\n{stranger}\r\nContent-Type: application/json");
            assert_eq!(ask(at, &head, b"{\"id\":1}").await.0, 403, "{stranger}");
        }
        let get = "GET /rpc/shop.orders/Context HTTP/1.1\r\nHost: localhost";
        assert_eq!(ask(at, get, b"").await.0, 405);
        let head = format!("POST /rpc/shop.orders/Touch HTTP/1.1\r\n{JSON}\r\nContent-Length: 5000000");
        assert_eq!(ask(at, &head, b"").await.0, 413);

        let (status, _, body) = ask(at, "GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost", b"").await;
        assert_eq!(status, 200);
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let place = &document["paths"]["/rpc/shop.orders/Place"]["post"];
        assert_eq!(place["summary"], "Places an order.");
        assert!(document["components"]["schemas"]["shop.orders.Order"]["properties"]["qty"].is_object());
        assert!(document["paths"]["/rpc/shop.orders/Touch"]["post"]["responses"]["202"].is_object());
        server.close().await;
    })
    .unwrap();
}
