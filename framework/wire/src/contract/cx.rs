//! What a handler knows of the call it answers.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::call::Handle;
use super::caller::{BoxFuture, CallOptions, Caller, Target};
use super::chain::{ActorKey, CallChain, MethodText};
use super::identity::Identity;
use super::passed::Passed;
use super::priority::Priority;
use super::reply::CancelToken;
use super::scope::CallScope;
use super::service::{MethodSpec, Service};
use crate::id::{ActorId, ActorPath, NodeId};
use crate::status::Status;

/// W3C trace context: version 00, trace id, parent id and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// 16 bytes, not all zero.
    pub trace_id: [u8; 16],
    /// 8 bytes, not all zero.
    pub parent_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

/// What goes with a call beside its parameters.
#[derive(Clone, Debug, Default)]
pub struct CallMeta {
    /// When the caller gives up, on this process's clock.
    pub deadline: Option<Instant>,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
    /// What came beside the trace, and goes to the calls that are made for this one.
    pub passed: Option<Arc<Passed>>,
    /// How often it was tried before.
    pub attempt: u32,
    /// The same key means the same effect.
    pub idempotency_key: Option<Arc<[u8]>>,
    /// The actors that wait for it; absent for a call from outside an actor.
    pub chain: Option<CallChain>,
    /// Where it stands in a mailbox.
    pub priority: Priority,
    /// The node it came from; absent for a call from this process.
    pub peer: Option<NodeId>,
    /// Who calls, where that was authenticated.
    pub identity: Option<Arc<Identity>>,
    /// The caller's credential on its way to the called node, which turns it into `identity`.
    pub token: Option<Arc<str>>,
    /// The one actor it is for; the service's own when absent.
    pub to: Option<Arc<ActorId>>,
}

/// The context of a running handler.
///
/// `cx.client::<S>()` makes clients whose calls inherit deadline and trace.
pub struct Cx {
    caller: Option<Arc<dyn Caller>>,
    path: ActorPath,
    meta: CallMeta,
    cancel: CancelToken,
    /// The actor and whether it handles one message at a time.
    seat: Option<(ActorKey, bool)>,
    /// The method whose handler runs.
    method: Option<(&'static str, &'static MethodSpec)>,
    /// Whether a handler runs, which its actor waits for.
    handling: bool,
    /// Shared by the calls of the handler; made for the first of them.
    scope: OnceLock<Arc<CallScope>>,
    /// The span of the handler, where it is recorded.
    span: Option<TraceParent>,
    stop: Option<Status>,
    failure: Option<Status>,
    fence: Option<u64>,
    /// Where its futures run.
    spawner: Option<Arc<dyn Spawner>>,
}

/// What runs the futures of an actor's handlers. Implemented by the host.
pub trait Spawner: Send + Sync {
    /// Starts a future that ends with the actor at the latest.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when too many run, `UNAVAILABLE` when the actor has ended.
    fn spawn(&self, future: BoxFuture<()>) -> Result<(), Status>;
}

impl Cx {
    /// The context of an actor that answers no call yet.
    pub fn new(path: ActorPath, caller: Option<Arc<dyn Caller>>) -> Self {
        Self {
            caller,
            path,
            meta: CallMeta::default(),
            cancel: CancelToken::never(),
            seat: None,
            method: None,
            handling: false,
            scope: OnceLock::new(),
            span: None,
            stop: None,
            failure: None,
            fence: None,
            spawner: None,
        }
    }

    /// The same context with a place for its futures.
    #[must_use]
    pub fn spawning(mut self, spawner: Arc<dyn Spawner>) -> Self {
        self.spawner = Some(spawner);
        self
    }

    /// Runs a future beside this actor, on its thread: the sending half of a stream, for example. It ends with the
    /// actor at the latest, is counted, and a panic in it ends it alone.
    ///
    /// ```
    /// # use afflux_wire::contract::{Cx, Emit, Fault};
    /// async fn watch(cx: &mut Cx, since: u64, mut out: Emit<u64>) -> Result<(), Fault> {
    ///     cx.spawn(async move {
    ///         for n in since.. {
    ///             if out.send(n).await.is_err() {
    ///                 break;            // the caller has gone
    ///             }
    ///         }
    ///     })?;
    ///     Ok(())                        // the actor is free for its next message
    /// }
    /// ```
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when too many futures of this actor run, `FAILED_PRECONDITION` outside an actor.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Result<(), Status> {
        match &self.spawner {
            Some(spawner) => spawner.spawn(Box::pin(future)),
            None => Err(Status::precondition("this context belongs to no actor: nothing runs beside it")),
        }
    }

    /// The same for an actor that owns its key under this fencing token.
    #[must_use]
    pub fn fenced(mut self, fence: Option<u64>) -> Self {
        self.fence = fence;
        self
    }

    /// The fencing token of a keyed actor: greater than that of every earlier owner of its key. Send it
    /// with what you write, and let what is written to refuse a smaller one than it has seen.
    pub fn fence(&self) -> Option<u64> {
        self.fence
    }

    /// The context of a handler that runs beside others of the same actor.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let mut sibling = Self::new(self.path.clone(), self.caller.clone()).fenced(self.fence);
        sibling.spawner.clone_from(&self.spawner);
        sibling.seat = self.seat.clone().map(|(key, _)| (key, false));
        sibling
    }

    /// Enters a call: the dispatch does this before the handler runs.
    pub fn enter(&mut self, meta: CallMeta, cancel: CancelToken) {
        self.end_scope();
        self.meta = meta;
        self.cancel = cancel;
        self.method = None;
        self.handling = true;
        self.failure = None;
    }

    /// Enters a call of this method: [`Cx::enter`] with a name for it.
    pub fn answering(
        &mut self,
        meta: CallMeta,
        cancel: CancelToken,
        service: &'static str,
        method: &'static MethodSpec,
    ) {
        self.enter(meta, cancel);
        self.method = Some((service, method));
    }

    /// Leaves the last call: what runs until the next one is entered is nobody's call.
    pub fn leave(&mut self) {
        if self.handling {
            self.enter(CallMeta::default(), CancelToken::never());
            self.handling = false;
            self.span = None;
        }
    }

    /// The same context for the actor with this key; `serial` when it handles one message at a time.
    #[must_use]
    pub fn seated(mut self, key: ActorKey, serial: bool) -> Self {
        self.seat = Some((key, serial));
        self
    }

    fn end_scope(&mut self) {
        if let Some(scope) = self.scope.take() {
            scope.end();
        }
    }

    /// Whether the handler's method is `detached`.
    fn is_detached(&self) -> bool {
        self.method.is_some_and(|(_, method)| method.detached)
    }

    /// Who waits for the calls of the handler that runs: this actor, and who waits for it.
    fn own_chain(&self) -> Option<CallChain> {
        let (key, serial) = self.seat.clone().filter(|_| self.handling)?;
        let method = match self.method {
            Some((service, method)) => MethodText::Of(service, method.name),
            None => MethodText::Text(self.path.as_str().into()),
        };
        Some(CallChain::new(self.meta.chain.clone(), key, self.path.clone(), method, serial))
    }

    fn scope(&self) -> Arc<CallScope> {
        let scope = self.scope.get_or_init(|| {
            let scope = CallScope::new(self.own_chain());
            if !self.is_detached() {
                self.cancel.on_cancel(&scope);
            }
            scope
        });
        Arc::clone(scope)
    }

    /// The path of this actor.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// The handler of the next call runs as this span: the host does this before the call is entered.
    pub fn spanned(&mut self, span: Option<TraceParent>) {
        self.span = span;
    }

    /// The trace that the calls of this handler belong to, with the handler's span as their parent.
    pub fn trace(&self) -> Option<TraceParent> {
        self.span.or(self.meta.trace)
    }

    /// What came with the call.
    pub fn meta(&self) -> &CallMeta {
        &self.meta
    }

    /// The node that called, or nothing for a call from this process.
    pub fn peer(&self) -> Option<&NodeId> {
        self.meta.peer.as_ref()
    }

    /// Who called: vouched for by a certificate or a token. Nothing for a call from this process, and where
    /// authentication is off.
    pub fn identity(&self) -> Option<&Identity> {
        self.meta.identity.as_deref()
    }

    /// Whether the caller has given up or its deadline has passed.
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.remaining().is_some_and(|left| left.is_zero())
    }

    /// The time that is left, if the call has a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.meta.deadline?;
        let now = self.caller.as_ref().map_or_else(Instant::now, |c| c.now());
        Some(deadline.saturating_duration_since(now))
    }

    /// A client of another service, whose calls belong to the call that is answered: they inherit its
    /// deadline and its trace, fail with `CANCELLED` when its caller gives up, and say who waits for them,
    /// so that a call cycle fails at once instead of at its deadline.
    ///
    /// In a handler of a method that is `detached` they inherit neither deadline nor cancellation.
    /// Outside a node every call of it fails with `FAILED_PRECONDITION`.
    pub fn client<S: Service>(&self) -> S::Client {
        let handle = Handle::new(self.caller.clone(), Target::service(S::NAME));
        S::Client::from(handle.with_options(self.inherited()))
    }

    /// What the calls of this handler inherit.
    pub(super) fn inherited(&self) -> CallOptions {
        CallOptions {
            deadline_at: self.meta.deadline.filter(|_| !self.is_detached()),
            trace: self.trace(),
            passed: self.meta.passed.clone(),
            nested: self.handling,
            scope: (self.handling && self.caller.is_some()).then(|| self.scope()),
            ..CallOptions::default()
        }
    }

    /// A client for work that goes on after this call: its calls inherit the trace and nothing else.
    ///
    /// For tasks that the handler starts and does not wait for. What the handler itself waits for belongs
    /// to [`Cx::client`], or a call cycle is found by its deadline only.
    pub fn detached<S: Service>(&self) -> S::Client {
        let options = CallOptions {
            trace: self.trace(),
            passed: self.meta.passed.clone(),
            nested: self.handling,
            ..CallOptions::default()
        };
        S::Client::from(Handle::new(self.caller.clone(), Target::service(S::NAME)).with_options(options))
    }

    /// The mesh of this node.
    pub fn caller(&self) -> Option<&Arc<dyn Caller>> {
        self.caller.as_ref()
    }

    /// Asks that this actor stop after the current message.
    pub fn stop(&mut self, reason: Status) {
        self.stop = Some(reason);
    }

    /// The request to stop, once.
    pub fn take_stop(&mut self) -> Option<Status> {
        self.stop.take()
    }

    /// Leaves the failure of a call that nobody waits for: the dispatch does this.
    pub fn fail(&mut self, failure: Status) {
        self.failure = Some(failure);
    }

    /// The failure of the last call that nobody waited for, once: the host counts and logs it.
    pub fn take_failure(&mut self) -> Option<Status> {
        self.failure.take()
    }
}

impl Drop for Cx {
    fn drop(&mut self) {
        self.end_scope();
    }
}
