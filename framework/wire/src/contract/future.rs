//! A started call: waits for an endpoint, for the answer, and for the deadline.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::call::Handle;
use super::caller::{BoxFuture, Caller, Outgoing, Remote, Started, Target};
use super::cx::CallMeta;
use super::fault::CallError;
use super::generated::nothing;
use super::reply::Reply;
use super::service::{LocalEndpoint, Mail, MethodSpec, Params, Refused, Service};
use super::slot::{ResponseSlot, Slot};
use crate::status::{Code, Executed, Redirect, Stage, Status};

/// Tries of one call that nobody executed, the first included.
pub const CALL_TRIES_MAX: u32 = 3;

/// Times that one call follows a word of another node that what it calls lives elsewhere.
pub const REDIRECTS_MAX: u32 = 4;

/// When a caller refused by a full mailbox may try again, in milliseconds.
const RETRY_AFTER_FULL_MS: u64 = 20;

/// The deadline of a caller that asks for one the clock cannot express: ten years.
const DEADLINE_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a call ends with.
pub(super) type Answer<P> =
    Result<<P as Params>::Output, CallError<<<P as Params>::Service as Service>::Error>>;

/// A started call. Dropping it cancels the call.
///
/// A call that was certainly not executed is tried again, [`CALL_TRIES_MAX`] times in all and only
/// over links: at once when its endpoint is gone, after `retry_after_ms` when it was refused. A call
/// that may have been executed is never tried again.
pub struct CallFuture<P: Params> {
    handle: Handle<P::Service>,
    params: Option<P>,
    slot: Arc<Slot<Answer<P>>>,
    phase: Phase,
    deadline: Option<Instant>,
    timer: Option<BoxFuture<()>>,
    tries: u32,
    /// Where the last answer said that the call belongs, for the next try alone.
    redirected: Option<Redirect>,
    redirects: u32,
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
            slot: Slot::new(),
            phase: Phase::New,
            deadline: None,
            timer: None,
            tries: 0,
            redirected: None,
            redirects: 0,
        }
    }

    fn method() -> &'static MethodSpec {
        &P::Service::METHODS[P::METHOD]
    }

    /// The deadline, fixed when the call is first polled.
    fn deadline(&mut self, now: Instant) -> Instant {
        *self.deadline.get_or_insert_with(|| {
            let options = &self.handle.options;
            let after = options.deadline.unwrap_or(Self::method().deadline);
            let own = now.checked_add(after).unwrap_or_else(|| now + DEADLINE_MAX);
            options.deadline_at.map_or(own, |inherited| own.min(inherited))
        })
    }

    /// Starts the call, or waits for an endpoint. An answer is the end of the call.
    fn start(&mut self, caller: &Arc<dyn Caller>, cx: &mut Context<'_>) -> Option<Answer<P>> {
        let one_way = !Self::method().expects_answer();
        let now = caller.now();
        let deadline = self.deadline(now);
        let mut waited_for = match std::mem::replace(&mut self.phase, Phase::New) {
            Phase::Waiting(_, status) => Some(status),
            _ => None,
        };
        let mut changed: Option<BoxFuture<()>> = None;
        let elsewhere = self
            .redirected
            .take()
            .map(|redirect| Target { node: Some(redirect.node), ..self.handle.target.clone() });
        loop {
            if deadline <= now {
                return Some(Err(CallError::Status(Self::timed_out(waited_for.as_ref(), true))));
            }
            let meta = CallMeta {
                deadline: Some(deadline),
                trace: self.handle.options.trace,
                attempt: self.tries,
                idempotency_key: self.handle.options.idempotency_key.clone(),
                priority: self.handle.options.priority.unwrap_or(Self::method().priority),
                to: self.handle.target.actor.clone(),
                token: self.handle.options.token.clone(),
                ..CallMeta::default()
            };
            let mut departure = Departure::<P> { params: &mut self.params, slot: &self.slot, one_way };
            let target = elsewhere.as_ref().unwrap_or(&self.handle.target);
            let status = match caller.start(target, Self::method(), meta, &mut departure) {
                Ok(_) if one_way => return Some(nothing::<P>().map_err(CallError::Status)),
                Ok(started) => {
                    self.tries += 1;
                    self.phase = match started {
                        Started::Local => Phase::Local,
                        Started::Remote(remote, id) => Phase::Remote(remote, id),
                    };
                    return None;
                }
                Err(status) => status,
            };
            let no_endpoint = status.code == Code::Unavailable
                && status.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Connect));
            if !no_endpoint || self.handle.options.fail_fast || self.params.is_none() {
                return Some(Err(CallError::Status(status)));
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

    /// Whether to try again, and when: now, or at the moment the refusal asks for.
    fn retry(&mut self, error: &Status, now: Instant) -> Option<Option<Instant>> {
        let deadline = self.deadline.filter(|at| *at > now)?;
        if let Some(redirect) = error.redirected()
            && error.was_executed() == Executed::No
            && self.redirects < REDIRECTS_MAX
            && self.params.is_some()
        {
            self.redirects += 1;
            self.redirected = Some(redirect.clone());
            return Some(None);
        }
        if !error.may_retry_elsewhere() || self.tries >= CALL_TRIES_MAX || self.params.is_none() {
            return None;
        }
        if error.code != Code::ResourceExhausted {
            return Some(None);
        }
        let pause_ms = error.details.as_ref().and_then(|d| d.retry_after_ms).unwrap_or(RETRY_AFTER_FULL_MS);
        let at = now.checked_add(Duration::from_millis(pause_ms))?;
        (!self.handle.options.fail_fast && at < deadline).then_some(Some(at))
    }
}

impl<P: Params> Future for CallFuture<P> {
    type Output = Answer<P>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(caller) = this.handle.caller.clone() else {
            this.phase = Phase::Done;
            return Poll::Ready(Err(CallError::Status(Status::precondition(
                "this client belongs to no node: make it with `node.client()` or `cx.client()`",
            ))));
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
                Phase::Local => match this.slot.poll(cx) {
                    Poll::Ready(answer) => {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                    Poll::Pending => break,
                },
                // The mesh fails a remote call at its deadline: no timer of its own.
                Phase::Remote(..) => {
                    let answer = match this.slot.poll(cx) {
                        Poll::Ready(answer) => answer,
                        Poll::Pending => return Poll::Pending,
                    };
                    let now = caller.now();
                    let retry = answer.as_ref().err().and_then(|error| this.retry(error.status(), now));
                    let Some(at) = retry else {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    };
                    this.slot = Slot::new();
                    this.phase = match at {
                        Some(at) => Phase::Pausing(caller.sleep_until(at)),
                        None => Phase::New,
                    };
                }
                Phase::Done => return Poll::Pending,
            }
        }
        let Some(deadline) = this.deadline else {
            return Poll::Pending;
        };
        let timer = this.timer.get_or_insert_with(|| caller.sleep_until(deadline));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let status = match std::mem::replace(&mut this.phase, Phase::Done) {
            Phase::Waiting(_, status) => Self::timed_out(Some(&status), true),
            Phase::Pausing(_) => Self::timed_out(None, true),
            _ => Self::timed_out(None, false),
        };
        this.slot.close();
        Poll::Ready(Err(CallError::Status(status)))
    }
}

impl<P: Params> Drop for CallFuture<P> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Remote(remote, id) => {
                self.slot.close();
                remote.cancel(id, "the caller dropped the call");
            }
            Phase::Local => self.slot.close(),
            Phase::New | Phase::Waiting(..) | Phase::Pausing(_) | Phase::Done => {}
        }
    }
}

/// The call while the mesh decides where it goes.
struct Departure<'a, P: Params> {
    params: &'a mut Option<P>,
    slot: &'a Arc<Slot<Answer<P>>>,
    one_way: bool,
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
        let Some(params) = self.params.take() else {
            return Err(Status::internal("the params of this call have left already"));
        };
        let reply = (!self.one_way).then(|| Reply::local(Arc::clone(self.slot)));
        let mailbox = endpoint.mailbox();
        let Err(refused) = mailbox.accept(params.into_call(meta, reply)) else {
            return Ok(());
        };
        let status = refusal(P::Service::NAME, &refused, mailbox.depth(), mailbox.capacity());
        let call = refused.into_inner();
        if self.one_way {
            return Err(status);
        }
        // The refused call holds the way back: its answer lies in the slot.
        call.reject(status);
        Ok(())
    }

    fn slot(&self) -> Arc<dyn ResponseSlot> {
        Arc::clone(self.slot) as Arc<dyn ResponseSlot>
    }
}

/// The error of a mailbox that took nothing.
fn refusal<M>(service: &str, refused: &Refused<M>, depth: usize, capacity: usize) -> Status {
    let mut status = match refused {
        Refused::Full(_) => Status::new(
            Code::ResourceExhausted,
            format!(
                "the mailbox of {service} is full ({capacity} messages): call less often, raise \
                 `mailbox`, or run more instances"
            ),
        )
        .retry_after_ms(RETRY_AFTER_FULL_MS),
        Refused::Closed(_) => Status::unavailable(format!("the actor of {service} has stopped")),
    }
    .executed(Executed::No)
    .stage(Stage::Admission);
    status.details_mut().queue_depth = u32::try_from(depth).ok();
    status
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Double, Fake, Note, Shop, ShopError, poll};
    use super::*;
    use crate::contract::{CallOptions, Cx, Target};
    use crate::id::ActorPath;

    fn handle(fake: &Arc<Fake>) -> Handle<Shop> {
        Handle::new(Some(Arc::clone(fake) as Arc<dyn Caller>), Target::service(Shop::NAME))
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
