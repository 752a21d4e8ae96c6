//! Which items a method exchanges, and what its handler and its caller get.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::caller::BoxFuture;
use super::super::cx::CallMeta;
use super::super::fault::{CallError, RpcError};
use super::super::reply::{CancelToken, Reply, ReplyTo};
use super::super::service::{MethodKind, Service};
use super::beside::{Beside, Handled};
use super::emit::{Emit, Feed, Outlet};
use super::forward;
use super::incoming::{Alarm, Completion, Incoming, Inlet};
use super::lane::Lane;
use super::open::Ports;
use crate::status::{Executed, Stage, Status};

/// What an item of a stream, or a result, has to be.
pub trait Item: Serialize + DeserializeOwned + Send + 'static {}
impl<T: Serialize + DeserializeOwned + Send + 'static> Item for T {}

/// The item of a direction in which there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoItem {}

/// The kind of a streaming method with its types. Its three members are [`Streams`], [`Accepts`] and [`Both`].
pub trait Shape: Sized + Send + Sync + 'static {
    /// The kind.
    const KIND: MethodKind;
    /// What the caller sends.
    type In: Item;
    /// What the service sends.
    type Out: Item;
    /// What the handler returns.
    type Output: Item;
    /// What the caller gets when the call is open.
    type Opened<E: RpcError>;

    #[doc(hidden)]
    #[allow(private_interfaces)] // only this module makes the ports, so nobody else calls it
    fn opened<E: RpcError>(ports: Ports<Self>) -> Self::Opened<E>;

    #[doc(hidden)]
    fn forward<E: RpcError>(
        opened: Self::Opened<E>,
        incoming: Incoming<Self::In>,
        emit: Emit<Self::Out>,
    ) -> BoxFuture<Result<Self::Output, Status>>;
}

/// `#[rpc(streams = Out)]`: the caller gets an [`Incoming`].
pub struct Streams<Out>(PhantomData<fn() -> Out>);

/// `#[rpc(accepts = In, returns = R)]`: the caller gets a [`Feed`] and the [`Completion`].
pub struct Accepts<In, R>(PhantomData<fn() -> (In, R)>);

/// `#[rpc(accepts = In, streams = Out)]`: the caller gets a [`Feed`] and an [`Incoming`].
pub struct Both<In, Out>(PhantomData<fn() -> (In, Out)>);

impl<Out: Item> Shape for Streams<Out> {
    const KIND: MethodKind = MethodKind::ServerStream;
    type In = NoItem;
    type Out = Out;
    type Output = ();
    type Opened<E: RpcError> = Incoming<Out>;

    #[allow(private_interfaces)] // only this module makes the ports, so nobody else calls it
    fn opened<E: RpcError>(mut ports: Ports<Self>) -> Incoming<Out> {
        ports.incoming()
    }

    fn forward<E: RpcError>(
        opened: Incoming<Out>,
        _: Incoming<NoItem>,
        emit: Emit<Out>,
    ) -> BoxFuture<Result<(), Status>> {
        Box::pin(forward::down(opened, emit))
    }
}

impl<In: Item, R: Item> Shape for Accepts<In, R> {
    const KIND: MethodKind = MethodKind::ClientStream;
    type In = In;
    type Out = NoItem;
    type Output = R;
    type Opened<E: RpcError> = (Feed<In>, Completion<R, E>);

    #[allow(private_interfaces)] // only this module makes the ports, so nobody else calls it
    fn opened<E: RpcError>(mut ports: Ports<Self>) -> (Feed<In>, Completion<R, E>) {
        (ports.feed(), ports.completion())
    }

    fn forward<E: RpcError>(
        (feed, completion): (Feed<In>, Completion<R, E>),
        incoming: Incoming<In>,
        _: Emit<NoItem>,
    ) -> BoxFuture<Result<R, Status>> {
        let result = async { completion.await.map_err(CallError::into_status) };
        Box::pin(forward::both(forward::up(incoming, feed), result))
    }
}

impl<In: Item, Out: Item> Shape for Both<In, Out> {
    const KIND: MethodKind = MethodKind::Duplex;
    type In = In;
    type Out = Out;
    type Output = ();
    type Opened<E: RpcError> = (Feed<In>, Incoming<Out>);

    #[allow(private_interfaces)] // only this module makes the ports, so nobody else calls it
    fn opened<E: RpcError>(mut ports: Ports<Self>) -> (Feed<In>, Incoming<Out>) {
        (ports.feed(), ports.incoming())
    }

    fn forward<E: RpcError>(
        (feed, opened): (Feed<In>, Incoming<Out>),
        incoming: Incoming<In>,
        emit: Emit<Out>,
    ) -> BoxFuture<Result<(), Status>> {
        Box::pin(forward::both(forward::up(incoming, feed), forward::down(opened, emit)))
    }
}

/// The parameters of one streaming method. Implemented by `derive(Service)`, one type a method.
pub trait StreamParams: Serialize + DeserializeOwned + Send + 'static {
    /// The service that has the method.
    type Service: Service;
    /// What it exchanges.
    type Shape: Shape;
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
        ends: Ends<Self::Shape, <Self::Service as Service>::Error>,
    ) -> <Self::Service as Service>::Call;
}

/// The ends of a streaming call, each by itself.
type Split<S, E> = (Incoming<<S as Shape>::In>, Emit<<S as Shape>::Out>, Reply<<S as Shape>::Output, E>);

/// What a handler gets of a streaming call, beside its parameters.
pub struct Ends<S: Shape, E: RpcError> {
    incoming: Incoming<S::In>,
    emit: Emit<S::Out>,
    reply: Reply<S::Output, E>,
}

impl<S: Shape, E: RpcError> Ends<S, E> {
    pub(super) fn beside(call: &Arc<Beside<S>>) -> Self {
        let inlet = match S::KIND.accepts() {
            true => Inlet::Lane(Arc::clone(&call.up), None),
            false => Inlet::Gone,
        };
        let outlet = match S::KIND.streams() {
            true => Outlet::Lane(Arc::<Lane<S::Out>>::clone(&call.down)),
            false => Outlet::Gone,
        };
        Self {
            incoming: Incoming::new(inlet, Alarm::none()),
            emit: Emit::new(outlet),
            reply: Reply::beside(Arc::clone(call) as Arc<dyn Handled<S::Output>>),
        }
    }

    /// The ends of a call that came as bytes; nothing when it was not opened as a stream.
    fn wire(reply: ReplyTo) -> Result<Self, ReplyTo> {
        let Some(wire) = reply.items() else { return Err(reply) };
        let inlet = match S::KIND.accepts() {
            true => Inlet::Wire(Arc::clone(wire)),
            false => Inlet::Gone,
        };
        let outlet = match S::KIND.streams() {
            true => Outlet::Wire(Arc::clone(wire)),
            false => Outlet::Gone,
        };
        Ok(Self {
            incoming: Incoming::new(inlet, Alarm::none()),
            emit: Emit::new(outlet),
            reply: Reply::wire(reply),
        })
    }

    /// Each end by itself.
    pub fn split(self) -> Split<S, E> {
        (self.incoming, self.emit, self.reply)
    }

    /// A token that says whether the caller has given up.
    pub fn cancel_token(&self) -> CancelToken {
        self.reply.cancel_token()
    }

    /// Whether the caller has given up.
    pub fn is_cancelled(&self) -> bool {
        self.reply.is_cancelled()
    }

    /// Answers with an error instead of running.
    pub fn reject(self, status: Status) {
        // Before the ends are dropped, which would say less.
        self.reply.reject(status);
    }
}

impl<S: Shape, E: RpcError> fmt::Debug for Ends<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ends({})", S::KIND.name())
    }
}

/// Decodes the params of a streaming call into a call.
///
/// # Errors
/// `INVALID_ARGUMENT` with the path of the wrong field, or for a call that was not opened as a stream; the reply
/// comes back unused.
pub fn decode_stream<P: StreamParams>(
    params: &[u8],
    meta: CallMeta,
    reply: Option<ReplyTo>,
) -> Result<<P::Service as Service>::Call, (Status, Option<ReplyTo>)> {
    let method = P::Service::METHODS[P::METHOD].name;
    let wrong = |text: String| {
        Status::invalid(format!("{}/{method}: {text}", P::Service::NAME))
            .executed(Executed::No)
            .stage(Stage::Admission)
    };
    let params = match crate::codec::from_slice::<P>(params) {
        Ok(params) => params,
        Err(status) => return Err((wrong(status.message), reply)),
    };
    match reply.map(Ends::wire) {
        Some(Ok(ends)) => Ok(params.into_call(meta, ends)),
        unopened => {
            let reply = unopened.and_then(Result::err);
            let kind = <P::Shape as Shape>::KIND.name();
            Err((wrong(format!("this method is a {kind}: open it as a stream instead of calling it")), reply))
        }
    }
}
