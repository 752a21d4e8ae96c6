//! Producer, consumer, the two directions of a link and its loss, in many schedules.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::future::poll_fn;

use afflux_actor::sync::{AtomicBool, Ordering};
use afflux_wire::handshake::Hello;
use afflux_wire::{Frame, Limits, take_frames};
use bytes::BytesMut;
use shuttle::future::block_on;
use shuttle::thread as played;

use super::*;
use crate::config::MeshConfig;
use crate::link::Introduction;

use crate::metrics::MeshMetrics;

const SCHEDULES: usize = 500;
const WINDOW: u32 = 100;
const BATCH_BYTES: usize = 60;
const BATCHES: u32 = 6;
const BARRIER_BEHIND: u32 = 3;
const CHANNEL: u64 = 7;

fn link(own: &str, peer: &str) -> Arc<Link> {
    let hello = Hello { node: NodeId::new(peer), ..Hello::default() };
    let introduction =
        Introduction { hello, address: String::new(), dialled: own < peer, identity: None, tls: false };
    Link::new(introduction, &MeshConfig::new(own, "test"), MeshMetrics::unregistered())
}

fn gauges() -> ChannelGauges {
    let gauge = || IntGauge::new("g", "g").unwrap();
    ChannelGauges { queued_bytes: gauge(), credits: gauge() }
}

/// The frames that were written, as the other side reads them.
fn frames(mut bytes: BytesMut) -> Vec<Frame<'static>> {
    let frames = take_frames(&mut bytes, &Limits::default()).unwrap();
    let frames = frames.iter().map(|part| Frame::decode_part(frames.block(), part).unwrap());
    frames
        .filter_map(|frame| match frame {
            Frame::Data { channel, seq, count, rows } => Some(Frame::Data { channel, seq, count, rows }),
            Frame::Mark { channel, seq, mark } => Some(Frame::Mark { channel, seq, mark }),
            Frame::Detach { channel } => Some(Frame::Detach { channel }),
            Frame::Credit { id, n } => Some(Frame::Credit { id, n }),
            _ => None,
        })
        .collect()
}

/// Carries what `from` writes, in its order, until nothing more can come.
fn carry(from: &Link, over: &AtomicBool, mut take: impl FnMut(Frame<'static>, &mut Vec<Waker>)) {
    loop {
        let last = over.load(Ordering::SeqCst);
        let mut bytes = BytesMut::from(&std::mem::take(&mut from.control.lock().buf)[..]);
        bytes.extend_from_slice(&from.data.drain());
        let mut wakers = Vec::new();
        frames(bytes).into_iter().for_each(|frame| take(frame, &mut wakers));
        wakers.drain(..).for_each(Waker::wake);
        if last {
            return;
        }
        played::yield_now();
    }
}

fn produce(mut sender: ChannelSender) -> Result<(), Status> {
    for n in 0..BATCHES {
        block_on(poll_fn(|cx| sender.poll_ready(cx)))?;
        sender.send(n, Bytes::from(vec![n as u8; BATCH_BYTES]))?;
        sender.mark(Mark::Watermark(i64::from(n)))?;
        if n == BARRIER_BEHIND {
            sender.mark(Mark::Barrier(1))?;
        }
    }
    sender.mark(Mark::End)
}

/// What came: batches by their count, and a barrier as the number behind all.
fn consume(mut receiver: ChannelReceiver, at_once_max: usize) -> (Vec<u32>, Option<Status>) {
    let (mut came, mut watermark) = (Vec::new(), -1);
    loop {
        assert!(receiver.queued_bytes() <= at_once_max, "{} bytes lie here", receiver.queued_bytes());
        match block_on(poll_fn(|cx| receiver.poll_next(cx))) {
            Some(Ok(Packet::Data { count, payload })) => {
                assert_eq!(payload.len(), BATCH_BYTES);
                came.push(count);
            }
            Some(Ok(Packet::Mark(Mark::Watermark(at)))) => {
                assert!(at > watermark && came.contains(&(at as u32)), "a watermark ahead of its batches");
                watermark = at;
            }
            Some(Ok(Packet::Mark(Mark::Barrier(_)))) => came.push(BATCHES),
            Some(Ok(Packet::Mark(_))) => {}
            Some(Err(status)) => return (came, Some(status)),
            None => return (came, None),
        }
    }
}

fn play(lose: bool) {
    let (a, b) = (link("a", "b"), link("b", "a"));
    let key = ChannelKey { job: "j".into(), attempt: Attempt(1), edge: 0, from: 0, to: 0 };
    let (sending, receiving) = (gauges(), gauges());
    let send = SendState::new(key.clone(), NodeId::new("b"), 1, sending.clone());
    send.attached(&a, CHANNEL);
    let recv = RecvState::new(key, 1, WINDOW, 1_000, receiving.clone());
    assert!(recv.attach(&b, CHANNEL));
    b.put_credit(CHANNEL, recv.window_bytes);

    let over = Arc::new(AtomicBool::new(false));
    let there = {
        let (a, recv, over) = (Arc::clone(&a), Arc::clone(&recv), Arc::clone(&over));
        played::spawn(move || {
            carry(&a, &over, |frame, wakers| {
                let taken = match frame {
                    Frame::Data { count, rows, .. } => {
                        recv.push(Packet::Data { count, payload: rows }, wakers)
                    }
                    Frame::Mark { mark, .. } => recv.push(Packet::Mark(mark), wakers),
                    Frame::Detach { .. } => return recv.end(None, wakers),
                    _ => return,
                };
                assert!(!matches!(taken, Taken::Overdrawn(_)), "more came than there was credit for");
            });
        })
    };
    let back = {
        let (b, send, over) = (Arc::clone(&b), Arc::clone(&send), Arc::clone(&over));
        played::spawn(move || {
            carry(&b, &over, |frame, wakers| match frame {
                Frame::Credit { n, .. } => send.credited(n, wakers),
                Frame::Detach { .. } => send.detached(wakers),
                _ => {}
            });
        })
    };
    let producer = {
        let sender = ChannelSender::new(Arc::clone(&send));
        played::spawn(move || produce(sender))
    };
    let consumer = {
        let receiver = ChannelReceiver::new(Arc::clone(&recv), Box::new(|| {}));
        // A batch may overdraw the window once.
        played::spawn(move || consume(receiver, WINDOW as usize + BATCH_BYTES))
    };
    if lose {
        let lost = Status::unavailable("the link is lost");
        send.link_lost(&lost);
        send.fail(lost.clone());
        let mut wakers = Vec::new();
        recv.end(Some(lost), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }
    let sent = producer.join().unwrap();
    let (came, failed) = consumer.join().unwrap();
    over.store(true, Ordering::SeqCst);
    there.join().unwrap();
    back.join().unwrap();

    let all: Vec<u32> =
        (0..BATCHES).flat_map(|n| if n == BARRIER_BEHIND { vec![n, BATCHES] } else { vec![n] }).collect();
    if lose {
        assert!(all.starts_with(&came), "{came:?}");
        assert!(failed.is_some() || came == all);
    } else {
        assert_eq!((sent, failed, came), (Ok(()), None, all));
    }
    assert_eq!((receiving.queued_bytes.get(), sending.credits.get()), (0, 0), "gauges go back to nothing");
}

/// Plays many schedules; one that does not come to an end fails, too.
fn try_all(lose: bool) {
    let mut config = shuttle::Config::new();
    config.max_steps = shuttle::MaxSteps::FailAfter(50_000);
    let random = shuttle::scheduler::RandomScheduler::new(SCHEDULES);
    shuttle::Runner::new(random, config.clone()).run(move || play(lose));
    let depth = shuttle::scheduler::PctScheduler::new(3, SCHEDULES);
    shuttle::Runner::new(depth, config).run(move || play(lose));
}

#[test]
fn batches_come_once_and_in_order_within_the_credit_and_nobody_waits_for_ever() {
    try_all(false);
}

#[test]
fn the_loss_of_the_link_ends_both_ends_behind_what_has_come() {
    try_all(true);
}

#[cfg(feature = "bugs")]
#[test]
fn credit_that_is_not_given_back_and_a_batch_that_is_sent_twice_are_found() {
    for bug in [crate::bugs::Bug::LostCredit, crate::bugs::Bug::DuplicateBatch] {
        crate::bugs::make(Some(bug));
        let found = std::panic::catch_unwind(|| try_all(false)).is_err();
        crate::bugs::make(None);
        assert!(found, "{bug:?}");
    }
}
