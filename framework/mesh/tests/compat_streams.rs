//! Streams of clients that speak the public MessagePack-RPC: raw bytes against a node, over both transports.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::client::Client;
use common::flow::Desk;
use common::{Net, Node, over_both};
use serde_json::{Value, json};

const NOT_FOUND: u64 = 5;
const EXHAUSTED: u64 = 8;
const DATA_LOSS: u64 = 15;

async fn served(net: &Net) -> (Node, Arc<Desk>, Client) {
    let (node, desk) = (net.node("server"), Desk::new());
    node.mesh.serve(desk.entry());
    let client = Client::to(net, &node).await;
    (node, desk, client)
}

/// Opens a stream; its id.
async fn open(client: &mut Client, method: &str, params: Value) -> u64 {
    let opened = client.call(&format!("math.flow.{method}"), json!([params])).await;
    opened.unwrap().as_u64().unwrap()
}

/// What comes of one stream: the values of its items up to its end, and the two fields of that.
async fn told(client: &mut Client, id: u64) -> (Vec<Value>, Value, Value) {
    let mut items = Vec::new();
    loop {
        let message = client.next().await.expect("an end");
        assert_eq!((&message[0], &message[2][0]), (&json!(2), &json!(id)), "{message}");
        match message[1].as_str().unwrap() {
            "rpc.item" => {
                assert_eq!(message[2][1], items.len(), "items are numbered from 0");
                items.push(message[2][2].clone());
            }
            "rpc.end" => return (items, message[2][1].clone(), message[2][2].clone()),
            "rpc.credit" => {}
            other => panic!("{other}: {message}"),
        }
    }
}

#[test]
fn a_streams_items_are_notifications_and_so_is_its_end() {
    over_both(async |net: Net| {
        let (_node, _desk, mut client) = served(&net).await;
        let id = open(&mut client, "count", json!({ "to": 3, "how": "Well" })).await;
        assert_eq!(
            told(&mut client, id).await,
            (vec![json!(0), json!(1), json!(2)], json!(null), json!(null))
        );
        // An error comes behind the items, and costs the stream alone.
        let second = open(&mut client, "count", json!({ "to": 2, "how": "Fails" })).await;
        assert_ne!(second, id, "an id is used once");
        let (items, error, _) = told(&mut client, second).await;
        assert_eq!(
            (items.len(), &error[0], &error[1]),
            (2, &json!(DATA_LOSS), &json!("the numbers are used up"))
        );
        // One that fails before its first item is no stream, but an error of the call.
        let refused = client.fails("math.flow.count", json!([{ "to": 2, "how": "Refuses" }])).await;
        assert_eq!(refused, (NOT_FOUND, "no numbers here".to_owned()));
    });
}

#[test]
fn a_client_has_256_items_and_then_what_it_grants() {
    over_both(async |net: Net| {
        let (_node, _desk, mut client) = served(&net).await;
        let id = open(&mut client, "count", json!({ "to": 300, "how": "Well" })).await;
        for n in 0..256 {
            assert_eq!(client.next().await.unwrap(), json!([2, "rpc.item", [id, n, n]]));
        }
        // Nothing more of it comes: what comes next is the answer of another call.
        for text in ["a", "b"] {
            assert_eq!(client.call("math.flow.same", json!([{ "text": text }])).await, Ok(json!(text)));
        }
        client.say(json!([2, "rpc.credit", [id, 10]])).await;
        for n in 256..266 {
            assert_eq!(client.next().await.unwrap(), json!([2, "rpc.item", [id, n, n]]));
        }
        assert_eq!(client.call("math.flow.same", json!([{ "text": "c" }])).await, Ok(json!("c")));
        // More than there is, and for streams that there are not.
        client.say(json!([2, "rpc.credit", [id + 1, 1]])).await;
        client.say(json!([2, "rpc.credit", [id, u64::MAX]])).await;
        client.say(json!([2, "rpc.credit", [id, u64::MAX]])).await;
        for n in 266..300 {
            assert_eq!(client.next().await.unwrap(), json!([2, "rpc.item", [id, n, n]]));
        }
        assert_eq!(client.next().await.unwrap(), json!([2, "rpc.end", [id, null, null]]));
    });
}

#[test]
fn a_client_sends_items_and_its_end_and_hears_the_result() {
    over_both(async |net: Net| {
        let (_node, _desk, mut client) = served(&net).await;
        let id = open(&mut client, "sum", json!({ "most": u64::MAX })).await;
        let mut granted = 256;
        for n in 0..1_000_u64 {
            while granted == 0 {
                let message = client.next().await.unwrap();
                assert_eq!((&message[1], &message[2][0]), (&json!("rpc.credit"), &json!(id)), "{message}");
                granted += message[2][1].as_u64().unwrap();
            }
            client.say(json!([2, "rpc.item", [id, n, n]])).await;
            granted -= 1;
        }
        client.say(json!([2, "rpc.end", [id]])).await;
        assert_eq!(told(&mut client, id).await, (vec![], json!(null), json!(999 * 1_000 / 2)));

        let id = open(&mut client, "echo", json!({})).await;
        for (n, text) in ["x", "y"].into_iter().enumerate() {
            client.say(json!([2, "rpc.item", [id, n, text]])).await;
            assert_eq!(client.next().await.unwrap(), json!([2, "rpc.item", [id, n, text]]));
        }
        client.say(json!([2, "rpc.end", [id]])).await;
        assert_eq!(client.next().await.unwrap(), json!([2, "rpc.end", [id, null, null]]));
    });
}

#[test]
fn a_client_that_sends_without_credit_loses_its_stream_alone() {
    over_both(async |net: Net| {
        let (_node, _desk, mut client) = served(&net).await;
        let (id, other) = (
            open(&mut client, "echo", json!({})).await,
            open(&mut client, "sum", json!({ "most": 9 })).await,
        );
        // What is echoed is never granted, so that soon nothing is taken any more.
        for n in 0..20_000 {
            client.say(json!([2, "rpc.item", [id, n, "x"]])).await;
        }
        let (_, error, _) = told(&mut client, id).await;
        assert_eq!(error[0], EXHAUSTED);
        assert!(error[1].as_str().unwrap().contains("256 items"), "{error}");
        client.say(json!([2, "rpc.item", [other, 0, 4]])).await;
        client.say(json!([2, "rpc.end", [other]])).await;
        assert_eq!(told(&mut client, other).await.2, json!(4));
        // An item behind the end.
        let id = open(&mut client, "sum", json!({ "most": 9 })).await;
        client.say(json!([2, "rpc.end", [id]])).await;
        assert_eq!(told(&mut client, id).await.2, json!(0));
        client.say(json!([2, "rpc.item", [id, 0, 4]])).await;
        assert_eq!(client.call("math.flow.same", json!([{ "text": "a" }])).await, Ok(json!("a")));
    });
}

#[test]
fn a_stream_that_is_cancelled_or_left_stops_its_handler() {
    over_both(async |net: Net| {
        let (_node, desk, mut client) = served(&net).await;
        let id = open(&mut client, "count", json!({ "to": u64::MAX, "how": "Later" })).await;
        client.say(json!([2, "rpc.cancel", [id]])).await;
        desk.saw("stopped").await;
        // Items that were on their way, and nothing behind them: no end.
        client.say(json!([0, 9, "math.flow.same", [{ "text": "a" }]])).await;
        loop {
            let message = client.next().await.unwrap();
            if message[1] != "rpc.item" {
                assert_eq!(message, json!([1, 9, null, "a"]));
                break;
            }
        }
        desk.seen.lock().clear();
        open(&mut client, "count", json!({ "to": u64::MAX, "how": "Later" })).await;
        drop(client);
        desk.saw("stopped").await;
    });
}

#[test]
fn a_client_may_have_64_streams() {
    over_both(async |net: Net| {
        let (_node, _desk, mut client) = served(&net).await;
        let mut ids = Vec::new();
        for _ in 0..64 {
            ids.push(open(&mut client, "echo", json!({})).await);
        }
        let (code, text) = client.fails("math.flow.echo", json!([{}])).await;
        assert!(code == EXHAUSTED && text.contains("64 streams"), "{code} {text}");
        client.say(json!([2, "rpc.cancel", [ids[0]]])).await;
        open(&mut client, "echo", json!({})).await;
        // Calls are no streams.
        assert_eq!(client.call("math.flow.same", json!([{ "text": "a" }])).await, Ok(json!("a")));
    });
}
