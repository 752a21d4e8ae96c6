//! A started call: waits for an endpoint, for the answer, and for the deadline.

use std::any::Any;
use std::cell::OnceCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::call::Handle;
use super::caller::{BoxFuture, CANCEL_HEDGED, Caller, Outgoing, Remote, Started, Target};
use super::cx::CallMeta;
use super::fault::CallError;
use super::generated::nothing;
use super::placement::{Avoid, Failure, Hedge, Placement, Retry};
use super::refusal::refusal;
use super::reply::Reply;
use super::scope::WatchId;
use super::service::{Accept, LocalEndpoint, Mail, MethodSpec, Params, Service};
use super::slot::{ResponseSlot, Slot};
use super::trace::CallSpan;
use super::window::{Admitted, Waiter};
use crate::id::NodeId;
use crate::status::{Code, Executed, Redirect, Stage, Status};

/// Tries of one call, the first included, a second attempt beside a running one not.
pub const CALL_TRIES_MAX: u32 = 3;

/// Times that one call follows a word of another node that what it calls lives elsewhere. The first
/// time at once, then after pauses that double from 10 ms, while nodes come to see the same.
pub const REDIRECTS_MAX: u32 = 8;

/// Before a call follows a second redirect.
const REDIRECT_PAUSE: Duration = Duration::from_millis(10);

/// The deadline of a caller that asks for one the clock cannot express: ten years.
const DEADLINE_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a call ends with.
pub(super) type Answer<P> =
    Result<<P as Params>::Output, CallError<<<P as Params>::Service as Service>::Error>>;

/// A started call. Dropping it cancels the call.
///
/// A call that was certainly not executed is tried again, [`CALL_TRIES_MAX`] times in all, as long as
/// the caller's budget of retries lasts: elsewhere where there is somebody else, not before
/// `retry_after_ms` where it was refused. A call that may have been executed is tried again only when
/// that does no harm: its method is idempotent, or it has an idempotency key and is for one node or actor.
pub struct CallFuture<P: Params> {
    handle: Handle<P::Service>,
    params: Option<P>,
    /// Made when somebody is to answer: a one-way call has none.
    slot: OnceCell<Arc<Slot<Answer<P>>>>,
    phase: Phase,
    deadline: Option<Instant>,
    timer: Option<BoxFuture<()>>,
    /// Whether a call beside has given everybody else a turn before it took a timer.
    turned: bool,
    tries: u32,
    /// Of a call that failed before, or may get a second attempt: most have none.
    rare: Option<Box<Rare<P>>>,
    /// The place among those that are woken when the call it is made for is cancelled.
    watch: Option<WatchId>,
    /// Of a call in a sampled trace.
    span: Option<Box<dyn CallSpan>>,
}

/// What few calls need.
struct Rare<P: Params> {
    /// Where the last attempt failed.
    avoid: Option<Avoid>,
    /// How the first attempt failed.
    first: Option<CallError<<P::Service as Service>::Error>>,
    hedging: Hedging<P>,
    /// Where the last answer said that the call belongs, for the next try alone.
    redirected: Option<Redirect>,
    redirects: u32,
    /// Since when the node that is called has not been there, where patience is limited.
    unreached: Option<Instant>,
}

/// A second attempt beside the first.
enum Hedging<P: Params> {
    /// There is none, or there was one.
    Off,
    /// Not yet.
    Waiting(BoxFuture<()>),
    Racing {
        slot: Arc<Slot<Answer<P>>>,
        remote: Arc<dyn Remote>,
        id: u64,
    },
}

impl<P: Params> Default for Rare<P> {
    fn default() -> Self {
        Self {
            avoid: None,
            first: None,
            hedging: Hedging::Off,
            redirected: None,
            redirects: 0,
            unreached: None,
        }
    }
}

enum Phase {
    New,
    /// No endpoint is known yet, as the status says.
    Waiting(BoxFuture<()>, Status),
    /// Refused; until the next try.
    Pausing(BoxFuture<()>),
    Local,
    Remote(Arc<dyn Remote>, u64),
    Done,
}

// Nothing in it is pinned: the params are moved out, never polled.
impl<P: Params> Unpin for CallFuture<P> {}

impl<P: Params> CallFuture<P> {
    pub(super) fn new(handle: Handle<P::Service>, params: P) -> Self {
        Self {
            handle,
            params: Some(params),
            slot: OnceCell::new(),
            phase: Phase::New,
            deadline: None,
            timer: None,
            turned: false,
            tries: 0,
            rare: None,
            watch: None,
            span: None,
        }
    }

    fn method() -> &'static MethodSpec {
        &P::Service::METHODS[P::METHOD]
    }

    /// The deadline, fixed when the call is first polled.
    fn deadline(&mut self, now: Instant) -> Instant {
        *self.deadline.get_or_insert_with(|| {
            let options = &self.handle.bound.options;
            let after = options.deadline.unwrap_or(Self::method().deadline);
            let own = now.checked_add(after).unwrap_or_else(|| now + DEADLINE_MAX);
            options.deadline_at.map_or(own, |inherited| own.min(inherited))
        })
    }

    /// What goes with the next attempt.
    #[inline]
    fn meta(&self, deadline: Instant) -> CallMeta {
        let options = &self.handle.bound.options;
        CallMeta {
            deadline: Some(deadline),
            trace: self.span.as_ref().map(|span| span.context()).or(options.trace),
            passed: options.passed.clone(),
            attempt: self.tries,
            idempotency_key: options.idempotency_key.clone(),
            chain: options.chain(Self::method()).cloned(),
            priority: options.priority.unwrap_or(Self::method().priority),
            to: self.handle.bound.target.actor.clone(),
            token: options.token.clone(),
            ..CallMeta::default()
        }
    }

    /// Starts the call, or waits for an endpoint. An answer is the end of the call.
    fn start(&mut self, caller: &Arc<dyn Caller>, cx: &mut Context<'_>) -> Option<Answer<P>> {
        let one_way = !Self::method().expects_answer();
        let now = caller.now();
        if self.deadline.is_none() {
            self.span = self.handle.bound.options.begin(caller, P::Service::NAME, Self::method().name);
        }
        let deadline = self.deadline(now);
        let mut waited_for = match std::mem::replace(&mut self.phase, Phase::New) {
            Phase::Waiting(_, status) => Some(status),
            _ => None,
        };
        if self.tries == 0
            && let Some(chain) = self.handle.bound.options.chain(Self::method())
            && let Err(status) = chain.check()
        {
            return Some(Err(CallError::Status(status)));
        }
        let mut changed: Option<BoxFuture<()>> = None;
        let redirected = self.rare.as_mut().and_then(|rare| rare.redirected.take());
        let elsewhere = redirected
            .map(|redirect| Target { node: Some(redirect.node), ..self.handle.bound.target.clone() });
        loop {
            if deadline <= now {
                return Some(Err(CallError::Status(Self::timed_out(waited_for.as_ref(), true))));
            }
            let meta = self.meta(deadline);
            let options = &self.handle.bound.options;
            let placement = Placement {
                key: options.key.or_else(|| self.params.as_ref()?.key()),
                policy: options.policy,
                avoid: self.rare.as_ref().and_then(|rare| rare.avoid.as_ref()),
                elsewhere: false,
            };
            let (params, slot, node) = (&mut self.params, &self.slot, caller.node());
            let mut departure = Departure::<P> { params, slot, node, one_way, placement };
            let target = elsewhere.as_ref().unwrap_or(&self.handle.bound.target);
            let status = match caller.start(target, Self::method(), meta, &mut departure) {
                Ok(_) if one_way => return Some(nothing::<P>().map_err(CallError::Status)),
                Ok(started) => {
                    self.tries += 1;
                    if let Some(span) = &self.span {
                        let first = self.rare.as_ref().and_then(|rare| rare.first.as_ref());
                        span.attempt(first.map(CallError::status));
                    }
                    self.phase = match started {
                        Started::Local => Phase::Local,
                        Started::Remote(remote, id) => Phase::Remote(remote, id),
                    };
                    self.arm_hedge(caller, now, deadline);
                    return None;
                }
                Err(status) => status,
            };
            let refused_here = status.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Admission));
            if refused_here && !one_way && self.params.is_some() {
                self.tries += 1;
                return self.failed(caller, CallError::Status(status), Some(Avoid::Here), now);
            }
            let no_endpoint = status.code == Code::Unavailable
                && status.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Connect));
            if !no_endpoint || self.handle.bound.options.fail_fast || self.params.is_none() {
                return Some(Err(CallError::Status(status)));
            }
            if let Some(patience) = self.handle.bound.options.node_patience
                && self.handle.bound.target.node.is_some()
            {
                let since = *self.rare.get_or_insert_default().unreached.get_or_insert(now);
                if now.saturating_duration_since(since) >= patience {
                    self.handle.forget_node();
                    continue;
                }
            }
            match changed.take() {
                // Looked twice: an endpoint that came before the first look at `changed` is found.
                Some(changed) => {
                    self.phase = Phase::Waiting(changed, status);
                    return None;
                }
                None => {
                    let mut next = caller.changed();
                    if next.as_mut().poll(cx).is_ready() {
                        // Changed already: the task comes back at once, after all others.
                        cx.waker().wake_by_ref();
                        next = Box::pin(std::future::ready(()));
                        self.phase = Phase::Waiting(next, status);
                        return None;
                    }
                    changed = Some(next);
                    waited_for = Some(status);
                }
            }
        }
    }

    fn timed_out(waited_for: Option<&Status>, unsent: bool) -> Status {
        let name = format!("{}/{}", P::Service::NAME, Self::method().name);
        let (text, executed, stage) = match waited_for {
            Some(status) => (
                format!("{name}: the deadline passed while waiting for an endpoint: {}", status.message),
                Executed::No,
                Stage::Connect,
            ),
            None if unsent => {
                (format!("{name}: the deadline passed before the call left"), Executed::No, Stage::Connect)
            }
            None => (format!("{name}: no answer before the deadline"), Executed::Maybe, Stage::Running),
        };
        Status::new(Code::DeadlineExceeded, text).executed(executed).stage(stage)
    }

    /// Whether a second execution does no harm. A key is known to the actor that has seen it, so it makes
    /// a call repeatable only where the call can go nowhere else.
    fn may_repeat(&self) -> bool {
        let Target { node, actor, .. } = &self.handle.bound.target;
        let pinned = node.is_some() || actor.is_some();
        Self::method().idempotent || (pinned && self.handle.bound.options.idempotency_key.is_some())
    }

    /// Whether another attempt may end better and does no harm.
    fn may_retry(&self, status: &Status) -> bool {
        status.may_retry_elsewhere()
            || (status.redirected().is_some() && status.was_executed() == Executed::No)
            || (status.code == Code::Unavailable
                && status.was_executed() == Executed::Maybe
                && self.may_repeat())
    }

    /// What follows a failed attempt: its error is the end of the call, or there is another attempt.
    #[cold]
    fn failed(
        &mut self,
        caller: &Arc<dyn Caller>,
        error: CallError<<P::Service as Service>::Error>,
        at: Option<Avoid>,
        now: Instant,
    ) -> Option<Answer<P>> {
        let status = error.status();
        let left = self.deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        if let Some(redirect) = status.redirected()
            && status.was_executed() == Executed::No
            && self.params.is_some()
            && !left.is_zero()
        {
            let redirect = redirect.clone();
            let rare = self.rare.get_or_insert_default();
            if rare.redirects >= REDIRECTS_MAX {
                return Some(Err(error));
            }
            let pause = if rare.redirects == 0 {
                Duration::ZERO
            } else {
                REDIRECT_PAUSE * (1 << (rare.redirects - 1))
            };
            rare.redirects += 1;
            rare.redirected = Some(redirect);
            self.slot = OnceCell::new();
            self.phase = match now.checked_add(pause) {
                Some(at) if !pause.is_zero() => Phase::Pausing(caller.sleep_until(at)),
                _ => Phase::New,
            };
            return None;
        }
        let refused = status.code == Code::ResourceExhausted;
        if left.is_zero()
            || self.tries >= CALL_TRIES_MAX
            || self.params.is_none()
            || (refused && self.handle.bound.options.fail_fast)
            || !self.may_retry(status)
        {
            return Some(Err(error));
        }
        let failure = Failure { tries: self.tries, at: at.as_ref(), status };
        let pause = match caller.retry(&self.handle.bound.target, &failure) {
            Retry::After(pause) if pause < left => pause,
            Retry::After(_) | Retry::No => return Some(Err(error)),
            Retry::Spent(note) => {
                let mut error = self.rare.take().and_then(|rare| rare.first).unwrap_or(error);
                error.note(&note);
                return Some(Err(error));
            }
        };
        let rare = self.rare.get_or_insert_default();
        rare.avoid = at;
        rare.first.get_or_insert(error);
        // The old slot may still get a late answer of the attempt that failed.
        self.slot = OnceCell::new();
        self.phase = match now.checked_add(pause) {
            Some(at) if !pause.is_zero() => Phase::Pausing(caller.sleep_until(at)),
            _ => Phase::New,
        };
        None
    }

    /// Sets the timer of a second attempt, where the call may get one.
    #[inline]
    fn arm_hedge(&mut self, caller: &Arc<dyn Caller>, now: Instant, deadline: Instant) {
        let Some(hedge) = self.handle.bound.options.hedge.or(P::HEDGE) else { return };
        if self.may_repeat() && matches!(self.phase, Phase::Remote(..)) {
            self.arm_hedge_after(caller, hedge, now, deadline);
        }
    }

    #[cold]
    fn arm_hedge_after(&mut self, caller: &Arc<dyn Caller>, hedge: Hedge, now: Instant, deadline: Instant) {
        let after = caller.hedge_after(&self.handle.bound.target, Self::method(), hedge);
        if let Some(at) = after.and_then(|after| now.checked_add(after)).filter(|at| *at < deadline) {
            self.rare.get_or_insert_default().hedging = Hedging::Waiting(caller.sleep_until(at));
        }
    }

    /// Lets a second attempt come about and run; its answer is the call's, unless it failed in a way
    /// that leaves hope for the first.
    #[cold]
    fn poll_hedge(&mut self, caller: &Arc<dyn Caller>, cx: &mut Context<'_>) -> Poll<Answer<P>> {
        loop {
            let Some(rare) = &mut self.rare else { return Poll::Pending };
            match &mut rare.hedging {
                Hedging::Off => return Poll::Pending,
                Hedging::Waiting(timer) => {
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let started = self.start_hedge(caller);
                    let Some(rare) = &mut self.rare else { return Poll::Pending };
                    rare.hedging = started;
                }
                Hedging::Racing { slot, .. } => {
                    let answer = match slot.poll(cx) {
                        Poll::Ready(answer) => answer,
                        Poll::Pending => return Poll::Pending,
                    };
                    rare.hedging = Hedging::Off;
                    if let Err(error) = &answer
                        && self.may_retry(error.status())
                    {
                        return Poll::Pending;
                    }
                    if let Phase::Remote(remote, id) = &self.phase {
                        close(&self.slot);
                        remote.cancel(*id, CANCEL_HEDGED);
                    }
                    return Poll::Ready(answer);
                }
            }
        }
    }

    /// Starts a second attempt, if the budget and the endpoints allow one.
    fn start_hedge(&mut self, caller: &Arc<dyn Caller>) -> Hedging<P> {
        let Phase::Remote(first, _) = &self.phase else { return Hedging::Off };
        let avoid = first.node().cloned().map(Avoid::Node);
        let options = &self.handle.bound.options;
        let placement = Placement {
            key: options.key.or_else(|| self.params.as_ref()?.key()),
            policy: options.policy,
            avoid: avoid.as_ref(),
            elsewhere: true,
        };
        if !caller.may_hedge(&self.handle.bound.target, &placement) {
            return Hedging::Off;
        }
        let Some(deadline) = self.deadline else { return Hedging::Off };
        let meta = self.meta(deadline);
        let slot = OnceCell::from(Slot::new());
        let mut departure =
            Departure::<P> { params: &mut self.params, slot: &slot, node: None, one_way: false, placement };
        match caller.start(&self.handle.bound.target, Self::method(), meta, &mut departure) {
            Ok(Started::Remote(remote, id)) => match slot.into_inner() {
                Some(slot) => Hedging::Racing { slot, remote, id },
                None => Hedging::Off,
            },
            // The first attempt runs on in any case.
            Ok(Started::Local) | Err(_) => Hedging::Off,
        }
    }

    /// The attempt that still runs becomes the call's only one, when the first has failed.
    fn adopt_hedge(&mut self) -> bool {
        let Some(rare) = &mut self.rare else { return false };
        match std::mem::replace(&mut rare.hedging, Hedging::Off) {
            Hedging::Racing { slot, remote, id } => {
                self.slot = OnceCell::from(slot);
                self.phase = Phase::Remote(remote, id);
                true
            }
            Hedging::Off | Hedging::Waiting(_) => false,
        }
    }

    /// Nobody waits for the second attempt any more.
    fn cancel_hedge(&mut self, reason: &str) {
        if let Some(rare) = &mut self.rare
            && let Hedging::Racing { slot, remote, id } = std::mem::replace(&mut rare.hedging, Hedging::Off)
        {
            slot.close();
            remote.cancel(id, reason);
        }
    }
}

impl<P: Params> Future for CallFuture<P> {
    type Output = Answer<P>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.poll_in_scope(cx);
        if let Poll::Ready(answer) = &polled
            && let Some(span) = this.span.take()
        {
            span.ended(answer.as_ref().map(|_| ()).map_err(CallError::status));
        }
        polled
    }
}

impl<P: Params> CallFuture<P> {
    fn poll_in_scope(&mut self, cx: &mut Context<'_>) -> Poll<Answer<P>> {
        let this = self;
        let Some(scope) = this.handle.bound.options.scope.clone() else {
            return this.poll_call(cx);
        };
        if scope.is_cancelled() && !matches!(this.phase, Phase::Done) {
            return Poll::Ready(Err(CallError::Status(this.give_up())));
        }
        let polled = this.poll_call(cx);
        if polled.is_pending() && !matches!(this.phase, Phase::Done) {
            scope.watch(&mut this.watch, cx.waker());
            // Cancelled between the look above and the watch: the task comes back at once.
            if scope.is_cancelled() {
                cx.waker().wake_by_ref();
            }
        }
        polled
    }
}

impl<P: Params> CallFuture<P> {
    /// Ends the call: nobody waits for the answer that it is made for.
    fn give_up(&mut self) -> Status {
        let (executed, stage) = match self.phase {
            Phase::Local | Phase::Remote(..) => (Executed::Maybe, Stage::Running),
            _ => (Executed::No, Stage::Connect),
        };
        self.leave("the caller of the call that it is made for gave up");
        let name = format!("{}/{}", P::Service::NAME, Self::method().name);
        let text = format!(
            "{name} was cancelled: the caller of the call that it is made for gave up (a method whose \
             handler goes on is `detached`)"
        );
        Status::new(Code::Cancelled, text).executed(executed).stage(stage)
    }

    /// Tells whoever has the call that its answer is not awaited any more.
    fn leave(&mut self, reason: &str) {
        self.cancel_hedge(reason);
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Remote(remote, id) => {
                close(&self.slot);
                remote.cancel(id, reason);
            }
            Phase::Local => close(&self.slot),
            Phase::New | Phase::Waiting(..) | Phase::Pausing(_) | Phase::Done => {}
        }
    }

    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Answer<P>> {
        let this = self;
        let mut early = None;
        // The polls of a call on its way need nobody but its slot.
        match &this.phase {
            Phase::Local => {
                if let Poll::Ready(answer) = poll_slot(&this.slot, cx) {
                    this.phase = Phase::Done;
                    return Poll::Ready(answer);
                }
                return this.poll_timer(cx);
            }
            Phase::Remote(..) if this.rare.is_none() => match poll_slot(&this.slot, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(value)) => {
                    this.phase = Phase::Done;
                    return Poll::Ready(Ok(value));
                }
                Poll::Ready(failed) => early = Some(failed),
            },
            _ => {}
        }
        let Some(caller) = this.handle.bound.caller.clone() else {
            this.phase = Phase::Done;
            return Poll::Ready(Err(CallError::Status(
                Status::precondition(
                    "this client belongs to no node: make it with `node.client()` or `cx.client()`",
                )
                .stage(Stage::Connect),
            )));
        };
        let mut restarted = false;
        loop {
            match &mut this.phase {
                Phase::New => {
                    if let Some(answer) = this.start(&caller, cx) {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                    restarted = true;
                }
                Phase::Waiting(changed, _) => {
                    // Once a poll: an endpoint set that always changes must not hold the thread.
                    if restarted || changed.as_mut().poll(cx).is_pending() {
                        break;
                    }
                    if let Some(answer) = this.start(&caller, cx) {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                    restarted = true;
                }
                Phase::Pausing(until) => {
                    if until.as_mut().poll(cx).is_pending() {
                        break;
                    }
                    this.phase = Phase::New;
                }
                Phase::Local => match poll_slot(&this.slot, cx) {
                    Poll::Ready(answer) => {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                    Poll::Pending => break,
                },
                // The mesh fails a remote call at its deadline: no timer of its own.
                Phase::Remote(..) => {
                    let polled = early.take().map_or_else(|| poll_slot(&this.slot, cx), Poll::Ready);
                    let answer = match polled {
                        Poll::Ready(answer) => answer,
                        Poll::Pending if this.rare.is_none() => return Poll::Pending,
                        Poll::Pending => match this.poll_hedge(&caller, cx) {
                            Poll::Ready(answer) => answer,
                            Poll::Pending => return Poll::Pending,
                        },
                    };
                    let failed = match answer {
                        Err(error) if this.may_retry(error.status()) => {
                            if this.adopt_hedge() {
                                continue;
                            }
                            error
                        }
                        answer => {
                            this.phase = Phase::Done;
                            this.cancel_hedge(CANCEL_HEDGED);
                            return Poll::Ready(answer);
                        }
                    };
                    let at = match &this.phase {
                        Phase::Remote(remote, _) => remote.node().cloned().map(Avoid::Node),
                        _ => None,
                    };
                    if let Some(answer) = this.failed(&caller, failed, at, caller.now()) {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                }
                Phase::Done => return Poll::Pending,
            }
        }
        this.poll_timer(cx)
    }

    /// What ends a call that waits for somebody of this process: its deadline.
    ///
    /// A mailbox beside mostly answers within the turn, and a timer costs more than all else of such a call. So
    /// the first wait lets everybody who can run do so, and a timer is taken only by a call that still waits then.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Answer<P>> {
        let (Some(deadline), Some(caller)) = (self.deadline, &self.handle.bound.caller) else {
            return Poll::Pending;
        };
        if !self.turned && matches!(self.phase, Phase::Local) {
            self.turned = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| caller.sleep_until(deadline));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let status = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Waiting(_, status) => Self::timed_out(Some(&status), true),
            Phase::Pausing(_) => Self::timed_out(None, true),
            _ => Self::timed_out(None, false),
        };
        close(&self.slot);
        Poll::Ready(Err(CallError::Status(status)))
    }
}

impl<P: Params> Drop for CallFuture<P> {
    fn drop(&mut self) {
        self.leave("the caller dropped the call");
        if let Some(id) = self.watch.take()
            && let Some(scope) = &self.handle.bound.options.scope
        {
            scope.unwatch(id);
        }
    }
}

/// Takes the answer out, once somebody has put it in.
fn poll_slot<R>(slot: &OnceCell<Arc<Slot<R>>>, cx: &mut Context<'_>) -> Poll<R> {
    slot.get_or_init(Slot::new).poll(cx)
}

/// The caller no longer waits.
fn close<R>(slot: &OnceCell<Arc<Slot<R>>>) {
    if let Some(slot) = slot.get() {
        slot.close();
    }
}

/// The call while the mesh decides where it goes.
struct Departure<'a, P: Params> {
    params: &'a mut Option<P>,
    slot: &'a OnceCell<Arc<Slot<Answer<P>>>>,
    /// Where the mailbox is, for its refusals.
    node: Option<&'a NodeId>,
    one_way: bool,
    placement: Placement<'a>,
}

impl<P: Params> Departure<'_, P> {
    /// What the kept answers of a mailbox beside say of a call with a key; nothing for other calls.
    fn admit(
        &mut self,
        mailbox: &dyn Accept<<P::Service as Service>::Call>,
        meta: &CallMeta,
    ) -> Result<Option<Admitted>, Status> {
        let (false, Some(_), Some(window)) = (self.one_way, &meta.idempotency_key, mailbox.replies()) else {
            return Ok(None);
        };
        let mut params = Vec::new();
        self.encode(&mut params)?;
        let (spec, waiter) = (CallFuture::<P>::method(), Waiter::Local(self.slot()));
        Ok(window.admit(P::Service::NAME, spec, meta, &params, waiter).ok())
    }
}

impl<P: Params> Outgoing for Departure<'_, P> {
    fn encode(&mut self, buffer: &mut Vec<u8>) -> Result<(), Status> {
        match self.params {
            Some(params) => crate::codec::to_named_in(params, buffer),
            None => Err(Status::internal("the params of this call have left already")),
        }
    }

    fn param(&self, name: &str) -> Option<Vec<u8>> {
        self.params.as_ref()?.param(name)
    }

    fn deliver(&mut self, endpoint: &(dyn Any + Send + Sync), meta: CallMeta) -> Result<(), Status> {
        let Some(endpoint) = endpoint.downcast_ref::<LocalEndpoint<P::Service>>() else {
            return Err(Status::precondition(format!(
                "service {} is registered here with another contract type: use one crate for the contract",
                P::Service::NAME
            )));
        };
        let mailbox = endpoint.mailbox();
        let kept = match self.admit(mailbox, &meta)? {
            None => None,
            Some(Admitted::Run(to)) => Some(to),
            Some(Admitted::Answered) => return Ok(()),
        };
        let reply = (!self.one_way).then(|| match &kept {
            Some(to) => Reply::wire(to.twin()),
            None => Reply::local(Arc::clone(self.slot.get_or_init(Slot::new))),
        });
        let Some(params) = self.params.take() else {
            return Err(Status::internal("the params of this call have left already"));
        };
        let Err(refused) = mailbox.accept(params.into_call(meta, reply)) else {
            return Ok(());
        };
        let method = CallFuture::<P>::method().name;
        let status = refusal(P::Service::NAME, method, &refused, mailbox, self.node);
        if let Some(kept) = kept {
            // Not executed: the key is free again, and whoever waits with it is told.
            kept.respond(Err(&status));
        }
        let call = refused.into_inner();
        if self.one_way {
            return Err(status);
        }
        match P::recover(call) {
            Ok(params) => {
                *self.params = Some(params);
                Err(status)
            }
            // The refused call holds the way back: its answer lies in the slot.
            Err(call) => {
                call.reject(status);
                Ok(())
            }
        }
    }

    fn placement(&self) -> Placement<'_> {
        self.placement
    }

    fn slot(&self) -> Arc<dyn ResponseSlot> {
        Arc::clone(self.slot.get_or_init(Slot::new)) as Arc<dyn ResponseSlot>
    }
}

#[cfg(test)]
mod tests {
    use super::super::placement::RETRY_AFTER_FULL_MS;
    use super::super::testing::{Double, Fake, Note, Shop, ShopError, poll};
    use super::*;
    use crate::contract::{CallOptions, Cx, Target};
    use crate::id::ActorPath;

    fn handle(fake: &Arc<Fake>) -> Handle<Shop> {
        Handle::new(Some(Arc::clone(fake) as Arc<dyn Caller>), Target::service(Shop::NAME))
    }

    /// A handle whose calls all go to one node.
    fn pinned(fake: &Arc<Fake>) -> Handle<Shop> {
        Handle::new(Some(Arc::clone(fake) as Arc<dyn Caller>), Target::on(Shop::NAME, "n1".into()))
    }

    fn call(fake: &Arc<Fake>, n: u64) -> CallFuture<Double> {
        std::future::IntoFuture::into_future(handle(fake).call(Double { n }))
    }

    fn error<P: Params>(polled: Poll<Answer<P>>) -> CallError<<P::Service as Service>::Error> {
        match polled {
            Poll::Ready(Err(error)) => error,
            Poll::Ready(Ok(_)) => panic!("answered"),
            Poll::Pending => panic!("still waiting"),
        }
    }

    #[test]
    fn a_local_call_is_delivered_without_encoding_and_answered() {
        let fake = Fake::local(8);
        let mut future = call(&fake, 21);
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.serve(), 1);
        assert!(matches!(poll(&mut future), Poll::Ready(Ok(42))));
        assert_eq!(fake.encoded(), 0);
    }

    #[test]
    fn a_typed_error_beside_looks_like_one_over_the_wire() {
        let mut seen = Vec::new();
        for fake in [Fake::local(8), Fake::remote()] {
            let mut future = call(&fake, 13);
            assert!(poll(&mut future).is_pending());
            fake.serve();
            let error = error::<Double>(poll(&mut future));
            assert_eq!(error.typed(), Some(&ShopError::Unlucky { n: 13 }));
            let mut status = error.into_status();
            assert_eq!(status.was_executed(), Executed::Yes);
            assert_eq!(status.details_mut().retry_after_ms, Some(50));
            status.details_mut().data = None;
            seen.push(status);
        }
        assert_eq!(seen[0], seen[1]);
    }

    #[test]
    fn a_full_mailbox_refuses_with_a_hint_and_says_it_was_not_executed() {
        let fake = Fake::local(1);
        let mut first = call(&fake, 1);
        assert!(poll(&mut first).is_pending());
        let error = error::<Double>(poll(&mut call(&fake, 2)));
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.status().message.contains("full (1 messages)"), "{error}");
        let details = error.status().details.as_ref().unwrap();
        assert_eq!((details.executed, details.stage), (Executed::No, Some(Stage::Admission)));
        assert_eq!((details.retry_after_ms, details.queue_depth), (Some(RETRY_AFTER_FULL_MS), Some(1)));
    }

    #[test]
    fn a_one_way_call_is_done_when_it_is_admitted_and_fails_when_it_is_not() {
        let fake = Fake::local(1);
        let note = || std::future::IntoFuture::into_future(handle(&fake).call(Note {}));
        assert!(matches!(poll(&mut note()), Poll::Ready(Ok(()))));
        assert_eq!(error::<Note>(poll(&mut note())).code(), Code::ResourceExhausted);
        fake.close();
        assert_eq!(error::<Note>(poll(&mut note())).code(), Code::Unavailable);
    }

    #[test]
    fn a_local_call_fails_at_its_deadline_and_its_handler_can_see_that() {
        let fake = Fake::local(8);
        let mut future = call(&fake, 1);
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_millis(1_999));
        assert!(poll(&mut future).is_pending());
        assert!(!fake.first_is_cancelled());
        fake.advance(Duration::from_millis(1));
        let error = error::<Double>(poll(&mut future));
        assert_eq!((error.code(), error.status().was_executed()), (Code::DeadlineExceeded, Executed::Maybe));
        assert!(error.status().message.contains("shop/Double"), "{error}");
        assert!(fake.first_is_cancelled());
    }

    #[test]
    fn the_earlier_of_two_deadlines_holds() {
        let fake = Fake::local(8);
        let at = fake.now() + Duration::from_millis(10);
        let options = CallOptions { deadline_at: Some(at), ..CallOptions::default() };
        let double = handle(&fake).with_options(options).call(Double { n: 1 });
        let mut future = std::future::IntoFuture::into_future(double.deadline(Duration::MAX));
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_millis(10));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::DeadlineExceeded);
    }

    #[test]
    fn a_call_whose_inherited_deadline_has_passed_does_not_leave() {
        let fake = Fake::local(8);
        let options = CallOptions { deadline_at: Some(fake.now()), ..CallOptions::default() };
        let double = handle(&fake).with_options(options).call(Double { n: 1 });
        let error = error::<Double>(poll(&mut std::future::IntoFuture::into_future(double)));
        assert_eq!((error.code(), error.status().was_executed()), (Code::DeadlineExceeded, Executed::No));
        assert_eq!(fake.waiting(), 0);
    }

    #[test]
    fn a_dropped_call_is_cancelled_beside_and_over_a_link() {
        let local = Fake::local(8);
        let mut future = call(&local, 1);
        assert!(poll(&mut future).is_pending());
        assert!(!local.first_is_cancelled());
        drop(future);
        assert!(local.first_is_cancelled());

        let remote = Fake::remote();
        let mut future = call(&remote, 1);
        assert!(poll(&mut future).is_pending());
        drop(future);
        assert_eq!(remote.cancelled(), [0]);
    }

    #[test]
    fn an_answered_call_is_not_cancelled_when_it_is_dropped() {
        let fake = Fake::remote();
        let mut future = call(&fake, 2);
        assert!(poll(&mut future).is_pending());
        fake.serve();
        assert!(matches!(poll(&mut future), Poll::Ready(Ok(4))));
        drop(future);
        assert_eq!(fake.cancelled(), [0_u64; 0]);
    }

    #[test]
    fn a_call_waits_for_an_endpoint() {
        let fake = Fake::nowhere();
        let mut future = call(&fake, 4);
        assert!(poll(&mut future).is_pending());
        fake.open(8);
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.serve(), 1);
        assert!(matches!(poll(&mut future), Poll::Ready(Ok(8))));
    }

    #[test]
    fn an_endpoint_that_never_comes_is_named_at_the_deadline() {
        let fake = Fake::nowhere();
        let mut future = call(&fake, 4);
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_secs(2));
        let error = error::<Double>(poll(&mut future));
        assert_eq!((error.code(), error.status().was_executed()), (Code::DeadlineExceeded, Executed::No));
        assert!(error.status().message.contains("nobody offers shop"), "{error}");
    }

    #[test]
    fn an_endpoint_set_that_always_changes_still_lets_the_deadline_pass() {
        let fake = Fake::nowhere();
        fake.keep_changing();
        let mut future = call(&fake, 4);
        assert!(poll(&mut future).is_pending());
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_secs(2));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::DeadlineExceeded);
    }

    #[test]
    fn a_call_that_is_to_fail_fast_does_not_wait_for_an_endpoint() {
        let fake = Fake::nowhere();
        let mut future =
            std::future::IntoFuture::into_future(handle(&fake).call(Double { n: 1 }).fail_fast());
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::Unavailable);
    }

    #[test]
    fn only_a_call_that_was_not_executed_is_tried_again() {
        let fake = Fake::remote();
        let mut future = call(&fake, 3);
        assert!(poll(&mut future).is_pending());
        fake.fail(Status::unavailable("the link is lost").executed(Executed::No));
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.attempts(), [0, 1]);
        fake.serve();
        assert!(matches!(poll(&mut future), Poll::Ready(Ok(6))));

        let mut future = call(&fake, 3);
        assert!(poll(&mut future).is_pending());
        fake.fail(Status::unavailable("the link is lost"));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::Unavailable);
    }

    #[test]
    fn a_call_that_may_be_repeated_is_tried_again_when_its_link_is_lost_and_not_when_it_was_answered() {
        let keyed = |fake: &Arc<Fake>| {
            let call = pinned(fake).call(Double { n: 3 }).idempotency_key(*b"k");
            std::future::IntoFuture::into_future(call)
        };
        let fake = Fake::remote();
        let mut future = keyed(&fake);
        assert!(poll(&mut future).is_pending());
        fake.fail(Status::unavailable("the link is lost"));
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.attempts(), [0, 1]);
        fake.fail(Status::internal("a panic"));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::Internal);
        let mut future = keyed(&fake);
        assert!(poll(&mut future).is_pending());
        fake.fail(Status::unavailable("says the handler").executed(Executed::Yes));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::Unavailable);
    }

    #[test]
    fn a_key_repeats_no_call_at_an_endpoint_that_does_not_know_it() {
        let fake = Fake::remote();
        let call = handle(&fake).call(Double { n: 3 }).idempotency_key(*b"k");
        let mut future = std::future::IntoFuture::into_future(call);
        assert!(poll(&mut future).is_pending());
        fake.fail(Status::unavailable("the link is lost"));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::Unavailable);
        assert_eq!(fake.attempts(), [0]);
    }

    fn hedged(fake: &Arc<Fake>) -> CallFuture<Double> {
        let call = pinned(fake).call(Double { n: 3 }).idempotency_key(*b"k");
        std::future::IntoFuture::into_future(call.hedge(Hedge::After(Duration::from_millis(100))))
    }

    #[test]
    fn a_slow_call_gets_a_second_attempt_and_the_slower_one_is_cancelled() {
        let fake = Fake::remote();
        let mut future = hedged(&fake);
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_millis(99));
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.attempts().len(), 1);
        fake.advance(Duration::from_millis(1));
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.attempts(), [0, 1]);
        // The first attempt is the one that is answered first here.
        fake.serve_one().unwrap();
        assert!(matches!(poll(&mut future), Poll::Ready(Ok(6))));
        assert_eq!(fake.cancelled(), [1]);

        let mut future = hedged(&fake);
        fake.serve();
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_millis(100));
        assert!(poll(&mut future).is_pending());
        fake.serve_last();
        assert!(matches!(poll(&mut future), Poll::Ready(Ok(6))));
        assert_eq!(fake.cancelled(), [1, 2]);
    }

    #[test]
    fn of_two_attempts_one_may_fail_and_the_other_goes_on() {
        let fake = Fake::remote();
        let mut future = hedged(&fake);
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_millis(100));
        assert!(poll(&mut future).is_pending());
        fake.fail(Status::unavailable("the second one's link is lost"));
        assert!(poll(&mut future).is_pending());
        fake.serve_one().unwrap();
        assert!(matches!(poll(&mut future), Poll::Ready(Ok(6))));

        let mut future = hedged(&fake);
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_millis(100));
        assert!(poll(&mut future).is_pending());
        drop(future);
        assert_eq!(fake.cancelled().len(), 2, "both attempts are cancelled with their call");
    }

    #[test]
    fn a_call_that_must_not_run_twice_is_never_hedged() {
        let fake = Fake::remote();
        let call = handle(&fake).call(Double { n: 3 }).hedge(Hedge::After(Duration::ZERO));
        let mut future = std::future::IntoFuture::into_future(call);
        assert!(poll(&mut future).is_pending());
        fake.advance(Duration::from_millis(100));
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.attempts(), [0]);
    }

    #[test]
    fn the_tries_of_a_call_are_bounded() {
        let fake = Fake::remote();
        let mut future = call(&fake, 3);
        for _ in 1..CALL_TRIES_MAX {
            assert!(poll(&mut future).is_pending());
            fake.fail(Status::unavailable("gone").executed(Executed::No));
        }
        assert!(poll(&mut future).is_pending());
        fake.fail(Status::unavailable("gone").executed(Executed::No));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::Unavailable);
        assert_eq!(fake.attempts().len(), CALL_TRIES_MAX as usize);
    }

    #[test]
    fn a_refused_call_comes_again_when_it_was_told_to() {
        let fake = Fake::remote();
        let mut future = call(&fake, 3);
        assert!(poll(&mut future).is_pending());
        let full = Status::new(Code::ResourceExhausted, "full").executed(Executed::No).retry_after_ms(100);
        fake.fail(full.clone());
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.attempts(), [0]);
        fake.advance(Duration::from_millis(100));
        assert!(poll(&mut future).is_pending());
        assert_eq!(fake.attempts(), [0, 1]);
        // 1,899 ms are left: a hint beyond the deadline ends the call.
        fake.fail(full.retry_after_ms(1_900));
        assert_eq!(error::<Double>(poll(&mut future)).code(), Code::ResourceExhausted);
    }

    #[test]
    fn a_panic_in_a_handler_is_answered_with_its_text() {
        for fake in [Fake::local(8), Fake::remote()] {
            let mut future = call(&fake, 666);
            assert!(poll(&mut future).is_pending());
            assert_eq!(fake.serve_one().unwrap_err().message, "666 is too much");
            let error = error::<Double>(poll(&mut future));
            assert_eq!(error.code(), Code::Internal);
            assert!(error.status().message.contains("666 is too much"), "{error}");
            assert_eq!(error.status().was_executed(), Executed::Maybe);
        }
    }

    #[test]
    fn a_call_that_an_actor_drops_is_answered() {
        for fake in [Fake::local(8), Fake::remote()] {
            let mut future = call(&fake, 1);
            assert!(poll(&mut future).is_pending());
            fake.forget();
            let error = error::<Double>(poll(&mut future));
            assert!(error.status().message.contains("without an answer"), "{error}");
        }
    }

    #[test]
    fn a_client_without_a_node_says_how_to_get_one() {
        let cx = Cx::new(ActorPath::new("a"), None);
        let mut future = std::future::IntoFuture::into_future(cx.client::<Shop>().call(Double { n: 1 }));
        let error = error::<Double>(poll(&mut future));
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.status().message.contains("node.client()"), "{error}");
    }

    #[test]
    fn wrong_params_are_refused_with_their_place() {
        let (status, _) =
            Shop::decode(0, &[0x81, 0xa1, b'n', 0xa1, b'x'], CallMeta::default(), None).err().unwrap();
        assert_eq!(status.message, "shop/Double: n: expected u64, got str");
        let (status, _) = Shop::decode(9, &[0x80], CallMeta::default(), None).err().unwrap();
        assert_eq!(status.code, Code::Unimplemented);
    }

    #[test]
    fn an_error_of_a_called_service_is_no_typed_error_of_the_calling_one() {
        let full = Status::new(Code::ResourceExhausted, "full").executed(Executed::No);
        let unlucky = ShopError::Unlucky { n: 13 };
        let mut status = super::super::Fault::Typed(unlucky).into_status();
        status.details_mut().executed = Executed::No;
        let inner: CallError<ShopError> = CallError::from_status(status);
        assert!(inner.typed().is_some());
        let outer = super::super::Fault::<ShopError>::from(inner).into_status();
        assert!(CallError::<ShopError>::from_status(outer.clone()).typed().is_none());
        assert!(!outer.may_retry_elsewhere());
        // The handler's own word stands: it may refuse before it does anything.
        let own = super::super::Fault::<ShopError>::from(full).into_status();
        assert!(own.may_retry_elsewhere());
    }

    #[test]
    fn the_failure_of_a_one_way_call_is_left_for_the_host() {
        let fake = Fake::local(8);
        let mut note = std::future::IntoFuture::into_future(handle(&fake).call(Note {}));
        assert!(matches!(poll(&mut note), Poll::Ready(Ok(()))));
        assert_eq!(fake.serve(), 1);
        assert_eq!(fake.failure().unwrap().code, Code::Aborted);
    }
}
