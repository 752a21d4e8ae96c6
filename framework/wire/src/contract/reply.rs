//! The way back: the obligation to answer, to a caller beside or over a link.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;

use super::fault::{CallError, Fault, RpcError};
use super::scope::CallScope;
use super::slot::Slot;
use super::stream::{Handled, StreamWire};
use crate::status::{Code, Stage, Status};

/// Where the answers of requests that came over a link go. Implemented by the link.
pub trait ResponseSink: Send + Sync {
    /// Sends the answer of request `id`: MessagePack bytes or an error.
    fn respond(&self, id: u64, result: Result<&[u8], &Status>);
    /// The same for an answer whose bytes are handed over: a large one is not copied again.
    fn respond_owned(&self, id: u64, result: Vec<u8>) {
        self.respond(id, Ok(&result));
    }
    /// Whether the peer cancelled request `id`, or is gone.
    fn is_cancelled(&self, id: u64) -> bool;
    /// Cancels `scope` when the peer cancels request `id` or is gone, at once when that has happened.
    /// A sink that does nothing here leaves the calls of the handler to their deadline.
    fn on_cancel(&self, id: u64, scope: &Arc<CallScope>) {
        let _ = (id, scope);
    }
}

/// The answer address of one request that came over a link.
pub struct ReplyTo {
    sink: Arc<dyn ResponseSink>,
    id: u64,
    stream: Option<Arc<dyn StreamWire>>,
}

impl ReplyTo {
    /// The answer of request `id` goes to `sink`.
    pub fn new(sink: Arc<dyn ResponseSink>, id: u64) -> Self {
        Self { sink, id, stream: None }
    }

    /// The answer, and the items, of a call that was opened as a stream.
    pub fn stream(stream: Arc<dyn StreamWire>) -> Self {
        Self { sink: Arc::clone(&stream) as Arc<dyn ResponseSink>, id: 0, stream: Some(stream) }
    }

    /// The items of a call that was opened as a stream.
    pub(super) fn items(&self) -> Option<&Arc<dyn StreamWire>> {
        self.stream.as_ref()
    }

    /// The same address: the first answer stands.
    pub(super) fn twin(&self) -> Self {
        Self { sink: Arc::clone(&self.sink), id: self.id, stream: self.stream.clone() }
    }

    /// Sends the answer.
    pub fn respond(self, result: Result<&[u8], &Status>) {
        self.sink.respond(self.id, result);
    }

    /// Sends the answer that a buffer holds, which is taken out of it when it is large.
    fn respond_from(self, buffer: &mut Vec<u8>) {
        if buffer.len() > SCRATCH_BYTES_KEPT_MAX {
            self.sink.respond_owned(self.id, std::mem::take(buffer));
        } else {
            self.sink.respond(self.id, Ok(buffer));
        }
    }
}

pub(super) trait Cancelled: Send + Sync {
    fn is_cancelled(&self) -> bool;
    fn on_cancel(&self, scope: &Arc<CallScope>);
}

impl<R: Send> Cancelled for Slot<R> {
    fn is_cancelled(&self) -> bool {
        self.is_closed()
    }
    fn on_cancel(&self, scope: &Arc<CallScope>) {
        Slot::on_cancel(self, scope);
    }
}

/// Tells a running handler whether anybody still waits for its answer.
#[derive(Clone)]
pub struct CancelToken(Token);

#[derive(Clone)]
enum Token {
    Never,
    Local(Arc<dyn Cancelled>),
    Wire(Arc<dyn ResponseSink>, u64),
}

impl CancelToken {
    /// A token that is never cancelled.
    pub fn never() -> Self {
        Self(Token::Never)
    }

    /// Whether the caller has given up.
    pub fn is_cancelled(&self) -> bool {
        match &self.0 {
            Token::Never => false,
            Token::Local(slot) => slot.is_cancelled(),
            Token::Wire(sink, id) => sink.is_cancelled(*id),
        }
    }

    /// Cancels `scope` when the caller gives up.
    pub(super) fn on_cancel(&self, scope: &Arc<CallScope>) {
        match &self.0 {
            Token::Never => {}
            Token::Local(slot) => slot.on_cancel(scope),
            Token::Wire(sink, id) => sink.on_cancel(*id, scope),
        }
    }
}

enum Route<T, E> {
    Local(Arc<Slot<Result<T, CallError<E>>>>),
    Wire(ReplyTo),
    /// To the caller of a stream beside.
    Beside(Arc<dyn Handled<T>>),
    Gone,
}

/// The obligation to answer one call. Dropping it unanswered tells the caller so.
pub struct Reply<T: Serialize + Send + 'static, E: RpcError> {
    route: Route<T, E>,
}

impl<T: Serialize + Send + 'static, E: RpcError> Reply<T, E> {
    pub(super) fn local(slot: Arc<Slot<Result<T, CallError<E>>>>) -> Self {
        Self { route: Route::Local(slot) }
    }

    /// The answer goes over a link.
    pub fn wire(to: ReplyTo) -> Self {
        Self { route: Route::Wire(to) }
    }

    pub(super) fn beside(caller: Arc<dyn Handled<T>>) -> Self {
        Self { route: Route::Beside(caller) }
    }

    /// The token of a reply that may be absent: without a caller nobody gives up.
    pub fn token(reply: &Option<Self>) -> CancelToken {
        reply.as_ref().map_or_else(CancelToken::never, Self::cancel_token)
    }

    /// A token that says whether the caller has given up.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken(match &self.route {
            Route::Local(slot) => Token::Local(Arc::clone(slot) as Arc<dyn Cancelled>),
            Route::Wire(to) => Token::Wire(Arc::clone(&to.sink), to.id),
            Route::Beside(caller) => Token::Local(Arc::clone(caller) as Arc<dyn Cancelled>),
            Route::Gone => Token::Never,
        })
    }

    /// Whether the caller has given up.
    pub fn is_cancelled(&self) -> bool {
        match &self.route {
            Route::Local(slot) => slot.is_closed(),
            Route::Wire(to) => to.sink.is_cancelled(to.id),
            Route::Beside(caller) => caller.is_cancelled(),
            Route::Gone => true,
        }
    }

    /// Answers.
    pub fn send(mut self, result: Result<T, Fault<E>>) {
        match std::mem::replace(&mut self.route, Route::Gone) {
            Route::Local(slot) => slot.fill(result.map_err(|fault| match fault {
                Fault::Typed(error) => {
                    let status = super::fault::describe(&error);
                    CallError::Typed(error, status)
                }
                Fault::Status(status) => CallError::Status(status),
            })),
            Route::Wire(to) => match result {
                Ok(value) => with_scratch(|scratch| match crate::codec::to_named_in(&value, scratch) {
                    Ok(()) => to.respond_from(scratch),
                    Err(status) => to.respond(Err(&status)),
                }),
                Err(fault) => to.respond(Err(&fault.into_status())),
            },
            Route::Beside(caller) => caller.handled(result.map_err(Fault::into_status)),
            Route::Gone => {}
        }
    }

    /// Lets go of the obligation: the caller still waits, and somebody else answers.
    #[doc(hidden)]
    pub fn release(mut self) {
        self.route = Route::Gone;
    }

    /// Answers with an error that is not the service's own.
    pub fn reject(self, status: Status) {
        self.send(Err(Fault::Status(status)));
    }

    /// Runs a handler and answers with what it returns, or with its panic.
    ///
    /// # Errors
    /// [`Panic`] when the handler panicked, so that the host can restart the actor.
    pub async fn run(self, handler: impl Future<Output = Result<T, Fault<E>>>) -> Result<(), Panic> {
        match AssertUnwindSafe(handler).catch_unwind().await {
            Ok(result) => {
                self.send(result);
                Ok(())
            }
            Err(payload) => {
                let panic = Panic::from_payload(&*payload);
                self.send(Err(Fault::Status(
                    Status::new(Code::Internal, format!("the handler panicked: {}", panic.message))
                        .stage(Stage::Running),
                )));
                Err(panic)
            }
        }
    }
}

impl<T: Serialize + Send + 'static, E: RpcError> Drop for Reply<T, E> {
    fn drop(&mut self) {
        let dropped =
            || Status::internal("the actor dropped the call without an answer").stage(Stage::Running);
        match std::mem::replace(&mut self.route, Route::Gone) {
            Route::Local(slot) => slot.fill(Err(CallError::Status(dropped()))),
            Route::Wire(to) => to.respond(Err(&dropped())),
            Route::Beside(caller) => caller.handled(Err(dropped())),
            Route::Gone => {}
        }
    }
}

/// Tells the caller of a one-way call that it was admitted.
#[must_use = "the caller waits for it"]
pub struct Ack(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ack")
    }
}

impl Ack {
    /// What to do when the message has its place.
    pub fn new(send: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(send))
    }

    /// Tells it.
    pub fn send(self) {
        (self.0)();
    }
}

impl<E: RpcError> Reply<(), E> {
    /// The answer of a one-way call that is acknowledged when it is admitted.
    pub fn into_ack(self) -> Ack {
        Ack::new(move || self.send(Ok(())))
    }
}

/// A handler panicked; the text is the panic's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// What the panic said.
    pub message: String,
}

impl Panic {
    /// The panic behind a payload of `catch_unwind`.
    pub fn from_payload(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_owned());
        Self { message }
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Panic {}

/// A buffer that once held a large answer is given back to the allocator.
const SCRATCH_BYTES_KEPT_MAX: usize = 256 * 1024;

/// Lends a buffer that is kept by this thread, so that answers allocate nothing.
pub(super) fn with_scratch<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|cell| match cell.try_borrow_mut() {
        Ok(mut scratch) => {
            scratch.clear();
            let result = f(&mut scratch);
            if scratch.capacity() > SCRATCH_BYTES_KEPT_MAX {
                *scratch = Vec::new();
            }
            result
        }
        Err(_) => f(&mut Vec::new()),
    })
}
