//! Calls through a mailbox: from a typed client of the same process, and from a link.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod ping;

use std::sync::Arc;
use std::time::Duration;

use afflux_actor::test::{paused, turns};
use afflux_actor::{
    Actor, ActorHandle, ActorMetrics, Options, Place, Serves, ServiceEntry, Spec, StopReason,
};
use afflux_wire::contract::{CallMeta, ReplyTo};
use afflux_wire::{ActorPath, Code, Executed, Stage, Status, codec};
use ping::{Answers, Echo, Echoer, PingCall, Touch, UNLUCKY, Wait, client, unexecuted};

fn echoer(options: Options) -> (ActorHandle<PingCall>, ServiceEntry) {
    let spec = Spec::new(ActorPath::new("test.ping"), ActorMetrics::unregistered());
    let actor = Place::current().unwrap().spawn_with_options(spec, options, || Ok(Echoer::default()));
    let entry = Echoer::services(actor.address()).remove(0);
    (actor, entry)
}

fn small(mailbox_messages_max: usize) -> Options {
    Options { mailbox_messages_max, ..Echoer::options() }
}

#[test]
fn a_local_call_is_answered_and_a_one_way_call_returns_at_once() {
    paused(|| async {
        let (_actor, entry) = echoer(small(8));
        let ping = client(&entry);
        assert_eq!(ping.call(Echo { n: 7 }).await.unwrap(), 7001);
        ping.call(Touch { n: 1 }).await.unwrap();
        assert_eq!(ping.call(Echo { n: 8 }).await.unwrap(), 8003);
    });
}

#[test]
fn the_caller_of_a_panicking_handler_gets_its_text_and_the_next_caller_a_fresh_state() {
    paused(|| async {
        let (_actor, entry) = echoer(small(8));
        let ping = client(&entry);
        assert_eq!(ping.call(Echo { n: 1 }).await.unwrap(), 1001);
        let error = ping.call(Echo { n: UNLUCKY }).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.status().message.contains("unlucky 13"), "{error}");
        assert_eq!(ping.call(Echo { n: 1 }).await.unwrap(), 1001);
    });
}

#[test]
fn a_full_mailbox_refuses_a_local_call_and_says_so() {
    paused(|| async {
        let (_actor, entry) = echoer(small(1));
        let ping = client(&entry);
        let waiting = tokio::task::spawn_local(ping.call(Wait { ms: 5 }).into_future());
        turns(10).await;
        let queued = tokio::task::spawn_local(ping.call(Echo { n: 1 }).into_future());
        turns(10).await;
        let error = ping.call(Echo { n: 2 }).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(unexecuted(error.status()));
        assert!(error.status().message.contains("(1 messages)"), "{error}");
        waiting.await.unwrap().unwrap();
        assert_eq!(queued.await.unwrap().unwrap(), 1002);
    });
}

#[test]
fn a_call_dropped_while_it_waits_never_runs() {
    paused(|| async {
        let (_actor, entry) = echoer(small(8));
        let ping = client(&entry);
        let running = tokio::task::spawn_local(ping.call(Wait { ms: 5 }).into_future());
        turns(10).await;
        let dropped = tokio::task::spawn_local(ping.call(Echo { n: 1 }).into_future());
        turns(10).await;
        dropped.abort();
        running.await.unwrap().unwrap();
        // The second message this state was asked, not the third.
        assert_eq!(ping.call(Echo { n: 2 }).await.unwrap(), 2002);
    });
}

#[test]
fn a_call_that_waits_while_the_actor_stops_is_told_that_it_was_not_executed() {
    paused(|| async {
        let (actor, entry) = echoer(small(8));
        let ping = client(&entry);
        let running = tokio::task::spawn_local(ping.call(Wait { ms: 5 }).into_future());
        turns(10).await;
        let queued = tokio::task::spawn_local(ping.call(Echo { n: 1 }).into_future());
        turns(10).await;
        actor.stop(Status::unavailable("the node drains"));
        assert!(matches!(actor.watch().await, StopReason::Asked(_)));
        running.await.unwrap().unwrap();
        let error = queued.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        let details = error.status().details.as_ref().unwrap();
        assert_eq!((details.executed, details.stage), (Executed::No, Some(Stage::Queued)));
        assert!(error.status().message.contains("the node drains"), "{error}");
        let late = ping.call(Echo { n: 1 }).await.unwrap_err();
        assert_eq!(late.status().details.as_ref().unwrap().stage, Some(Stage::Admission));
    });
}

#[test]
fn a_request_from_a_link_is_decoded_run_and_answered() {
    paused(|| async {
        let (_actor, entry) = echoer(small(8));
        let answers = Arc::new(Answers::default());
        let reply = |id| Some(ReplyTo::new(Arc::clone(&answers) as _, id));
        let params = |n| codec::to_named(&Echo { n }).unwrap();
        let meta = CallMeta::default;
        entry.dispatch.dispatch(0, &params(5), meta(), reply(1));
        entry.dispatch.dispatch(0, &params(UNLUCKY), meta(), reply(2));
        entry.dispatch.dispatch(0, b"\xc1", meta(), reply(3));
        entry.dispatch.dispatch(9, &params(5), meta(), reply(4));
        entry.dispatch.dispatch(2, &params(5), meta(), reply(5));
        entry.dispatch.dispatch(0, &params(5), meta(), None);
        entry.dispatch.dispatch(2, b"", meta(), None);
        turns(20).await;
        let mut answers = std::mem::take(&mut *answers.0.lock());
        answers.sort_by_key(|(id, _)| *id);
        let code = |i: usize| answers[i].1.as_ref().map_err(|status| status.code);
        assert_eq!(answers.len(), 5);
        assert_eq!(code(0), Ok(&5001));
        assert_eq!(code(1), Err(Code::Internal));
        assert_eq!(code(2), Err(Code::InvalidArgument));
        assert_eq!(code(3), Err(Code::Unimplemented));
        assert_eq!(code(4), Err(Code::InvalidArgument));
    });
}

#[test]
fn a_link_is_told_how_full_the_mailbox_was_that_refused() {
    paused(|| async {
        let (_actor, entry) = echoer(small(2));
        let answers = Arc::new(Answers::default());
        let params = codec::to_named(&Echo { n: 5 }).unwrap();
        for id in 0..3 {
            let reply = Some(ReplyTo::new(Arc::clone(&answers) as _, id));
            entry.dispatch.dispatch(0, &params, CallMeta::default(), reply);
        }
        let (id, answer) = answers.0.lock().remove(0);
        let status = answer.unwrap_err();
        assert_eq!((id, status.code), (2, Code::ResourceExhausted));
        let details = status.details.unwrap();
        assert_eq!(details.queue_depth, Some(2));
        assert_eq!(details.stage, Some(Stage::Admission));
        assert_eq!(details.executed, Executed::No);
    });
}

#[test]
fn a_local_caller_gives_up_at_its_deadline() {
    paused(|| async {
        let (_actor, entry) = echoer(small(2));
        let ping = client(&entry);
        let before = afflux_actor::clock::now();
        let error = ping.call(Wait { ms: 60_000 }).deadline(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert_eq!(afflux_actor::clock::now() - before, Duration::from_secs(1));
    });
}
