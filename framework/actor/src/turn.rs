//! What an actor does while nothing fails: up to [`MESSAGES_PER_TURN_MAX`] messages, then
//! [`WORK_PER_TURN`] of [`Actor::poll_work`], then another actor's turn. A request to stop is looked
//! for before each message.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};
use std::time::Duration;

use afflux_wire::Stage;
use afflux_wire::contract::{CallMeta, CancelToken, Cx, Panic};
use futures_util::FutureExt;

use crate::actor::Actor;
use crate::clock;
use crate::host::Seat;
use crate::mailbox::gave_up;
use crate::watch::StopReason;

/// Messages handled before work gets its share of a turn.
const MESSAGES_PER_TURN_MAX: u32 = 16;
/// Time given to `poll_work` before the thread goes to another actor.
const WORK_PER_TURN: Duration = Duration::from_micros(50);
/// The same in batches, so that a turn ends also while a test's clock stands still.
const WORK_BATCHES_PER_TURN_MAX: u32 = 64;

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
        let Some(entry) = seat.batch.pop_front() else { continue };
        share.messages += 1;
        seat.mailbox.started();
        if let Some(admitted_at) = entry.admitted_at {
            seat.mailbox.kind().wait.observe(now.saturating_duration_since(admitted_at).as_secs_f64());
        }
        if gave_up(&entry.mail, now) {
            seat.mailbox.reject_unrun(entry.mail, Stage::Queued);
            continue;
        }
        let outcome = AssertUnwindSafe(state.handle(cx, entry.mail)).catch_unwind().await;
        let began = now;
        now = clock::now();
        if entry.admitted_at.is_some() {
            seat.mailbox.kind().handle.observe(now.saturating_duration_since(began).as_secs_f64());
        }
        match outcome {
            Ok(Ok(())) => {}
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
        if !seat.batch.is_empty() {
            return Poll::Ready(Next::Mail);
        }
    }
    // The share of mail is used up, or there is none and the mailbox wakes this task.
    if share.messages > 0 {
        // Work must not see the last call, nor keep its answer slot alive.
        cx.enter(CallMeta::default(), CancelToken::never());
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
