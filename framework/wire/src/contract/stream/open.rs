//! The caller's side: a streaming call that has not started, and the way until it is open.

use std::any::Any;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::super::call::Handle;
use super::super::caller::{Caller, Outgoing};
use super::super::cx::CallMeta;
use super::super::fault::{CallError, RpcError};
use super::super::future::CALL_TRIES_MAX;
use super::super::refusal::refusal;
use super::super::service::{LocalEndpoint, Mail, MethodSpec, Service};
use super::super::slot::{NoSlot, ResponseSlot};
use super::super::trace::CallSpan;
use super::beside::{Beside, Whole};
use super::emit::{Feed, Outlet};
use super::incoming::{Alarm, Completion, Incoming, Inlet, Outcome};
use super::shape::{Ends, Shape, StreamParams};
use super::wire::StreamWire;
use crate::status::{Code, Executed, Stage, Status};

/// When a caller refused by a full mailbox may try again, in milliseconds.
const RETRY_AFTER_FULL_MS: u64 = 20;
/// The deadline of a caller that asks for one the clock cannot express: ten years.
const DEADLINE_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

type Opened<P> =
    <<P as StreamParams>::Shape as Shape>::Opened<<<P as StreamParams>::Service as Service>::Error>;
type Answer<P> = Result<Opened<P>, CallError<<<P as StreamParams>::Service as Service>::Error>>;

/// A streaming call that has begun and is not open yet. Dropping it cancels the call.
pub type OpenFuture<P> = Pin<Box<dyn Future<Output = Answer<P>> + Send>>;

/// A streaming call that starts when it is awaited, and is then open: the handler has taken it.
///
/// The method's own deadline bounds the opening alone, and so does one that is inherited from the call being
/// answered. [`StreamCall::deadline`] bounds opening and stream together: the call fails with `DEADLINE_EXCEEDED`
/// when the stream has not ended by then.
#[must_use = "a call starts when it is awaited"]
pub struct StreamCall<P: StreamParams> {
    handle: Handle<P::Service>,
    params: P,
}

impl<P: StreamParams> StreamCall<P> {
    pub(in crate::contract) fn new(handle: Handle<P::Service>, params: P) -> Self {
        Self { handle, params }
    }

    /// Gives up after this long, whatever the stream is doing then.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.handle.options_mut().deadline = Some(deadline);
        self
    }

    /// Fails at once when no endpoint is known, instead of waiting for one.
    pub fn fail_fast(mut self) -> Self {
        self.handle.options_mut().fail_fast = true;
        self
    }
}

impl<P: StreamParams> IntoFuture for StreamCall<P>
where
    Opened<P>: Send,
{
    type Output = Answer<P>;
    type IntoFuture = OpenFuture<P>;

    fn into_future(self) -> OpenFuture<P> {
        Box::pin(open(self.handle, self.params))
    }
}

fn spec<P: StreamParams>() -> &'static MethodSpec {
    &P::Service::METHODS[P::METHOD]
}

async fn open<P: StreamParams>(handle: Handle<P::Service>, params: P) -> Answer<P> {
    let Some(caller) = handle.bound.caller.clone() else {
        return Err(CallError::Status(Status::precondition(
            "this client belongs to no node: make it with `node.client()` or `cx.client()`",
        )));
    };
    let now = caller.now();
    let after = |time: Duration| now.checked_add(time).unwrap_or_else(|| now + DEADLINE_MAX);
    let whole = handle.bound.options.deadline.map(after);
    let mut until = whole.unwrap_or_else(|| after(spec::<P>().deadline));
    if let Some(inherited) = handle.bound.options.deadline_at {
        until = until.min(inherited);
    }
    let span = handle.bound.options.begin(&caller, P::Service::NAME, spec::<P>().name);
    let mut waits_for = None;
    let mut trying =
        Box::pin(try_open::<P>(&handle, &caller, params, until, whole, &mut waits_for, span.as_deref()));
    let mut timer = caller.sleep_until(until);
    let opened = poll_fn(|cx| match trying.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await;
    drop(trying);
    let result = opened.unwrap_or_else(|| {
        let name = format!("{}/{}", P::Service::NAME, spec::<P>().name);
        let (text, executed, stage) = match waits_for {
            Some(status) => (
                format!("{name}: the deadline passed while waiting for an endpoint: {}", status.message),
                Executed::No,
                Stage::Connect,
            ),
            None => (format!("{name}: not opened before the deadline"), Executed::Maybe, Stage::Running),
        };
        Err(Status::new(Code::DeadlineExceeded, text).executed(executed).stage(stage))
    });
    if let Some(span) = &span {
        span.ended(result.as_ref().map(|_| ()));
    }
    result.map(<P::Shape as Shape>::opened).map_err(CallError::from_status)
}

/// Starts the call until it is open, or has failed for good.
async fn try_open<P: StreamParams>(
    handle: &Handle<P::Service>,
    caller: &Arc<dyn Caller>,
    params: P,
    until: Instant,
    whole: Option<Instant>,
    waits_for: &mut Option<Status>,
    span: Option<&dyn CallSpan>,
) -> Result<Ports<P::Shape>, Status> {
    let mut params = Some(params);
    let mut tries = 0;
    let mut changed: Option<super::super::caller::BoxFuture<()>> = None;
    loop {
        let mut meta = handle.bound.options.meta(spec::<P>(), whole, tries);
        if let Some(span) = span {
            span.attempt(None);
            meta.trace = Some(span.context());
        }
        meta.to = handle.bound.target.actor.clone();
        let mut departure = Departure::<P> { params: &mut params, ports: None };
        let status = match caller.start(&handle.bound.target, spec::<P>(), meta, &mut departure) {
            Ok(_) => {
                *waits_for = None;
                tries += 1;
                let Some(mut ports) = departure.ports else {
                    return Err(Status::internal("a streaming call was started as another kind"));
                };
                ports.caller = Some((Arc::clone(caller), whole));
                match poll_fn(|cx| ports.poll_opened(cx)).await {
                    Ok(()) => return Ok(ports),
                    Err(status) => {
                        let again =
                            status.may_retry_elsewhere() && tries < CALL_TRIES_MAX && params.is_some();
                        if !again {
                            return Err(status);
                        }
                        status
                    }
                }
            }
            Err(status) => {
                let nobody = status.code == Code::Unavailable
                    && status.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Connect));
                if !nobody || handle.bound.options.fail_fast || params.is_none() {
                    return Err(status);
                }
                *waits_for = Some(status);
                // Looked twice: an endpoint that comes before the first look at `changed` is found.
                match changed.take() {
                    Some(changed) => changed.await,
                    None => {
                        let mut next = caller.changed();
                        let ready = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_ready())).await;
                        changed = if ready { Some(Box::pin(yield_now())) } else { Some(next) };
                    }
                }
                continue;
            }
        };
        if status.code == Code::ResourceExhausted {
            let pause = status.details.as_ref().and_then(|d| d.retry_after_ms).unwrap_or(RETRY_AFTER_FULL_MS);
            match caller.now().checked_add(Duration::from_millis(pause)) {
                Some(at) if at < until && !handle.bound.options.fail_fast => caller.sleep_until(at).await,
                _ => return Err(status),
            }
        }
    }
}

/// Comes back at once, after all other tasks.
async fn yield_now() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The caller's side of a call that has left. Dropping it cancels the call.
pub(super) struct Ports<S: Shape> {
    side: Side<S>,
    caller: Option<(Arc<dyn Caller>, Option<Instant>)>,
    /// Whether the caller's ends were handed out, which then cancel.
    given: bool,
}

enum Side<S: Shape> {
    Beside(Arc<Beside<S>>),
    Wire(Arc<dyn StreamWire>),
}

impl<S: Shape> Ports<S> {
    fn poll_opened(&self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), Status>> {
        match &self.side {
            Side::Beside(call) => match call.opening.poll(cx) {
                Poll::Ready(()) => Poll::Ready(match call.take_refusal() {
                    // What was sent before the error comes first.
                    Some(status) if call.down.is_empty() => Err(status),
                    _ => Ok(()),
                }),
                Poll::Pending => Poll::Pending,
            },
            Side::Wire(wire) => wire.poll_opened(cx),
        }
    }

    fn alarm(&self) -> Alarm {
        match (&self.side, &self.caller) {
            (Side::Beside(call), Some((caller, Some(at)))) => {
                Alarm::at(caller, *at, &(Arc::clone(call) as Arc<dyn Whole>))
            }
            _ => Alarm::none(),
        }
    }

    pub(super) fn incoming(&mut self) -> Incoming<S::Out> {
        self.given = true;
        let inlet = match &self.side {
            Side::Beside(call) => {
                Inlet::Lane(Arc::clone(&call.down), Some(Arc::clone(call) as Arc<dyn Whole>))
            }
            Side::Wire(wire) => Inlet::Wire(Arc::clone(wire)),
        };
        Incoming::new(inlet, self.alarm())
    }

    pub(super) fn feed(&mut self) -> Feed<S::In> {
        let outlet = match &self.side {
            Side::Beside(call) => Outlet::Lane(Arc::clone(&call.up)),
            Side::Wire(wire) => Outlet::Wire(Arc::clone(wire)),
        };
        Feed::new(outlet, self.alarm())
    }

    pub(super) fn completion<E: RpcError>(&mut self) -> Completion<S::Output, E> {
        self.given = true;
        let outcome = match &self.side {
            Side::Beside(call) => Outcome::Slot(Arc::clone(&call.result), Arc::clone(call) as Arc<dyn Whole>),
            Side::Wire(wire) => Outcome::Wire(Arc::clone(wire)),
        };
        Completion::new(outcome, self.alarm())
    }
}

impl<S: Shape> Drop for Ports<S> {
    fn drop(&mut self) {
        if self.given {
            return;
        }
        let status = Status::new(Code::Cancelled, "the caller dropped the call before it was open");
        match &self.side {
            Side::Beside(call) => call.cancel(&status),
            Side::Wire(wire) => wire.stop(&status),
        }
    }
}

/// The call while the mesh decides where it goes.
struct Departure<'a, P: StreamParams> {
    params: &'a mut Option<P>,
    ports: Option<Ports<P::Shape>>,
}

impl<P: StreamParams> Outgoing for Departure<'_, P> {
    fn param(&self, name: &str) -> Option<Vec<u8>> {
        self.params.as_ref().and_then(|params| params.param(name))
    }

    fn encode(&mut self, buffer: &mut Vec<u8>) -> Result<(), Status> {
        match self.params {
            Some(params) => crate::codec::to_named_in(params, buffer),
            None => Err(Status::internal("the params of this call have left already")),
        }
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
        let call = Beside::<P::Shape>::new();
        let mailbox = endpoint.mailbox();
        let admitted = mailbox.accept(params.into_call(meta, Ends::beside(&call)));
        self.ports = Some(Ports { side: Side::Beside(call), caller: None, given: false });
        if let Err(refused) = admitted {
            let status = refusal(P::Service::NAME, spec::<P>().name, &refused, mailbox, None);
            refused.into_inner().reject(status);
        }
        Ok(())
    }

    fn slot(&self) -> Arc<dyn ResponseSlot> {
        Arc::new(NoSlot)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn opened(&mut self, stream: Arc<dyn StreamWire>) {
        self.ports = Some(Ports { side: Side::Wire(stream), caller: None, given: false });
    }
}
