//! What an actor does whose handlers overlap: up to [`Actor::CONCURRENT`] of them share one state.
//!
//! They run on the actor's own thread and take turns where they await, so the state needs no lock. A
//! handler that panics ends this state as it does elsewhere, after the others have come to their end;
//! nothing new starts meanwhile.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use afflux_wire::contract::Mail as _;
use afflux_wire::contract::{Cx, Panic};
use afflux_wire::{Stage, Status};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use crate::actor::Actor;
use crate::clock;
use crate::host::Seat;
use crate::mailbox::gave_up;
use crate::trace;
use crate::turn::MESSAGES_PER_TURN_MAX;
use crate::watch::StopReason;

/// What a handler left behind.
struct Done {
    outcome: Result<(), Panic>,
    failure: Option<Status>,
    stop: Option<Status>,
    /// Set for the messages whose duration is observed, with their name.
    began: Option<(Instant, &'static str)>,
}

type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Done>>>>;

enum Next {
    Done(Done),
    Mail,
    Stop(StopReason),
    End,
}

/// Messages beside one another, until this state ends.
pub(crate) async fn serve<A: Actor>(seat: &mut Seat<A::Mail>, state: &Rc<A>, cx: &Cx) -> StopReason {
    let mut running = Running::new();
    let mut ending: Option<StopReason> = None;
    let mut started = 0;
    loop {
        match poll_fn(|task| next::<A>(seat, &mut running, ending.is_some(), &mut started, task)).await {
            Next::End => return ending.unwrap_or(StopReason::Finished),
            Next::Stop(reason) => ending = Some(reason),
            Next::Done(done) => {
                if let Some((began, message)) = done.began {
                    let seconds = clock::now().saturating_duration_since(began).as_secs_f64();
                    seat.mailbox.kind().handled(message, seconds);
                }
                if let Some(status) = done.failure {
                    seat.mailbox.kind().failed.inc();
                    tracing::warn!(actor = %cx.path(), %status, "a one-way call failed");
                }
                if let Err(panic) = done.outcome {
                    ending = Some(StopReason::Panicked(panic));
                } else if let Some(status) = done.stop {
                    ending.get_or_insert(StopReason::Asked(status));
                }
            }
            Next::Mail => {
                let Some(entry) = seat.next() else { continue };
                started += 1;
                let now = clock::now();
                if let Some(admitted_at) = entry.admitted_at {
                    let waited = now.saturating_duration_since(admitted_at);
                    seat.mailbox.kind().wait.observe(waited.as_secs_f64());
                }
                if gave_up(&entry.mail, now) {
                    seat.mailbox.reject_unrun(entry.mail, Stage::Queued);
                    continue;
                }
                let (state, mut cx) = (Rc::clone(state), cx.sibling());
                let began = entry.admitted_at.map(|_| (now, entry.mail.method()));
                let handling = trace::handling(&entry.mail, &mut cx, entry.admitted_at, now);
                running.push(Box::pin(async move {
                    let handled = AssertUnwindSafe(A::handle_beside(&state, &mut cx, entry.mail));
                    let outcome = trace::inside(handling, handled.catch_unwind())
                        .await
                        .unwrap_or_else(|payload| Err(Panic::from_payload(&*payload)));
                    Done { outcome, failure: cx.take_failure(), stop: cx.take_stop(), began }
                }));
            }
        }
    }
}

/// A handler that has ended, else a message if there is a place beside the others.
fn next<A: Actor>(
    seat: &mut Seat<A::Mail>,
    running: &mut Running,
    ending: bool,
    started: &mut u32,
    task: &mut Context<'_>,
) -> Poll<Next> {
    if let Poll::Ready(Some(done)) = running.poll_next_unpin(task) {
        return Poll::Ready(Next::Done(done));
    }
    if ending {
        return if running.is_empty() { Poll::Ready(Next::End) } else { Poll::Pending };
    }
    if seat.mailbox.is_stopping()
        && let Some(reason) = seat.mailbox.stop_reason()
    {
        return Poll::Ready(Next::Stop(reason));
    }
    if running.len() >= A::CONCURRENT {
        // All places are taken: still woken by a request to stop.
        return match seat.mailbox.stop_requested(task) {
            Some(reason) => Poll::Ready(Next::Stop(reason)),
            None => pause(started),
        };
    }
    if *started >= MESSAGES_PER_TURN_MAX {
        task.waker().wake_by_ref();
        return pause(started);
    }
    if seat.batch.is_empty() {
        seat.mailbox.take_or_park(&mut seat.batch, task);
    }
    match seat.batch.is_empty() && seat.mailbox.lanes() == (false, false) {
        true => pause(started),
        false => Poll::Ready(Next::Mail),
    }
}

fn pause(started: &mut u32) -> Poll<Next> {
    *started = 0;
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{ActorHandle, Spec};
    use crate::metrics::ActorMetrics;
    use crate::options::{Options, Restart};
    use crate::place::Place;
    use crate::test::{paused, turns};
    use afflux_wire::ActorPath;
    use afflux_wire::contract::{CallMeta, Mail};
    use std::cell::Cell;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;

    type Diary = Arc<Mutex<Vec<String>>>;

    enum What {
        Sleep(u64),
        Panic,
        Stop,
    }

    struct Order(u32, What, CallMeta, Diary);

    impl Mail for Order {
        fn meta(&self) -> &CallMeta {
            &self.2
        }
        fn reject(self, status: Status) {
            self.3.lock().push(format!("{} refused {:?}", self.0, status.was_executed()));
        }
    }

    struct Kitchen {
        life: u32,
        busy: Cell<u32>,
        most: Arc<Mutex<u32>>,
    }

    impl Actor for Kitchen {
        type Mail = Order;
        const KIND: &'static str = "Kitchen";
        const CONCURRENT: usize = 3;

        fn options() -> Options {
            Options {
                restart: Restart { backoff: Duration::ZERO, ..Restart::default() },
                ..Options::default()
            }
        }

        async fn handle(&mut self, _: &mut Cx, _: Order) -> Result<(), Panic> {
            unreachable!("handlers overlap")
        }

        async fn handle_beside(state: &Rc<Self>, cx: &mut Cx, order: Order) -> Result<(), Panic> {
            let Order(id, what, _, diary) = order;
            state.busy.set(state.busy.get() + 1);
            {
                let mut most = state.most.lock();
                *most = (*most).max(state.busy.get());
            }
            match what {
                What::Sleep(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                What::Panic => panic!("burnt"),
                What::Stop => cx.stop(Status::unavailable("closing time")),
            }
            state.busy.set(state.busy.get() - 1);
            diary.lock().push(format!("{id} served in life {}", state.life));
            Ok(())
        }
    }

    struct Bench {
        handle: ActorHandle<Order>,
        diary: Diary,
        most: Arc<Mutex<u32>>,
    }

    impl Bench {
        fn new() -> Self {
            let most = Arc::new(Mutex::new(0));
            let spec = Spec::new(ActorPath::new("kitchen"), ActorMetrics::unregistered());
            let mut life = 0;
            let handle = Place::current().unwrap().spawn(spec, {
                let most = Arc::clone(&most);
                move || {
                    life += 1;
                    Ok(Kitchen { life, busy: Cell::new(0), most: Arc::clone(&most) })
                }
            });
            Self { handle, diary: Diary::default(), most }
        }

        fn order(&self, id: u32, what: What) {
            let order = Order(id, what, CallMeta::default(), Arc::clone(&self.diary));
            assert!(self.handle.address().try_send(order).is_ok());
        }

        async fn diary_of(&self, lines: usize) -> Vec<String> {
            while self.diary.lock().len() < lines {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            turns(20).await;
            self.diary.lock().clone()
        }
    }

    #[test]
    fn as_many_handlers_overlap_as_the_actor_allows_and_a_short_one_overtakes() {
        paused(|| async {
            let bench = Bench::new();
            for (id, ms) in [(1, 50), (2, 10), (3, 30), (4, 5)] {
                bench.order(id, What::Sleep(ms));
            }
            // The fourth begins when the second has ended.
            let served = ["2", "4", "3", "1"].map(|id| format!("{id} served in life 1"));
            assert_eq!(bench.diary_of(4).await, served);
            assert_eq!(*bench.most.lock(), 3);
        });
    }

    #[test]
    fn a_panic_lets_the_others_end_and_a_fresh_state_goes_on() {
        paused(|| async {
            let bench = Bench::new();
            bench.order(1, What::Sleep(50));
            bench.order(2, What::Panic);
            bench.order(3, What::Sleep(1));
            bench.order(4, What::Sleep(1));
            let expected = ["1 served in life 1", "3 served in life 2", "4 served in life 2"];
            assert_eq!(bench.diary_of(3).await, expected);
        });
    }

    #[test]
    fn a_request_to_stop_waits_for_those_that_run_and_refuses_those_that_wait() {
        paused(|| async {
            let bench = Bench::new();
            for (id, ms) in [(1, 10), (2, 20), (3, 30), (4, 1)] {
                bench.order(id, What::Sleep(ms));
            }
            turns(20).await;
            bench.handle.stop(Status::unavailable("enough"));
            assert!(matches!(bench.handle.watch().await, StopReason::Asked(_)));
            let expected = ["1 served in life 1", "2 served in life 1", "3 served in life 1", "4 refused No"];
            assert_eq!(bench.diary_of(4).await, expected);
        });
    }

    #[test]
    fn a_handler_can_stop_its_actor() {
        paused(|| async {
            let bench = Bench::new();
            bench.order(1, What::Stop);
            assert!(matches!(bench.handle.watch().await, StopReason::Asked(_)));
        });
    }

    #[test]
    fn an_endless_mailbox_leaves_turns_to_others() {
        paused(|| async {
            let bench = Bench::new();
            for id in 0..1000 {
                bench.order(id, What::Sleep(0));
            }
            bench.handle.stop(Status::unavailable("enough"));
            bench.handle.watch().await;
            let served = bench.diary.lock().iter().filter(|line| line.contains("served")).count();
            assert!(served <= 2 * MESSAGES_PER_TURN_MAX as usize, "{served}");
        });
    }
}
