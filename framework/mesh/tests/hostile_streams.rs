//! Peers that mean harm to streams, byte by byte, over pipes and over TCP: each is told, counted, and alone in its
//! misery.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use afflux_mesh::MeshConfig;
use afflux_wire::handshake::Role;
use afflux_wire::{
    CancelReason, Code, Executed, Frame, Limits, Meta, Method, Status, codec, put_cancel, put_chunk,
    put_credit, put_end_ok, put_item, put_open, put_ping,
};
use common::flow::{Count, Desk, Echo, Flow, How, Sum};
use common::raw::Raw;
use common::{Net, Node, over_both, until};
use tokio::io::AsyncWriteExt;

/// A node, and one that calls it and must not notice anything.
async fn scene(net: &Net) -> (Node, Node) {
    scene_with(net, net.config("a")).await
}

async fn scene_with(net: &Net, config: MeshConfig) -> (Node, Node) {
    let (node, bystander) = (net.node_with(config), net.node("bystander"));
    node.mesh.serve(Desk::new().entry());
    bystander.link(&node).await;
    (node, bystander)
}

async fn unharmed(bystander: &Node) {
    let flow = bystander.mesh.client::<Flow>();
    let mut numbers = flow.count(3, How::Well).await.expect("another link was harmed");
    for n in 0..3 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), n);
    }
}

fn open(out: &mut Vec<u8>, id: u64, method: &str, params: &[u8]) {
    put_open(out, id, Method::Name(&format!("math.flow/{method}")), params, &Meta::default()).unwrap();
}

/// A stream that takes numbers, and sends nothing.
fn sum(out: &mut Vec<u8>, id: u64) {
    open(out, id, "Sum", &codec::to_named(&Sum { most: u64::MAX }).unwrap());
}

/// A stream that takes nothing, and never ends.
fn waits(out: &mut Vec<u8>, id: u64) {
    open(out, id, "Count", &codec::to_named(&Count { to: 1, how: How::Waits }).unwrap());
}

/// Puts a frame in two parts.
fn in_parts(out: &mut Vec<u8>, id: u64, put: impl FnOnce(&mut Vec<u8>)) {
    let mut frame = Vec::new();
    put(&mut frame);
    let frame = &frame[4..];
    put_chunk(out, id, Some(frame.len() as u64), false, &frame[..3]).unwrap();
    put_chunk(out, id, None, true, &frame[3..]).unwrap();
}

/// The END of this stream that comes next but for other frames.
async fn ended(data: &mut Raw, wanted: u64) -> Result<Vec<u8>, Status> {
    loop {
        let frame = data.frame().await.expect("an END before the end");
        if let Ok(Frame::End { id, result }) = Frame::decode(&frame)
            && id == wanted
        {
            return result.map(|bytes| bytes.to_vec());
        }
    }
}

#[test]
fn what_breaks_the_rules_of_streams_costs_the_link() {
    type Break = (&'static str, Role, fn(&mut Vec<u8>));
    let breaks: [Break; 16] = [
        ("gap", Role::Data, |out| {
            sum(out, 1);
            put_item(out, 1, 2, 1, &[1]).unwrap();
        }),
        ("gap", Role::Data, |out| {
            sum(out, 1);
            put_item(out, 1, 1, 1, &[1]).unwrap();
            put_item(out, 1, 1, 1, &[1]).unwrap();
        }),
        ("gap", Role::Data, |out| {
            sum(out, 1);
            put_item(out, 1, u64::MAX, 1, &[1]).unwrap();
        }),
        // Nobody takes these, so that no credit comes back.
        ("credit", Role::Data, |out| {
            waits(out, 1);
            for n in 1..=257 {
                put_item(out, 1, n, 1, &[1]).unwrap();
            }
        }),
        // Fewer items than credits, but long ones.
        ("credit", Role::Data, |out| {
            waits(out, 1);
            for n in 1..=60 {
                put_item(out, 1, n, 1, &vec![0; 40_000]).unwrap();
            }
        }),
        ("id", Role::Data, |out| {
            waits(out, 1);
            waits(out, 1);
        }),
        ("id", Role::Data, |out| {
            waits(out, 1);
            in_parts(out, 1, |out| waits(out, 1));
        }),
        // That of the other side.
        ("id", Role::Data, |out| waits(out, 2)),
        ("misplaced", Role::Control, |out| waits(out, 1)),
        ("misplaced", Role::Control, |out| put_item(out, 1, 1, 1, &[1]).unwrap()),
        ("misplaced", Role::Data, |out| in_parts(out, 1, |out| put_ping(out, 1 << 40))),
        ("chunk", Role::Data, |out| put_chunk(out, 1, None, false, b"abc").unwrap()),
        ("chunk", Role::Data, |out| {
            put_chunk(out, 1, Some(4), false, b"abc").unwrap();
            put_chunk(out, 1, Some(4), false, b"abc").unwrap();
        }),
        ("chunk", Role::Data, |out| {
            put_chunk(out, 1, Some(4), false, b"abc").unwrap();
            put_chunk(out, 1, None, true, b"").unwrap();
        }),
        ("message_too_large", Role::Data, |out| put_chunk(out, 1, Some(65 << 20), false, b"abc").unwrap()),
        // Each of them may be, but not both.
        ("chunk_budget", Role::Data, |out| {
            put_chunk(out, 1, Some(60 << 20), false, b"abc").unwrap();
            put_chunk(out, 3, Some(60 << 20), false, b"abc").unwrap();
        }),
    ];
    over_both(async |net: Net| {
        let limits = Limits { stream_credit_items: 256, ..Limits::default() };
        let (node, bystander) = scene_with(&net, MeshConfig { limits, ..net.config("a") }).await;
        for (n, (reason, role, put)) in breaks.into_iter().enumerate() {
            let before = node.metric("afflux_decode_errors_total", &[reason]);
            let (mut control, mut data) = Raw::link(&net, &node, &format!("client-{n}")).await;
            let mut out = Vec::new();
            put(&mut out);
            match role {
                Role::Control => control.send(&out).await,
                Role::Data => data.send(&out).await,
            }
            let goaway = control.goaway().await;
            assert!(goaway.contains("protocol error"), "{n}: {goaway}");
            assert_eq!(node.metric("afflux_decode_errors_total", &[reason]), before + 1.0, "{n}: {reason}");
        }
        unharmed(&bystander).await;
        // What the lost links had open is closed with them.
        until(|| node.metric("afflux_rpc_streams", &[]) == 0.0).await;
    });
}

#[test]
fn items_ends_and_credits_of_streams_that_nobody_knows_are_dropped_and_counted() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (mut control, mut data) = Raw::link(&net, &node, "client-1").await;
        let mut out = Vec::new();
        for id in 0..1_000 {
            put_item(&mut out, id, 9, 2, &[1, 2]).unwrap();
            put_end_ok(&mut out, id, &[]).unwrap();
        }
        data.send(&out).await;
        assert!(data.is_alive().await);
        assert_eq!(node.metric("afflux_rpc_stream_items_total", &["dropped"]), 2_000.0);
        let mut out = Vec::new();
        put_credit(&mut out, 1, u64::MAX);
        put_cancel(&mut out, 1, CancelReason::Dropped);
        control.send(&out).await;
        assert!(control.is_alive().await);
        unharmed(&bystander).await;
    });
}

#[test]
fn a_stream_that_is_ended_twice_has_one_answer() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (_control, mut data) = Raw::link(&net, &node, "client-1").await;
        let mut out = Vec::new();
        sum(&mut out, 1);
        put_item(&mut out, 1, 1, 2, &[5, 6]).unwrap();
        put_end_ok(&mut out, 1, &[]).unwrap();
        put_end_ok(&mut out, 1, &[]).unwrap();
        put_item(&mut out, 1, 3, 1, &[7]).unwrap();
        data.send(&out).await;
        assert_eq!(ended(&mut data, 1).await.unwrap(), [11], "an item behind the end counts for nothing");
        let mut out = Vec::new();
        put_end_ok(&mut out, 1, &[]).unwrap();
        put_ping(&mut out, 4712);
        data.send(&out).await;
        let next = data.frame().await.unwrap();
        assert!(matches!(Frame::decode(&next), Ok(Frame::Pong(4712))), "a second answer came: {next:?}");
        unharmed(&bystander).await;
    });
}

#[test]
fn items_that_are_no_values_fail_their_stream_alone() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (_control, mut data) = Raw::link(&net, &node, "client-1").await;
        let mut out = Vec::new();
        sum(&mut out, 1);
        open(&mut out, 3, "Echo", &codec::to_named(&Echo {}).unwrap());
        // Says that it has two values, and has a half.
        put_item(&mut out, 1, 1, 2, &[0xcd, 0]).unwrap();
        put_item(&mut out, 3, 1, 1, &[0xa1, b'x']).unwrap();
        put_end_ok(&mut out, 3, &[]).unwrap();
        data.send(&out).await;
        let (mut broken, mut echoed) = (None, None);
        while broken.is_none() || echoed.is_none() {
            let frame = data.frame().await.expect("both ends");
            match Frame::decode(&frame).unwrap() {
                Frame::End { id: 1, result } => broken = Some(result.unwrap_err()),
                Frame::End { id: 3, result } => echoed = Some(result),
                _ => {}
            }
        }
        let broken = broken.unwrap();
        assert_ne!(broken.code, Code::Internal, "{broken}");
        assert!(echoed.unwrap().is_ok(), "a stream beside was harmed");
        assert!(data.is_alive().await);
        unharmed(&bystander).await;
    });
}

#[test]
fn opens_beyond_streams_max_are_refused_one_by_one() {
    over_both(async |net: Net| {
        let limits = Limits { streams_max: 4, ..Limits::default() };
        let (node, bystander) = scene_with(&net, MeshConfig { limits, ..net.config("a") }).await;
        let (mut control, mut data) = Raw::link(&net, &node, "client-1").await;
        let mut out = Vec::new();
        for n in 0..500 {
            waits(&mut out, 2 * n + 1);
        }
        data.send(&out).await;
        for n in 4..500 {
            let refused = ended(&mut data, 2 * n + 1).await.unwrap_err();
            assert_eq!((refused.code, refused.was_executed()), (Code::ResourceExhausted, Executed::No));
            assert!(refused.message.contains("streams_max"), "{refused}");
        }
        assert_eq!(node.metric("afflux_rpc_server_rejected_total", &["math.flow", "overload"]), 496.0);
        // A place is free again as soon as one is cancelled.
        let mut out = Vec::new();
        put_cancel(&mut out, 1, CancelReason::Dropped);
        control.send(&out).await;
        until(|| node.metric("afflux_rpc_streams", &[]) == 3.0).await;
        let mut out = Vec::new();
        sum(&mut out, 1_001);
        put_end_ok(&mut out, 1_001, &[]).unwrap();
        data.send(&out).await;
        assert_eq!(ended(&mut data, 1_001).await.unwrap(), [0]);
        unharmed(&bystander).await;
    });
}

#[test]
fn who_opens_and_reads_no_refusal_loses_its_link() {
    over_both(async |net: Net| {
        let config = MeshConfig { write_buffer_bytes_max: 64 << 10, ..net.config("a") };
        let (node, bystander) = scene_with(&net, config).await;
        let (_control, mut data) = Raw::link(&net, &node, "client-1").await;
        // Far more than pipes and sockets hold.
        let flood = async {
            for n in 0..2_000_u64 {
                let mut out = Vec::new();
                for id in n * 500..(n + 1) * 500 {
                    open(&mut out, 2 * id + 1, "Nothing", &[0x80]);
                }
                if data.stream.write_all(&out).await.is_err() {
                    return;
                }
            }
        };
        let flooded = tokio::time::timeout(Duration::from_secs(20), flood).await;
        assert!(flooded.is_ok(), "the peer was left waiting");
        until(|| node.mesh.peers().iter().all(|peer| peer.node.as_str() != "client-1")).await;
        unharmed(&bystander).await;
    });
}
