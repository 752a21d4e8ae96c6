//! The seam between a call and what carries it.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::CallChain;
use super::cx::{CallMeta, TraceParent};
use super::passed::Passed;
use super::placement::{Failure, Hedge, Placement, Policy, Retry};
use super::priority::Priority;
use super::scope::CallScope;
use super::service::{MethodKind, MethodSpec};
use super::slot::ResponseSlot;
use super::trace::CallSpan;
use crate::id::{ActorId, Incarnation, NodeId};
use crate::status::Status;

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whom a call is for.
///
/// ```
/// use afflux_wire::contract::Target;
/// assert!(Target::service("shop.orders").node.is_none());
/// assert_eq!(Target::on("shop.orders", "n1".into()).node, Some("n1".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service's name.
    pub service: Arc<str>,
    /// One node of those that offer it; any, when absent.
    pub node: Option<NodeId>,
    /// One actor, on the node that it names.
    pub actor: Option<Arc<ActorId>>,
}

impl Target {
    /// Any endpoint of this service.
    pub fn service(name: &str) -> Self {
        Self { service: Arc::from(name), node: None, actor: None }
    }

    /// The endpoint of this service on one node.
    pub fn on(name: &str, node: NodeId) -> Self {
        Self { service: Arc::from(name), node: Some(node), actor: None }
    }

    /// One actor that serves this.
    pub fn actor(name: &str, actor: Arc<ActorId>) -> Self {
        Self { service: Arc::from(name), node: Some(actor.node.clone()), actor: Some(actor) }
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
    /// What came beside the trace of the call being answered.
    pub passed: Option<Arc<Passed>>,
    /// Made while another call is answered, whose trace it has, or whose lack of one.
    pub nested: bool,
    /// The same key means the same effect.
    pub idempotency_key: Option<Arc<[u8]>>,
    /// Where it stands in a mailbox; the method's own priority when absent.
    pub priority: Option<Priority>,
    /// The call that is answered while this one is made.
    pub scope: Option<Arc<CallScope>>,
    /// Fails at once when no endpoint is known or reachable, instead of waiting until the deadline.
    pub fail_fast: bool,
    /// Waits this long for the node that the target names; then any endpoint of the service will do.
    pub node_patience: Option<Duration>,
    /// The caller's credential; the link's own identity counts when absent.
    pub token: Option<Arc<str>>,
    /// The hash of the call's key (see [`key_hash`](super::key_hash)).
    pub key: Option<u64>,
    /// Instead of the service's policy.
    pub policy: Option<Policy>,
    /// Instead of what the method says.
    pub hedge: Option<Hedge>,
}

impl CallOptions {
    /// The recorded span of a call that begins; none for most.
    #[inline]
    pub(super) fn begin(
        &self,
        caller: &Arc<dyn Caller>,
        service: &'static str,
        method: &'static str,
    ) -> Option<Box<dyn CallSpan>> {
        match &self.trace {
            None if self.nested => None,
            Some(trace) if !trace.is_sampled() => None,
            parent => caller.trace(parent.as_ref(), service, method),
        }
    }

    /// The actors that wait for a call of this method.
    #[inline]
    pub(super) fn chain(&self, method: &MethodSpec) -> Option<&CallChain> {
        self.scope.as_ref()?.chain().filter(|_| method.kind != MethodKind::OneWay)
    }

    /// What goes with one try of a call.
    pub(super) fn meta(&self, method: &MethodSpec, deadline: Option<Instant>, attempt: u32) -> CallMeta {
        CallMeta {
            deadline,
            trace: self.trace,
            passed: self.passed.clone(),
            attempt,
            idempotency_key: self.idempotency_key.clone(),
            // Nobody waits for the handler of a one-way call: it closes no cycle.
            chain: self.chain(method).cloned(),
            priority: self.priority.unwrap_or(method.priority),
            token: self.token.clone(),
            ..CallMeta::default()
        }
    }
}

/// A call as the mesh sees it, without its types.
pub trait Outgoing {
    /// Appends the params as MessagePack.
    ///
    /// # Errors
    /// `INTERNAL` when a value cannot be encoded.
    fn encode(&mut self, buffer: &mut Vec<u8>) -> Result<(), Status>;
    /// Puts the call into a mailbox of this process; `endpoint` is a
    /// [`LocalEndpoint`](super::LocalEndpoint) of the service. After an error the call can still go
    /// elsewhere; a call that cannot be had back is answered with the refusal, and that is no error.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` or `UNAVAILABLE` at stage admission, not executed.
    fn deliver(&mut self, endpoint: &(dyn Any + Send + Sync), meta: CallMeta) -> Result<(), Status>;
    /// One parameter by its name, as MessagePack; nothing for a name that the method does not have.
    fn param(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    /// Where the answer of a remote call goes; never asked of a stream.
    fn slot(&self) -> Arc<dyn ResponseSlot>;
    /// Where it wants to go.
    fn placement(&self) -> Placement<'_> {
        Placement::default()
    }
    /// Whether the call is opened as a stream: [`Outgoing::opened`] then gets its ends.
    fn is_stream(&self) -> bool {
        false
    }
    /// The call has left over a link as this stream.
    fn opened(&mut self, stream: Arc<dyn super::stream::StreamWire>) {
        let _ = stream;
    }
}

/// A request that left over a link and can be called back.
pub trait Remote: Send + Sync {
    /// The caller no longer waits for the answer of request `id`.
    fn cancel(&self, id: u64, reason: &str);
    /// The node that it went to.
    fn node(&self) -> Option<&NodeId> {
        None
    }
}

/// The reason of [`Remote::cancel`] for the slower of two attempts of one call.
pub const CANCEL_HEDGED: &str = "another attempt was faster";

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
    /// Decides about another attempt of a call that failed and that may be repeated: within a budget,
    /// and where there is somebody to ask.
    fn retry(&self, _target: &Target, failure: &Failure<'_>) -> Retry {
        Retry::After(failure.hint())
    }
    /// How long after its start a call may get a second attempt beside the first; never, when nothing.
    fn hedge_after(&self, _target: &Target, _method: &'static MethodSpec, hedge: Hedge) -> Option<Duration> {
        match hedge {
            Hedge::After(delay) => Some(delay),
            Hedge::P95 => None,
        }
    }
    /// Whether a second attempt may start now, away from where the first runs. Takes it out of the
    /// same budget as a retry.
    fn may_hedge(&self, _target: &Target, _placement: &Placement<'_>) -> bool {
        true
    }
    /// Begins the span of a call in a sampled trace, or decides whether a call outside any begins one.
    fn trace(
        &self,
        _parent: Option<&TraceParent>,
        _service: &str,
        _method: &str,
    ) -> Option<Box<dyn CallSpan>> {
        None
    }
    /// Resolves when the set of known endpoints has changed after its first poll.
    fn changed(&self) -> BoxFuture<()>;
    /// Resolves at this moment of the node's clock.
    fn sleep_until(&self, at: Instant) -> BoxFuture<()>;
    /// The node's clock.
    fn now(&self) -> Instant;
    /// The node whose calls these are; nothing for a client that is no node.
    fn node(&self) -> Option<&NodeId> {
        None
    }
    /// The life of that node.
    fn incarnation(&self) -> Incarnation {
        Incarnation(0)
    }
}
