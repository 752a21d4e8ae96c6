//! One call, from a client's method to its answer.

use std::any::Any;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::cx::{CallMeta, TraceParent};
use super::fault::CallError;
use super::reply::{Reply, ResponseSlot, Slot};
use super::service::{LocalEndpoint, MethodKind, MethodSpec, Params, Refused, Service};
use crate::id::NodeId;
use crate::status::{Code, Executed, Stage, Status};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Tries of one call that nobody executed, the first included.
pub const CALL_TRIES_MAX: u32 = 3;

/// Whom a call is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service's name.
    pub service: Arc<str>,
    /// One node of those that offer it; any, when absent.
    pub node: Option<NodeId>,
}

impl Target {
    /// Any endpoint of this service.
    pub fn service(name: &str) -> Self {
        Self { service: Arc::from(name), node: None }
    }

    /// The endpoint of this service on one node.
    pub fn on(name: &str, node: NodeId) -> Self {
        Self { service: Arc::from(name), node: Some(node) }
    }
}

/// What a caller says of one call or of all calls of a client.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Gives up after this long; the method's own deadline when absent.
    pub deadline: Option<Duration>,
    /// Gives up at this moment at the latest (inherited from the call being answered).
    pub deadline_at: Option<Instant>,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
    /// The same key means the same effect.
    pub idempotency_key: Option<Arc<[u8]>>,
    /// Fails at once when no endpoint is known or reachable, instead of waiting until the deadline.
    pub fail_fast: bool,
}

/// A call as the mesh sees it, without its types.
pub trait Outgoing {
    /// Appends the params as MessagePack.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when a value cannot be encoded.
    fn encode(&mut self, buffer: &mut Vec<u8>) -> Result<(), Status>;
    /// Puts the call into a mailbox of this process; `endpoint` is a [`LocalEndpoint`] of the service.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` or `UNAVAILABLE`, not executed.
    fn deliver(&mut self, endpoint: &(dyn Any + Send + Sync), meta: CallMeta) -> Result<(), Status>;
    /// Where the answer of a remote call goes.
    fn slot(&self) -> Arc<dyn ResponseSlot>;
}

/// A request that left over a link and can be called back.
pub trait Remote: Send + Sync {
    /// The caller no longer waits for the answer of request `id`.
    fn cancel(&self, id: u64, reason: &str);
}

/// How a call was started.
pub enum Started {
    /// It lies in a mailbox of this process.
    Local,
    /// It went over a link as this request.
    Remote(Arc<dyn Remote>, u64),
}

/// What starts calls: the mesh of a node, or a client that is no node.
pub trait Caller: Send + Sync + 'static {
    /// Starts a call: picks an endpoint and delivers or sends. Never blocks; a link that is still
    /// connecting holds a bounded number of requests. Remote calls are failed by the implementor at
    /// their deadline, and at once when their link is lost.
    ///
    /// # Errors
    /// `UNAVAILABLE` at stage connect when no endpoint is known: the caller may wait for [`Caller::changed`].
    fn start(
        &self,
        target: &Target,
        method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status>;
    /// Resolves when the set of known endpoints has changed.
    fn changed(&self) -> BoxFuture<()>;
    /// Resolves at this moment of the node's clock.
    fn sleep_until(&self, at: Instant) -> BoxFuture<()>;
    /// The node's clock.
    fn now(&self) -> Instant;
}

/// A service by its name: what a client holds instead of a connection.
pub struct Handle<S: Service> {
    caller: Option<Arc<dyn Caller>>,
    target: Target,
    options: CallOptions,
    service: std::marker::PhantomData<fn() -> S>,
}

impl<S: Service> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self {
            caller: self.caller.clone(),
            target: self.target.clone(),
            options: self.options.clone(),
            service: std::marker::PhantomData,
        }
    }
}

impl<S: Service> Handle<S> {
    /// A handle whose calls are started by `caller`.
    pub fn new(caller: Option<Arc<dyn Caller>>, target: Target) -> Self {
        Self { caller, target, options: CallOptions::default(), service: std::marker::PhantomData }
    }

    /// The same handle with other defaults for its calls.
    #[must_use]
    pub fn with_options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }

    /// Whom its calls are for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// A call of one method, not yet started.
    pub fn call<P: Params<Service = S>>(&self, params: P) -> Call<P> {
        Call { handle: self.clone(), params }
    }
}

/// A call that starts when it is awaited.
#[must_use = "a call starts when it is awaited"]
pub struct Call<P: Params> {
    handle: Handle<P::Service>,
    params: P,
}

impl<P: Params> Call<P> {
    /// Gives up after this long, instead of the method's own deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.handle.options.deadline = Some(deadline);
        self
    }

    /// The same key means the same effect.
    pub fn idempotency_key(mut self, key: impl Into<Arc<[u8]>>) -> Self {
        self.handle.options.idempotency_key = Some(key.into());
        self
    }

    /// Fails at once when no endpoint is known, instead of waiting for one until the deadline.
    pub fn fail_fast(mut self) -> Self {
        self.handle.options.fail_fast = true;
        self
    }
}

impl<P: Params + Unpin + Clone> IntoFuture for Call<P> {
    type Output = Result<P::Output, CallError<<P::Service as Service>::Error>>;
    type IntoFuture = CallFuture<P>;

    fn into_future(self) -> CallFuture<P> {
        CallFuture {
            handle: self.handle,
            params: Some(self.params),
            slot: Slot::new(),
            phase: Phase::New,
            deadline: None,
            timer: None,
            tries: 0,
        }
    }
}

enum Phase {
    New,
    /// No endpoint yet.
    Waiting(BoxFuture<()>, Status),
    Local,
    Remote(Arc<dyn Remote>, u64),
    Done,
}

type Answer<P> =
    Result<<P as Params>::Output, CallError<<<P as Params>::Service as Service>::Error>>;

/// A started call. Dropping it cancels the call.
pub struct CallFuture<P: Params> {
    handle: Handle<P::Service>,
    params: Option<P>,
    slot: Arc<Slot<Answer<P>>>,
    phase: Phase,
    deadline: Option<Instant>,
    timer: Option<BoxFuture<()>>,
    tries: u32,
}

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

    fn deliver(&mut self, endpoint: &(dyn Any + Send + Sync), meta: CallMeta) -> Result<(), Status> {
        let Some(endpoint) = endpoint.downcast_ref::<LocalEndpoint<P::Service>>() else {
            return Err(Status::precondition(format!(
                "service {} is registered here with another contract type",
                P::Service::NAME
            )));
        };
        let Some(params) = self.params.take() else {
            return Err(Status::internal("the params of this call have left already"));
        };
        let reply = (!self.one_way).then(|| Reply::local(Arc::clone(self.slot)));
        let mailbox = endpoint.mailbox();
        match mailbox.accept(params.into_call(meta, reply)) {
            Ok(()) => Ok(()),
            Err(refused) => {
                let status = refusal(P::Service::NAME, &refused, mailbox.capacity());
                super::service::Mail::reject(refused.into_inner(), status.clone());
                // A refused call with an answer slot is answered there.
                if self.one_way { Err(status) } else { Ok(()) }
            }
        }
    }

    fn slot(&self) -> Arc<dyn ResponseSlot> {
        Arc::clone(self.slot) as Arc<dyn ResponseSlot>
    }
}

/// The error of a mailbox that took nothing.
pub(super) fn refusal<M>(service: &str, refused: &Refused<M>, capacity: usize) -> Status {
    match refused {
        Refused::Full(_) => Status::new(
            Code::ResourceExhausted,
            format!(
                "the mailbox of {service} is full ({capacity} messages): call less often, raise \
                 `mailbox`, or run more instances"
            ),
        )
        .retry_after_ms(20),
        Refused::Closed(_) => Status::unavailable(format!("the actor of {service} has stopped")),
    }
    .executed(Executed::No)
    .stage(Stage::Admission)
}

impl<P: Params + Unpin + Clone> CallFuture<P> {
    fn start(&mut self, caller: &Arc<dyn Caller>, cx: &mut Context<'_>) -> Option<Answer<P>> {
        let method = &P::Service::METHODS[P::METHOD];
        let one_way = method.kind == MethodKind::OneWay;
        let options = &self.handle.options;
        let deadline = *self.deadline.get_or_insert_with(|| {
            let own = caller.now() + options.deadline.unwrap_or(method.deadline);
            options.deadline_at.map_or(own, |inherited| own.min(inherited))
        });
        loop {
            self.tries += 1;
            let meta = CallMeta {
                deadline: Some(deadline),
                trace: self.handle.options.trace,
                attempt: self.tries - 1,
                idempotency_key: self.handle.options.idempotency_key.clone(),
                peer: None,
            };
            let mut departure =
                Departure::<P> { params: &mut self.params, slot: &self.slot, one_way };
            match caller.start(&self.handle.target, method, meta, &mut departure) {
                Ok(_) if one_way => return Some(self.unit()),
                Ok(Started::Local) => {
                    self.phase = Phase::Local;
                    return None;
                }
                Ok(Started::Remote(remote, id)) => {
                    self.phase = Phase::Remote(remote, id);
                    return None;
                }
                Err(status) => {
                    let no_endpoint = status.code == Code::Unavailable
                        && status.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Connect));
                    if !no_endpoint || self.handle.options.fail_fast {
                        return Some(Err(CallError::Status(status)));
                    }
                    self.tries -= 1;
                    let mut changed = caller.changed();
                    if changed.as_mut().poll(cx).is_pending() {
                        self.phase = Phase::Waiting(changed, status);
                        return None;
                    }
                }
            }
        }
    }

    /// The answer of a one-way call: `Output` is `()` there, which is MessagePack's nil.
    fn unit(&self) -> Answer<P> {
        crate::codec::from_slice(&[0xC0]).map_err(CallError::Status)
    }

    fn timed_out(&self, waited_for: Option<&Status>) -> Status {
        let method = &P::Service::METHODS[P::METHOD];
        let name = format!("{}/{}", P::Service::NAME, method.name);
        match waited_for {
            Some(status) => Status::new(
                Code::DeadlineExceeded,
                format!("{name}: the deadline passed while waiting for an endpoint: {}", status.message),
            )
            .executed(Executed::No)
            .stage(Stage::Connect),
            None => Status::new(Code::DeadlineExceeded, format!("{name}: no answer before the deadline"))
                .executed(Executed::Maybe)
                .stage(Stage::Running),
        }
    }
}

impl<P: Params + Unpin + Clone> Future for CallFuture<P> {
    type Output = Answer<P>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(caller) = this.handle.caller.clone() else {
            return Poll::Ready(Err(CallError::Status(Status::precondition(
                "this client belongs to no node: make it with `node.client()` or `cx.client()`",
            ))));
        };
        loop {
            match &mut this.phase {
                Phase::New => {
                    if let Some(answer) = this.start(&caller, cx) {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                }
                Phase::Waiting(changed, _) => {
                    if changed.as_mut().poll(cx).is_ready() {
                        this.phase = Phase::New;
                        continue;
                    }
                    break;
                }
                Phase::Local => match this.slot.poll(cx) {
                    Poll::Ready(answer) => {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                    Poll::Pending => break,
                },
                // The mesh fails a remote call at its deadline: no timer of its own.
                Phase::Remote(..) => match this.slot.poll(cx) {
                    Poll::Ready(Err(error))
                        if error.status().may_retry_elsewhere()
                            && this.tries < CALL_TRIES_MAX
                            && this.deadline.is_some_and(|at| at > caller.now()) =>
                    {
                        this.slot = Slot::new();
                        this.phase = Phase::New;
                    }
                    Poll::Ready(answer) => {
                        this.phase = Phase::Done;
                        return Poll::Ready(answer);
                    }
                    Poll::Pending => return Poll::Pending,
                },
                Phase::Done => return Poll::Pending,
            }
        }
        let Some(deadline) = this.deadline else { return Poll::Pending };
        let timer = this.timer.get_or_insert_with(|| caller.sleep_until(deadline));
        if timer.as_mut().poll(cx).is_ready() {
            let waited_for = match &this.phase {
                Phase::Waiting(_, status) => Some(status.clone()),
                _ => None,
            };
            let status = this.timed_out(waited_for.as_ref());
            this.slot.close();
            this.phase = Phase::Done;
            return Poll::Ready(Err(CallError::Status(status)));
        }
        Poll::Pending
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
            Phase::New | Phase::Waiting(..) | Phase::Done => {}
        }
    }
}
