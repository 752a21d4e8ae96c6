//! The actix actor that hosts one of ours.
//!
//! actix carries the life of an actor and its control: the request to stop arrives at actix's address
//! and is handled before anything else. Messages come through our own [`Mailbox`], because an actix
//! address is no bound: each clone has a place of its own and `do_send` ignores the limit.
//!
//! The state lives in one attached future, so that a handler borrows it across awaits and a panic
//! costs that state alone; see `turn.rs` for what it does while nothing fails. `ctx.wait` is never
//! used: it would keep control waiting.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{ActorContext, AsyncContext};
use afflux_wire::contract::{ActorKey, Cx, Mail, Panic, Priority, dropping_state, within};
use afflux_wire::{ActorPath, Executed, Stage, Status};
use futures_util::FutureExt;

use crate::actor::{Actor, ActorHandle, Spec};
use crate::address::Address;
use crate::clock;
use crate::lanes::Lanes;
use crate::mailbox::{Entry, Mailbox};
use crate::metrics::Gauged;
use crate::nursery::Nursery;
use crate::options::Options;
use crate::overlap;
use crate::place::Place;
use crate::restart::{Budget, Decision};
use crate::turn::serve;
use crate::watch::{Death, StopReason};

/// What control needs of a mailbox, whatever its messages.
trait Control: Send + Sync {
    fn first_to_ask(&self) -> bool;
    fn request_stop(&self, reason: StopReason);
}

impl<M: Mail> Control for Mailbox<M> {
    fn first_to_ask(&self) -> bool {
        Mailbox::first_to_ask(self)
    }
    fn request_stop(&self, reason: StopReason) {
        Mailbox::request_stop(self, reason);
    }
}

/// The actix side of every actor of ours.
struct Host {
    control: Arc<dyn Control>,
}

impl actix::Actor for Host {
    type Context = actix::Context<Self>;
}

struct Stop(StopReason);

impl actix::Message for Stop {
    type Result = ();
}

impl actix::Handler<Stop> for Host {
    type Result = ();

    fn handle(&mut self, stop: Stop, _ctx: &mut Self::Context) {
        self.control.request_stop(stop.0);
    }
}

/// The control side of one actor.
#[derive(Clone)]
pub(crate) struct Stopper {
    host: actix::Recipient<Stop>,
    control: Arc<dyn Control>,
}

impl Stopper {
    pub(crate) fn stop(&self, reason: StopReason) {
        // Only the first request is sent: control cannot pile up either.
        if self.control.first_to_ask() {
            self.host.do_send(Stop(reason));
        }
    }
}

/// Messages to actix' own address that wait: only the request to stop is ever sent there.
const CONTROL_MAX: usize = 16;

/// Starts an actor on the thread of `place`.
pub(crate) fn spawn<A, F>(place: &Place, spec: Spec, options: Options, factory: F) -> ActorHandle<A::Mail>
where
    A: Actor,
    F: FnMut() -> Result<A, Status> + Send + 'static,
{
    let kind = spec.metrics.kind(A::KIND);
    let key = key(&spec);
    let mailbox = Arc::new(Mailbox::new(&options, kind, key.clone().filter(|_| A::CONCURRENT == 1)));
    let gauged: Weak<dyn Gauged> = {
        let weak: Weak<Mailbox<A::Mail>> = Arc::downgrade(&mailbox);
        weak
    };
    spec.metrics.observe(A::KIND, gauged);
    let control: Arc<dyn Control> = Arc::<Mailbox<A::Mail>>::clone(&mailbox);
    let nursery = Nursery::new(place.clone(), spec.caller.clone(), mailbox.kind());
    let seat = Seat::new(Arc::clone(&mailbox), spec.path.clone(), Arc::clone(&nursery));
    let death = seat.death.clone();
    let (path, caller, fence) = (spec.path, spec.caller, spec.fence);
    // As `start_in_arbiter` does, which wants an arbiter.
    let (sender, receiver) = actix::dev::channel::channel(CONTROL_MAX);
    place.run({
        let (control, path) = (Arc::clone(&control), path.clone());
        move || {
            let mut ctx = actix::Context::with_receiver(receiver);
            let mut cx = Cx::new(path, caller.clone()).spawning(nursery).fenced(fence);
            if let Some(key) = key {
                cx = cx.seated(key, A::CONCURRENT == 1);
            }
            // Calls through a reference find their node by the task they run in.
            let life = within(caller, live(seat, factory, cx, Budget::new(options.restart)));
            ctx.spawn(wrap_future::<_, Host>(life).map(|(), _, ctx| ctx.stop()));
            actix_rt::spawn(ctx.into_future(Host { control }));
        }
    });
    let host = actix::Addr::new(sender);
    ActorHandle {
        address: Address::new(mailbox),
        path,
        stopper: Stopper { host: host.recipient(), control },
        death,
    }
}

/// What an actor is known by in call chains; nothing where it can start no calls.
fn key(spec: &Spec) -> Option<ActorKey> {
    static ACTORS: AtomicU64 = AtomicU64::new(1);
    let caller = spec.caller.as_ref()?;
    let node = caller.node()?.clone();
    let number = ACTORS.fetch_add(1, Ordering::Relaxed);
    Some(ActorKey { node, incarnation: caller.incarnation(), number })
}

/// What of an actor outlives its states. However its future ends, also by being dropped with its
/// thread, every waiting message is answered and the end is announced.
pub(crate) struct Seat<M: Mail> {
    pub(crate) mailbox: Arc<Mailbox<M>>,
    /// Messages taken out of the mailbox and not started.
    pub(crate) batch: VecDeque<Entry<M>>,
    lanes: Lanes,
    death: Death,
    path: ActorPath,
    nursery: Arc<Nursery>,
    ended: bool,
}

impl<M: Mail> Seat<M> {
    fn new(mailbox: Arc<Mailbox<M>>, path: ActorPath, nursery: Arc<Nursery>) -> Self {
        mailbox.kind().starts.inc();
        mailbox.kind().actors.inc();
        Self {
            mailbox,
            batch: VecDeque::new(),
            lanes: Lanes::default(),
            death: Death::new(),
            path,
            nursery,
            ended: false,
        }
    }

    /// The next message to start, by the weights of its lanes.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Entry<M>> {
        let (high, low) = self.mailbox.lanes();
        if high || low {
            match self.lanes.next(high, !self.batch.is_empty(), low)? {
                Priority::Normal => {}
                lane => return self.mailbox.take_lane(lane),
            }
        }
        let entry = self.batch.pop_front()?;
        self.mailbox.started();
        Some(entry)
    }

    fn end(&mut self, reason: StopReason) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.nursery.close();
        let mut waiting = std::mem::take(&mut self.batch);
        waiting.append(&mut self.mailbox.close());
        let kind = self.mailbox.kind();
        let status = Status::unavailable(format!("the actor {} has stopped ({reason})", self.path))
            .executed(Executed::No)
            .stage(Stage::Queued);
        kind.rejected_closed.inc_by(waiting.len() as u64);
        for entry in waiting {
            entry.mail.reject(status.clone());
        }
        kind.actors.dec();
        kind.stopped(&reason);
        match &reason {
            StopReason::Finished | StopReason::Asked(_) => {
                tracing::debug!(kind = kind.name, path = %self.path, %reason, "actor ended");
            }
            _ => tracing::error!(kind = kind.name, path = %self.path, %reason, "actor ended"),
        }
        self.death.announce(reason);
    }
}

impl<M: Mail> Drop for Seat<M> {
    fn drop(&mut self) {
        self.end(StopReason::Failed(Status::unavailable("the thread of the actor has stopped")));
    }
}

/// The life of an actor: one state after another, until the policy says that it is over.
async fn live<A, F>(mut seat: Seat<A::Mail>, mut factory: F, mut cx: Cx, mut budget: Budget)
where
    A: Actor,
    F: FnMut() -> Result<A, Status>,
{
    let reason = loop {
        let made = catch_unwind(AssertUnwindSafe(&mut factory));
        let reason = match made {
            Ok(Ok(state)) => run(&mut seat, state, &mut cx).await,
            Ok(Err(status)) => StopReason::Failed(status),
            Err(payload) => StopReason::Panicked(Panic::from_payload(&*payload)),
        };
        cx.leave();
        cx.take_stop();
        let kind = seat.mailbox.kind();
        if matches!(reason, StopReason::Panicked(_)) {
            kind.panics.inc();
        }
        // Asked meanwhile: no fresh state for a moment's life.
        if let Some(asked) = seat.mailbox.stop_reason() {
            break asked;
        }
        match budget.decide(reason.clone(), clock::now()) {
            Decision::End(reason) => break reason,
            Decision::Restart(pause) => {
                kind.restarts.inc();
                tracing::warn!(
                    kind = kind.name, path = %seat.path, %reason, pause_ms = pause.as_millis() as u64,
                    "actor restarts with a fresh state"
                );
                if !pause.is_zero()
                    && let Some(asked) = pause_or_stop(&seat.mailbox, pause).await
                {
                    break asked;
                }
            }
        }
    };
    seat.end(reason);
}

/// Waits before a restart; a request to stop cuts it short.
async fn pause_or_stop<M: Mail>(mailbox: &Mailbox<M>, pause: Duration) -> Option<StopReason> {
    let mut sleep = pin!(tokio::time::sleep(pause));
    poll_fn(|task| match mailbox.stop_requested(task) {
        Some(reason) => Poll::Ready(Some(reason)),
        None => sleep.as_mut().poll(task).map(|()| None),
    })
    .await
}

/// The life of one state.
async fn run<A: Actor>(seat: &mut Seat<A::Mail>, mut state: A, cx: &mut Cx) -> StopReason {
    let reason = match AssertUnwindSafe(state.started(cx)).catch_unwind().await {
        Ok(Ok(())) if A::CONCURRENT > 1 => {
            let shared = Rc::new(state);
            let reason = overlap::serve(seat, &shared, cx).await;
            // Its handlers have ended, and none of them can keep it.
            let Some(only) = Rc::into_inner(shared) else { return reason };
            state = only;
            reason
        }
        Ok(Ok(())) => serve(seat, &mut state, cx).await,
        Ok(Err(status)) => StopReason::Failed(status),
        Err(payload) => StopReason::Panicked(Panic::from_payload(&*payload)),
    };
    let panicked = matches!(reason, StopReason::Panicked(_));
    let last = catch_unwind(AssertUnwindSafe(move || {
        if !panicked {
            state.stopped(&reason);
        }
        // Streams that the state held have not ended well, unless it says that it is finished.
        match &reason {
            StopReason::Finished => drop(state),
            _ => dropping_state(Status::unavailable(format!("its actor has stopped ({reason})")), || {
                drop(state)
            }),
        }
        reason
    }));
    last.unwrap_or_else(|payload| StopReason::Panicked(Panic::from_payload(&*payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ActorMetrics;
    use crate::options::{Overflow, Restart, RestartPolicy};
    use crate::place::Place;
    use crate::test::{paused, turns};
    use crate::threads::Threads;
    use afflux_wire::Code;
    use afflux_wire::contract::{CallMeta, Refused};
    use parking_lot::Mutex;

    type Log = Arc<Mutex<Vec<String>>>;

    /// What a message makes the actor do.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Do {
        Note(u32),
        Panic,
        /// As a dispatch does that caught the panic itself.
        Caught,
        Stop,
        Sleep(u64),
    }

    #[derive(Debug)]
    struct Order {
        what: Do,
        meta: CallMeta,
        log: Log,
    }

    impl Mail for Order {
        fn meta(&self) -> &CallMeta {
            &self.meta
        }
        fn reject(self, status: Status) {
            let stage = status.details.as_ref().and_then(|d| d.stage);
            let stage = stage.map_or_else(String::new, |s| s.to_string());
            let executed = status.was_executed();
            self.log.lock().push(format!("{:?} rejected {} {executed:?} {stage}", self.what, status.code));
        }
    }

    /// How often a state panics where a state must not.
    #[derive(Clone, Copy, Default)]
    struct Bad {
        factory_failures: u32,
        start_failures: u32,
        panics_in_start: u32,
        panics_in_stopped: bool,
        panics_in_drop: bool,
    }

    struct Worker {
        life: u32,
        notes: u32,
        bad: Bad,
        log: Log,
    }

    impl Actor for Worker {
        type Mail = Order;
        const KIND: &'static str = "Worker";

        async fn started(&mut self, _cx: &mut Cx) -> Result<(), Status> {
            self.log.lock().push(format!("life {}", self.life));
            assert!(self.life > self.bad.panics_in_start, "no start");
            if self.life <= self.bad.start_failures {
                return Err(Status::internal("not yet"));
            }
            Ok(())
        }

        async fn handle(&mut self, cx: &mut Cx, order: Order) -> Result<(), Panic> {
            match order.what {
                Do::Note(n) => {
                    self.notes += 1;
                    self.log.lock().push(format!("note {n} as {} of life {}", self.notes, self.life));
                }
                Do::Panic => panic!("boom"),
                Do::Caught => return Err(Panic { message: "caught".into() }),
                Do::Stop => cx.stop(Status::unavailable("enough")),
                Do::Sleep(ms) => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    self.log.lock().push(format!("slept {ms}"));
                }
            }
            Ok(())
        }

        fn stopped(&mut self, reason: &StopReason) {
            self.log.lock().push(format!("stopped: {}", reason.as_str()));
            assert!(!self.bad.panics_in_stopped, "no stop");
        }
    }

    impl Drop for Worker {
        fn drop(&mut self) {
            assert!(!self.bad.panics_in_drop || std::thread::panicking(), "no drop");
        }
    }

    struct Bench {
        log: Log,
        metrics: Arc<ActorMetrics>,
        handle: ActorHandle<Order>,
    }

    impl Bench {
        fn new(options: Options, bad: Bad) -> Self {
            Self::at(&Place::current().unwrap(), options, bad)
        }

        fn at(place: &Place, options: Options, bad: Bad) -> Self {
            let (log, metrics) = (Log::default(), ActorMetrics::unregistered());
            let spec = Spec::new(ActorPath::new("worker"), Arc::clone(&metrics));
            let mut life = 0;
            let handle = place.spawn_with_options(spec, options, {
                let log = Arc::clone(&log);
                move || {
                    life += 1;
                    if life <= bad.factory_failures {
                        return Err(Status::internal("no parts"));
                    }
                    Ok(Worker { life, notes: 0, bad, log: Arc::clone(&log) })
                }
            });
            Self { log, metrics, handle }
        }

        fn order(&self, what: Do) -> Order {
            Order { what, meta: CallMeta::default(), log: Arc::clone(&self.log) }
        }

        fn send(&self, what: Do) {
            self.handle.address().try_send(self.order(what)).unwrap();
        }

        async fn settled(&self) -> Vec<String> {
            turns(50).await;
            std::mem::take(&mut *self.log.lock())
        }
    }

    fn restart(policy: RestartPolicy, max: u32) -> Options {
        Options { restart: Restart { policy, max, ..Restart::default() }, ..Options::default() }
    }

    fn asked() -> Status {
        Status::unavailable("the owner asked")
    }

    #[test]
    fn a_thousand_clones_against_capacity_eight_give_eight_admitted_and_992_refused() {
        paused(|| async {
            let bench = Bench::new(Options { mailbox_messages_max: 8, ..Options::default() }, Bad::default());
            let clones: Vec<_> = (0..1000).map(|_| bench.handle.address().clone()).collect();
            let admitted = clones.iter().filter(|a| a.try_send(bench.order(Do::Note(0))).is_ok()).count();
            assert_eq!((admitted, bench.handle.address().depth()), (8, 8));
            assert_eq!(bench.metrics.kind("Worker").rejected_full.get(), 992);
            let log = bench.settled().await;
            assert_eq!(log.iter().filter(|l| l.starts_with("note")).count(), 8);
        });
    }

    #[test]
    fn a_thousand_clones_on_other_threads_never_exceed_the_bound() {
        crate::test::system(|| async {
            let threads = Threads::start(2, 1).unwrap();
            let bench = Bench::at(
                &threads.slot(0),
                Options { mailbox_messages_max: 8, ..Options::default() },
                Bad::default(),
            );
            let senders: Vec<_> = (0..2)
                .map(|i| {
                    let address = bench.handle.address().clone();
                    let orders: Vec<_> = (0..2000).map(|_| bench.order(Do::Note(i))).collect();
                    std::thread::spawn(move || {
                        orders.into_iter().filter_map(|o| address.try_send(o).ok()).count()
                    })
                })
                .collect();
            let admitted: usize = senders.into_iter().map(|s| s.join().unwrap()).sum();
            bench.handle.stop(asked());
            bench.handle.watch().await;
            let log = bench.log.lock();
            let ran = log.iter().filter(|l| l.starts_with("note")).count();
            let rejected = log.iter().filter(|l| l.contains("rejected")).count();
            assert_eq!(ran + rejected, admitted, "an admitted message either ran or was answered");
            drop(log);
            threads.join();
        });
    }

    #[test]
    fn stopping_answers_all_that_wait_as_unavailable_and_not_executed() {
        paused(|| async {
            let bench = Bench::new(Options::default(), Bad::default());
            bench.settled().await;
            for n in 0..3 {
                bench.send(Do::Note(n));
            }
            bench.handle.stop(asked());
            assert_eq!(bench.handle.watch().await, StopReason::Asked(asked()));
            assert_eq!(
                bench.settled().await,
                [
                    "stopped: asked",
                    "Note(0) rejected UNAVAILABLE No queued",
                    "Note(1) rejected UNAVAILABLE No queued",
                    "Note(2) rejected UNAVAILABLE No queued",
                ]
            );
            let late = bench.handle.address().try_send(bench.order(Do::Note(4)));
            assert!(matches!(late, Err(Refused::Closed(_))));
            assert!(bench.handle.address().is_closed());
            // A watch that begins after the end, and a second request to stop.
            bench.handle.stop(StopReason::Finished);
            assert_eq!(bench.handle.watch().await, StopReason::Asked(asked()));
            assert_eq!(bench.metrics.kind("Worker").actors.get(), 0);
        });
    }

    #[test]
    fn a_running_handler_is_not_dropped_half_way_by_a_request_to_stop() {
        paused(|| async {
            let bench = Bench::new(Options::default(), Bad::default());
            bench.send(Do::Sleep(1_000));
            bench.send(Do::Note(1));
            bench.settled().await;
            bench.handle.stop(asked());
            bench.handle.watch().await;
            assert_eq!(
                bench.settled().await,
                ["slept 1000", "stopped: asked", "Note(1) rejected UNAVAILABLE No queued",]
            );
        });
    }

    #[test]
    fn a_panic_costs_the_state_and_its_message_but_not_the_messages_behind_it() {
        paused(|| async {
            for what in [Do::Panic, Do::Caught] {
                let bench = Bench::new(Options::default(), Bad::default());
                for what in [Do::Note(1), what, Do::Note(2), Do::Note(3)] {
                    bench.send(what);
                }
                assert_eq!(
                    bench.settled().await,
                    [
                        "life 1",
                        "note 1 as 1 of life 1",
                        "life 2",
                        "note 2 as 1 of life 2",
                        "note 3 as 2 of life 2",
                    ]
                );
                let kind = bench.metrics.kind("Worker");
                assert_eq!((kind.panics.get(), kind.restarts.get(), kind.starts.get()), (1, 1, 1));
                assert_eq!(bench.handle.stop_reason(), None);
            }
        });
    }

    #[test]
    fn too_many_panics_within_the_span_end_the_actor_and_say_so() {
        paused(|| async {
            let bench = Bench::new(restart(RestartPolicy::Permanent, 2), Bad::default());
            for what in [Do::Panic, Do::Panic, Do::Panic, Do::Note(1)] {
                bench.send(what);
            }
            let reason = bench.handle.watch().await;
            assert_eq!(
                reason,
                StopReason::RestartBudget {
                    restarts: 2,
                    last: Box::new(StopReason::Panicked(Panic { message: "boom".into() })),
                }
            );
            assert_eq!(
                bench.settled().await,
                ["life 1", "life 2", "life 3", "Note(1) rejected UNAVAILABLE No queued",]
            );
        });
    }

    #[test]
    fn a_temporary_actor_ends_with_its_first_panic() {
        paused(|| async {
            let bench = Bench::new(restart(RestartPolicy::Temporary, 5), Bad::default());
            bench.send(Do::Panic);
            let reason = bench.handle.watch().await;
            assert_eq!(reason, StopReason::Panicked(Panic { message: "boom".into() }));
            assert_eq!(bench.settled().await, ["life 1"], "a state that panicked is not asked to stop");
        });
    }

    #[test]
    fn a_pause_between_restarts_keeps_the_mailbox_open_and_a_request_to_stop_cuts_it_short() {
        paused(|| async {
            let bench = Bench::new(restart(RestartPolicy::Permanent, 5), Bad::default());
            let before = clock::now();
            bench.send(Do::Panic);
            bench.send(Do::Panic);
            bench.send(Do::Note(1));
            assert_eq!(bench.settled().await, ["life 1", "life 2"]);
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(bench.settled().await, ["life 3", "note 1 as 1 of life 3"]);
            bench.send(Do::Panic);
            bench.send(Do::Note(2));
            bench.settled().await;
            bench.handle.stop(asked());
            assert_eq!(bench.handle.watch().await, StopReason::Asked(asked()));
            assert_eq!(clock::now() - before, Duration::from_millis(50));
            assert_eq!(bench.settled().await, ["Note(2) rejected UNAVAILABLE No queued"]);
        });
    }

    #[test]
    fn a_start_that_fails_or_panics_counts_against_the_budget() {
        paused(|| async {
            for bad in [
                Bad { factory_failures: 2, ..Bad::default() },
                Bad { start_failures: 2, ..Bad::default() },
                Bad { panics_in_start: 2, ..Bad::default() },
            ] {
                let patient = Bench::new(restart(RestartPolicy::Transient, 2), bad);
                patient.send(Do::Note(1));
                tokio::time::sleep(Duration::from_secs(1)).await;
                let log = patient.settled().await;
                assert_eq!(log.last().unwrap(), "note 1 as 1 of life 3");

                let impatient = Bench::new(restart(RestartPolicy::Transient, 1), bad);
                let reason = impatient.handle.watch().await;
                assert!(matches!(reason, StopReason::RestartBudget { restarts: 1, .. }), "{reason}");
            }
        });
    }

    #[test]
    fn panics_in_stopped_and_in_drop_stay_inside_the_actor() {
        paused(|| async {
            for bad in [
                Bad { panics_in_stopped: true, ..Bad::default() },
                Bad { panics_in_drop: true, ..Bad::default() },
            ] {
                let bench = Bench::new(Options::default(), bad);
                bench.settled().await;
                bench.send(Do::Note(1));
                bench.handle.stop(asked());
                assert_eq!(bench.handle.watch().await, StopReason::Asked(asked()));
                let log = bench.settled().await;
                assert_eq!(log.last().unwrap(), "Note(1) rejected UNAVAILABLE No queued");
                assert_eq!(bench.metrics.kind("Worker").panics.get(), 1);
            }
        });
    }

    #[test]
    fn an_actor_that_stops_itself_is_not_restarted() {
        paused(|| async {
            let bench = Bench::new(Options::default(), Bad::default());
            bench.send(Do::Stop);
            bench.send(Do::Note(1));
            let reason = bench.handle.watch().await;
            assert_eq!(reason, StopReason::Asked(Status::unavailable("enough")));
            assert_eq!(
                bench.settled().await,
                ["life 1", "stopped: asked", "Note(1) rejected UNAVAILABLE No queued",]
            );
        });
    }

    #[test]
    fn a_message_whose_deadline_passed_in_the_queue_does_not_run() {
        paused(|| async {
            let bench = Bench::new(Options::default(), Bad::default());
            bench.send(Do::Sleep(10));
            for (n, ms) in [(1, 9), (2, 11)] {
                let mut order = bench.order(Do::Note(n));
                order.meta.deadline = Some(clock::now() + Duration::from_millis(ms));
                bench.handle.address().try_send(order).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(
                bench.settled().await,
                [
                    "life 1",
                    "slept 10",
                    "Note(1) rejected DEADLINE_EXCEEDED No queued",
                    "note 2 as 1 of life 1",
                ]
            );
            // An idle hour later the clock is read anew.
            let mut late = bench.order(Do::Note(3));
            late.meta.deadline = Some(clock::now() + Duration::from_secs(3600));
            tokio::time::sleep(Duration::from_secs(3600)).await;
            bench.handle.address().try_send(late).unwrap();
            assert_eq!(bench.settled().await, ["Note(3) rejected DEADLINE_EXCEEDED No queued"]);
            assert_eq!(bench.metrics.kind("Worker").rejected_deadline.get(), 2);
        });
    }

    #[test]
    fn under_wait_a_full_mailbox_lets_messages_wait_and_they_run_in_order() {
        paused(|| async {
            let options = Options {
                mailbox_messages_max: 1,
                overflow: Overflow::Wait,
                admission_messages_max: 3,
                ..Options::default()
            };
            let bench = Bench::new(options, Bad::default());
            for n in 0..4 {
                bench.send(Do::Note(n));
            }
            let refused = bench.handle.address().try_send(bench.order(Do::Note(9)));
            assert!(matches!(refused, Err(Refused::Full(_))));
            let log = bench.settled().await;
            let notes: Vec<_> = (0..4).map(|n| format!("note {n} as {} of life 1", n + 1)).collect();
            assert_eq!(log[1..], notes);
        });
    }

    #[test]
    fn an_actor_on_another_thread_is_stopped_and_one_whose_thread_stops_tells_its_watchers() {
        crate::test::system(|| async {
            let threads = Threads::start(2, 0).unwrap();
            let stopped = Bench::at(&threads.slot(0), Options::default(), Bad::default());
            let lost = Bench::at(&threads.slot(1), Options::default(), Bad::default());
            stopped.handle.stop(asked());
            assert_eq!(stopped.handle.watch().await, StopReason::Asked(asked()));
            lost.send(Do::Sleep(3_600_000));
            lost.send(Do::Note(1));
            let dead = threads.slot(1);
            threads.join();
            let reason = lost.handle.watch().await;
            assert!(matches!(&reason, StopReason::Failed(s) if s.code == Code::Unavailable), "{reason}");
            assert_eq!(lost.log.lock().last().unwrap(), "Note(1) rejected UNAVAILABLE No queued");
            let stillborn = Bench::at(&dead, Options::default(), Bad::default());
            assert!(matches!(stillborn.handle.watch().await, StopReason::Failed(_)));
            assert!(stillborn.handle.address().is_closed());
        });
    }
}
