//! Services, their methods, and what a mailbox has to know of a message.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::caller::{BoxFuture, Caller, Target};
use super::chain::ActorKey;
use super::cx::CallMeta;
use super::fault::RpcError;
use super::priority::Priority;
use super::reply::{Ack, Reply, ReplyTo};
use super::window::ReplyWindow;
use crate::status::{Code, Executed, Status};

/// How a method exchanges messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One request, one response.
    Unary,
    /// One request, no response.
    OneWay,
    /// One request; items come back, and then an end.
    ServerStream,
    /// One request, then items; one response.
    ClientStream,
    /// One request; items both ways, each at its own pace.
    Duplex,
}

impl MethodKind {
    /// As people and listings write it.
    ///
    /// ```
    /// use afflux_wire::contract::MethodKind;
    /// assert_eq!(MethodKind::ServerStream.name(), "server_stream");
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::OneWay => "oneway",
            Self::ServerStream => "server_stream",
            Self::ClientStream => "client_stream",
            Self::Duplex => "duplex",
        }
    }

    /// Whether the caller sends items.
    #[must_use]
    pub const fn accepts(self) -> bool {
        matches!(self, Self::ClientStream | Self::Duplex)
    }

    /// Whether the service sends items.
    #[must_use]
    pub const fn streams(self) -> bool {
        matches!(self, Self::ServerStream | Self::Duplex)
    }

    /// Whether items travel in any direction.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        self.accepts() || self.streams()
    }
}

/// What is known of a method at run time. Comes from the derive; doc comments included.
#[derive(Debug)]
pub struct MethodSpec {
    /// The name as it is called, such as `Place`.
    pub name: &'static str,
    /// How it exchanges messages.
    pub kind: MethodKind,
    /// The doc comment.
    pub doc: &'static str,
    /// The deadline of a call that sets none; there are no infinite calls.
    pub deadline: Duration,
    /// Whether a second execution does no harm.
    pub idempotent: bool,
    /// Who may call it where authentication is on, beside what `auth.allow` says: roles and identities with
    /// commas between them, `authenticated` or `anyone`; nobody else when empty.
    pub allow: &'static str,
    /// Whether it changes nothing: idempotent, may be hedged and sent to any replica.
    pub readonly: bool,
    /// Where its calls stand in a mailbox, unless the caller says otherwise.
    pub priority: Priority,
    /// Whether the calls of its handler go on when its caller gives up.
    pub detached: bool,
    /// Whether a one-way call is acknowledged once it is admitted.
    pub ack: bool,
    /// The names of the parameters, in order.
    pub fields: &'static [&'static str],
    /// JSON Schema of the parameters, an object.
    pub params: fn() -> schemars::Schema,
    /// JSON Schema of the result; of `()` for a method that answers nothing but items.
    pub returns: fn() -> schemars::Schema,
    /// JSON Schema of the typed error of its service.
    pub error: fn() -> schemars::Schema,
    /// JSON Schema of one item that the caller sends, for a method that takes some.
    pub accepts: Option<fn() -> schemars::Schema>,
    /// JSON Schema of one item that the service sends, for a method that sends some.
    pub streams: Option<fn() -> schemars::Schema>,
}

impl MethodSpec {
    /// A unary method without a name, a document and parameters, with a deadline of 10 s: what a spec
    /// written by hand starts from.
    ///
    /// ```
    /// use afflux_wire::contract::{MethodKind, MethodSpec};
    /// const TOUCH: MethodSpec = MethodSpec { name: "Touch", kind: MethodKind::OneWay, ..MethodSpec::DEFAULT };
    /// assert!(!TOUCH.expects_answer());
    /// ```
    pub const DEFAULT: Self = Self {
        name: "",
        kind: MethodKind::Unary,
        doc: "",
        deadline: Duration::from_secs(10),
        idempotent: false,
        allow: "",
        readonly: false,
        priority: Priority::Normal,
        detached: false,
        ack: false,
        fields: &[],
        params: schemars::Schema::default,
        returns: schemars::Schema::default,
        error: || schemars::Schema::from(false),
        accepts: None,
        streams: None,
    };

    /// Whether its calls travel as requests, which are answered: all but one-way calls without `ack`.
    #[inline]
    pub const fn expects_answer(&self) -> bool {
        self.ack || !matches!(self.kind, MethodKind::OneWay)
    }
}

/// A contract: a named set of methods. Implemented by `derive(Service)`.
pub trait Service: Sized + Send + Sync + 'static {
    /// The name in the registry, such as `shop.orders`.
    const NAME: &'static str;
    /// The version of the contract, for people.
    const VERSION: &'static str;
    /// The doc comment of the contract.
    const DOC: &'static str;
    /// The methods; an index into this slice is a method's number inside a process.
    const METHODS: &'static [MethodSpec];
    /// The typed error of its methods.
    type Error: RpcError;
    /// One call with its answer slot, as it lies in a mailbox.
    type Call: Mail;
    /// The generated client.
    type Client: From<super::call::Handle<Self>> + Clone + Send + Sync;

    /// Turns the params of a request into a call whose answer goes to `reply` (absent for one-way).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with the path of the wrong field; the reply comes back unused.
    fn decode(
        method: usize,
        params: &[u8],
        meta: CallMeta,
        reply: Option<ReplyTo>,
    ) -> Result<Self::Call, (Status, Option<ReplyTo>)>;
}

/// The parameters of one method. Implemented by `derive(Service)`, one type a method.
pub trait Params: Serialize + DeserializeOwned + Send + 'static {
    /// The service that has the method.
    type Service: Service;
    /// What the method returns; `()` for one-way.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// Its index in [`Service::METHODS`].
    const METHOD: usize;

    /// One parameter by its name, as MessagePack; nothing for a name that the method does not have.
    fn param(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }
    /// The call as it lies in a mailbox.
    fn into_call(
        self,
        meta: CallMeta,
        reply: Option<Reply<Self::Output, <Self::Service as Service>::Error>>,
    ) -> <Self::Service as Service>::Call;

    /// When the method says that its calls be hedged.
    const HEDGE: Option<super::placement::Hedge> = None;

    /// The hash of the parameter by which calls of the method are routed, where one is.
    fn key(&self) -> Option<u64> {
        None
    }

    /// The parameters of a call that a mailbox gave back, so that it can go elsewhere; its way back is
    /// left as it is.
    ///
    /// # Errors
    /// The call, where its parameters cannot be had back.
    fn recover(call: <Self::Service as Service>::Call) -> Result<Self, <Self::Service as Service>::Call> {
        Err(call)
    }
}

/// What lies in a mailbox: it can say for whom it is, and be refused.
pub trait Mail: Send + 'static {
    /// Deadline, trace and caller.
    fn meta(&self) -> &CallMeta;
    /// The method's name, for metrics and spans.
    fn method(&self) -> &'static str {
        ""
    }
    /// Whether its handler gets items: one that holds its actor for long is warned about.
    fn has_items(&self) -> bool {
        false
    }
    /// Whether its caller has given up, so that it need not run.
    fn is_cancelled(&self) -> bool {
        false
    }
    /// One parameter of the call by its name, as MessagePack; nothing for a name that its method does
    /// not have.
    fn param(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }
    /// Makes the call again, to another target, and answers its caller with what comes back. What
    /// cannot be forwarded is answered with `UNIMPLEMENTED`.
    fn forward(self, _caller: Arc<dyn Caller>, target: Target) -> BoxFuture<()>
    where
        Self: Sized,
    {
        let text = format!("{} cannot be forwarded to {:?}", target.service, target.node);
        self.reject(Status::new(Code::Unimplemented, text).executed(Executed::No));
        Box::pin(std::future::ready(()))
    }
    /// Takes what tells the caller of a one-way call that it was admitted. A mailbox sends it when the
    /// message has its place; one that does not is answered by the handler's end.
    fn take_ack(&mut self) -> Option<Ack> {
        None
    }
    /// Answers with an error instead of running.
    fn reject(self, status: Status);
}

/// Why a mailbox did not take a message, with the message.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<M> {
    /// All places are taken.
    Full(M),
    /// The actor has stopped.
    Closed(M),
    /// The actor with this key waits for the message itself, over the calls of its chain.
    Cycle(M, Box<ActorKey>),
}

impl<M> Refused<M> {
    /// The message that was not taken.
    pub fn into_inner(self) -> M {
        match self {
            Refused::Full(m) | Refused::Closed(m) | Refused::Cycle(m, _) => m,
        }
    }
}

/// A place that takes messages of type `M`: the sending side of a mailbox.
pub trait Accept<M>: Send + Sync {
    /// Admits a message or gives it back.
    ///
    /// # Errors
    /// [`Refused`] with the message.
    fn accept(&self, message: M) -> Result<(), Refused<M>>;
    /// Messages waiting now.
    fn depth(&self) -> usize;
    /// Messages that fit.
    fn capacity(&self) -> usize;
    /// The answers that are kept for calls with an idempotency key, if they are.
    fn replies(&self) -> Option<&Arc<ReplyWindow>> {
        None
    }
}

/// A service in this process: what the mesh finds by name and a typed caller downcasts to.
///
/// ```
/// # use std::sync::Arc;
/// # use afflux_wire::contract::{Accept, LocalEndpoint, Service};
/// fn endpoint<S: Service>(mailbox: Arc<dyn Accept<S::Call>>) -> LocalEndpoint<S> {
///     LocalEndpoint::new(mailbox)
/// }
/// ```
pub struct LocalEndpoint<S: Service> {
    mailbox: Arc<dyn Accept<S::Call>>,
}

impl<S: Service> Clone for LocalEndpoint<S> {
    fn clone(&self) -> Self {
        Self { mailbox: Arc::clone(&self.mailbox) }
    }
}

impl<S: Service> LocalEndpoint<S> {
    /// An endpoint that puts calls into this mailbox.
    pub fn new(mailbox: Arc<dyn Accept<S::Call>>) -> Self {
        Self { mailbox }
    }

    /// The mailbox.
    pub fn mailbox(&self) -> &dyn Accept<S::Call> {
        &*self.mailbox
    }
}
