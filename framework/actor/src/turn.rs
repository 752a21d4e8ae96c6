//! What an actor does while nothing fails: up to [`MESSAGES_PER_TURN_MAX`] messages, then
//! [`WORK_PER_TURN`] of [`Actor::poll_work`], then another actor's turn. A request to stop is looked
//! for before each message.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use afflux_wire::Stage;
use afflux_wire::contract::{Cx, Mail as _, Panic};
use futures_util::FutureExt;

use crate::actor::Actor;
use crate::clock;
use crate::host::Seat;
use crate::mailbox::gave_up;
use crate::trace;
use crate::watch::StopReason;

/// Messages handled before work gets its share of a turn.
pub(crate) const MESSAGES_PER_TURN_MAX: u32 = 16;
/// Time given to `poll_work` before the thread goes to another actor.
const WORK_PER_TURN: Duration = Duration::from_micros(50);
/// The same in batches, so that a turn ends also while a test's clock stands still.
const WORK_BATCHES_PER_TURN_MAX: u32 = 64;

/// A streaming handler that holds its actor for longer than this is warned about, once a call.
const HELD_WARN_AFTER: Duration = Duration::from_secs(1);

/// Runs a future; tells when it takes longer than that.
async fn watched<F: Future>(future: F, after: Duration, tell: impl FnOnce()) -> F::Output {
    let (mut future, mut timer) = (pin!(future), pin!(tokio::time::sleep(after)));
    let mut tell = Some(tell);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        if tell.is_some()
            && timer.as_mut().poll(cx).is_ready()
            && let Some(tell) = tell.take()
        {
            tell();
        }
        Poll::Pending
    })
    .await
}

/// What a state has had of its turn.
#[derive(Default)]
struct Share {
    messages: u32,
    /// Whether this actor ever had work: those that have none read no clock for it.
    works: bool,
}

/// What the host does next.
enum Next {
    Mail,
    End(StopReason),
}

/// Messages and work, until this state ends.
pub(crate) async fn serve<A: Actor>(seat: &mut Seat<A::Mail>, state: &mut A, cx: &mut Cx) -> StopReason {
    let mut share = Share::default();
    let mut now = clock::now();
    loop {
        if let Some(status) = cx.take_stop() {
            return StopReason::Asked(status);
        }
        let mut waited = false;
        let next = poll_fn(|task| {
            let next = turn(seat, state, cx, task, &mut share);
            waited |= next.is_pending();
            next
        })
        .await;
        match next {
            Next::End(reason) => return reason,
            Next::Mail => {}
        }
        if waited {
            now = clock::now();
        }
        let Some(entry) = seat.next() else { continue };
        share.messages += 1;
        if let Some(admitted_at) = entry.admitted_at {
            seat.mailbox.kind().wait.observe(now.saturating_duration_since(admitted_at).as_secs_f64());
        }
        if gave_up(&entry.mail, now) {
            seat.mailbox.reject_unrun(entry.mail, Stage::Queued);
            continue;
        }
        let handling = trace::handling(&entry.mail, cx, entry.admitted_at, now);
        let observed = entry.admitted_at.map(|_| entry.mail.method());
        let outcome = if entry.mail.has_items() {
            let (path, kind) = (cx.path().clone(), Arc::clone(seat.mailbox.kind()));
            let method = entry.mail.method();
            let handled = AssertUnwindSafe(state.handle(cx, entry.mail)).catch_unwind();
            watched(trace::inside(handling, handled), HELD_WARN_AFTER, || {
                kind.held.inc();
                tracing::warn!(
                    actor = %path, method,
                    "a streaming handler holds its actor, which handles nothing else meanwhile: move the stream into \
                     `cx.spawn`, or keep it in the actor, and return"
                );
            })
            .await
        } else {
            let handled = AssertUnwindSafe(state.handle(cx, entry.mail)).catch_unwind();
            trace::inside(handling, handled).await
        };
        let began = now;
        now = clock::now();
        if let Some(message) = observed {
            seat.mailbox.kind().handled(message, now.saturating_duration_since(began).as_secs_f64());
        }
        match outcome {
            // A one-way call has nobody to tell: its failure is counted and logged here.
            Ok(Ok(())) => {
                if let Some(status) = cx.take_failure() {
                    seat.mailbox.kind().failed.inc();
                    tracing::warn!(actor = %cx.path(), %status, "a one-way call failed");
                }
            }
            Ok(Err(panic)) => return StopReason::Panicked(panic),
            Err(payload) => return StopReason::Panicked(Panic::from_payload(&*payload)),
        }
    }
}

/// One poll between two messages: control, then mail up to its share, then work up to its share, and
/// the thread is given up when both have had theirs or there is nothing to do.
fn turn<A: Actor>(
    seat: &mut Seat<A::Mail>,
    state: &mut A,
    cx: &mut Cx,
    task: &mut Context<'_>,
    share: &mut Share,
) -> Poll<Next> {
    if seat.mailbox.is_stopping()
        && let Some(reason) = seat.mailbox.stop_reason()
    {
        return Poll::Ready(Next::End(reason));
    }
    if share.messages < MESSAGES_PER_TURN_MAX {
        if seat.batch.is_empty() {
            seat.mailbox.take_or_park(&mut seat.batch, task);
        }
        if !seat.batch.is_empty() || seat.mailbox.lanes() != (false, false) {
            return Poll::Ready(Next::Mail);
        }
    }
    // The share of mail is used up, or there is none and the mailbox wakes this task.
    if share.messages > 0 {
        // Work must not see the last call, nor keep its answer slot alive.
        cx.leave();
    }
    let more = match work(state, cx, task, &mut share.works) {
        Ok(more) => more,
        Err(reason) => return Poll::Ready(Next::End(reason)),
    };
    if let Some(status) = cx.take_stop() {
        return Poll::Ready(Next::End(StopReason::Asked(status)));
    }
    if more || share.messages >= MESSAGES_PER_TURN_MAX {
        task.waker().wake_by_ref();
    }
    share.messages = 0;
    Poll::Pending
}

/// Polls an actor's work for its share of a turn. Tells whether there is more.
fn work<A: Actor>(
    state: &mut A,
    cx: &mut Cx,
    task: &mut Context<'_>,
    works: &mut bool,
) -> Result<bool, StopReason> {
    let mut began = works.then(clock::now);
    for _ in 0..WORK_BATCHES_PER_TURN_MAX {
        match catch_unwind(AssertUnwindSafe(|| state.poll_work(cx, task))) {
            Ok(Poll::Pending) => return Ok(false),
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(reason))) => return Err(reason),
            Err(payload) => return Err(StopReason::Panicked(Panic::from_payload(&*payload))),
        }
        *works = true;
        let now = clock::now();
        if now.duration_since(*began.get_or_insert(now)) >= WORK_PER_TURN {
            break;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{ActorHandle, Spec};
    use crate::metrics::ActorMetrics;
    use crate::options::{Options, Restart};
    use crate::place::Place;
    use crate::test::{paused, turns};
    use afflux_wire::contract::{CallMeta, CancelToken, Mail};
    use afflux_wire::{ActorPath, Status};
    use std::task::Waker;

    use parking_lot::Mutex;

    /// What an actor with work did, in order: `m` a message, `w` a batch of work, `|` nothing left.
    type Diary = Arc<Mutex<String>>;

    struct Tick(CallMeta);

    impl Mail for Tick {
        fn meta(&self) -> &CallMeta {
            &self.0
        }
        fn reject(self, _status: Status) {}
    }

    #[derive(Default)]
    struct Job {
        batches: u32,
        waker: Option<Waker>,
        ends: Option<StopReason>,
        panics: bool,
        sees_a_deadline: bool,
    }

    struct Mill {
        job: Arc<Mutex<Job>>,
        diary: Diary,
    }

    impl Actor for Mill {
        type Mail = Tick;
        const KIND: &'static str = "Mill";

        fn options() -> Options {
            Options { restart: Restart::temporary(), ..Options::default() }
        }

        async fn handle(&mut self, cx: &mut Cx, mail: Tick) -> Result<(), Panic> {
            cx.enter(mail.0, CancelToken::never());
            self.diary.lock().push('m');
            Ok(())
        }

        fn poll_work(&mut self, cx: &mut Cx, task: &mut Context<'_>) -> Poll<Result<(), StopReason>> {
            let mut job = self.job.lock();
            job.sees_a_deadline |= cx.meta().deadline.is_some();
            assert!(!job.panics, "a bad batch");
            if job.batches > 0 {
                job.batches -= 1;
                self.diary.lock().push('w');
                return Poll::Ready(Ok(()));
            }
            if let Some(reason) = job.ends.take() {
                return Poll::Ready(Err(reason));
            }
            job.waker = Some(task.waker().clone());
            self.diary.lock().push('|');
            Poll::Pending
        }
    }

    struct Bench {
        job: Arc<Mutex<Job>>,
        diary: Diary,
        handle: ActorHandle<Tick>,
    }

    impl Bench {
        fn new(job: Job) -> Self {
            let (job, diary) = (Arc::new(Mutex::new(job)), Diary::default());
            let spec = Spec::new(ActorPath::new("mill"), ActorMetrics::unregistered());
            let handle = Place::current().unwrap().spawn(spec, {
                let (job, diary) = (Arc::clone(&job), Arc::clone(&diary));
                move || Ok(Mill { job: Arc::clone(&job), diary: Arc::clone(&diary) })
            });
            Self { job, diary, handle }
        }

        fn ticks(&self, n: usize) {
            for _ in 0..n {
                let meta =
                    CallMeta { deadline: Some(clock::now() + Duration::from_secs(9)), ..CallMeta::default() };
                assert!(self.handle.address().try_send(Tick(meta)).is_ok());
            }
        }

        /// The diary with runs written as a letter and a count.
        async fn read(&self) -> String {
            turns(200).await;
            let diary = std::mem::take(&mut *self.diary.lock());
            let mut runs: Vec<(char, u32)> = Vec::new();
            for letter in diary.chars() {
                match runs.last_mut() {
                    Some((last, n)) if *last == letter => *n += 1,
                    _ => runs.push((letter, 1)),
                }
            }
            runs.iter().map(|(letter, n)| format!("{letter}{n}")).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn messages_and_work_take_turns_by_their_shares() {
        paused(|| async {
            let bench = Bench::new(Job { batches: 150, ..Job::default() });
            bench.ticks(40);
            assert_eq!(bench.read().await, "m16 w64 m16 w64 m8 w22 |1");
        });
    }

    #[test]
    fn messages_alone_and_work_alone_go_on_after_their_share() {
        paused(|| async {
            let bench = Bench::new(Job::default());
            bench.ticks(40);
            assert_eq!(bench.read().await, "m16 |1 m16 |1 m8 |1");
            let bench = Bench::new(Job { batches: 150, ..Job::default() });
            assert_eq!(bench.read().await, "w150 |1");
        });
    }

    #[test]
    fn work_that_was_pending_goes_on_when_its_waker_is_called() {
        paused(|| async {
            let bench = Bench::new(Job::default());
            assert_eq!(bench.read().await, "|1");
            assert_eq!(bench.read().await, "", "an idle actor is not polled");
            bench.job.lock().batches = 2;
            let waker = bench.job.lock().waker.take().unwrap();
            waker.wake();
            assert_eq!(bench.read().await, "w2 |1");
        });
    }

    #[test]
    fn work_does_not_see_the_last_call() {
        paused(|| async {
            let bench = Bench::new(Job { batches: 5, ..Job::default() });
            bench.ticks(3);
            assert_eq!(bench.read().await, "m3 w5 |1");
            assert!(!bench.job.lock().sees_a_deadline);
        });
    }

    #[test]
    fn work_ends_its_actor_with_its_own_reason() {
        paused(|| async {
            let bench = Bench::new(Job { batches: 1, ends: Some(StopReason::Finished), ..Job::default() });
            assert_eq!(bench.handle.watch().await, StopReason::Finished);
            assert_eq!(bench.read().await, "w1");
        });
    }

    #[test]
    fn a_panic_in_work_ends_a_temporary_actor_as_panicked() {
        paused(|| async {
            let bench = Bench::new(Job { panics: true, ..Job::default() });
            let reason = bench.handle.watch().await;
            assert_eq!(reason, StopReason::Panicked(Panic { message: "a bad batch".into() }));
        });
    }

    #[test]
    fn endless_work_starves_neither_a_request_to_stop_nor_another_actor() {
        paused(|| async {
            let endless = Bench::new(Job { batches: u32::MAX, ..Job::default() });
            let other = Bench::new(Job::default());
            other.ticks(1);
            turns(5).await;
            assert_eq!(other.diary.lock().as_str(), "m|");
            endless.ticks(1);
            turns(5).await;
            assert_eq!(endless.diary.lock().matches('m').count(), 1);
            endless.handle.stop(Status::unavailable("enough"));
            assert!(matches!(endless.handle.watch().await, StopReason::Asked(_)));
        });
    }

    #[test]
    fn control_waits_behind_one_share_of_messages_at_most() {
        paused(|| async {
            let bench = Bench::new(Job::default());
            bench.read().await;
            bench.ticks(1000);
            bench.handle.stop(Status::unavailable("enough"));
            bench.handle.watch().await;
            assert!(bench.diary.lock().matches('m').count() <= MESSAGES_PER_TURN_MAX as usize);
        });
    }
}
