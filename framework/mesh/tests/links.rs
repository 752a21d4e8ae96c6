//! Links: greetings, refusals, crossing dials, keepalive, hostile bytes; over both transports.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use afflux_mesh::{MeshConfig, PeerEvent, PeerState};
use afflux_registry::{Instance, View};
use afflux_wire::handshake::{Hello, Preface, Role};
use afflux_wire::{
    Attach, Code, Executed, Frame, Incarnation, Limits, Mark, Meta, Method, NodeId, next_frame, put_attach,
    put_data, put_hello, put_mark, put_ping, put_request,
};
use bytes::{Bytes, BytesMut};
use common::{Desk, Net, Node, Stream, incarnation, over_both, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A peer that is no node: it says what a test wants.
struct Raw {
    stream: Box<dyn Stream>,
    buf: BytesMut,
}

impl Raw {
    async fn greet(net: &Net, node: &Node, hello: &Hello, preface: Preface) -> Self {
        let mut raw = Self { stream: net.raw(&node.mesh.local_address()).await, buf: BytesMut::new() };
        let mut out = preface.to_bytes().to_vec();
        put_hello(&mut out, hello).unwrap();
        raw.send(&out).await;
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame; nothing at the end.
    async fn frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = next_frame(&mut self.buf, &Limits::default()).unwrap() {
                return Some(frame);
            }
            match self.stream.read_buf(&mut self.buf).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Both connections of a link, greeted.
    async fn link(net: &Net, node: &Node, hello: Hello) -> (Self, Self) {
        let mut control = Self::greet(net, node, &hello, Preface::CURRENT).await;
        assert!(matches!(Frame::decode(&control.frame().await.unwrap()), Ok(Frame::Welcome(_))));
        let hello = Hello { role: Role::Data, ..hello };
        let mut data = Self::greet(net, node, &hello, Preface::CURRENT).await;
        assert!(matches!(Frame::decode(&data.frame().await.unwrap()), Ok(Frame::Welcome(_))));
        until(|| node.mesh.peers().iter().any(|peer| peer.node == hello.node)).await;
        (control, data)
    }
}

fn hello(name: &str) -> Hello {
    Hello { node: name.into(), cluster: "test".into(), incarnation: Incarnation(1), ..Hello::default() }
}

fn events_of(node: &Node) -> Vec<(NodeId, bool)> {
    node.mesh.peers().into_iter().map(|peer| (peer.node, peer.state == PeerState::Up)).collect()
}

#[test]
fn another_cluster_is_refused_and_both_sides_are_named() {
    over_both(async |net: Net| {
        let (a, b) =
            (net.node("a"), net.node_with(MeshConfig { cluster: "other".into(), ..net.config("b") }));
        let error = b.mesh.connect_unknown(&a.mesh.local_address()).await.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        for part in ["`test`", "`other`", "a (build build-of-a)", "b (build build-of-b)"] {
            assert!(error.message.contains(part), "{part} is missing in: {error}");
        }
        assert_eq!(a.metric("afflux_connections_closed_total", &["rejected"]), 1.0);
        assert!(a.mesh.peers().is_empty() && b.mesh.peers().is_empty());
    });
}

#[test]
fn another_major_version_is_refused_and_both_are_named() {
    over_both(async |net: Net| {
        let node = net.node("a");
        let preface = Preface { major: 9, ..Preface::CURRENT };
        let mut raw = Raw::greet(&net, &node, &hello("future"), preface).await;
        let frame = raw.frame().await.unwrap();
        let Ok(Frame::Reject(status)) = Frame::decode(&frame) else { panic!("no REJECT") };
        assert!(status.message.contains("future") && status.message.contains("protocol 9"), "{status}");
        assert!(status.message.contains("this node a") && status.message.contains("speaks 1."), "{status}");
        assert!(raw.frame().await.is_none(), "the connection is closed behind it");
    });
}

#[test]
fn a_missing_token_is_refused_and_the_right_one_is_taken() {
    over_both(async |net: Net| {
        let with =
            |token: Option<&str>, name| MeshConfig { token: token.map(str::to_owned), ..net.config(name) };
        let a = net.node_with(with(Some("secret"), "a"));
        let (b, c) = (net.node_with(with(None, "b")), net.node_with(with(Some("secret"), "c")));
        let error = b.mesh.connect_unknown(&a.mesh.local_address()).await.unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
        assert!(!error.message.contains("secret"), "{error}");
        c.link(&a).await;
    });
}

#[test]
fn garbage_and_strangers_are_closed_and_counted() {
    over_both(async |net: Net| {
        let mut config = net.config("a");
        config.compat.mode = afflux_mesh::CompatMode::Off;
        let node = net.node_with(config);
        for (first, reason) in [
            (&b"\x00garbage"[..], "garbage"),
            (b"\x16\x03\x01", "tls"),
            (b"\x94\x00\x01\xa1m\x90", "msgpack_rpc"),
            (b"\xc1BAD\x01\x00\x00\x00", "hello"),
        ] {
            let mut raw = net.raw(&node.mesh.local_address()).await;
            raw.write_all(first).await.unwrap();
            let mut answer = Vec::new();
            // Closed; over TCP possibly by a reset, since bytes were left unread.
            let _ = raw.read_to_end(&mut answer).await;
            // TLS is answered in its own words: a fatal alert.
            assert_eq!(answer.first().copied(), (reason == "tls").then_some(0x15), "{reason}: {answer:?}");
            until(|| node.metric("afflux_connections_closed_total", &[reason]) == 1.0).await;
        }
    });
}

#[test]
fn a_browser_is_told_where_to_look() {
    over_both(async |net: Net| {
        let config = MeshConfig { admin_hint: Some("10.0.0.1:9400".into()), ..net.config("a") };
        let node = net.node_with(config);
        let mut raw = net.raw(&node.mesh.local_address()).await;
        raw.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        raw.shutdown().await.unwrap();
        let mut answer = String::new();
        raw.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
        assert!(answer.contains("http://10.0.0.1:9400/"), "{answer}");
    });
}

#[test]
fn nodes_that_dial_each_other_end_up_with_one_link() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        a.serve(&Arc::new(Desk::default()));
        a.mesh.add_peer_address("b".into(), &b.mesh.local_address());
        b.mesh.add_peer_address("a".into(), &a.mesh.local_address());
        until(|| events_of(&a) == [("b".into(), true)] && events_of(&b) == [("a".into(), true)]).await;
        assert_eq!(b.sums().add(1, 2).await.unwrap(), 3);
        until(|| a.metric("afflux_connections", &["control"]) == 1.0).await;
        until(|| b.metric("afflux_connections", &["control"]) == 1.0).await;
        assert_eq!(b.sums().add(1, 2).await.unwrap(), 3);
    });
}

#[test]
fn a_wrong_name_at_an_address_is_told() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        a.mesh.add_peer_address("c".into(), &b.mesh.local_address());
        let unreachable = || match &a.mesh.peers()[..] {
            [peer] => match &peer.state {
                PeerState::Unreachable(status) => status.message.contains("node b answered there"),
                _ => false,
            },
            _ => false,
        };
        until(unreachable).await;
    });
}

#[test]
fn a_new_life_of_a_node_replaces_the_old_one() {
    over_both(async |net: Net| {
        let server = net.node("server");
        let mut events = server.mesh.peer_events();
        let old = net.node_with(incarnation(net.config("client"), 1));
        old.link(&server).await;
        assert_eq!(events.next().await, Some(PeerEvent::Up("client".into(), Incarnation(1))));
        let new = net.node_with(incarnation(net.config("client"), 2));
        new.link(&server).await;
        assert!(matches!(events.next().await, Some(PeerEvent::Down(_, Incarnation(1), _))));
        assert_eq!(events.next().await, Some(PeerEvent::Up("client".into(), Incarnation(2))));
        // The old life cannot come back.
        let error = old.mesh.connect_unknown(&server.mesh.local_address()).await.unwrap_err();
        assert!(error.message.contains("incarnation 2"), "{error}");
    });
}

#[test]
fn the_registry_brings_peers_and_takes_them_away() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        let instance = |node: &Node| {
            Instance::new(node.mesh.node().clone(), node.mesh.incarnation(), node.mesh.local_address())
        };
        let view = |version, instances: Vec<Instance>| View { version, instances, reachable: true };
        let mut events = a.mesh.peer_events();
        a.mesh.set_view(&view(1, vec![instance(&a), instance(&b)]));
        assert_eq!(events.next().await, Some(PeerEvent::Up("b".into(), Incarnation(1))));
        // A registry that cannot be reached says nothing about who is there.
        a.mesh.set_view(&View { version: 2, instances: Vec::new(), reachable: false });
        assert_eq!(events_of(&a), [("b".into(), true)]);
        a.mesh.set_view(&view(3, vec![instance(&a)]));
        match events.next().await {
            Some(PeerEvent::Down(_, _, status)) => assert!(status.message.contains("registered"), "{status}"),
            other => panic!("{other:?}"),
        }
        until(|| a.mesh.peers().is_empty()).await;
    });
}

#[test]
fn a_node_known_by_its_address_alone_is_found_through_the_view() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        let address = b.mesh.local_address();
        let seed = Instance::new(NodeId::new(address.as_str()), Incarnation(0), address.as_str());
        a.mesh.set_view(&View { version: 1, instances: vec![seed], reachable: true });
        until(|| events_of(&a) == [("b".into(), true)]).await;
    });
}

#[test]
fn a_silent_peer_is_lost_after_three_keepalives() {
    over_both(async |net: Net| {
        let config = MeshConfig { keepalive: Duration::from_millis(20), ..net.config("a") };
        let node = net.node_with(config);
        let mut events = node.mesh.peer_events();
        let hello = Hello { keepalive_ms: 20, ..hello("mute") };
        let (mut control, _data) = Raw::link(&net, &node, hello).await;
        assert!(matches!(events.next().await, Some(PeerEvent::Up(..))));
        assert!(matches!(Frame::decode(&control.frame().await.unwrap()), Ok(Frame::Ping(_))));
        match events.next().await {
            Some(PeerEvent::Down(_, _, status)) => {
                assert!(status.message.contains("three keepalives"), "{status}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(node.metric("afflux_connections_closed_total", &["keepalive"]), 1.0);
    });
}

#[test]
fn two_idle_nodes_keep_their_link() {
    over_both(async |net: Net| {
        let config = |name| MeshConfig { keepalive: Duration::from_millis(5), ..net.config(name) };
        let (a, b) = (net.node_with(config("a")), net.node_with(config("b")));
        a.link(&b).await;
        let started = afflux_actor::clock::now();
        until(|| afflux_actor::clock::now() - started > Duration::from_millis(100)).await;
        assert_eq!(events_of(&a), [("b".into(), true)]);
        assert_eq!(a.metric("afflux_connections_opened_total", &["control"]), 1.0);
    });
}

#[test]
fn an_address_that_is_linked_already_is_not_dialled_again() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        for _ in 0..3 {
            assert_eq!(a.mesh.connect_unknown(&b.mesh.local_address()).await.unwrap().as_str(), "b");
        }
        assert_eq!(a.metric("afflux_connections_opened_total", &["control"]), 1.0);
    });
}

#[test]
fn a_request_whose_deadline_has_passed_is_answered_without_running() {
    over_both(async |net: Net| {
        let node = net.node("a");
        let desk = Arc::new(Desk::default());
        node.serve(&desk);
        let (mut control, _data) = Raw::link(&net, &node, hello("raw")).await;
        let params = afflux_wire::codec::to_named(&common::Add { a: 1, b: 2 }).unwrap();
        let mut out = Vec::new();
        let late = Meta { deadline_ms: Some(0), ..Meta::default() };
        put_request(&mut out, 1, Method::Name("math.sums/Add"), &params, &late).unwrap();
        put_request(&mut out, 3, Method::Name("math.sums/Add"), &params, &Meta::default()).unwrap();
        control.send(&out).await;
        let frame = control.frame().await.unwrap();
        let Ok(Frame::Response { id: 1, result: Err(status), .. }) = Frame::decode(&frame) else {
            panic!("no error for request 1")
        };
        assert_eq!((status.code, status.was_executed()), (Code::DeadlineExceeded, Executed::No));
        let frame = control.frame().await.unwrap();
        assert!(matches!(Frame::decode(&frame), Ok(Frame::Response { id: 3, result: Ok(_), .. })));
        assert_eq!(desk.came.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(node.metric("afflux_rpc_server_rejected_total", &["math.sums", "deadline"]), 1.0);
    });
}

#[test]
fn services_and_methods_that_nobody_knows_are_answered_by_name() {
    over_both(async |net: Net| {
        let node = net.node("a");
        node.serve(&Arc::new(Desk::default()));
        let (mut control, _data) = Raw::link(&net, &node, hello("raw")).await;
        let calls = [
            (Method::Name("math.sum/Add"), Code::NotFound, "did you mean `math.sums`?"),
            (Method::Name("math.sums/Ad"), Code::Unimplemented, "did you mean `Add`?"),
            (Method::Number(99), Code::Unimplemented, "number 99"),
        ];
        for (n, (method, code, text)) in calls.into_iter().enumerate() {
            let mut out = Vec::new();
            put_request(&mut out, 2 * n as u64 + 1, method, &[0x80], &Meta::default()).unwrap();
            control.send(&out).await;
            let frame = control.frame().await.unwrap();
            let Ok(Frame::Response { result: Err(status), .. }) = Frame::decode(&frame) else {
                panic!("no error")
            };
            assert_eq!((status.code, status.was_executed()), (code, Executed::No));
            assert!(status.message.contains(text), "{status}");
        }
    });
}

#[test]
fn what_breaks_the_protocol_costs_the_link_and_nothing_else() {
    type Break = (&'static str, Role, fn(&mut Vec<u8>));
    let breaks: [Break; 6] = [
        ("id", Role::Control, |out| {
            put_request(out, 2, Method::Number(1), &[], &Meta::default()).unwrap();
        }),
        ("misplaced", Role::Control, |out| put_data(out, 1, 1, 1, b"rows").unwrap()),
        ("misplaced", Role::Data, |out| {
            put_request(out, 1, Method::Number(1), &[], &Meta::default()).unwrap();
        }),
        ("gap", Role::Data, |out| {
            attach(out, 1);
            put_mark(out, 1, 2, Mark::Idle);
        }),
        ("frame_too_large", Role::Data, |out| out.extend_from_slice(&[0xff; 8])),
        ("unknown_kind", Role::Control, |out| out.extend_from_slice(&[0, 0, 0, 2, 0x91, 24])),
    ];
    over_both(async |net: Net| {
        let (node, bystander) = (net.node("a"), net.node("bystander"));
        node.serve(&Arc::new(Desk::default()));
        bystander.link(&node).await;
        for (n, (reason, role, put)) in breaks.into_iter().enumerate() {
            let _receiver = node.mesh.channel_receiver(key(), 7);
            let (mut control, mut data) = Raw::link(&net, &node, hello(&format!("raw-{n}"))).await;
            let mut out = Vec::new();
            put(&mut out);
            match role {
                Role::Control => control.send(&out).await,
                Role::Data => data.send(&out).await,
            }
            let goaway = loop {
                let frame = control.frame().await.expect("a GOAWAY before the end");
                if let Ok(Frame::Goaway { reason, .. }) = Frame::decode(&frame) {
                    break reason.to_owned();
                }
            };
            assert!(goaway.contains("protocol error"), "{goaway}");
            while control.frame().await.is_some() {}
            assert!(node.metric("afflux_decode_errors_total", &[reason]) >= 1.0, "{reason}");
        }
        assert_eq!(bystander.sums().add(1, 2).await.unwrap(), 3);
        drop((node, bystander));
    });
}

fn key() -> afflux_mesh::ChannelKey {
    afflux_mesh::ChannelKey { job: "job".into(), attempt: afflux_wire::Attempt(1), edge: 1, from: 0, to: 0 }
}

fn attach(out: &mut Vec<u8>, channel: u64) {
    let attach = Attach { channel, attempt: 1, fingerprint: 7, job: "job", edge: 1, from: 0, to: 0 };
    put_attach(out, &attach).unwrap();
}

#[test]
fn data_on_an_unattached_channel_is_dropped_and_counted() {
    over_both(async |net: Net| {
        let node = net.node("a");
        let (_control, mut data) = Raw::link(&net, &node, hello("raw")).await;
        let mut out = Vec::new();
        put_data(&mut out, 41, 1, 1, b"rows").unwrap();
        put_ping(&mut out, 5);
        data.send(&out).await;
        let frame = data.frame().await.unwrap();
        assert!(matches!(Frame::decode(&frame), Ok(Frame::Pong(5))), "the link lives on");
        assert_eq!(node.metric("afflux_channel_frames_dropped_total", &["unattached"]), 1.0);
    });
}

#[test]
fn a_sender_that_ignores_its_credit_costs_its_link() {
    over_both(async |net: Net| {
        let mut config = net.config("a");
        config.limits.channel_credit_bytes = 1_000;
        config.limits.frame_bytes_max = 2_000;
        let node = net.node_with(config);
        let _receiver = node.mesh.channel_receiver(key(), 7);
        let (mut control, mut data) = Raw::link(&net, &node, hello("greedy")).await;
        let mut out = Vec::new();
        attach(&mut out, 1);
        for seq in 1..=10 {
            put_data(&mut out, 1, seq, 1, &[0; 900]).unwrap();
        }
        data.send(&out).await;
        while control.frame().await.is_some() {}
        assert_eq!(node.metric("afflux_decode_errors_total", &["credit"]), 1.0);
        assert!(node.metric("afflux_channel_queued_bytes", &["job"]) <= 4_900.0);
    });
}

#[test]
fn a_control_connection_without_its_data_connection_is_no_link() {
    over_both(async |net: Net| {
        let config = MeshConfig { connect_timeout: Duration::from_millis(50), ..net.config("a") };
        let node = net.node_with(config);
        let mut control = Raw::greet(&net, &node, &hello("half"), Preface::CURRENT).await;
        assert!(matches!(Frame::decode(&control.frame().await.unwrap()), Ok(Frame::Welcome(_))));
        assert!(control.frame().await.is_none());
        until(|| node.metric("afflux_connections_closed_total", &["half"]) == 1.0).await;
        assert!(node.mesh.peers().is_empty());
        // And a data connection alone is refused.
        let alone = Hello { role: Role::Data, ..hello("half") };
        let mut data = Raw::greet(&net, &node, &alone, Preface::CURRENT).await;
        let frame = data.frame().await.unwrap();
        let Ok(Frame::Reject(status)) = Frame::decode(&frame) else { panic!("no REJECT") };
        assert!(status.message.contains("control connection"), "{status}");
    });
}
