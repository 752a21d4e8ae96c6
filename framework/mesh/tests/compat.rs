//! Clients that speak the public MessagePack-RPC: raw bytes against a node, over both transports.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use afflux_mesh::{CompatConfig, CompatMode, MemoryNetwork, MeshConfig, Transport};
use afflux_wire::codec::to_named;
use afflux_wire::contract::Mail;
use common::client::Client;
use common::{Add, Desk, Net, Node, SECOND, SumsCall, over_both, until};
use proptest::prelude::*;
use serde_json::json;
use tokio::io::AsyncWriteExt;

fn compat(net: &Net, name: &str, compat: CompatConfig) -> Node {
    net.node_with(MeshConfig { compat, ..net.config(name) })
}

async fn served(net: &Net, desk: &Arc<Desk>) -> (Node, Client) {
    let node = net.node("server");
    node.serve(desk);
    let client = Client::to(net, &node).await;
    (node, client)
}

fn answer(call: SumsCall) {
    if let SumsCall::Add(_, Add { a, b }, Some(reply)) = call {
        reply.send(Ok(a + b));
    }
}

const INVALID: u64 = 3;
const NOT_FOUND: u64 = 5;
const FORBIDDEN: u64 = 7;
const EXHAUSTED: u64 = 8;
const UNIMPLEMENTED: u64 = 12;
const UNAVAILABLE: u64 = 14;
const UNAUTHENTICATED: u64 = 16;

#[test]
fn a_method_is_called_by_any_of_its_names_with_parameters_by_place_or_by_name() {
    over_both(async |net: Net| {
        let (node, mut client) = served(&net, &Arc::new(Desk::default())).await;
        for name in ["math.sums.add", "math.sums.Add", "math.sums/Add", "math.sums/add"] {
            for params in [json!([1, 2]), json!([{"a": 1, "b": 2}]), json!({"b": 2, "a": 1})] {
                assert_eq!(client.call(name, params).await, Ok(json!(3)), "{name}");
            }
        }
        assert_eq!(node.metric("afflux_rpc_server_requests_total", &["math.sums", "Add", "OK"]), 12.0);
        assert_eq!(node.metric("afflux_connections", &["compat"]), 1.0);
        drop(client);
        until(|| node.metric("afflux_connections", &["compat"]) == 0.0).await;
        assert_eq!(node.metric("afflux_connections_closed_total", &["compat", "eof"]), 1.0);
    });
}

#[test]
fn names_may_be_bin_and_headers_long() {
    over_both(async |net: Net| {
        let (_node, mut client) = served(&net, &Arc::new(Desk::default())).await;
        let mut message = vec![0xdd, 0, 0, 0, 4, 0xcc, 0, 0xcf, 0, 0, 0, 0, 0, 0, 0, 9, 0xc4, 13];
        message.extend(b"math.sums.add");
        message.extend([0xdc, 0, 2, 0xcd, 0, 20, 0xd3, 0, 0, 0, 0, 0, 0, 0, 22]);
        client.send(&message).await;
        assert_eq!(client.next().await.unwrap(), json!([1, 9, null, 42]));
        // The first byte of a connection may be that of a 16-bit array too.
        let (_other, mut client) = served(&net, &Arc::new(Desk::default())).await;
        client.send(&[&[0xdc, 0, 4], &message[5..]].concat()).await;
        assert_eq!(client.next().await.unwrap(), json!([1, 9, null, 42]));
    });
}

#[test]
fn notifications_run_and_nobody_hears_of_them() {
    over_both(async |net: Net| {
        let desk = Arc::new(Desk::default());
        let (node, mut client) = served(&net, &desk).await;
        client.say(json!([2, "math.sums.touch", [5]])).await;
        client.say(json!([2, "math.sums.add", [1, 2]])).await;
        client.say(json!([2, "math.sums.nothing", []])).await;
        // A one-way method that is called as if it answered: nil, once it is on its way.
        assert_eq!(client.call("math.sums.touch", json!([6])).await, Ok(json!(null)));
        let outcome = |outcome: &str| node.metric("afflux_compat_notifications_total", &[outcome]);
        until(|| outcome("failed") == 1.0).await;
        assert_eq!((outcome("one_way"), outcome("answer_dropped")), (1.0, 1.0));
        assert_eq!(*desk.touched.lock(), [5, 6]);
    });
}

#[test]
fn answers_come_in_the_order_in_which_they_are_ready() {
    over_both(async |net: Net| {
        let desk = Desk::holding();
        let (_node, mut client) = served(&net, &desk).await;
        let calls = 300;
        for id in 0..calls {
            client.say(json!([0, id, "math.sums.add", [id, 1]])).await;
        }
        until(|| desk.held.lock().len() == calls).await;
        while let Some(call) = { desk.held.lock().pop_back() } {
            answer(call);
        }
        let mut seen = vec![false; calls];
        for _ in 0..calls {
            let message = client.next().await.unwrap();
            let id = message[1].as_u64().unwrap();
            assert_eq!(message, json!([1, id, null, id + 1]));
            seen[id as usize] = true;
        }
        assert!(seen.into_iter().all(|seen| seen));
        // The built-in methods overtake what waits.
        client.say(json!([0, 1, "math.sums.add", [1, 1]])).await;
        until(|| desk.held.lock().len() == 1).await;
        client.say(json!([0, 2, "rpc.health", []])).await;
        assert_eq!(client.next().await.unwrap()[1], 2);
        desk.answer_all();
        assert_eq!(client.next().await.unwrap(), json!([1, 1, null, 2]));
    });
}

#[test]
fn what_is_wrong_with_a_call_is_said_in_names() {
    over_both(async |net: Net| {
        let (node, mut client) = served(&net, &Arc::new(Desk::default())).await;
        let cases = [
            ("math.sums.ad", json!([]), UNIMPLEMENTED, "no method `ad`; did you mean `add`?"),
            ("math.sum.add", json!([]), NOT_FOUND, "did you mean `math.sums`?"),
            ("add", json!([]), UNIMPLEMENTED, "names no method"),
            ("rpc.lisd", json!([]), UNIMPLEMENTED, "did you mean `rpc.list`"),
            (
                "math.sums.add",
                json!([1]),
                INVALID,
                "Add: parameter `b` is missing: takes 2 parameters (a, b), got 1",
            ),
            ("math.sums.add", json!([1, 2, 3]), INVALID, "takes 2 parameters (a, b), got 3"),
            ("math.sums.add", json!([{"a": 1, "c": 2}]), INVALID, "unknown parameter `c`"),
            ("math.sums.add", json!([1, "x"]), INVALID, "b: expected u64, got str"),
            ("math.sums.add", json!("x"), INVALID, "expected an array"),
            ("afflux.node/Info", json!([]), FORBIDDEN, "among themselves"),
        ];
        for (method, params, code, text) in cases {
            let (got, message) = client.fails(method, params).await;
            assert!(got == code && message.contains(text), "{method}: {got} {message}");
        }
        assert_eq!(node.metric("afflux_rpc_server_rejected_total", &["unknown_method"]), 4.0);
        // An id that can be read is answered; the connection goes on.
        client.say(json!([0, 8, 9, []])).await;
        let answer = client.next().await.unwrap();
        assert_eq!((&answer[1], &answer[2][0]), (&json!(8), &json!(INVALID)));
        assert_eq!(client.call("math.sums.add", json!([1, 2])).await, Ok(json!(3)));
    });
}

#[test]
fn a_node_tells_what_it_offers() {
    over_both(async |net: Net| {
        let (_node, mut client) = served(&net, &Arc::new(Desk::default())).await;
        let list = client.call("rpc.list", json!([])).await;
        assert_eq!(list, Ok(json!(["math.sums.add", "math.sums.again", "math.sums.touch"])));
        let add = client.call("rpc.describe", json!(["math.sums.add"])).await.unwrap();
        assert_eq!((&add["params"], &add["kind"]), (&json!(["a", "b"]), &json!("unary")));
        let service = client.call("rpc.describe", json!(["math.sums"])).await.unwrap();
        assert_eq!((&service["version"], &service["methods"][1]["kind"]), (&json!("1.0"), &json!("oneway")));
        assert_eq!(client.call("rpc.describe", json!([])).await, Ok(json!([service])));
        assert_eq!(client.fails("rpc.describe", json!(["math.sumz"])).await.0, NOT_FOUND);
        let health = client.call("rpc.health", json!(["math.sums"])).await;
        assert_eq!(health, Ok(json!({"node": "server", "status": "serving"})));
        assert_eq!(client.fails("rpc.health", json!(["nobody"])).await.0, NOT_FOUND);
    });
}

#[test]
fn a_message_may_be_cut_at_every_byte() {
    over_both(async |net: Net| {
        let (_node, mut client) = served(&net, &Arc::new(Desk::default())).await;
        let one = to_named(&json!([0, 1, "math.sums.add", [1, 70_000]])).unwrap();
        let two = to_named(&json!([0, 2, "math.sums.add", [{"a": 1, "b": 2}]])).unwrap();
        let both = [one, two].concat();
        for cut in 0..=both.len() {
            client.send(&both[..cut]).await;
            client.stream.flush().await.unwrap();
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            client.send(&both[cut..]).await;
            assert_eq!(client.next().await.unwrap(), json!([1, 1, null, 70_001]), "cut at {cut}");
            assert_eq!(client.next().await.unwrap(), json!([1, 2, null, 3]), "cut at {cut}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_a_stream_is_cut_every_call_is_answered_once(
        numbers in prop::collection::vec((any::<u32>(), any::<bool>()), 1..40),
        cuts in prop::collection::vec(1usize..60, 1..40),
    ) {
        afflux_actor::test::paused(|| async {
            let net = Net(Transport::Memory(MemoryNetwork::default()));
            let (_node, mut client) = served(&net, &Arc::new(Desk::default())).await;
            let mut bytes = Vec::new();
            for (id, (a, by_name)) in numbers.iter().enumerate() {
                let params = if *by_name { json!([{"b": 1, "a": a}]) } else { json!([a, 1]) };
                bytes.extend(to_named(&json!([0, id, "math.sums.add", params])).unwrap());
            }
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                client.send(now).await;
                tokio::task::yield_now().await;
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            for (id, (a, _)) in numbers.iter().enumerate() {
                assert_eq!(client.next().await.unwrap(), json!([1, id, null, u64::from(*a) + 1]));
            }
        });
    }
}

#[test]
fn a_hostile_message_costs_its_sender_the_connection_and_nobody_else_anything() {
    over_both(async |net: Net| {
        let limits =
            CompatConfig { elements_max: 1_000, message_bytes_max: 1 << 16, ..CompatConfig::default() };
        let node = compat(&net, "server", limits);
        node.serve(&Arc::new(Desk::default()));
        let mut other = Client::to(&net, &node).await;
        let head = [&[0x94, 0x00, 0x05, 0xad][..], b"math.sums.add"].concat();
        let with = |tail: &[u8]| [&head, tail].concat();
        let cases: [(Vec<u8>, &str, Option<u64>); 9] = [
            (with(&[0x91; 4_096]), "depth", Some(INVALID)),
            (with(&[0xdd, 0xff, 0xff, 0xff, 0xff]), "elements", Some(EXHAUSTED)),
            (with(&[0xdf, 0xff, 0xff, 0xff, 0xff]), "elements", Some(EXHAUSTED)),
            (with(&[0xc6, 0xff, 0xff, 0xff, 0xff]), "elements", Some(EXHAUSTED)),
            (with(&[&[0xdc, 0x04, 0x00][..], &[0xc0; 1_024]].concat()), "elements", Some(EXHAUSTED)),
            (with(&[0x91, 0xc1]), "malformed", Some(INVALID)),
            // No id that could be answered.
            (vec![0x94, 0x01, 0x05, 0xc0, 0xc0], "malformed", None),
            (vec![0x93, 0x09, 0x05, 0xc0], "malformed", None),
            (vec![0x90], "malformed", None),
        ];
        for (bytes, reason, code) in cases {
            let mut client = Client::to(&net, &node).await;
            let before = node.metric("afflux_decode_errors_total", &[reason]);
            client.send(&bytes).await;
            if let Some(code) = code {
                let answer = client.next().await.expect("the refusal");
                assert_eq!((&answer[1], &answer[2][0]), (&json!(5), &json!(code)), "{answer}");
            }
            assert_eq!(client.next().await, None, "{reason}");
            assert_eq!(node.metric("afflux_decode_errors_total", &[reason]), before + 1.0, "{reason}");
            drop(client);
            assert_eq!(other.call("math.sums.add", json!([1, 2])).await, Ok(json!(3)));
        }
        until(|| node.metric("afflux_connections", &["compat"]) == 1.0).await;
    });
}

#[test]
fn a_message_that_never_ends_is_given_up() {
    over_both(async |net: Net| {
        let limits = CompatConfig { message_timeout: Duration::from_millis(50), ..CompatConfig::default() };
        let node = compat(&net, "server", limits);
        let mut client = Client::to(&net, &node).await;
        client.send(&[0x94, 0x00]).await;
        assert_eq!(client.next().await, None);
        assert_eq!(node.metric("afflux_connections_closed_total", &["compat", "message_timeout"]), 1.0);
    });
}

#[test]
fn a_client_that_says_nothing_is_closed_and_one_that_waits_for_an_answer_is_not() {
    over_both(async |net: Net| {
        let limits = CompatConfig { idle_timeout: Duration::from_millis(50), ..CompatConfig::default() };
        let node = compat(&net, "server", limits);
        let desk = Desk::holding();
        node.serve(&desk);
        let (mut idle, mut waits) = (Client::to(&net, &node).await, Client::to(&net, &node).await);
        waits.say(json!([0, 1, "math.sums.add", [1, 2]])).await;
        assert!(idle.call("rpc.health", json!([])).await.is_ok());
        assert_eq!(idle.next().await, None);
        assert_eq!(node.metric("afflux_connections_closed_total", &["compat", "idle"]), 1.0);
        desk.answer_all();
        assert_eq!(waits.next().await.unwrap()[3], 3);
    });
}

#[test]
fn answers_still_come_after_the_client_has_said_all() {
    over_both(async |net: Net| {
        let desk = Desk::holding();
        let (_node, mut client) = served(&net, &desk).await;
        client.say(json!([0, 1, "math.sums.add", [1, 2]])).await;
        client.say(json!([0, 2, "math.sums.add", [3, 4]])).await;
        client.stream.shutdown().await.unwrap();
        until(|| desk.held.lock().len() == 2).await;
        desk.answer_all();
        assert_eq!(client.next().await.unwrap(), json!([1, 1, null, 3]));
        assert_eq!(client.next().await.unwrap(), json!([1, 2, null, 7]));
        assert_eq!(client.next().await, None);
    });
}

#[test]
fn no_more_calls_run_than_in_flight_max_and_the_rest_wait_their_turn() {
    over_both(async |net: Net| {
        let node = compat(&net, "server", CompatConfig { in_flight_max: 2, ..CompatConfig::default() });
        let desk = Desk::holding();
        node.serve(&desk);
        let mut client = Client::to(&net, &node).await;
        for id in 0..5 {
            client.say(json!([0, id, "math.sums.add", [id, 1]])).await;
        }
        until(|| desk.came.load(SeqCst) == 2).await;
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        assert_eq!(desk.came.load(SeqCst), 2);
        for came in 3..=5 {
            let call = desk.held.lock().pop_front().unwrap();
            answer(call);
            until(|| desk.came.load(SeqCst) == came).await;
        }
        desk.answer_all();
        for id in 0..5 {
            assert_eq!(client.next().await.unwrap(), json!([1, id, null, id + 1]));
        }
    });
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    over_both(async |net: Net| {
        let limits = CompatConfig {
            write_buffer_bytes_max: 64 << 10,
            write_timeout: Duration::from_millis(100),
            ..CompatConfig::default()
        };
        let node = compat(&net, "server", limits);
        node.serve(&Arc::new(Desk::default()));
        let mut client = Client::to(&net, &node).await;
        let asks = to_named(&json!([0, 1, "rpc.describe", []])).unwrap().repeat(100);
        // More than all buffers between hold; ends when the node closes.
        while client.stream.write_all(&asks).await.is_ok() {}
        until(|| node.metric("afflux_connections", &["compat"]) == 0.0).await;
        let closed = |reason: &str| node.metric("afflux_connections_closed_total", &["compat", reason]);
        assert_eq!(closed("write_timeout") + closed("write_buffer"), 1.0);
    });
}

#[test]
fn there_are_no_more_clients_than_connections_max() {
    over_both(async |net: Net| {
        let node = compat(&net, "server", CompatConfig { connections_max: 1, ..CompatConfig::default() });
        let mut first = Client::to(&net, &node).await;
        assert!(first.call("rpc.health", json!([])).await.is_ok());
        let mut second = Client::to(&net, &node).await;
        second.say(json!([0, 1, "rpc.health", []])).await;
        assert_eq!(second.next().await, None);
        let refused = node.metric("afflux_connections_closed_total", &["unknown", "compat_connections_max"]);
        assert_eq!(refused, 1.0);
        assert!(first.call("rpc.health", json!([])).await.is_ok());
    });
}

#[test]
fn all_clients_share_the_bytes_that_unfinished_messages_may_take() {
    over_both(async |net: Net| {
        let limits = CompatConfig { buffered_bytes_max: 200 << 10, ..CompatConfig::default() };
        let node = compat(&net, "server", limits);
        let (mut first, mut second) = (Client::to(&net, &node).await, Client::to(&net, &node).await);
        let part = [&[0x94, 0x00, 0x03, 0xa1, b'x', 0xc6, 0x00, 0x70, 0, 0][..], &[0; 190 << 10]].concat();
        first.send(&part).await;
        assert!(first.call("rpc.health", json!([])).now_or_none().await);
        let _ = second.stream.write_all(&part).await;
        let answer = second.next().await.unwrap();
        assert_eq!((&answer[1], &answer[2][0]), (&json!(3), &json!(EXHAUSTED)));
        assert_eq!(second.next().await, None);
        assert_eq!(node.metric("afflux_connections_closed_total", &["compat", "buffered_bytes"]), 1.0);
    });
}

/// Whether a future is still pending after others had many turns.
trait NowOrNone {
    async fn now_or_none(self) -> bool;
}

impl<F: Future> NowOrNone for F {
    async fn now_or_none(self) -> bool {
        let turns = async {
            for _ in 0..500 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = self => false,
            () = turns => true,
        }
    }
}

#[test]
fn a_port_that_does_not_speak_it_closes_and_counts() {
    over_both(async |net: Net| {
        let node = compat(&net, "server", CompatConfig { mode: CompatMode::Off, ..CompatConfig::default() });
        let mut client = Client::to(&net, &node).await;
        client.say(json!([0, 1, "rpc.health", []])).await;
        assert_eq!(client.next().await, None);
        assert_eq!(node.metric("afflux_connections_closed_total", &["unknown", "msgpack_rpc"]), 1.0);
    });
}

#[test]
fn beyond_loopback_it_is_on_only_where_it_is_asked_for_or_clients_say_who_they_are() {
    afflux_actor::test::system(|| async {
        let net = Net(Transport::Tcp);
        for (mode, token, speaks) in [
            (CompatMode::Auto, None, false),
            (CompatMode::On, None, true),
            (CompatMode::Auto, Some("secret".to_owned()), true),
        ] {
            let config = MeshConfig {
                listen: Some("0.0.0.0:0".to_owned()),
                token,
                compat: CompatConfig { mode, ..CompatConfig::default() },
                ..net.config("open")
            };
            let node = net.node_with(config);
            let mut client = Client::to(&net, &node).await;
            client.say(json!([0, 1, "rpc.health", []])).await;
            assert_eq!(client.next().await.is_some(), speaks, "{mode:?}");
        }
    });
}

#[test]
fn where_a_token_is_asked_for_a_client_says_it_first() {
    over_both(async |net: Net| {
        let config = MeshConfig { token: Some("secret".to_owned()), ..net.config("server") };
        let node = net.node_with(config);
        node.serve(&Arc::new(Desk::default()));
        let mut client = Client::to(&net, &node).await;
        assert_eq!(client.fails("math.sums.add", json!([1, 2])).await.0, UNAUTHENTICATED);
        assert_eq!(client.fails("rpc.list", json!([])).await.0, UNAUTHENTICATED);
        assert!(client.call("rpc.health", json!([])).await.is_ok());
        assert_eq!(client.call("rpc.auth", json!(["secret"])).await, Ok(json!(true)));
        assert_eq!(client.call("math.sums.add", json!([1, 2])).await, Ok(json!(3)));
        // As a notification, too, and for this connection alone.
        let mut other = Client::to(&net, &node).await;
        assert_eq!(other.fails("math.sums.add", json!([1, 2])).await.0, UNAUTHENTICATED);
        other.say(json!([2, "rpc.auth", ["secret"]])).await;
        assert_eq!(other.call("math.sums.add", json!([1, 2])).await, Ok(json!(3)));
        // Three guesses.
        let mut guesser = Client::to(&net, &node).await;
        for _ in 0..3 {
            let (code, text) = guesser.fails("rpc.auth", json!(["secreT"])).await;
            assert!(code == UNAUTHENTICATED && !text.contains("secre"), "{text}");
        }
        assert_eq!(guesser.next().await, None);
        assert_eq!(node.metric("afflux_connections_closed_total", &["compat", "auth"]), 1.0);
    });
}

#[test]
fn any_node_is_a_door_to_the_services_of_all() {
    over_both(async |net: Net| {
        let (door, behind) = (net.node("door"), net.node("behind"));
        let desk = Arc::new(Desk::default());
        behind.serve(&desk);
        door.link(&behind).await;
        until(|| door.mesh.services().contains(&"math.sums".to_owned())).await;
        let mut client = Client::to(&net, &door).await;
        assert_eq!(client.call("math.sums.add", json!([1, 2])).await, Ok(json!(3)));
        assert_eq!(client.call("math.sums.add", json!([{"a": 1, "b": 2}])).await, Ok(json!(3)));
        let list = client.call("rpc.list", json!([])).await;
        assert_eq!(list, Ok(json!(["math.sums.add", "math.sums.again", "math.sums.touch"])));
        let (code, text) = client.fails("math.sums.ad", json!([])).await;
        assert!(code == UNIMPLEMENTED && text.contains("did you mean `add`?"), "{text}");
    });
}

#[test]
fn the_calls_of_a_client_that_goes_are_cancelled() {
    over_both(async |net: Net| {
        let desk = Desk::holding();
        let (door, behind) = (net.node("door"), net.node("behind"));
        behind.serve(&desk);
        door.link(&behind).await;
        let here = Desk::holding();
        let (_node, mut client) = served(&net, &here).await;
        let mut through = Client::to(&net, &door).await;
        client.say(json!([0, 1, "math.sums.add", [1, 2]])).await;
        through.say(json!([0, 1, "math.sums.add", [1, 2]])).await;
        until(|| here.held.lock().len() == 1 && desk.held.lock().len() == 1).await;
        // A half-closed client still waits: only one that is gone for good counts.
        client.send(&[0xc1]).await;
        through.send(&[0xc1]).await;
        for desk in [&here, &desk] {
            until(|| desk.held.lock().front().is_some_and(Mail::is_cancelled)).await;
        }
    });
}

#[test]
fn a_call_ends_at_its_methods_deadline() {
    afflux_actor::test::paused(|| async {
        let net = Net(Transport::Memory(MemoryNetwork::default()));
        let desk = Desk::holding();
        let (_node, mut client) = served(&net, &desk).await;
        let started = afflux_actor::clock::now();
        let (code, text) = client.fails("math.sums.add", json!([1, 2])).await;
        assert!(code == 4 && text.contains("math.sums/Add"), "{code} {text}");
        let took = afflux_actor::clock::now() - started;
        assert!(took >= 10 * SECOND && took < 11 * SECOND, "{took:?}");
    });
}

#[test]
fn a_draining_node_answers_what_runs_and_takes_no_more() {
    over_both(async |net: Net| {
        let desk = Desk::holding();
        let (node, mut client) = served(&net, &desk).await;
        client.say(json!([0, 1, "math.sums.add", [1, 2]])).await;
        until(|| desk.held.lock().len() == 1).await;
        let talking = async {
            loop {
                let health = client.call("rpc.health", json!([])).await.unwrap();
                if health["status"] == "draining" {
                    break;
                }
            }
            assert_eq!(client.fails("math.sums.add", json!([1, 2])).await.0, UNAVAILABLE);
            desk.answer_all();
            assert_eq!(client.next().await.unwrap(), json!([1, 1, null, 3]));
            assert_eq!(client.next().await, None);
        };
        tokio::join!(node.mesh.drain(20 * SECOND), talking);
    });
}
