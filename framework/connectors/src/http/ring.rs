//! The latest events, and who is sent them.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Events with their numbers, and subscribers. Numbers begin at 1 and rise by one.
pub(super) struct Ring {
    events: VecDeque<Bytes>,
    events_max: usize,
    /// The number of the next event.
    next: u64,
    subscribers: Vec<mpsc::Sender<Bytes>>,
    dropped: u64,
}

/// What a new subscriber is sent first, and what it is sent then.
pub(super) struct Subscription {
    pub(super) backlog: VecDeque<Bytes>,
    pub(super) live: mpsc::Receiver<Bytes>,
}

impl Ring {
    pub(super) fn new(events_max: usize, next: u64) -> Self {
        Self { events: VecDeque::new(), events_max, next: next.max(1), subscribers: Vec::new(), dropped: 0 }
    }

    /// The number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn subscribers(&mut self) -> usize {
        self.subscribers.retain(|s| !s.is_closed());
        self.subscribers.len()
    }

    /// Subscribers that were too slow.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Sends an event whose data is one line to all who keep up, and lets the others go.
    pub(super) fn send(&mut self, data: &[u8]) {
        let event =
            Bytes::from([b"id: ", self.next.to_string().as_bytes(), b"\ndata: ", data, b"\n\n"].concat());
        self.next += 1;
        let dropped = &mut self.dropped;
        self.subscribers.retain(|subscriber| match subscriber.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                *dropped += 1;
                tracing::info!("a subscriber of events does not keep up and is let go");
                false
            }
        });
        if self.events_max > 0 {
            if self.events.len() >= self.events_max {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
    }

    /// Adds a subscriber that has seen the events up to `last`, or wants to see what comes from now on.
    /// Where events are missing it is told so.
    pub(super) fn subscribe(&mut self, last: Option<u64>, live_max: usize) -> Subscription {
        let (sender, live) = mpsc::channel(live_max);
        self.subscribers.push(sender);
        let mut backlog = VecDeque::new();
        if let Some(last) = last {
            let oldest = self.next - self.events.len() as u64;
            let from = last.saturating_add(1);
            let known = if from > self.next { oldest } else { from.max(oldest) };
            if known != from {
                let gap = format!("event: gap\ndata: {{\"from\":{from},\"next\":{known}}}\n\n");
                backlog.push_back(Bytes::from(gap));
            }
            backlog.extend(self.events.iter().skip((known - oldest) as usize).cloned());
        }
        Subscription { backlog, live }
    }

    /// Tells all who keep up that nothing follows.
    pub(super) fn end(&mut self) {
        for subscriber in self.subscribers.drain(..) {
            let _ = subscriber.try_send(Bytes::from_static(b"event: end\ndata: {}\n\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(events: impl IntoIterator<Item = Bytes>) -> Vec<String> {
        events.into_iter().map(|e| String::from_utf8(e.to_vec()).unwrap()).collect()
    }

    fn live(subscription: &mut Subscription) -> Vec<String> {
        texts(std::iter::from_fn(|| subscription.live.try_recv().ok()))
    }

    #[test]
    fn who_comes_back_is_sent_what_it_missed_or_told_of_the_gap() {
        let mut ring = Ring::new(3, 1);
        for n in 1..=5 {
            ring.send(format!("{n}").as_bytes());
        }
        let event = |n: u64| format!("id: {n}\ndata: {n}\n\n");
        assert_eq!(texts(ring.subscribe(None, 9).backlog), Vec::<String>::new());
        assert_eq!(texts(ring.subscribe(Some(5), 9).backlog), Vec::<String>::new());
        assert_eq!(texts(ring.subscribe(Some(3), 9).backlog), [event(4), event(5)]);
        assert_eq!(texts(ring.subscribe(Some(2), 9).backlog), [event(3), event(4), event(5)]);
        let gap = "event: gap\ndata: {\"from\":2,\"next\":3}\n\n".to_owned();
        assert_eq!(texts(ring.subscribe(Some(1), 9).backlog), [gap, event(3), event(4), event(5)]);
        // A number of a life before.
        let gap = "event: gap\ndata: {\"from\":100,\"next\":3}\n\n".to_owned();
        assert_eq!(texts(ring.subscribe(Some(99), 9).backlog)[0], gap);
        assert!(texts(ring.subscribe(Some(u64::MAX), 9).backlog)[0].starts_with("event: gap"));
    }

    #[test]
    fn a_slow_subscriber_is_let_go_and_counted_and_the_others_go_on() {
        let mut ring = Ring::new(0, 7);
        let (mut slow, mut fast) = (ring.subscribe(None, 2), ring.subscribe(None, 9));
        let gone = ring.subscribe(None, 9);
        drop(gone);
        for n in 0..4 {
            ring.send(format!("{n}").as_bytes());
        }
        assert_eq!((ring.subscribers(), ring.dropped(), ring.next()), (1, 1, 11));
        assert_eq!((live(&mut slow).len(), live(&mut fast).len()), (2, 4));
        ring.end();
        assert_eq!(live(&mut fast), ["event: end\ndata: {}\n\n"]);
    }
}
