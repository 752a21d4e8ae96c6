//! Byte channels between nodes, over both transports.

mod common;

use std::sync::Arc;
use std::time::Duration;

use afflux_mesh::{ChannelKey, Mark, Packet};
use afflux_wire::{Attempt, Code};
use bytes::Bytes;
use common::{Net, Node, next, over_both, packet, ready, until};

fn key(attempt: u64, from: u32) -> ChannelKey {
    ChannelKey { job: Arc::from("job"), attempt: Attempt(attempt), edge: 1, from, to: 0 }
}

fn data(count: u32, byte: u8, bytes: usize) -> Packet {
    Packet::Data { count, payload: Bytes::from(vec![byte; bytes]) }
}

async fn pair(net: &Net) -> (Node, Node) {
    let (a, b) = (net.node("a"), net.node("b"));
    a.link(&b).await;
    (a, b)
}

#[test]
fn packets_arrive_in_the_order_in_which_they_were_sent() {
    over_both(async |net: Net| {
        let (a, b) = pair(&net).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        let sending = async {
            for n in 0..500u32 {
                ready(&mut sender).await.unwrap();
                // Small ones that are copied, large ones that are not.
                sender.send(n, Bytes::from(vec![n as u8; if n % 2 == 0 { 10 } else { 9_000 }])).unwrap();
                if n % 10 == 9 {
                    sender.mark(Mark::Barrier(u64::from(n))).unwrap();
                }
            }
            sender.mark(Mark::End).unwrap();
        };
        let receiving = async {
            for n in 0..500u32 {
                let bytes = if n % 2 == 0 { 10 } else { 9_000 };
                assert_eq!(packet(&mut receiver).await, data(n, n as u8, bytes));
                if n % 10 == 9 {
                    assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::Barrier(u64::from(n))));
                }
            }
            assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::End));
            assert!(next(&mut receiver).await.is_none());
        };
        tokio::join!(sending, receiving);
        assert_eq!(b.metric("afflux_channel_queued_bytes", &["job", "1"]), 0.0);
    });
}

#[test]
fn a_full_channel_stops_its_own_sender_and_no_other() {
    over_both(async |net: Net| {
        let (a, b) = pair(&net).await;
        let mut slow_in = b.mesh.channel_receiver(key(1, 0), 7);
        let mut slow = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        let mut fast_in = b.mesh.channel_receiver(key(1, 1), 7);
        let mut fast = a.mesh.channel_sender(b.mesh.node(), key(1, 1), 7);
        let chunk = Bytes::from(vec![0; 64 << 10]);
        ready(&mut slow).await.unwrap();
        let mut sent = 0;
        while slow.try_ready() {
            slow.send(1, chunk.clone()).unwrap();
            sent += 1;
        }
        assert_eq!(sent, 4, "256 KiB of credit are four batches");
        assert!(slow.credits() <= 0);
        let flow = async {
            for _ in 0..200 {
                ready(&mut fast).await.unwrap();
                fast.send(1, chunk.clone()).unwrap();
            }
        };
        let drain = async {
            for _ in 0..200 {
                packet(&mut fast_in).await;
            }
        };
        tokio::join!(flow, drain);
        assert!(!slow.try_ready(), "nobody has taken anything out of the full channel");
        // Half a window taken out is credit again.
        packet(&mut slow_in).await;
        assert!(!slow.try_ready());
        packet(&mut slow_in).await;
        ready(&mut slow).await.unwrap();
    });
}

#[test]
fn a_batch_may_overdraw_its_credit_once_and_the_channel_recovers() {
    over_both(async |net: Net| {
        let (a, b) = pair(&net).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        ready(&mut sender).await.unwrap();
        sender.send(1, Bytes::from(vec![0; 1 << 20])).unwrap();
        assert!(sender.credits() < 0);
        let error = sender.send(1, Bytes::from_static(b"x")).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(error.message.contains("poll_ready"), "{error}");
        assert_eq!(packet(&mut receiver).await, data(1, 0, 1 << 20));
        ready(&mut sender).await.unwrap();
        assert_eq!(sender.credits(), 256 << 10);
    });
}

#[test]
fn marks_need_no_credit_and_keep_their_place() {
    over_both(async |net: Net| {
        let (a, b) = pair(&net).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        ready(&mut sender).await.unwrap();
        sender.send(1, Bytes::from(vec![1; 300 << 10])).unwrap();
        assert!(!sender.try_ready());
        // Without credit watermarks merge, and a barrier pushes the last of them out.
        for t in 0..1000 {
            sender.mark(Mark::Watermark(t)).unwrap();
        }
        sender.mark(Mark::Barrier(5)).unwrap();
        sender.mark(Mark::Watermark(1_000)).unwrap();
        sender.mark(Mark::Idle).unwrap();
        assert_eq!(packet(&mut receiver).await, data(1, 1, 300 << 10));
        assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::Watermark(999)));
        assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::Barrier(5)));
        assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::Watermark(1_000)));
        assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::Idle));
        // A watermark that waits for credit goes out when credit comes.
        ready(&mut sender).await.unwrap();
        sender.send(1, Bytes::from(vec![2; 300 << 10])).unwrap();
        sender.mark(Mark::Watermark(2_000)).unwrap();
        assert_eq!(packet(&mut receiver).await, data(1, 2, 300 << 10));
        assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::Watermark(2_000)));
    });
}

#[test]
fn what_is_sent_before_the_receiver_is_there_arrives_first() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        sender.mark(Mark::Watermark(1)).unwrap();
        sender.mark(Mark::Watermark(2)).unwrap();
        sender.send(3, Bytes::from_static(b"early")).unwrap();
        assert_eq!(sender.queued_bytes(), 5);
        assert!(!sender.try_ready());
        a.link(&b).await;
        // Its ATTACH is refused until the receiver is deployed.
        until(|| b.metric("afflux_channel_attach_refused_total", &[]) >= 1.0).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::Watermark(2)));
        assert_eq!(
            packet(&mut receiver).await,
            Packet::Data { count: 3, payload: Bytes::from_static(b"early") }
        );
        ready(&mut sender).await.unwrap();
        assert_eq!((sender.queued_bytes(), sender.credits()), (0, (256 << 10) - 5));
    });
}

#[test]
fn a_sender_without_a_receiver_gives_up_and_says_why() {
    over_both(async |net: Net| {
        let mut config = net.config("a");
        config.attach_timeout = Duration::from_millis(200);
        let (a, b) = (net.node_with(config), net.node("b"));
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        let error = ready(&mut sender).await.unwrap_err();
        assert!(error.message.contains("no link to node b"), "{error}");
        a.link(&b).await;
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        let error = ready(&mut sender).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        for part in ["job#1 edge 1", "node b", "no receiver", "attach_timeout"] {
            assert!(error.message.contains(part), "{error}");
        }
        assert!(sender.send(1, Bytes::new()).is_err());
    });
}

#[test]
fn another_build_is_refused_and_both_fingerprints_are_named() {
    over_both(async |net: Net| {
        let (a, b) = pair(&net).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 0xbbbb);
        let _sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 0xaaaa);
        let error = next(&mut receiver).await.unwrap().unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("aaaa") && error.message.contains("bbbb"), "{error}");
        assert!(next(&mut receiver).await.is_none());
    });
}

#[test]
fn either_end_that_goes_tells_the_other() {
    over_both(async |net: Net| {
        let (a, b) = pair(&net).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        ready(&mut sender).await.unwrap();
        sender.send(1, Bytes::from_static(b"x")).unwrap();
        drop(sender);
        assert_eq!(packet(&mut receiver).await, Packet::Data { count: 1, payload: Bytes::from_static(b"x") });
        let error = next(&mut receiver).await.unwrap().unwrap_err();
        assert!(error.message.contains("before its end"), "{error}");

        let receiver = b.mesh.channel_receiver(key(1, 1), 7);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 1), 7);
        ready(&mut sender).await.unwrap();
        drop(receiver);
        until(|| sender.send(1, Bytes::from_static(b"x")).is_err()).await;
        let error = ready(&mut sender).await.unwrap_err();
        assert!(error.message.contains("node b") && error.message.contains("receiver is gone"), "{error}");
    });
}

#[test]
fn a_lost_link_fails_its_channels_at_both_ends_and_names_the_peer() {
    over_both(async |net: Net| {
        let (a, b) = pair(&net).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        ready(&mut sender).await.unwrap();
        assert!(a.mesh.disconnect(b.mesh.node()));
        let error = ready(&mut sender).await.unwrap_err();
        assert!(error.message.contains("node b") && error.message.contains("job#1"), "{error}");
        let error = next(&mut receiver).await.unwrap().unwrap_err();
        assert!(error.message.contains("node a") && error.message.contains("job#1"), "{error}");
        assert_eq!(a.metric("afflux_channel_credits", &["job", "1"]), 0.0);
    });
}

#[test]
fn an_old_attempt_is_fenced() {
    over_both(async |net: Net| {
        let mut config = net.config("a");
        config.attach_timeout = Duration::from_millis(200);
        let (a, b) = (net.node_with(config), net.node("b"));
        a.link(&b).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        let mut old = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        ready(&mut old).await.unwrap();
        b.mesh.release_attempt("job", Attempt(1));
        old.send(1, Bytes::from_static(b"late")).unwrap();
        let error = next(&mut receiver).await.unwrap().unwrap_err();
        assert!(error.message.contains("attempt is over"), "{error}");
        until(|| b.metric("afflux_channel_frames_dropped_total", &["released"]) == 1.0).await;
        // Neither an old receiver nor an old sender comes back; the next attempt works.
        let mut stale = b.mesh.channel_receiver(key(1, 0), 7);
        assert!(next(&mut stale).await.unwrap().is_err());
        let mut again = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        assert!(ready(&mut again).await.is_err());
        assert!(b.metric("afflux_channel_attach_refused_total", &["released"]) >= 1.0);
        let _receiver = b.mesh.channel_receiver(key(2, 0), 7);
        let mut new = a.mesh.channel_sender(b.mesh.node(), key(2, 0), 7);
        ready(&mut new).await.unwrap();
    });
}

#[test]
fn a_batch_above_the_peers_frame_limit_is_refused_where_it_is_sent() {
    over_both(async |net: Net| {
        let mut config = net.config("b");
        config.limits.frame_bytes_max = 10_000;
        let (a, b) = (net.node("a"), net.node_with(config));
        a.link(&b).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        ready(&mut sender).await.unwrap();
        let error = sender.send(1, Bytes::from(vec![0; 10_000])).unwrap_err();
        assert!(error.message.contains("frame_bytes_max is 10000"), "{error}");
        sender.send(1, Bytes::from_static(b"fits")).unwrap();
        assert!(matches!(packet(&mut receiver).await, Packet::Data { count: 1, .. }));
    });
}

#[test]
fn a_producer_that_ends_before_its_consumer_is_there_loses_nothing() {
    over_both(async |net: Net| {
        let (a, b) = (net.node("a"), net.node("b"));
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        sender.send(1, Bytes::from_static(b"all")).unwrap();
        sender.mark(Mark::End).unwrap();
        drop(sender);
        a.link(&b).await;
        until(|| b.metric("afflux_channel_attach_refused_total", &["unknown"]) >= 1.0).await;
        let mut receiver = b.mesh.channel_receiver(key(1, 0), 7);
        assert_eq!(
            packet(&mut receiver).await,
            Packet::Data { count: 1, payload: Bytes::from_static(b"all") }
        );
        assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::End));
        assert!(next(&mut receiver).await.is_none());
    });
}

#[test]
fn what_was_sent_too_early_and_is_too_large_fails_the_channel_and_not_the_link() {
    over_both(async |net: Net| {
        let mut config = net.config("b");
        config.limits.frame_bytes_max = 10_000;
        let (a, b) = (net.node("a"), net.node_with(config));
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key(1, 0), 7);
        sender.send(1, Bytes::from(vec![0; 20_000])).unwrap();
        let _receiver = b.mesh.channel_receiver(key(1, 0), 7);
        a.link(&b).await;
        let error = ready(&mut sender).await.unwrap_err();
        assert!(error.message.contains("frame_bytes_max is 10000"), "{error}");
        assert!(a.mesh.peers()[0].state == afflux_mesh::PeerState::Up);
    });
}
