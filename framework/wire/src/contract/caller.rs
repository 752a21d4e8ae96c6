//! The seam between a call and what carries it.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cx::{CallMeta, TraceParent};
use super::priority::Priority;
use super::service::MethodSpec;
use super::slot::ResponseSlot;
use crate::id::{ActorId, NodeId};
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
    /// The same key means the same effect.
    pub idempotency_key: Option<Arc<[u8]>>,
    /// Where it stands in a mailbox; the method's own priority when absent.
    pub priority: Option<Priority>,
    /// Fails at once when no endpoint is known or reachable, instead of waiting until the deadline.
    pub fail_fast: bool,
    /// The caller's credential; the link's own identity counts when absent.
    pub token: Option<Arc<str>>,
}

/// A call as the mesh sees it, without its types.
pub trait Outgoing {
    /// Appends the params as MessagePack.
    ///
    /// # Errors
    /// `INTERNAL` when a value cannot be encoded.
    fn encode(&mut self, buffer: &mut Vec<u8>) -> Result<(), Status>;
    /// Puts the call into a mailbox of this process; `endpoint` is a
    /// [`LocalEndpoint`](super::LocalEndpoint) of the service. A mailbox that refuses answers the
    /// call itself, so that is no error here, except of a one-way call.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` or `UNAVAILABLE`, not executed.
    fn deliver(&mut self, endpoint: &(dyn Any + Send + Sync), meta: CallMeta) -> Result<(), Status>;
    /// One parameter by its name, as MessagePack; nothing for a name that the method does not have.
    fn param(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

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
    /// Resolves when the set of known endpoints has changed after its first poll.
    fn changed(&self) -> BoxFuture<()>;
    /// Resolves at this moment of the node's clock.
    fn sleep_until(&self, at: Instant) -> BoxFuture<()>;
    /// The node's clock.
    fn now(&self) -> Instant;
}
