//! Calls between nodes, over both transports.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use afflux_mesh::{MeshConfig, PeerEvent, Policy};
use afflux_wire::contract::{CallError, Target};
use afflux_wire::{Code, Executed, Stage};
use common::{Desk, Net, Node, SECOND, SumsCall, over_both, until};

#[test]
fn a_call_reaches_another_node_and_its_answer_comes_back() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        server.serve(&Arc::new(Desk::default()));
        client.link(&server).await;
        let sums = client.sums();
        for a in 0..100 {
            assert_eq!(sums.add(a, 7).await.unwrap(), a + 7);
        }
        assert_eq!(client.metric("afflux_rpc_client_requests_total", &["math.sums", "Add", "OK"]), 100.0);
        assert_eq!(server.metric("afflux_rpc_server_requests_total", &["math.sums", "Add", "OK"]), 100.0);
        assert_eq!(server.metric("afflux_rpc_server_requests_in_flight", &["math.sums"]), 0.0);
        // Sums below 128 are a byte each, and what one side sends comes to the other.
        let bytes = |side: &Node, name, way| side.metric(name, &["math.sums", way]);
        assert_eq!(bytes(&client, "afflux_rpc_client_bytes_total", "in"), 100.0);
        until(|| bytes(&server, "afflux_rpc_server_bytes_total", "out") == 100.0).await;
        let params = bytes(&client, "afflux_rpc_client_bytes_total", "out");
        assert!(params >= 300.0, "{params}");
        assert_eq!(bytes(&server, "afflux_rpc_server_bytes_total", "in"), params);
    });
}

#[test]
fn calls_go_both_ways_over_one_link() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        let desk = Arc::new(Desk::default());
        a.mesh.serve(desk.entry());
        a.link(&b).await;
        assert_eq!(b.sums().add(1, 2).await.unwrap(), 3);
        // A service that came after the link was made.
        a.mesh.withdraw("math.sums");
        b.serve(&desk);
        until(|| a.mesh.services().contains(&"math.sums".to_owned())).await;
        assert_eq!(a.sums().add(3, 4).await.unwrap(), 7);
        assert_eq!(b.metric("afflux_connections", &["control"]), 1.0);
    });
}

#[test]
fn many_calls_share_one_link_and_keep_their_answers_apart() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        server.serve(&Arc::new(Desk::default()));
        client.link(&server).await;
        let sums = client.sums();
        let calls = (0..1000).map(|a| {
            let call = sums.add(a, a);
            async move { call.await.unwrap() == 2 * a }
        });
        let right = futures_util::future::join_all(calls).await;
        assert!(right.into_iter().all(|right| right));
    });
}

#[test]
fn a_service_of_this_node_is_called_without_a_link() {
    over_both(async |net: Net| {
        let (here, there) = (net.node("here"), net.node("there"));
        let (near, far) = (Arc::new(Desk::default()), Arc::new(Desk::default()));
        here.serve(&near);
        there.serve(&far);
        here.link(&there).await;
        assert_eq!(here.sums().add(1, 1).await.unwrap(), 2);
        assert_eq!((near.came.load(SeqCst), far.came.load(SeqCst)), (1, 0));
        let there_only = here.mesh.client_on::<common::Sums>(there.mesh.node());
        assert_eq!(there_only.add(1, 1).await.unwrap(), 2);
        assert_eq!((near.came.load(SeqCst), far.came.load(SeqCst)), (1, 1));
    });
}

#[test]
fn a_one_way_call_arrives_and_waits_for_nobody() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        for n in 0..3 {
            client.sums().touch(n).await.unwrap();
        }
        until(|| desk.touched.lock().len() == 3).await;
        assert_eq!(*desk.touched.lock(), [0, 1, 2]);
    });
}

#[test]
fn a_call_without_an_answer_fails_at_its_deadline_and_is_cancelled_there() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        let error = client.sums().add(1, 2).deadline(Duration::from_millis(50)).await.unwrap_err();
        let status = error.status();
        assert_eq!((status.code, status.was_executed()), (Code::DeadlineExceeded, Executed::Maybe));
        assert!(status.message.contains("math.sums/Add") && status.message.contains("server"), "{status}");
        until(|| desk.held.lock().front().is_some_and(afflux_wire::contract::Mail::is_cancelled)).await;
        // What is answered too late is not sent, and does no harm.
        desk.answer_all();
        desk.hold.store(false, SeqCst);
        assert_eq!(client.sums().add(5, 6).await.unwrap(), 11);
    });
}

#[test]
fn a_deadline_travels_and_shrinks() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        let sums = client.sums();
        let started = afflux_actor::clock::now();
        let call = async { sums.add(1, 2).deadline(5 * SECOND).await };
        let answer = async {
            until(|| !desk.held.lock().is_empty()).await;
            let deadline = match desk.held.lock().front() {
                Some(SumsCall::Add(meta, ..)) => meta.deadline.unwrap(),
                _ => panic!("no call"),
            };
            let left = deadline.saturating_duration_since(started);
            assert!(left <= 5 * SECOND + SECOND / 2 && left > 4 * SECOND, "{left:?}");
            desk.answer_all();
        };
        assert_eq!(tokio::join!(call, answer).0.unwrap(), 3);
    });
}

#[test]
fn a_dropped_call_is_cancelled_on_the_other_node() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        let sums = client.sums();
        tokio::select! {
            biased;
            _ = async { sums.add(1, 2).await } => panic!("nobody answers"),
            () = until(|| !desk.held.lock().is_empty()) => {}
        }
        until(|| desk.held.lock().front().is_some_and(afflux_wire::contract::Mail::is_cancelled)).await;
        assert_eq!(client.metric("afflux_rpc_client_requests_total", &["CANCELLED"]), 1.0);
    });
}

#[test]
fn a_full_mailbox_refuses_and_says_so() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Arc::new(Desk::default());
        desk.full.store(true, SeqCst);
        server.serve(&desk);
        client.link(&server).await;
        let error = client.sums().add(1, 2).await.unwrap_err();
        let status = error.status();
        assert_eq!((status.code, status.was_executed()), (Code::ResourceExhausted, Executed::No));
        let details = status.details.as_ref().unwrap();
        assert_eq!(details.stage, Some(Stage::Admission));
        assert!(details.retry_after_ms.is_some() && status.message.contains("1024"), "{status}");
        assert_eq!(desk.came.load(SeqCst), 3, "what was not executed is tried three times in all");
    });
}

#[test]
fn a_lost_link_fails_its_calls_at_once_and_the_next_call_finds_a_new_one() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        let mut events = client.mesh.peer_events();
        assert!(matches!(events.next().await, Some(PeerEvent::Up(node, _)) if node == *server.mesh.node()));
        let sums = client.sums();
        let call = async { sums.add(1, 2).deadline(3600 * SECOND).await };
        let cut = async {
            until(|| !desk.held.lock().is_empty()).await;
            assert!(server.mesh.disconnect(client.mesh.node()));
        };
        let error: CallError = tokio::join!(call, cut).0.unwrap_err();
        let status = error.status();
        assert_eq!((status.code, status.was_executed()), (Code::Unavailable, Executed::Maybe));
        assert_eq!(status.details.as_ref().unwrap().node.as_ref(), Some(server.mesh.node()));
        match events.next().await {
            Some(PeerEvent::Down(node, _, reason)) => {
                assert_eq!(node, *server.mesh.node());
                assert!(reason.message.contains("lost"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        desk.hold.store(false, SeqCst);
        assert_eq!(sums.add(3, 4).await.unwrap(), 7);
        assert!(matches!(events.next().await, Some(PeerEvent::Up(..))));
    });
}

#[test]
fn a_call_waits_for_its_endpoint_until_the_deadline() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let sums = client.sums();
        let error = sums.add(1, 2).deadline(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(error.status().message.contains("nobody offers math.sums"), "{error}");
        assert_eq!(error.status().was_executed(), Executed::No);
        let error = sums.add(1, 2).fail_fast().await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        let late = async {
            client.mesh.add_peer_address(server.mesh.node().clone(), &server.mesh.local_address());
            server.serve(&Arc::new(Desk::default()));
        };
        let call = async { sums.add(1, 2).deadline(20 * SECOND).await };
        assert_eq!(tokio::join!(call, late).0.unwrap(), 3);
    });
}

#[test]
fn an_unknown_method_is_answered_with_the_nearest_names() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        server.serve(&Arc::new(Desk::default()));
        client.link(&server).await;
        let target = Target::service("math.sums");
        let call = client.mesh.call_raw(&target, "Addd", Vec::new(), SECOND);
        let status = call.await.unwrap_err();
        assert_eq!((status.code, status.was_executed()), (Code::Unimplemented, Executed::No));
        assert!(status.message.contains("did you mean `Add`"), "{status}");
        let target = Target::service("math.sum");
        let status = client.mesh.call_raw(&target, "Add", Vec::new(), Duration::ZERO).await.unwrap_err();
        assert!(status.message.contains("did you mean `math.sums`"), "{status}");
    });
}

#[test]
fn a_call_without_types_is_the_same_call() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        server.serve(&Arc::new(Desk::default()));
        client.link(&server).await;
        let params = afflux_wire::codec::to_named(&common::Add { a: 20, b: 22 }).unwrap();
        let target = Target::service("math.sums");
        for mesh in [&client.mesh, &server.mesh] {
            let result = mesh.call_raw(&target, "Add", params.clone(), SECOND).await.unwrap();
            assert_eq!(afflux_wire::codec::from_slice::<u64>(&result).unwrap(), 42);
        }
        let status = client.mesh.call_raw(&target, "Add", vec![0x80], SECOND).await.unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument);
    });
}

#[test]
fn params_above_the_peers_limit_never_leave() {
    over_both(async |net: Net| {
        let mut config = net.config("server");
        config.limits.message_bytes_max = 2_000;
        let (server, client) = (net.node_with(config), net.node("client"));
        let desk = Arc::new(Desk::default());
        server.serve(&desk);
        client.link(&server).await;
        let target = Target::service("math.sums");
        let status = client.mesh.call_raw(&target, "Add", vec![0; 4_000], SECOND).await.unwrap_err();
        assert_eq!((status.code, status.was_executed()), (Code::ResourceExhausted, Executed::No));
        assert!(status.message.contains("2000") && status.message.contains("server"), "{status}");
        assert_eq!(client.sums().add(1, 2).await.unwrap(), 3);
    });
}

#[test]
fn calls_beyond_the_peers_in_flight_limit_are_refused_at_once() {
    over_both(async |net: Net| {
        let mut config = net.config("server");
        config.limits.in_flight_max = 2;
        let (server, client) = (net.node_with(config), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        let sums = client.sums();
        let calls = async { tokio::join!(async { sums.add(1, 1).await }, async { sums.add(2, 2).await }) };
        let third = async {
            until(|| desk.held.lock().len() == 2).await;
            let error = sums.add(3, 3).await.unwrap_err();
            desk.answer_all();
            error
        };
        let ((one, two), error) = tokio::join!(calls, third);
        assert_eq!((one.unwrap(), two.unwrap()), (2, 4));
        assert_eq!((error.code(), error.status().was_executed()), (Code::ResourceExhausted, Executed::No));
    });
}

#[test]
fn endpoints_share_the_calls_and_a_lost_one_gets_none() {
    over_both(async |net: Net| {
        let client = net.node("client");
        let servers = [net.node("s1"), net.node("s2"), net.node("s3")];
        let desks = [(); 3].map(|()| Arc::new(Desk::default()));
        for (server, desk) in servers.iter().zip(&desks) {
            server.serve(desk);
            client.link(server).await;
        }
        client.mesh.set_policy("math.sums", Policy::RoundRobin);
        for n in 0..30 {
            client.sums().add(n, n).await.unwrap();
        }
        assert_eq!(desks.each_ref().map(|desk| desk.came.load(SeqCst)), [10, 10, 10]);
        servers[1].mesh.close();
        until(|| client.metric("afflux_lb_endpoints", &["math.sums", "ready"]) == 2.0).await;
        for n in 0..30 {
            client.sums().add(n, n).await.unwrap();
        }
        assert_eq!(desks[1].came.load(SeqCst), 10);
    });
}

#[test]
fn a_node_that_drains_answers_what_it_has_and_takes_nothing_new() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        let sums = client.sums();
        let admitted = async { sums.add(1, 2).await };
        let drained = async {
            until(|| !desk.held.lock().is_empty()).await;
            let answers = async {
                let draining = |info: &afflux_mesh::PeerInfo| info.state == afflux_mesh::PeerState::Draining;
                until(|| client.mesh.peers().iter().any(draining)).await;
                let late = sums.add(3, 4).fail_fast().await.unwrap_err();
                assert_eq!((late.code(), late.status().was_executed()), (Code::Unavailable, Executed::No));
                assert_eq!(desk.came.load(SeqCst), 1);
                desk.answer_all();
            };
            tokio::join!(server.mesh.drain(10 * SECOND), answers);
        };
        let (answer, ()) = tokio::join!(admitted, drained);
        assert_eq!(answer.unwrap(), 3);
        until(|| client.mesh.services().is_empty()).await;
    });
}

#[test]
fn a_drain_ends_with_its_grace_whatever_is_left() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Desk::holding();
        server.serve(&desk);
        client.link(&server).await;
        let sums = client.sums();
        let stuck = async { sums.add(1, 2).deadline(3600 * SECOND).await };
        let drained = async {
            until(|| !desk.held.lock().is_empty()).await;
            server.mesh.drain(Duration::from_millis(50)).await;
        };
        let (answer, ()) = tokio::join!(stuck, drained);
        let error = answer.unwrap_err();
        assert_eq!((error.code(), error.status().was_executed()), (Code::Unavailable, Executed::Maybe));
    });
}

#[test]
fn nothing_starts_on_a_closed_mesh() {
    over_both(async |net: Net| {
        let node = net.node_with(MeshConfig::new("client", "test"));
        node.mesh.close();
        let error = node.sums().add(1, 2).await.unwrap_err();
        assert!(error.status().message.contains("closed"), "{error}");
        assert!(node.mesh.connect_unknown("127.0.0.1:1").await.is_err());
    });
}
