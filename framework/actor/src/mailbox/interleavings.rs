//! Senders, a host and whoever stops it, in many schedules.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use afflux_wire::contract::CallMeta;
use shuttle::thread as played;

use super::*;
use crate::metrics::ActorMetrics;

const SCHEDULES: usize = 1_000;

struct Note(u64, CallMeta, Arc<AtomicUsize>);

impl Mail for Note {
    fn meta(&self) -> &CallMeta {
        &self.1
    }
    fn reject(self, _: Status) {
        self.2.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a host saw until it was told to stop: messages that it started, and those that waited then.
struct Life {
    started: Vec<u64>,
    left: Vec<u64>,
}

/// The order of a host's turn: control, then mail, then it parks.
fn host(mailbox: &Mailbox<Note>, places: usize) -> Life {
    let mut life = Life { started: Vec::new(), left: Vec::new() };
    let mut batch: VecDeque<Entry<Note>> = VecDeque::new();
    loop {
        let stop = shuttle::future::block_on(poll_fn(|task| {
            if mailbox.is_stopping() && mailbox.stop_reason().is_some() {
                return Poll::Ready(true);
            }
            if batch.is_empty() {
                mailbox.take_or_park(&mut batch, task);
            }
            match batch.is_empty() && mailbox.lanes() == (false, false) {
                true => Poll::Pending,
                false => Poll::Ready(false),
            }
        }));
        if stop {
            break;
        }
        assert!(batch.len() <= places, "{} messages for {places} places", batch.len());
        let entry = match mailbox.take_lane(Priority::High) {
            Some(entry) => entry,
            None => {
                let Some(entry) = batch.pop_front() else { continue };
                mailbox.started();
                entry
            }
        };
        life.started.push(entry.mail.0);
    }
    batch.append(&mut mailbox.close());
    life.left = batch.into_iter().map(|entry| entry.mail.0).collect();
    life
}

fn play(places: usize, wait: usize, stop_early: bool) {
    let options = Options {
        mailbox_messages_max: places,
        overflow: if wait > 0 { Overflow::Wait } else { Overflow::Reject },
        admission_messages_max: wait,
        ..Options::default()
    };
    let mailbox = Arc::new(Mailbox::new(&options, ActorMetrics::unregistered().kind("Note"), None));
    let rejected = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..2u64)
        .map(|sender| {
            let (mailbox, rejected) = (Arc::clone(&mailbox), Arc::clone(&rejected));
            played::spawn(move || {
                let mut admitted = Vec::new();
                for n in 0..3 {
                    let id = sender * 100 + n;
                    let priority = if n == 1 { Priority::High } else { Priority::Normal };
                    let meta = CallMeta { priority, ..CallMeta::default() };
                    if mailbox.push(Note(id, meta, Arc::clone(&rejected)), |note| note).is_ok() {
                        admitted.push(id);
                    }
                }
                admitted
            })
        })
        .collect();
    let host_of = Arc::clone(&mailbox);
    let life = played::spawn(move || host(&host_of, places));
    if stop_early {
        mailbox.request_stop(StopReason::Asked(Status::unavailable("enough")));
    }
    let mut admitted: Vec<u64> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
    if !stop_early {
        mailbox.request_stop(StopReason::Asked(Status::unavailable("enough")));
    }
    let life = life.join().unwrap();
    // What was admitted was started or left, once, and each sender's in their order, lane by lane.
    for sender in 0..2 {
        let normal = |n: &&u64| **n / 100 == sender && **n % 100 != 1;
        let order: Vec<_> = life.started.iter().filter(normal).collect();
        assert!(order.is_sorted(), "{order:?}");
    }
    let mut seen = [life.started, life.left].concat();
    seen.sort_unstable();
    admitted.sort_unstable();
    assert_eq!(seen, admitted);
    assert!(mailbox.push(Note(9, CallMeta::default(), rejected), |note| note).is_err(), "it is closed");
}

#[test]
fn what_is_admitted_is_started_or_left_once_and_the_host_is_always_woken() {
    for (places, wait) in [(1, 0), (2, 0), (1, 1), (2, 3)] {
        shuttle::check_random(move || play(places, wait, false), SCHEDULES);
        shuttle::check_pct(move || play(places, wait, false), SCHEDULES, 3);
    }
}

#[test]
fn a_request_to_stop_is_seen_whenever_it_comes() {
    for (places, wait) in [(1, 0), (2, 1)] {
        shuttle::check_random(move || play(places, wait, true), SCHEDULES);
        shuttle::check_pct(move || play(places, wait, true), SCHEDULES, 3);
    }
}
