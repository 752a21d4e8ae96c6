//! Streaming calls, one suite over three ways: beside, over pipes, over TCP.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use afflux_mesh::{Mesh, MeshConfig, PeerState};
use afflux_wire::contract::{Completion, Feed, Incoming, NoError, Service, Target, TrySend};
use afflux_wire::{Code, Executed, Limits, Status, codec};
use common::flow::{Count, Desk, Flow, FlowClient, How, Same, Sum};
use common::{Net, SECOND, over_both, until};

// ---- The ways.

/// Items that pass as values wait for their taker up to this number.
const BESIDE_ITEMS: u64 = 256;

struct Way {
    /// The side that calls.
    mesh: Mesh,
    client: FlowClient,
    desk: Arc<Desk>,
    /// The side that serves, where it is another.
    other: Option<Mesh>,
    /// Keeps the nodes.
    _nodes: Vec<common::Node>,
}

impl Way {
    async fn over(net: &Net, config: impl Fn(&str) -> MeshConfig, beside: bool) -> Self {
        let (a, b) = (net.node_with(config("a")), net.node_with(config("b")));
        let desk = Desk::new();
        if beside {
            a.mesh.serve(desk.entry());
        } else {
            b.mesh.serve(desk.entry());
            a.link(&b).await;
        }
        let other = (!beside).then(|| b.mesh.clone());
        Self { mesh: a.mesh.clone(), client: a.mesh.client::<Flow>(), desk, other, _nodes: vec![a, b] }
    }
}

/// Of nodes that run one executable: items are rows.
fn one_build(net: &Net, name: &str) -> MeshConfig {
    MeshConfig { build_fingerprint: 7, ..net.config(name) }
}

/// Runs a test beside, over pipes and over TCP, with items by name and as rows.
fn over_all<F: Future<Output = ()>>(test: impl Fn(Way) -> F) {
    over_both(async |net| {
        test(Way::over(&net, |name| net.config(name), false).await).await;
        test(Way::over(&net, |name| one_build(&net, name), false).await).await;
        test(Way::over(&net, |name| net.config(name), true).await).await;
    });
}

/// Runs a test over pipes and over TCP.
fn over_links<F: Future<Output = ()>>(test: impl Fn(Way) -> F) {
    over_both(async |net| {
        test(Way::over(&net, |name| net.config(name), false).await).await;
        test(Way::over(&net, |name| one_build(&net, name), false).await).await;
    });
}

async fn all(mut numbers: Incoming<u64>) -> (Vec<u64>, Option<Status>) {
    let mut taken = Vec::new();
    while let Some(item) = numbers.next().await {
        match item {
            Ok(n) => taken.push(n),
            Err(status) => {
                assert!(numbers.next().await.is_none(), "something comes behind an error");
                return (taken, Some(status));
            }
        }
    }
    (taken, None)
}

// ---- What holds.

#[test]
fn every_item_comes_in_order_and_then_the_end() {
    over_all(async |way| {
        for how in [How::Well, How::Later] {
            let numbers = way.client.count(10_000, how).await.unwrap();
            let (taken, error) = all(numbers).await;
            assert!(taken.iter().copied().eq(0..10_000), "{} items", taken.len());
            assert_eq!(error, None);
        }
    });
}

#[test]
fn an_error_comes_behind_the_items_that_were_sent() {
    over_all(async |way| {
        let (taken, error) = all(way.client.count(300, How::Fails).await.unwrap()).await;
        assert_eq!(taken.len(), 300);
        let error = error.expect("an error");
        assert_eq!((error.code, error.message.as_str()), (Code::DataLoss, "the numbers are used up"));
        let (taken, error) = all(way.client.count(3, How::Panics).await.unwrap()).await;
        assert_eq!(taken.len(), 3);
        let error = error.expect("an error");
        assert_eq!(error.code, Code::Internal);
        assert!(error.message.contains("boom"), "{error}");
    });
}

#[test]
fn a_call_that_fails_before_its_first_item_was_never_open() {
    over_all(async |way| {
        let error = way.client.count(3, How::Refuses).await.unwrap_err();
        assert_eq!((error.code(), error.status().message.as_str()), (Code::NotFound, "no numbers here"));
    });
}

#[test]
fn items_are_taken_and_answered_with_a_result() {
    over_all(async |way| {
        let (mut feed, sum): (Feed<u64>, Completion<u64, NoError>) = way.client.sum(u64::MAX).await.unwrap();
        for n in 1..=5_000 {
            feed.send(n).await.unwrap();
        }
        feed.finish();
        assert_eq!(sum.await.unwrap(), 5_000 * 5_001 / 2);
    });
}

#[test]
fn a_handler_that_has_enough_answers_and_stops_the_feed() {
    over_all(async |way| {
        let (mut feed, sum) = way.client.sum(10).await.unwrap();
        let error = loop {
            if let Err(error) = feed.send(2).await {
                break error;
            }
        };
        assert!(feed.is_stopped(), "{error}");
        assert_eq!(sum.await.unwrap(), 20);
    });
}

#[test]
fn a_feed_that_is_dropped_unfinished_is_no_clean_end() {
    over_all(async |way| {
        let (mut feed, sum) = way.client.sum(u64::MAX).await.unwrap();
        feed.send(1).await.unwrap();
        drop(feed);
        way.desk.saw("broke: CANCELLED").await;
        assert_eq!(sum.await.unwrap_err().code(), Code::Cancelled);
    });
}

#[test]
fn both_sides_send_at_their_own_pace() {
    over_all(async |way| {
        let (mut feed, mut echo) = way.client.echo().await.unwrap();
        for round in 0..3 {
            for n in 0..100 {
                feed.send(format!("{round}/{n}")).await.unwrap();
            }
            for n in 0..100 {
                assert_eq!(echo.next().await.unwrap().unwrap(), format!("{round}/{n}"));
            }
        }
        feed.finish();
        assert!(echo.next().await.is_none());
    });
}

#[test]
fn a_sender_waits_for_the_one_who_takes() {
    over_all(async |way| {
        let window = match way.other {
            Some(_) => u64::from(Limits::default().stream_credit_items),
            None => BESIDE_ITEMS,
        };
        let mut numbers = way.client.count(5_000, How::Well).await.unwrap();
        until(|| way.desk.sent.load(SeqCst) >= window).await;
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(way.desk.sent.load(SeqCst), window, "more items were sent than there is room for");
        for n in 0..window {
            assert_eq!(numbers.next().await.unwrap().unwrap(), n);
        }
        until(|| way.desk.sent.load(SeqCst) > window).await;
        assert_eq!(all(numbers).await.0.len() as u64, 5_000 - window);
    });
}

#[test]
fn a_feed_without_credit_gives_the_item_back() {
    over_all(async |way| {
        let (mut feed, _echo) = way.client.echo().await.unwrap();
        // Nobody reads the echo: its credit runs out, then the handler's, then the feed's.
        let back = loop {
            match feed.try_send("x".to_owned()) {
                Ok(()) => tokio::task::yield_now().await,
                Err(TrySend::Full(item)) => {
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    if let Err(TrySend::Full(_)) = feed.try_send("y".to_owned()) {
                        break item;
                    }
                }
                Err(TrySend::Closed(status)) => panic!("{status}"),
            }
        };
        assert_eq!(back, "x");
    });
}

#[test]
fn dropping_the_receiver_stops_the_producer() {
    over_all(async |way| {
        let mut numbers = way.client.count(u64::MAX, How::Later).await.unwrap();
        assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
        drop(numbers);
        way.desk.saw("stopped: CANCELLED").await;
    });
}

#[test]
fn dropping_a_call_that_is_not_open_cancels_it() {
    over_all(async |way| {
        let mut call = std::future::IntoFuture::into_future(way.client.count(1, How::Waits));
        let waited = tokio::time::timeout(Duration::from_millis(50), &mut call).await;
        assert!(waited.is_err());
        drop(call);
        // A second one is served: the first holds nothing.
        assert_eq!(all(way.client.count(2, How::Well).await.unwrap()).await.0, [0, 1]);
    });
}

#[test]
fn a_handler_that_never_takes_the_call_is_given_up_at_the_deadline_of_the_method() {
    over_all(async |way| {
        let error = way.client.count(1, How::Waits).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(error.status().message.contains("math.flow/Count"), "{error}");
    });
}

#[test]
fn the_deadline_of_the_method_does_not_end_an_open_stream_and_that_of_the_call_does() {
    over_all(async |way| {
        let mut numbers = way.client.count(u64::MAX, How::Later).await.unwrap();
        assert!(numbers.next().await.unwrap().is_ok());
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(numbers.next().await.unwrap().is_ok());
        drop(numbers);
        let call = way.client.echo().deadline(Duration::from_millis(300));
        let (_feed, mut echo) = call.await.unwrap();
        let error = echo.next().await.unwrap().unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
    });
}

#[test]
fn a_lost_link_ends_its_streams_on_both_sides() {
    over_links(async |way| {
        let mut numbers = way.client.count(u64::MAX, How::Later).await.unwrap();
        assert!(numbers.next().await.unwrap().is_ok());
        let (_feed, sum) = way.client.sum(u64::MAX).await.unwrap();
        way.mesh.disconnect(&afflux_wire::NodeId::new("b"));
        let error = loop {
            match numbers.next().await.expect("an error and no end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.code, Code::Unavailable);
        assert_eq!(sum.await.unwrap_err().code(), Code::Unavailable);
        way.desk.saw("stopped: UNAVAILABLE").await;
        way.desk.saw("broke: UNAVAILABLE").await;
    });
}

#[test]
fn a_stream_without_types_reads_and_sends_messagepack() {
    over_all(async |way| {
        let target = Target::service(Flow::NAME);
        let params = codec::to_named(&Count { to: 600, how: How::Fails }).unwrap();
        let stream = way.mesh.open_raw(&target, "Count", params, SECOND).await.unwrap();
        for n in 0..600u64 {
            let item = stream.next().await.unwrap().unwrap();
            assert_eq!(codec::from_slice::<u64>(&item).unwrap(), n);
        }
        assert_eq!(stream.next().await.unwrap().unwrap_err().code, Code::DataLoss);
        assert!(stream.next().await.is_none());

        let params = codec::to_named(&Sum { most: u64::MAX }).unwrap();
        let stream = way.mesh.open_raw(&target, "Sum", params, SECOND).await.unwrap();
        for n in 1..=600u64 {
            stream.send(&codec::to_named(&n).unwrap()).await.unwrap();
        }
        assert_eq!(stream.send(&[1, 2]).await.unwrap_err().code, Code::InvalidArgument);
        stream.finish();
        assert_eq!(codec::from_slice::<u64>(&stream.result().await.unwrap()).unwrap(), 600 * 601 / 2);

        // A unary method has no items and a result.
        let params = codec::to_named(&Same { text: "hello".into() }).unwrap();
        let stream = way.mesh.open_raw(&target, "Same", params, SECOND).await.unwrap();
        assert!(stream.next().await.is_none());
        assert_eq!(codec::from_slice::<String>(&stream.result().await.unwrap()).unwrap(), "hello");
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    over_all(async |way| {
        let target = Target::service(Flow::NAME);
        let open =
            |method, params: &'static [u8]| way.mesh.open_raw(&target, method, params.to_vec(), SECOND);
        let error = open("Cuont", &[0x80]).await.unwrap_err();
        assert_eq!((error.code, error.was_executed()), (Code::Unimplemented, Executed::No));
        assert!(error.message.contains("`Count`"), "{error}");
        let error = open("Count", &[0x80]).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.contains("math.flow/Count"), "{error}");
        // Called instead of opened.
        let error = way.mesh.call_raw(&target, "Echo", vec![0x80], SECOND).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.contains("open it as a stream"), "{error}");
    });
}

#[test]
fn large_params_results_and_items_travel_in_parts() {
    over_all(async |way| {
        let text = "0123456789abcdef".repeat(200_000);
        assert_eq!(way.client.same(text.clone()).await.unwrap(), text);
        let (mut feed, mut echo) = way.client.echo().await.unwrap();
        for n in [10, 70_000, 3_000_000, 1, 500_000] {
            feed.send(text[..n].to_owned()).await.unwrap();
            assert_eq!(echo.next().await.unwrap().unwrap().len(), n);
        }
        feed.finish();
        assert!(echo.next().await.is_none());
    });
}

#[test]
fn many_large_answers_at_once_all_come() {
    over_links(async |way| {
        let text = "x".repeat(1 << 20);
        let call = |_| std::future::IntoFuture::into_future(way.client.same(text.clone()));
        let calls: Vec<_> = (0..16).map(call).collect();
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap().len() == 1 << 20));
    });
}

#[test]
fn a_message_above_its_limit_is_refused_with_the_limit_and_the_cure() {
    over_both(async |net| {
        let small = |name: &str| {
            let limits = Limits { message_bytes_max: 100_000, ..Limits::default() };
            MeshConfig { limits, ..net.config(name) }
        };
        let way = Way::over(&net, small, false).await;
        let text = "x".repeat(100_000);
        let error = way.client.same(text.clone()).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.status().message.contains("message_bytes_max"), "{error}");
        assert_eq!(error.status().was_executed(), Executed::No);
        let (mut feed, _echo) = way.client.echo().await.unwrap();
        let error = feed.send(text).await.unwrap_err();
        assert!(error.message.contains("message_bytes_max"), "{error}");
        assert_eq!(way.client.same("y".repeat(90_000)).await.unwrap().len(), 90_000);
    });
}

#[test]
fn a_peer_opens_no_more_streams_than_it_is_allowed() {
    over_both(async |net| {
        let few = |name: &str| {
            let limits = Limits { streams_max: 2, ..Limits::default() };
            MeshConfig { limits, ..net.config(name) }
        };
        let way = Way::over(&net, few, false).await;
        let open = [way.client.echo().await.unwrap(), way.client.echo().await.unwrap()];
        let error = way.client.echo().await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.status().message.contains("streams_max"), "{error}");
        drop(open);
        until(|| way.other.as_ref().is_some_and(|b| b.peers().iter().any(|p| p.state == PeerState::Up)))
            .await;
        let mut again = None;
        for _ in 0..200 {
            again = way.client.echo().await.ok();
            if again.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(again.is_some(), "ended streams make no room");
    });
}

#[test]
fn a_node_that_drains_gives_its_streams_a_moment_and_then_ends_them() {
    over_links(async |way| {
        let mut numbers = way.client.count(u64::MAX, How::Later).await.unwrap();
        assert!(numbers.next().await.unwrap().is_ok());
        let b = way.other.clone().unwrap();
        let drained = async {
            b.drain(10 * SECOND).await;
        };
        let read = async {
            loop {
                // Slowly: a clock that stands still moves on only while nobody is busy.
                tokio::time::sleep(Duration::from_millis(1)).await;
                match numbers.next().await.expect("an error and no end") {
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        };
        let ((), error) = futures_util::future::join(drained, read).await;
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.message.contains("drain"), "{error}");
    });
}
