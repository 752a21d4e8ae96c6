//! A bounded queue between any number of senders and one host.
//!
//! The bound holds over all senders together: a place is taken when a message is admitted and free
//! again when its handler starts. The host takes the whole queue out at once, so that senders and
//! host meet at the lock once a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use afflux_wire::contract::{Ack, ActorKey, CallChain, Mail, Priority, Refused, ReplyWindow};
use afflux_wire::{Code, Executed, Stage, Status};

use crate::clock;
use crate::metrics::{Gauged, KindMetrics};
use crate::options::{Options, Overflow};
use crate::sync::{AtomicBool, AtomicU8, AtomicUsize, Mutex, Ordering};
use crate::watch::StopReason;

/// One admitted message in this many is timed.
pub(crate) const SAMPLE_EVERY_MESSAGES: u64 = 16;

/// A full admission queue is searched for messages nobody waits for at most this often.
const ADMISSION_SWEEP_INTERVAL: Duration = Duration::from_millis(1);

/// A message with the moment of its admission, if it is a sampled one.
pub(crate) struct Entry<M> {
    pub(crate) mail: M,
    pub(crate) admitted_at: Option<Instant>,
}

struct Queue<M> {
    /// Admitted with normal priority, not yet taken out.
    ready: VecDeque<Entry<M>>,
    /// Admitted to the high and to the low lane; taken out one by one.
    high: VecDeque<Entry<M>>,
    low: VecDeque<Entry<M>>,
    /// Waiting for a place; older than anything that comes, younger than all of `ready`.
    admission: VecDeque<Entry<M>>,
    swept_at: Option<Instant>,
    waker: Option<Waker>,
    stop: Option<StopReason>,
    closed: bool,
    admitted: u64,
}

impl<M: Mail> Queue<M> {
    fn admitted(&self) -> usize {
        self.ready.len() + self.high.len() + self.low.len()
    }

    fn lane(&mut self, priority: Priority) -> &mut VecDeque<Entry<M>> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.ready,
            Priority::Low => &mut self.low,
        }
    }
}

const HIGH: u8 = 1;
const LOW: u8 = 2;

/// A bounded queue with its limits and its counters.
pub(crate) struct Mailbox<M> {
    queue: Mutex<Queue<M>>,
    /// Messages the host has taken out and not started yet. Set under the lock, lowered without.
    taken: AtomicUsize,
    /// Which lanes beside the normal one hold messages. Set under the lock, read without.
    lanes: AtomicU8,
    stopping: AtomicBool,
    stop_asked: AtomicBool,
    messages_max: usize,
    admission_max: usize,
    /// The serial actor behind it, by which call cycles are found.
    key: Option<ActorKey>,
    replies: Arc<ReplyWindow>,
    kind: Arc<KindMetrics>,
}

impl<M: Mail> Mailbox<M> {
    pub(crate) fn new(options: &Options, kind: Arc<KindMetrics>, key: Option<ActorKey>) -> Self {
        let admission_max = match options.overflow {
            Overflow::Reject => 0,
            Overflow::Wait => options.admission_messages_max,
        };
        Self {
            queue: Mutex::new(Queue {
                ready: VecDeque::new(),
                high: VecDeque::new(),
                low: VecDeque::new(),
                admission: VecDeque::new(),
                swept_at: None,
                waker: None,
                stop: None,
                closed: false,
                admitted: 0,
            }),
            taken: AtomicUsize::new(0),
            lanes: AtomicU8::new(0),
            stopping: AtomicBool::new(false),
            stop_asked: AtomicBool::new(false),
            messages_max: options.mailbox_messages_max.max(1),
            admission_max,
            key,
            replies: {
                let kind = Arc::clone(&kind);
                ReplyWindow::new(options.replies, clock::now, move |event| kind.window(event))
            },
            kind,
        }
    }

    /// The actor, when it waits for a call with this chain.
    #[cold]
    fn in_cycle(&self, chain: &CallChain) -> Option<&ActorKey> {
        self.key.as_ref().filter(|key| chain.holds(key))
    }

    /// Admits one message, made from `message` only once it is known to fit.
    pub(crate) fn push<C: Mail>(&self, message: C, into: impl FnOnce(C) -> M) -> Result<(), Refused<C>> {
        if let Some(chain) = &message.meta().chain
            && let Some(key) = self.in_cycle(chain)
        {
            self.kind.rejected_cycle.inc();
            return Err(Refused::Cycle(message, Box::new(key.clone())));
        }
        let (mut given_up, mut acks) = (Vec::new(), Vec::new());
        let mut queue = self.queue.lock();
        let outcome = if !self.has_room(&mut queue, &mut given_up, &mut acks) {
            Err(message)
        } else {
            self.place(&mut queue, into(message), &mut acks);
            Ok(queue.waker.take())
        };
        let closed = queue.closed;
        drop(queue);
        acks.into_iter().for_each(Ack::send);
        self.reject_given_up(given_up);
        match outcome {
            Ok(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(())
            }
            Err(message) if closed => {
                self.kind.rejected_closed.inc();
                Err(Refused::Closed(message))
            }
            Err(message) => {
                self.kind.rejected_full.inc();
                Err(Refused::Full(message))
            }
        }
    }

    /// Admits messages from the front while there is room; returns how many. The rest stays.
    pub(crate) fn push_batch(&self, messages: &mut VecDeque<M>) -> usize {
        let (mut given_up, mut acks) = (Vec::new(), Vec::new());
        let mut queue = self.queue.lock();
        let mut admitted = 0;
        while !messages.is_empty() && self.has_room(&mut queue, &mut given_up, &mut acks) {
            if let Some(message) = messages.pop_front() {
                self.place(&mut queue, message, &mut acks);
                admitted += 1;
            }
        }
        let waker = if admitted > 0 { queue.waker.take() } else { None };
        let closed = queue.closed;
        drop(queue);
        acks.into_iter().for_each(Ack::send);
        self.reject_given_up(given_up);
        if !messages.is_empty() {
            let refused = if closed { &self.kind.rejected_closed } else { &self.kind.rejected_full };
            refused.inc_by(messages.len() as u64);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        admitted
    }

    fn places_free(&self, queue: &Queue<M>) -> usize {
        self.messages_max.saturating_sub(queue.admitted() + self.taken.load(Ordering::Relaxed))
    }

    fn has_room(&self, queue: &mut Queue<M>, given_up: &mut Vec<Entry<M>>, acks: &mut Vec<Ack>) -> bool {
        if queue.closed {
            return false;
        }
        self.promote(queue, acks);
        if queue.admission.is_empty() && self.places_free(queue) > 0 {
            return true;
        }
        if queue.admission.len() >= self.admission_max && self.admission_max > 0 {
            sweep(queue, given_up);
        }
        queue.admission.len() < self.admission_max
    }

    /// Puts a message where [`Self::has_room`] found a place.
    fn place(&self, queue: &mut Queue<M>, mail: M, acks: &mut Vec<Ack>) {
        let sampled = queue.admitted.is_multiple_of(SAMPLE_EVERY_MESSAGES)
            || mail.meta().trace.is_some_and(|trace| trace.is_sampled());
        queue.admitted += 1;
        let entry = Entry { mail, admitted_at: sampled.then(clock::now) };
        // A place may have become free since `has_room` looked: those that wait come first all the same.
        if queue.admission.is_empty() && self.places_free(queue) > 0 {
            self.admit(queue, entry, acks);
        } else {
            queue.admission.push_back(entry);
        }
    }

    /// Puts a message into its lane.
    #[inline]
    fn admit(&self, queue: &mut Queue<M>, mut entry: Entry<M>, acks: &mut Vec<Ack>) {
        if let Some(ack) = entry.mail.take_ack() {
            acks.push(ack);
        }
        let priority = entry.mail.meta().priority;
        queue.lane(priority).push_back(entry);
        if priority != Priority::Normal {
            self.mark_lanes(queue);
        }
    }

    fn mark_lanes(&self, queue: &Queue<M>) {
        let high = if queue.high.is_empty() { 0 } else { HIGH };
        let low = if queue.low.is_empty() { 0 } else { LOW };
        self.lanes.store(high | low, Ordering::Relaxed);
    }

    /// Whether messages wait in the high and in the low lane.
    #[inline]
    pub(crate) fn lanes(&self) -> (bool, bool) {
        let lanes = self.lanes.load(Ordering::Relaxed);
        (lanes & HIGH != 0, lanes & LOW != 0)
    }

    /// Takes one message out of the high or the low lane, to start it at once.
    pub(crate) fn take_lane(&self, lane: Priority) -> Option<Entry<M>> {
        let mut acks = Vec::new();
        let mut queue = self.queue.lock();
        let entry = queue.lane(lane).pop_front();
        self.mark_lanes(&queue);
        self.promote(&mut queue, &mut acks);
        drop(queue);
        acks.into_iter().for_each(Ack::send);
        entry
    }

    /// The answers kept for calls with an idempotency key.
    pub(crate) fn replies(&self) -> &Arc<ReplyWindow> {
        &self.replies
    }

    /// Gives free places to the messages that wait for one, oldest first.
    fn promote(&self, queue: &mut Queue<M>, acks: &mut Vec<Ack>) {
        if queue.admission.is_empty() {
            return;
        }
        for _ in 0..self.places_free(queue) {
            let Some(entry) = queue.admission.pop_front() else { break };
            self.admit(queue, entry, acks);
        }
    }

    fn reject_given_up(&self, given_up: Vec<Entry<M>>) {
        for entry in given_up {
            self.reject_unrun(entry.mail, Stage::Admission);
        }
    }

    /// Rejects a message whose caller no longer waits.
    pub(crate) fn reject_unrun(&self, mail: M, stage: Stage) {
        let status = if mail.is_cancelled() {
            self.kind.rejected_cancelled.inc();
            Status::new(Code::Cancelled, "the caller gave up while the message waited")
        } else {
            self.kind.rejected_deadline.inc();
            Status::new(
                Code::DeadlineExceeded,
                format!(
                    "the deadline passed while the message waited in the mailbox of {} ({} waiting): \
                     allow more time, call less often, or run more instances",
                    self.kind.name,
                    self.depth()
                ),
            )
        };
        mail.reject(status.executed(Executed::No).stage(stage));
    }

    /// Takes all admitted messages into `batch`, which is empty; parks `task` when there are none.
    pub(crate) fn take_or_park(&self, batch: &mut VecDeque<Entry<M>>, task: &mut Context<'_>) {
        let mut acks = Vec::new();
        self.take_or_park_in(&mut self.queue.lock(), batch, task, &mut acks);
        acks.into_iter().for_each(Ack::send);
    }

    fn take_or_park_in(
        &self,
        queue: &mut Queue<M>,
        batch: &mut VecDeque<Entry<M>>,
        task: &mut Context<'_>,
        acks: &mut Vec<Ack>,
    ) {
        self.taken.store(0, Ordering::Relaxed);
        self.promote(queue, acks);
        if queue.admitted() == 0 {
            if queue.stop.is_some() {
                // It came after the host had looked, and found nobody to wake.
                task.waker().wake_by_ref();
                return;
            }
            match &mut queue.waker {
                Some(waker) => waker.clone_from(task.waker()),
                none => *none = Some(task.waker().clone()),
            }
            return;
        }
        std::mem::swap(&mut queue.ready, batch);
        self.taken.store(batch.len(), Ordering::Relaxed);
    }

    /// The handler of one taken message starts: its place is free.
    pub(crate) fn started(&self) {
        // Only the host writes while messages are taken out, so this is no read-modify-write.
        let taken = self.taken.load(Ordering::Relaxed);
        self.taken.store(taken.saturating_sub(1), Ordering::Relaxed);
    }

    /// Whether nobody has asked before that this actor stop.
    pub(crate) fn first_to_ask(&self) -> bool {
        !self.stop_asked.swap(true, Ordering::Relaxed)
    }

    /// Tells the host to stop. The first reason stands.
    pub(crate) fn request_stop(&self, reason: StopReason) {
        let mut queue = self.queue.lock();
        queue.stop.get_or_insert(reason);
        self.stopping.store(true, Ordering::Release);
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the host was told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Registers the host's task for the next message or the request to stop.
    pub(crate) fn stop_requested(&self, task: &mut Context<'_>) -> Option<StopReason> {
        let mut queue = self.queue.lock();
        queue.waker = Some(task.waker().clone());
        queue.stop.clone()
    }

    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.queue.lock().stop.clone()
    }

    /// Takes nothing more; returns what waits.
    pub(crate) fn close(&self) -> VecDeque<Entry<M>> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.waker = None;
        let mut waiting = std::mem::take(&mut queue.high);
        waiting.append(&mut queue.ready);
        waiting.append(&mut queue.low);
        self.mark_lanes(&queue);
        waiting.append(&mut queue.admission);
        self.taken.store(0, Ordering::Relaxed);
        waiting
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }

    /// Messages whose handler has not started.
    pub(crate) fn depth(&self) -> usize {
        let queue = self.queue.lock();
        queue.admitted() + queue.admission.len() + self.taken.load(Ordering::Relaxed)
    }

    /// Messages that fit, those that may wait for a place included.
    pub(crate) fn capacity(&self) -> usize {
        self.messages_max + self.admission_max
    }

    pub(crate) fn kind(&self) -> &Arc<KindMetrics> {
        &self.kind
    }
}

/// Takes the messages nobody waits for out of the admission queue.
fn sweep<M: Mail>(queue: &mut Queue<M>, given_up: &mut Vec<Entry<M>>) {
    let now = clock::now();
    if queue.swept_at.is_some_and(|at| now.duration_since(at) < ADMISSION_SWEEP_INTERVAL) {
        return;
    }
    queue.swept_at = Some(now);
    for _ in 0..queue.admission.len() {
        if let Some(entry) = queue.admission.pop_front() {
            if gave_up(&entry.mail, now) {
                given_up.push(entry);
            } else {
                queue.admission.push_back(entry);
            }
        }
    }
}

/// Whether nobody waits for this message any more.
pub(crate) fn gave_up<M: Mail>(mail: &M, now: Instant) -> bool {
    mail.meta().deadline.is_some_and(|deadline| deadline <= now) || mail.is_cancelled()
}

impl<M: Mail> Gauged for Mailbox<M> {
    fn kind(&self) -> &'static str {
        self.kind.name
    }
    fn depth(&self) -> usize {
        Mailbox::depth(self)
    }
    fn capacity(&self) -> usize {
        Mailbox::capacity(self)
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod interleavings;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ActorMetrics;
    use afflux_wire::contract::CallMeta;
    use proptest::prelude::*;
    use std::task::Waker;

    /// A message that reports how it was rejected.
    #[derive(Debug)]
    struct Note {
        number: u64,
        meta: CallMeta,
        rejected: Arc<Mutex<Vec<(u64, Status)>>>,
        ack: Option<Ack>,
    }

    impl Mail for Note {
        fn meta(&self) -> &CallMeta {
            &self.meta
        }
        fn take_ack(&mut self) -> Option<Ack> {
            self.ack.take()
        }
        fn reject(self, status: Status) {
            self.rejected.lock().push((self.number, status));
        }
    }

    type Rejected = Arc<Mutex<Vec<(u64, Status)>>>;

    fn note(number: u64, deadline: Option<Instant>, rejected: &Rejected) -> Note {
        Note {
            number,
            meta: CallMeta { deadline, ..CallMeta::default() },
            rejected: Arc::clone(rejected),
            ack: None,
        }
    }

    type Acked = Arc<Mutex<Vec<u64>>>;

    /// A one-way message whose caller waits for its admission.
    fn acked(number: u64, priority: Priority, acked: &Acked) -> Note {
        let mut note = note(number, None, &Rejected::default());
        note.meta.priority = priority;
        let acked = Arc::clone(acked);
        note.ack = Some(Ack::new(move || acked.lock().push(number)));
        note
    }

    #[test]
    fn an_acknowledgement_comes_with_the_place_and_not_with_the_wait_for_one() {
        let mailbox = mailbox(2, Some(3));
        let log = Acked::default();
        for n in 0..5 {
            mailbox.push(acked(n, Priority::Normal, &log), |n| n).unwrap();
        }
        assert_eq!(*log.lock(), [0, 1]);
        let batch = take(&mailbox);
        mailbox.started();
        mailbox.push(acked(5, Priority::Normal, &log), |n| n).unwrap();
        assert_eq!(*log.lock(), [0, 1, 2], "a free place is the oldest's");
        drop(batch);
        assert!(matches!(mailbox.push(acked(6, Priority::Normal, &log), |n| n), Err(Refused::Full(_))));
        take(&mailbox);
        assert_eq!(*log.lock(), [0, 1, 2, 3]);
        assert_eq!(mailbox.close().len(), 2, "those that never had a place were not acknowledged");
    }

    #[test]
    fn lanes_share_the_bound_and_a_place_in_one_is_free_when_its_message_is_taken() {
        let mailbox = mailbox(3, Some(1));
        let log = Acked::default();
        for (n, priority) in
            [Priority::Low, Priority::Normal, Priority::High, Priority::High].into_iter().enumerate()
        {
            mailbox.push(acked(n as u64, priority, &log), |n| n).unwrap();
        }
        assert_eq!((mailbox.depth(), mailbox.lanes()), (4, (true, true)));
        assert!(matches!(mailbox.push(acked(9, Priority::High, &log), |n| n), Err(Refused::Full(_))));
        assert_eq!(mailbox.take_lane(Priority::High).unwrap().mail.number, 2);
        assert_eq!(*log.lock(), [0, 1, 2, 3], "the one that waited has the free place");
        assert_eq!(take(&mailbox).iter().map(|e| e.mail.number).collect::<Vec<_>>(), [1]);
        assert_eq!(mailbox.depth(), 3);
        assert_eq!(mailbox.take_lane(Priority::Low).unwrap().mail.number, 0);
        assert_eq!(mailbox.lanes(), (true, false));
        assert_eq!(mailbox.close().iter().map(|e| e.mail.number).collect::<Vec<_>>(), [3]);
        assert_eq!(mailbox.lanes(), (false, false));
    }

    fn mailbox(messages_max: usize, wait: Option<usize>) -> Mailbox<Note> {
        let options = Options {
            mailbox_messages_max: messages_max,
            overflow: if wait.is_some() { Overflow::Wait } else { Overflow::Reject },
            admission_messages_max: wait.unwrap_or(0),
            ..Options::default()
        };
        Mailbox::new(&options, ActorMetrics::unregistered().kind("Note"), None)
    }

    fn take(mailbox: &Mailbox<Note>) -> VecDeque<Entry<Note>> {
        let mut batch = VecDeque::new();
        mailbox.take_or_park(&mut batch, &mut Context::from_waker(Waker::noop()));
        batch
    }

    #[test]
    fn a_request_to_stop_that_came_before_the_host_parked_wakes_it() {
        struct Woken(AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let mailbox = mailbox(2, None);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        mailbox.request_stop(StopReason::Asked(Status::unavailable("enough")));
        let waker = Waker::from(Arc::clone(&woken));
        mailbox.take_or_park(&mut VecDeque::new(), &mut Context::from_waker(&waker));
        assert!(woken.0.load(Ordering::SeqCst));
    }

    #[test]
    fn a_place_is_free_when_the_handler_starts_and_not_when_the_host_takes_the_queue() {
        let mailbox = mailbox(2, None);
        let rejected = Rejected::default();
        for n in 0..2 {
            mailbox.push(note(n, None, &rejected), |n| n).unwrap();
        }
        let batch = take(&mailbox);
        assert_eq!((batch.len(), mailbox.depth()), (2, 2));
        assert!(matches!(mailbox.push(note(2, None, &rejected), |n| n), Err(Refused::Full(_))));
        mailbox.started();
        mailbox.push(note(3, None, &rejected), |n| n).unwrap();
        assert!(matches!(mailbox.push(note(4, None, &rejected), |n| n), Err(Refused::Full(_))));
        assert_eq!(mailbox.kind().rejected_full.get(), 2);
    }

    #[test]
    fn a_batch_fills_the_room_and_leaves_the_rest_with_the_caller() {
        let mailbox = mailbox(3, None);
        let rejected = Rejected::default();
        let mut batch: VecDeque<_> = (0..5).map(|n| note(n, None, &rejected)).collect();
        assert_eq!(mailbox.push_batch(&mut batch), 3);
        assert_eq!(batch.iter().map(|n| n.number).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(mailbox.kind().rejected_full.get(), 2);
        assert_eq!(take(&mailbox).iter().map(|e| e.mail.number).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_closed_mailbox_gives_back_what_waits_and_takes_nothing_more() {
        let mailbox = mailbox(1, Some(2));
        let rejected = Rejected::default();
        for n in 0..3 {
            mailbox.push(note(n, None, &rejected), |n| n).unwrap();
        }
        assert_eq!(mailbox.close().iter().map(|e| e.mail.number).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(matches!(mailbox.push(note(3, None, &rejected), |n| n), Err(Refused::Closed(_))));
        assert_eq!(mailbox.kind().rejected_closed.get(), 1);
    }

    #[test]
    fn a_full_admission_queue_drops_those_whose_deadline_passed_and_tells_them() {
        crate::test::paused(|| async {
            let mailbox = mailbox(1, Some(2));
            let rejected = Rejected::default();
            let soon = clock::now() + Duration::from_millis(5);
            mailbox.push(note(0, None, &rejected), |n| n).unwrap();
            mailbox.push(note(1, Some(soon), &rejected), |n| n).unwrap();
            mailbox.push(note(2, None, &rejected), |n| n).unwrap();
            assert!(matches!(mailbox.push(note(3, None, &rejected), |n| n), Err(Refused::Full(_))));
            tokio::time::advance(Duration::from_millis(5)).await;
            mailbox.push(note(4, None, &rejected), |n| n).unwrap();
            {
                let rejected = rejected.lock();
                let (number, status) = &rejected[0];
                assert_eq!((*number, status.code), (1, Code::DeadlineExceeded));
                assert_eq!(status.was_executed(), Executed::No);
                assert_eq!(status.details.as_ref().unwrap().stage, Some(Stage::Admission));
            }
            assert_eq!(mailbox.kind().rejected_deadline.get(), 1);
            let numbers: Vec<_> = mailbox.close().iter().map(|e| e.mail.number).collect();
            assert_eq!(numbers, [0, 2, 4]);
        });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Batch(usize),
        Take,
        Start,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Push),
            1 => (0..6_usize).prop_map(Step::Batch),
            1 => Just(Step::Take),
            3 => Just(Step::Start),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever the order of pushes, takes and starts: never more than the bound, never out of
        /// order, never lost.
        #[test]
        fn admitted_messages_keep_their_order_and_never_exceed_the_bound(
            steps in steps(), max in 1..5_usize, wait in prop::option::of(0..4_usize)
        ) {
            let mailbox = mailbox(max, wait);
            let rejected = Rejected::default();
            let bound = max + wait.unwrap_or(0);
            let (mut next, mut admitted, mut ran) = (0, Vec::new(), Vec::new());
            let mut batch = VecDeque::new();
            for step in steps {
                match step {
                    Step::Push => {
                        let room = mailbox.depth() < bound;
                        let fits = mailbox.push(note(next, None, &rejected), |n| n).is_ok();
                        prop_assert_eq!(fits, room);
                        if fits { admitted.push(next); }
                        next += 1;
                    }
                    Step::Batch(n) => {
                        let mut many: VecDeque<_> =
                            (0..n as u64).map(|i| note(next + i, None, &rejected)).collect();
                        let taken = mailbox.push_batch(&mut many);
                        admitted.extend(next..next + taken as u64);
                        next += n as u64;
                    }
                    Step::Take if batch.is_empty() => batch = take(&mailbox),
                    Step::Take => {}
                    Step::Start => if let Some(entry) = batch.pop_front() {
                        mailbox.started();
                        ran.push(entry.mail.number);
                    }
                }
                prop_assert!(mailbox.depth() <= bound);
            }
            ran.extend(batch.into_iter().map(|e| e.mail.number));
            ran.extend(mailbox.close().iter().map(|e| e.mail.number));
            prop_assert_eq!(ran, admitted);
        }
    }
}
