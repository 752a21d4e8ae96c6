//! One actor of another node: called alone, watched, and never taken for another. Over both transports.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use afflux_actor::{Death, StopReason};
use afflux_mesh::{DownReason, WATCHES_PER_LINK_MAX};
use afflux_wire::contract::{ActorRef, CallError};
use afflux_wire::{ActorId, ActorPath, Code, Executed, Status};
use common::{Desk, Net, Node, SECOND, Sums, incarnation, over_both, until};

/// An actor at a path, as its host names it.
fn name(node: &Node, path: &str, desk: &Arc<Desk>) -> (ActorRef<Sums>, Death) {
    let death = Death::new();
    let id = node
        .mesh
        .name_actor(ActorPath::new(path), vec![desk.entry()], death.clone())
        .expect("the name is free");
    (ActorRef::new(id), death)
}

fn gone(error: &CallError, words: &str) {
    assert_eq!((error.code(), error.status().was_executed()), (Code::NotFound, Executed::No), "{error}");
    assert!(error.status().message.contains(words), "{words} is not in: {error}");
}

#[test]
fn a_reference_reaches_its_actor_and_no_other_of_the_same_service() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desks = [(); 3].map(|()| Arc::new(Desk::default()));
        server.serve(&desks[0]);
        let (one, _) = name(&server, "desk/1", &desks[1]);
        let (two, _) = name(&server, "desk/2", &desks[2]);
        client.link(&server).await;
        for node in [&client, &server] {
            assert_eq!(one.via(&node.mesh).add(1, 2).await.unwrap(), 3);
            two.via(&node.mesh).touch(9).await.unwrap();
        }
        until(|| desks[2].touched.lock().len() == 2).await;
        assert_eq!(desks.each_ref().map(|desk| desk.came.load(SeqCst)), [0, 2, 2]);
    });
}

#[test]
fn an_actor_need_not_be_offered_as_a_service_to_be_called() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let (desk, _) = name(&server, "desk", &Arc::new(Desk::default()));
        client.link(&server).await;
        assert_eq!(desk.via(&client.mesh).add(1, 2).await.unwrap(), 3);
        assert!(client.mesh.services().is_empty(), "{:?}", client.mesh.services());
    });
}

#[test]
fn a_reference_to_an_actor_that_ended_or_was_replaced_fails_at_once_and_names_both_lives() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let desk = Arc::new(Desk::default());
        let (first, death) = name(&server, "desk", &desk);
        client.link(&server).await;
        assert_eq!(first.via(&client.mesh).add(1, 2).await.unwrap(), 3);
        death.announce(StopReason::Finished);
        for node in [&client, &server] {
            let error = first.via(&node.mesh).add(1, 2).await.unwrap_err();
            gone(&error, "the actor desk on server (life 1");
        }
        let (second, _) = name(&server, "desk", &desk);
        assert_ne!(first, second);
        for node in [&client, &server] {
            gone(&first.via(&node.mesh).add(1, 2).await.unwrap_err(), "life 2 has its path now");
        }
        assert_eq!(second.via(&client.mesh).add(1, 2).await.unwrap(), 3);
        assert_eq!(desk.came.load(SeqCst), 2);
    });
}

#[test]
fn a_reference_of_an_earlier_life_of_a_node_fails_at_once() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let (desk, _) = name(&server, "desk", &Arc::new(Desk::default()));
        client.link(&server).await;
        server.mesh.close();
        let later = net.node_with(incarnation(net.config("server"), 2));
        let (again, _) = name(&later, "desk", &Arc::new(Desk::default()));
        client.link(&later).await;
        gone(&desk.via(&client.mesh).add(1, 2).await.unwrap_err(), "server was started again");
        assert_eq!(again.via(&client.mesh).add(1, 2).await.unwrap(), 3);
    });
}

#[test]
fn a_reference_to_a_node_that_nobody_knows_fails_at_once() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        let (desk, _) = name(&server, "desk", &Arc::new(Desk::default()));
        let error = desk.via(&client.mesh).add(1, 2).await.unwrap_err();
        assert_eq!((error.code(), error.status().was_executed()), (Code::Unavailable, Executed::No));
        assert!(error.status().message.contains("has left the cluster"), "{error}");
    });
}

#[test]
fn two_actors_cannot_have_one_path_while_both_live() {
    over_both(async |net: Net| {
        let server = net.node("server");
        let desk = Arc::new(Desk::default());
        let (_, death) = name(&server, "desk", &desk);
        let again = || server.mesh.name_actor(ActorPath::new("desk"), vec![desk.entry()], Death::new());
        assert_eq!(again().unwrap_err().code, Code::AlreadyExists);
        death.announce(StopReason::Finished);
        assert!(again().is_ok());
    });
}

#[test]
fn the_end_of_an_actor_is_told_to_whoever_watches_it_here_and_there() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        client.link(&server).await;
        let ends = [
            (StopReason::Finished, DownReason::Finished),
            (
                StopReason::Asked(Status::unavailable("enough")),
                DownReason::Stopped(Status::unavailable("enough")),
            ),
            (
                StopReason::Panicked(afflux_wire::contract::Panic { message: "ouch".into() }),
                DownReason::Panicked(Status::internal("ouch")),
            ),
            (StopReason::Failed(Status::internal("no")), DownReason::Failed(Status::internal("no"))),
        ];
        for (reason, told) in ends {
            let (desk, death) = name(&server, "desk", &Arc::new(Desk::default()));
            let (near, far) = (server.mesh.watch(desk.id()), client.mesh.watch(desk.id()));
            let far = tokio::task::spawn_local(far);
            let calls = desk.via(&client.mesh);
            // Behind the WATCH on the same connection.
            assert_eq!(calls.add(1, 2).await.unwrap(), 3);
            assert!(!far.is_finished());
            death.announce(reason);
            for down in [near.await, far.await.unwrap()] {
                assert_eq!((&down.actor, &down.reason), (desk.id(), &told));
                assert!(down.reason.is_certain());
            }
        }
    });
}

#[test]
fn a_watch_begins_with_the_call_and_not_when_it_is_awaited() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        client.link(&server).await;
        let (desk, death) = name(&server, "desk", &Arc::new(Desk::default()));
        let watch = client.mesh.watch(desk.id());
        // Behind the WATCH on the same connection.
        assert_eq!(desk.via(&client.mesh).add(1, 2).await.unwrap(), 3);
        death.announce(StopReason::Finished);
        // Begun only now it would find nobody.
        assert_eq!(watch.await.reason, DownReason::Finished);
    });
}

#[test]
fn a_watch_of_an_actor_that_is_not_there_is_answered_at_once() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        client.link(&server).await;
        let (desk, death) = name(&server, "desk", &Arc::new(Desk::default()));
        death.announce(StopReason::Finished);
        let unknown = ActorId { path: ActorPath::new("nothing"), ..desk.id().clone() };
        for id in [desk.id(), &unknown] {
            for node in [&server, &client] {
                let down = node.mesh.watch(id).await;
                assert!(matches!(down.reason, DownReason::Gone(_)), "{down:?}");
            }
        }
        let stranger = ActorId { node: "stranger".into(), ..desk.id().clone() };
        let down = client.mesh.watch(&stranger).await;
        assert!(matches!(down.reason, DownReason::NodeLost(_)), "{down:?}");
    });
}

#[test]
fn a_lost_link_is_out_of_reach_and_a_later_life_of_the_node_is_a_lost_one() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        client.mesh.add_peer_address(server.mesh.node().clone(), &server.mesh.local_address());
        until(|| client.mesh.peers().iter().any(|peer| peer.incarnation.is_some())).await;
        let (desk, _death) = name(&server, "desk", &Arc::new(Desk::default()));
        let watch = tokio::task::spawn_local(client.mesh.watch(desk.id()));
        assert_eq!(desk.via(&client.mesh).add(1, 2).await.unwrap(), 3);
        assert!(client.mesh.disconnect(server.mesh.node()));
        let down = watch.await.unwrap();
        assert!(matches!(down.reason, DownReason::Unreachable(_)), "{down:?}");
        assert!(!down.reason.is_certain());
        // The actor lives: the same reference works when there is a link again, and can be watched.
        assert_eq!(desk.via(&client.mesh).add(1, 2).await.unwrap(), 3);
        server.mesh.close();
        let later = net.node_with(incarnation(net.config("server"), 2));
        client.link(&later).await;
        let down = client.mesh.watch(desk.id()).await;
        assert!(matches!(down.reason, DownReason::NodeLost(_)), "{down:?}");
    });
}

#[test]
fn watches_are_bounded_and_a_dropped_one_makes_room() {
    over_both(async |net: Net| {
        let (server, client) = (net.node("server"), net.node("client"));
        client.link(&server).await;
        let (desk, death) = name(&server, "desk", &Arc::new(Desk::default()));
        let watch = || tokio::task::spawn_local(client.mesh.watch(desk.id()));
        let mut watches: Vec<_> = (0..WATCHES_PER_LINK_MAX).map(|_| watch()).collect();
        let down = watch().await.unwrap();
        let DownReason::Refused(status) = &down.reason else { panic!("{down:?}") };
        assert!(status.message.contains("WATCHES_PER_LINK_MAX"), "{status}");
        let dropped = watches.pop().unwrap();
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        // The place is free on this side at once, and on the other behind the CANCEL.
        watches.push(watch());
        assert_eq!(desk.via(&client.mesh).add(1, 2).deadline(SECOND).await.unwrap(), 3);
        death.announce(StopReason::Finished);
        for watch in watches {
            assert_eq!(watch.await.unwrap().reason, DownReason::Finished);
        }
    });
}
