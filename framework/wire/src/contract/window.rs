//! Answers that are kept for a while, so that a call with the same idempotency key is not executed twice.
//!
//! A window belongs to one actor and lives as long as its mailbox: over restarts of its state, not over its
//! end or that of its process. Within that life, and as long as nothing was pushed out (which is counted),
//! a call with a key is executed at most once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use super::cx::CallMeta;
use super::reply::{ReplyTo, ResponseSink};
use super::service::MethodSpec;
use super::slot::ResponseSlot;
use crate::status::{Code, Executed, Stage, Status};

/// Repeats that may wait for the answer of one running call.
pub const REPEATS_WAITING_MAX: usize = 64;

/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// When a repeat that found too many waiting may come again, in milliseconds.
const RETRY_AFTER_REPEATS_MS: u64 = 50;

/// What of the answers of one actor is kept.
///
/// ```
/// use afflux_wire::contract::ReplyLimits;
/// assert!(ReplyLimits { entries_max: 0, ..ReplyLimits::default() }.is_off());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Answers kept; none keeps nothing, and keys mean nothing then.
    pub entries_max: usize,
    /// Bytes of all answers together.
    pub bytes_max: usize,
    /// Bytes of one answer; a larger one is not kept.
    pub answer_bytes_max: usize,
    /// How long an answer is kept.
    pub within: Duration,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self {
            entries_max: 4_096,
            bytes_max: 16 << 20,
            answer_bytes_max: 1 << 20,
            within: Duration::from_secs(300),
        }
    }
}

impl ReplyLimits {
    /// Whether nothing is kept.
    pub const fn is_off(&self) -> bool {
        self.entries_max == 0
    }
}

/// What happened in a window, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowEvent {
    /// A call was answered from memory.
    Replayed,
    /// A call waits for the answer of the one that runs.
    Waited,
    /// A key came back with other parameters.
    Misused,
    /// An answer was pushed out before its time by newer ones: a repeat of its key would run again.
    Evicted,
    /// An answer was too large to be kept: a repeat of its key runs again.
    TooLarge,
}

/// Who gets an answer.
pub enum Waiter {
    /// A peer, or whoever else takes bytes.
    Wire(ReplyTo),
    /// A caller of this process.
    Local(Arc<dyn ResponseSlot>),
}

impl Waiter {
    fn answer(self, result: Result<&[u8], &Status>) {
        match self {
            Self::Wire(reply) => reply.respond(result),
            Self::Local(slot) => slot.complete(result.map_err(Clone::clone)),
        }
    }
}

/// What a window says of a call with a key.
pub enum Admitted {
    /// It is the first: it runs, and answers to this.
    Run(ReplyTo),
    /// It has its answer, or will get it with the call that runs.
    Answered,
}

type Key = Arc<[u8]>;

enum Entry {
    Running { print: u64, waiters: Vec<Waiter> },
    Answered { print: u64, answer: Result<Arc<[u8]>, Status> },
}

impl Entry {
    fn print(&self) -> u64 {
        match self {
            Self::Running { print, .. } | Self::Answered { print, .. } => *print,
        }
    }
}

#[derive(Default)]
struct Entries {
    by_key: BTreeMap<Key, Entry>,
    /// The answered ones with the moment and the size of their answer, oldest first.
    answered: VecDeque<(Instant, usize, Key)>,
    bytes: usize,
}

/// The kept answers of one actor.
pub struct ReplyWindow {
    limits: ReplyLimits,
    now: fn() -> Instant,
    count: Box<dyn Fn(WindowEvent) + Send + Sync>,
    entries: Mutex<Entries>,
}

impl ReplyWindow {
    /// An empty window on a clock; `count` hears of what happens, under no lock.
    pub fn new(
        limits: ReplyLimits,
        now: fn() -> Instant,
        count: impl Fn(WindowEvent) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { limits, now, count: Box::new(count), entries: Mutex::default() })
    }

    /// Answers kept or awaited.
    pub fn len(&self) -> usize {
        self.entries.lock().by_key.len()
    }

    /// Whether nothing is kept or awaited.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides about a call whose meta has a key. `params` are its encoded parameters.
    ///
    /// A window that is off, or a call without a key, gives the waiter back as `Err`.
    #[expect(clippy::missing_errors_doc, reason = "said above: no failure, the waiter comes back")]
    pub fn admit(
        self: &Arc<Self>,
        service: &str,
        method: &MethodSpec,
        meta: &CallMeta,
        params: &[u8],
        waiter: Waiter,
    ) -> Result<Admitted, Waiter> {
        let Some(given) = &meta.idempotency_key else { return Err(waiter) };
        if self.limits.is_off() {
            return Err(waiter);
        }
        if given.len() > IDEMPOTENCY_KEY_BYTES_MAX {
            let status = Status::invalid(format!(
                "{service}/{}: an idempotency key of {} bytes, at most {IDEMPOTENCY_KEY_BYTES_MAX} may be \
                 there (IDEMPOTENCY_KEY_BYTES_MAX)",
                method.name,
                given.len()
            ));
            waiter.answer(Err(&status.stage(Stage::Admission)));
            return Ok(Admitted::Answered);
        }
        let key = scoped(meta, given);
        let print = print(service, method.name, params);
        let now = (self.now)();
        let mut entries = self.entries.lock();
        entries.expire(now, self.limits.within);
        let (answer, event) = match entries.by_key.get_mut(&key) {
            None => {
                let running = Entry::Running { print, waiters: vec![waiter] };
                entries.by_key.insert(Arc::clone(&key), running);
                drop(entries);
                let ticket = Ticket { window: Arc::clone(self), key, idempotent: method.idempotent };
                return Ok(Admitted::Run(ReplyTo::new(Arc::new(ticket), 0)));
            }
            Some(entry) if entry.print() != print => (
                Err(Status::invalid(format!(
                    "{service}/{}: this idempotency key was used for a call with other parameters within \
                     the last {:?}: a new call needs a new key",
                    method.name, self.limits.within
                ))
                .stage(Stage::Admission)),
                WindowEvent::Misused,
            ),
            Some(Entry::Running { waiters, .. }) if waiters.len() < REPEATS_WAITING_MAX => {
                waiters.push(waiter);
                drop(entries);
                (self.count)(WindowEvent::Waited);
                return Ok(Admitted::Answered);
            }
            Some(Entry::Running { waiters, .. }) => (
                Err(Status::new(
                    Code::ResourceExhausted,
                    format!(
                        "{service}/{}: {} calls with this idempotency key wait for the one that runs, at \
                         most {REPEATS_WAITING_MAX} may (REPEATS_WAITING_MAX): call less often",
                        method.name,
                        waiters.len()
                    ),
                )
                .executed(Executed::No)
                .stage(Stage::Admission)
                .retry_after_ms(RETRY_AFTER_REPEATS_MS)),
                WindowEvent::Waited,
            ),
            Some(Entry::Answered { answer, .. }) => (answer.clone(), WindowEvent::Replayed),
        };
        drop(entries);
        (self.count)(event);
        match &answer {
            Ok(bytes) => waiter.answer(Ok(bytes)),
            Err(status) if event == WindowEvent::Replayed => {
                let mut status = status.clone();
                status.details_mut().replayed = true;
                waiter.answer(Err(&status));
            }
            Err(status) => waiter.answer(Err(status)),
        }
        Ok(Admitted::Answered)
    }

    /// The call of a key has been answered.
    fn answered(&self, key: &Key, idempotent: bool, result: Result<&[u8], &Status>) {
        let now = (self.now)();
        let mut events = Vec::new();
        let mut entries = self.entries.lock();
        let Some(entry) = entries.by_key.get_mut(key) else { return };
        let Entry::Running { print, waiters } = entry else { return };
        let (print, waiters) = (*print, std::mem::take(waiters));
        // What was not executed may run when the key comes back, and so may what does no harm twice.
        let kept = match result {
            Ok(bytes) => Some((Ok(Arc::from(bytes)), bytes.len())),
            Err(status) => match status.was_executed() {
                Executed::No => None,
                Executed::Maybe if idempotent => None,
                _ => Some((Err(status.clone()), size_of_status(status))),
            },
        };
        match kept {
            Some((_, bytes)) if bytes > self.limits.answer_bytes_max.min(self.limits.bytes_max) => {
                entries.by_key.remove(key);
                events.push(WindowEvent::TooLarge);
            }
            Some((answer, bytes)) => {
                entries.by_key.insert(Arc::clone(key), Entry::Answered { print, answer });
                entries.answered.push_back((now, bytes, Arc::clone(key)));
                entries.bytes += bytes;
                entries.expire(now, self.limits.within);
                while entries.bytes > self.limits.bytes_max
                    || entries.answered.len() > self.limits.entries_max
                {
                    if !entries.forget_oldest() {
                        break;
                    }
                    events.push(WindowEvent::Evicted);
                }
            }
            None => drop(entries.by_key.remove(key)),
        }
        drop(entries);
        events.into_iter().for_each(&self.count);
        let mut waiters = waiters.into_iter();
        if let Some(first) = waiters.next() {
            first.answer(result);
        }
        // The others did not even begin: where the first was not executed they may try again at once.
        let repeated = match result {
            Err(status) if status.was_executed() == Executed::No => Err(Status::unavailable(format!(
                "the first call with this idempotency key was not executed: {}",
                status.message
            ))
            .executed(Executed::No)
            .stage(status.details.as_ref().and_then(|d| d.stage).unwrap_or(Stage::Admission))),
            Err(status) => {
                let mut status = status.clone();
                status.details_mut().replayed = true;
                Err(status)
            }
            Ok(bytes) => Ok(bytes),
        };
        for waiter in waiters {
            waiter.answer(repeated.as_ref().map(|bytes| *bytes));
        }
    }
}

impl Entries {
    fn expire(&mut self, now: Instant, within: Duration) {
        while self.answered.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) >= within) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, bytes, key)) = self.answered.pop_front() else { return false };
        self.bytes -= bytes;
        self.by_key.remove(&key);
        true
    }
}

/// One caller's keys are not another's, where callers are known.
fn scoped(meta: &CallMeta, given: &Arc<[u8]>) -> Key {
    match &meta.identity {
        None => Arc::clone(given),
        Some(identity) => [identity.name.as_bytes(), &[0], given].concat().into(),
    }
}

fn print(service: &str, method: &str, params: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    for part in [service.as_bytes(), b"/", method.as_bytes(), b"\0", params] {
        hash.update(part);
    }
    hash.digest()
}

fn size_of_status(status: &Status) -> usize {
    let data = status.details.as_ref().and_then(|d| d.data.as_ref()).map_or(0, Vec::len);
    size_of::<Status>() + status.message.len() + data
}

/// The obligation to answer the call of a key.
struct Ticket {
    window: Arc<ReplyWindow>,
    key: Key,
    idempotent: bool,
}

impl ResponseSink for Ticket {
    fn respond(&self, _: u64, result: Result<&[u8], &Status>) {
        self.window.answered(&self.key, self.idempotent, result);
    }

    /// A caller that gave up may come back for the answer: that is what its key is for.
    fn is_cancelled(&self, _: u64) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    fn now() -> Instant {
        NOW.get().unwrap_or_else(|| {
            NOW.set(Some(Instant::now()));
            now()
        })
    }

    fn advance(by: Duration) {
        NOW.set(Some(now() + by));
    }

    type Answer = Result<Vec<u8>, Status>;

    #[derive(Default)]
    struct Inbox(Mutex<Vec<Answer>>);

    impl ResponseSlot for Inbox {
        fn complete(&self, result: Result<&[u8], Status>) {
            self.0.lock().push(result.map(<[u8]>::to_vec));
        }
    }

    struct Bench {
        window: Arc<ReplyWindow>,
        inbox: Arc<Inbox>,
        events: Arc<Mutex<Vec<WindowEvent>>>,
    }

    const PLACE: MethodSpec = MethodSpec { name: "Place", ..MethodSpec::DEFAULT };
    const GET: MethodSpec = MethodSpec { name: "Get", idempotent: true, ..MethodSpec::DEFAULT };

    impl Bench {
        fn new(limits: ReplyLimits) -> Self {
            let events = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&events);
            let window = ReplyWindow::new(limits, now, move |event| seen.lock().push(event));
            Self { window, inbox: Arc::default(), events }
        }

        fn call(&self, method: &MethodSpec, key: &[u8], params: &[u8]) -> Option<ReplyTo> {
            let meta = CallMeta { idempotency_key: Some(key.into()), ..CallMeta::default() };
            let waiter = Waiter::Local(Arc::clone(&self.inbox) as Arc<dyn ResponseSlot>);
            match self.window.admit("shop", method, &meta, params, waiter) {
                Ok(Admitted::Run(reply)) => Some(reply),
                Ok(Admitted::Answered) => None,
                Err(_) => panic!("the window is on"),
            }
        }

        fn runs(&self, method: &MethodSpec, key: &[u8], params: &[u8]) -> ReplyTo {
            self.call(method, key, params).expect("it runs")
        }

        fn repeats(&self, method: &MethodSpec, key: &[u8], params: &[u8]) {
            assert!(self.call(method, key, params).is_none(), "it ran again");
        }

        fn answers(&self) -> Vec<Answer> {
            std::mem::take(&mut *self.inbox.0.lock())
        }

        fn events(&self) -> Vec<WindowEvent> {
            std::mem::take(&mut *self.events.lock())
        }
    }

    #[test]
    fn a_key_that_comes_back_is_answered_from_memory_until_the_window_is_over() {
        let bench = Bench::new(ReplyLimits::default());
        bench.runs(&PLACE, b"k", b"p").respond(Ok(b"receipt"));
        bench.repeats(&PLACE, b"k", b"p");
        assert_eq!(bench.answers(), [Ok(b"receipt".to_vec()), Ok(b"receipt".to_vec())]);
        assert_eq!(bench.events(), [WindowEvent::Replayed]);
        advance(Duration::from_secs(299));
        bench.repeats(&PLACE, b"k", b"p");
        advance(Duration::from_secs(1));
        drop(bench.runs(&PLACE, b"k", b"p"));
    }

    #[test]
    fn repeats_of_a_running_call_get_its_answer() {
        let bench = Bench::new(ReplyLimits::default());
        let reply = bench.runs(&PLACE, b"k", b"p");
        bench.repeats(&PLACE, b"k", b"p");
        bench.repeats(&PLACE, b"k", b"p");
        assert!(bench.answers().is_empty());
        reply.respond(Ok(b"r"));
        assert_eq!(bench.answers(), vec![Ok(b"r".to_vec()); 3]);
        assert_eq!(bench.events(), [WindowEvent::Waited; 2]);
    }

    #[test]
    fn no_more_repeats_wait_than_their_bound() {
        let bench = Bench::new(ReplyLimits::default());
        let reply = bench.runs(&PLACE, b"k", b"p");
        for _ in 0..REPEATS_WAITING_MAX {
            bench.repeats(&PLACE, b"k", b"p");
        }
        let answers = bench.answers();
        assert_eq!(answers.len(), 1);
        let status = answers[0].clone().unwrap_err();
        assert_eq!((status.code, status.was_executed()), (Code::ResourceExhausted, Executed::No));
        reply.respond(Ok(b"r"));
        assert_eq!(bench.answers().len(), REPEATS_WAITING_MAX);
    }

    #[test]
    fn a_key_with_other_params_is_wrong_also_while_the_first_runs() {
        let bench = Bench::new(ReplyLimits::default());
        let reply = bench.runs(&PLACE, b"k", b"p");
        bench.repeats(&PLACE, b"k", b"q");
        bench.repeats(&GET, b"k", b"p");
        reply.respond(Ok(b"r"));
        bench.repeats(&PLACE, b"k", b"q");
        let answers = bench.answers();
        let wrong: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!((answers.len(), wrong.len()), (4, 3));
        assert!(wrong.iter().all(|s| s.code == Code::InvalidArgument && s.message.contains("new key")));
    }

    #[test]
    fn a_failure_is_kept_when_it_may_have_had_an_effect() {
        let bench = Bench::new(ReplyLimits::default());
        let failures = [
            (Executed::No, &PLACE, false),
            (Executed::Maybe, &PLACE, true),
            (Executed::Yes, &PLACE, true),
            (Executed::Maybe, &GET, false),
            (Executed::Yes, &GET, true),
        ];
        for (n, (executed, method, kept)) in failures.into_iter().enumerate() {
            let key = [n as u8];
            let status = Status::internal("no").executed(executed);
            bench.runs(method, &key, b"p").respond(Err(&status));
            assert_eq!(bench.answers(), [Err(status)]);
            assert_eq!(bench.call(method, &key, b"p").is_none(), kept, "{executed:?} {}", method.name);
            for answer in bench.answers() {
                assert!(answer.unwrap_err().details.unwrap().replayed);
            }
        }
    }

    #[test]
    fn repeats_of_a_call_that_was_not_executed_may_try_again() {
        let bench = Bench::new(ReplyLimits::default());
        let reply = bench.runs(&PLACE, b"k", b"p");
        bench.repeats(&PLACE, b"k", b"p");
        let full = Status::new(Code::DeadlineExceeded, "too late").executed(Executed::No);
        reply.respond(Err(&full));
        let answers = bench.answers();
        assert_eq!(answers[0], Err(full));
        assert!(answers[1].as_ref().unwrap_err().may_retry_elsewhere());
        assert!(bench.window.is_empty());
    }

    #[test]
    fn the_oldest_answers_make_room_by_number_and_by_bytes_and_are_counted() {
        let limits = ReplyLimits { entries_max: 2, bytes_max: 10, answer_bytes_max: 8, ..Default::default() };
        let bench = Bench::new(limits);
        for key in [b"a", b"b", b"c"] {
            bench.runs(&PLACE, key, b"p").respond(Ok(b"rr"));
        }
        assert_eq!(bench.events(), [WindowEvent::Evicted]);
        bench.runs(&PLACE, b"d", b"p").respond(Ok(b"12345678"));
        assert_eq!(bench.events(), [WindowEvent::Evicted]);
        assert_eq!(bench.window.entries.lock().bytes, 10);
        bench.runs(&PLACE, b"e", b"p").respond(Ok(b"123456789"));
        assert_eq!(bench.events(), [WindowEvent::TooLarge]);
        assert_eq!(bench.window.len(), 2);
        drop(bench.runs(&PLACE, b"e", b"p"));
    }

    #[test]
    fn two_callers_have_keys_of_their_own() {
        use crate::contract::{Identity, IdentityKind};
        let key = |name: Option<&str>| {
            let identity = name.map(|name| Arc::new(Identity::new(name, IdentityKind::Token)));
            scoped(&CallMeta { identity, ..CallMeta::default() }, &Arc::from(&b"k"[..]))
        };
        assert_ne!(key(Some("a/x")), key(Some("a/y")));
        assert_eq!(key(Some("a/x")), key(Some("a/x")));
        assert_ne!(key(None), key(Some("a/x")));
    }

    #[test]
    fn a_window_that_is_off_gives_the_caller_back() {
        let bench = Bench::new(ReplyLimits { entries_max: 0, ..ReplyLimits::default() });
        let meta = CallMeta { idempotency_key: Some(b"k"[..].into()), ..CallMeta::default() };
        let waiter = Waiter::Local(Arc::clone(&bench.inbox) as Arc<dyn ResponseSlot>);
        assert!(bench.window.admit("shop", &PLACE, &meta, b"p", waiter).is_err());
    }
}
