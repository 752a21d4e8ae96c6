//! Peers that mean harm, byte by byte, over pipes and over TCP: each is told, counted, and alone in its misery.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use afflux_mesh::MeshConfig;
use afflux_wire::handshake::{Hello, Preface, Role};
use afflux_wire::{
    Attach, Code, Executed, Frame, Meta, Method, put_attach, put_bind, put_cancel, put_credit, put_goaway,
    put_hello, put_ping, put_request,
};
use common::raw::Raw;
use common::{Desk, Net, Node, over_both, until};
use tokio::io::AsyncWriteExt;

fn refused(node: &Node, reason: &str) -> f64 {
    node.metric("afflux_connections_closed_total", &["unknown", reason])
}

/// A node, and one that calls it and must not notice anything.
async fn scene(net: &Net) -> (Node, Node) {
    let (node, bystander) = (net.node("a"), net.node("bystander"));
    node.serve(&Arc::new(Desk::default()));
    bystander.link(&node).await;
    (node, bystander)
}

async fn unharmed(bystander: &Node) {
    assert_eq!(bystander.sums().add(1, 2).await.unwrap(), 3, "another link was harmed");
}

#[test]
fn a_slow_loris_has_five_seconds_for_each_step() {
    // Over pipes only: there the clock leaps.
    let network = afflux_mesh::MemoryNetwork::default();
    afflux_actor::test::paused(|| async {
        let net = Net(afflux_mesh::Transport::Memory(network));
        let (node, bystander) = scene(&net).await;
        let begun = tokio::time::Instant::now();
        let mut silent = Raw::open(&net, &node).await;
        assert!(silent.frame().await.is_none());
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert_eq!(refused(&node, "first_byte_timeout"), 1.0);
        // One byte of the preface, and no more.
        let mut slow = Raw::open(&net, &node).await;
        slow.send(&[0xc1]).await;
        assert!(slow.frame().await.is_none());
        // The whole preface, and half a HELLO: now it can be told.
        let mut slow = Raw::open(&net, &node).await;
        slow.send(&Preface::CURRENT.to_bytes()).await;
        slow.send(&[0, 0, 0, 50, 0x92]).await;
        assert!(slow.rejected().await.message.contains("no HELLO within 5s"));
        assert_eq!(refused(&node, "hello_timeout"), 2.0);
        assert_eq!(begun.elapsed().as_secs(), 15);
        unharmed(&bystander).await;
    });
}

#[test]
fn a_foreign_major_is_rejected_by_name_even_without_a_hello() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let mut foreign = Raw::open(&net, &node).await;
        foreign.send(&[0xc1, b'A', b'F', b'X', 9, 3, 0, 0]).await;
        let status = foreign.rejected().await;
        assert_eq!(status.code, Code::FailedPrecondition);
        for part in ["protocol 9.3", "node a", "speaks 1.0"] {
            assert!(status.message.contains(part), "{part} is missing in: {status}");
        }
        unharmed(&bystander).await;
    });
}

#[test]
fn what_is_no_hello_is_rejected_and_counted() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let mut bomb = vec![0, 0, 0x40, 0, 0x92, 3, 0xc5, 0x3f, 0xf8];
        bomb.resize(4 + 0x4000, 0x91);
        let odd: [&[u8]; 6] = [
            // A frame above what an unknown peer may send.
            &[0x7f, 0xff, 0xff, 0xff, 0x92],
            // A second preface.
            &[0xc1, b'A', b'F', b'X', 1, 0, 0, 0],
            // A request before HELLO.
            &[0, 0, 0, 2, 0x91, 0],
            // A HELLO that is no map.
            &[0, 0, 0, 5, 0x92, 3, 0xc4, 1, 0x07],
            // An array that claims four thousand million elements.
            &[0, 0, 0, 6, 0xdd, 0xff, 0xff, 0xff, 0xff, 3],
            // Sixteen thousand arrays, one in the other.
            &bomb,
        ];
        for (n, bytes) in odd.into_iter().enumerate() {
            let mut raw = Raw::open(&net, &node).await;
            raw.send(&Preface::CURRENT.to_bytes()).await;
            raw.send(bytes).await;
            let status = raw.rejected().await;
            assert!(status.message.contains("no HELLO that it can read"), "{n}: {status}");
            assert_eq!(refused(&node, "hello"), n as f64 + 1.0);
        }
        unharmed(&bystander).await;
    });
}

#[test]
fn what_belongs_to_no_greeted_link_costs_it() {
    type Break = (&'static str, Role, fn(&mut Vec<u8>));
    let breaks: [Break; 8] = [
        ("misplaced", Role::Control, |out| put_hello(out, &Hello::default()).unwrap()),
        ("frame_too_large", Role::Control, |out| out.extend(Preface::CURRENT.to_bytes())),
        ("unknown_kind", Role::Control, |out| out.extend([0, 0, 0, 2, 0x91, 63])),
        ("elements", Role::Control, |out| out.extend([0, 0, 0, 6, 0xdd, 0xff, 0xff, 0xff, 0xff, 0])),
        ("depth", Role::Control, |out| {
            // A value in a request's meta, nested deeper than anything may be.
            out.extend([0, 0, 0, 109, 0x95, 0, 1, 0xa1, b'm', 0xc4, 0, 0x81, 99]);
            out.extend([0x91; 100]);
        }),
        ("id", Role::Control, |out| {
            for _ in 0..2 {
                put_request(out, 1, Method::Name("math.sums/Add"), &[0x80], &Meta::default()).unwrap();
            }
        }),
        ("id", Role::Control, |out| {
            for id in [5, 3] {
                put_request(out, id, Method::Name("math.sums/Add"), &[0x80], &Meta::default()).unwrap();
            }
        }),
        ("id", Role::Data, |out| {
            for _ in 0..2 {
                attach(out, 1);
            }
        }),
    ];
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
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
    });
}

fn attach(out: &mut Vec<u8>, channel: u64) {
    let attach = Attach { channel, attempt: 1, fingerprint: 7, job: "job", edge: 1, from: 0, to: 0 };
    put_attach(out, &attach).unwrap();
}

#[test]
fn unknown_kinds_from_64_on_are_skipped() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (mut control, _data) = Raw::link(&net, &node, "client-1").await;
        control.send(&[0, 0, 0, 3, 0x92, 64, 0xc0, 0, 0, 0, 3, 0x91, 0xcc, 0xff]).await;
        assert!(control.is_alive().await);
        unharmed(&bystander).await;
    });
}

#[test]
fn cancels_and_credits_for_what_nobody_knows_change_nothing() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (mut control, _data) = Raw::link(&net, &node, "client-1").await;
        let mut out = Vec::new();
        for id in 0..5_000 {
            put_cancel(&mut out, id, afflux_wire::CancelReason::Dropped);
            put_credit(&mut out, u64::MAX - id, 1 << 40);
        }
        control.send(&out).await;
        assert!(control.is_alive().await);
        unharmed(&bystander).await;
    });
}

#[test]
fn a_flood_of_attaches_is_answered_with_as_many_detaches() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (_control, mut data) = Raw::link(&net, &node, "client-1").await;
        const FLOOD: u64 = 2_000;
        let mut out = Vec::new();
        for n in 0..FLOOD {
            attach(&mut out, 2 * n + 1);
        }
        data.send(&out).await;
        for n in 0..FLOOD {
            let frame = data.frame().await.unwrap();
            assert!(matches!(Frame::decode(&frame), Ok(Frame::Detach { channel }) if channel == 2 * n + 1));
        }
        assert_eq!(node.metric("afflux_channel_attach_refused_total", &["unknown"]), FLOOD as f64);
        assert!(data.is_alive().await);
        unharmed(&bystander).await;
    });
}

#[test]
fn who_pings_and_reads_no_pong_loses_its_link() {
    over_both(async |net: Net| {
        let config = MeshConfig { write_buffer_bytes_max: 64 << 10, ..net.config("a") };
        let (node, bystander) = (net.node_with(config), net.node("bystander"));
        node.serve(&Arc::new(Desk::default()));
        bystander.link(&node).await;
        let (mut control, _data) = Raw::link(&net, &node, "client-1").await;
        let mut out = Vec::new();
        for nonce in 0..10_000 {
            put_ping(&mut out, u64::MAX - nonce);
        }
        // Far more than pipes and sockets hold.
        let flood = async {
            for _ in 0..2_000 {
                if control.stream.write_all(&out).await.is_err() {
                    return;
                }
            }
        };
        let flooded = tokio::time::timeout(Duration::from_secs(20), flood).await;
        assert!(flooded.is_ok(), "the peer was left waiting");
        let gone = || node.mesh.peers().iter().all(|peer| peer.node.as_str() != "client-1");
        until(gone).await;
        unharmed(&bystander).await;
    });
}

#[test]
fn a_goaway_of_a_peer_ends_only_what_it_has_to_do_with() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (mut control, _data) = Raw::link(&net, &node, "client-1").await;
        let mut out = Vec::new();
        for last_id in [u64::MAX, 0, 7, u64::MAX] {
            put_goaway(&mut out, last_id, 99, "because", u64::MAX);
        }
        control.send(&out).await;
        assert!(control.is_alive().await);
        unharmed(&bystander).await;
    });
}

#[test]
fn a_flood_of_bindings_is_bounded() {
    over_both(async |net: Net| {
        let (node, bystander) = scene(&net).await;
        let (mut control, _data) = Raw::link(&net, &node, "client-1").await;
        let mut sent = 0;
        'flood: for n in 0..200u32 {
            let names: Vec<String> = (0..1_000).map(|m| format!("s{n}.x/m{m}")).collect();
            let mut out = Vec::new();
            put_bind(
                &mut out,
                names.iter().enumerate().map(|(m, name)| (n * 1_000 + m as u32 + 1, name.as_str())),
            )
            .unwrap();
            if control.stream.write_all(&out).await.is_err() {
                break 'flood;
            }
            sent += names.len();
        }
        let goaway = control.goaway().await;
        assert!(goaway.contains("bindings_max"), "{goaway} after {sent}");
        assert_eq!(node.metric("afflux_decode_errors_total", &["bindings_max"]), 1.0);
        unharmed(&bystander).await;
    });
}

#[test]
fn one_address_has_its_share_of_connections_and_is_told_when_that_is_used_up() {
    over_both(async |net: Net| {
        let config = MeshConfig { connections_per_peer_max: 2, ..net.config("a") };
        let node = net.node_with(config);
        let (mut control, data) = Raw::link(&net, &node, "client-1").await;
        let mut third = Raw::open(&net, &node).await;
        let status = third.rejected().await;
        assert!(status.message.contains("at most 2 may be (connections_per_peer_max)"), "{status}");
        assert_eq!(status.was_executed(), Executed::No);
        assert_eq!(refused(&node, "connections_per_peer_max"), 1.0);
        assert!(control.is_alive().await, "what was there before is left alone");
        // A place is free again as soon as a link ends.
        drop((control, data));
        until(|| node.mesh.peers().is_empty()).await;
        Raw::link(&net, &node, "client-2").await;
    });
}

#[test]
fn handshakes_that_are_begun_and_left_fill_their_bound_and_no_more() {
    over_both(async |net: Net| {
        let config = MeshConfig { handshakes_per_peer_max: 3, ..net.config("a") };
        let node = net.node_with(config);
        let mut begun = Vec::new();
        for _ in 0..3 {
            let mut raw = Raw::open(&net, &node).await;
            raw.send(&[0xc1]).await;
            begun.push(raw);
        }
        let mut fourth = Raw::open(&net, &node).await;
        assert!(fourth.rejected().await.message.contains("handshakes_per_peer_max"));
        assert_eq!(refused(&node, "handshakes_per_peer_max"), 1.0);
        drop(begun);
        until(|| refused(&node, "hello") == 3.0).await;
        Raw::link(&net, &node, "client-1").await;
    });
}
