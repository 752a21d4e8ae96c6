//! What the code of `derive(Service)` calls, so that it stays small. Not for people.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;

use super::call::Handle;
use super::caller::{BoxFuture, CallOptions, Caller, Target};
use super::cx::CallMeta;
use super::fault::{CallError, Fault, RpcError};
use super::reply::{Panic, Reply, ReplyTo};
use super::scope::CallScope;
use super::service::{MethodKind, MethodSpec, Params, Service};
use crate::status::{Code, Executed, Stage, Status};

/// The JSON Schema of a type, with its definitions.
#[must_use]
pub fn schema_of<T: schemars::JsonSchema>() -> schemars::Schema {
    schemars::SchemaGenerator::default().into_root_schema_for::<T>()
}

/// Decodes the params of a request into a call.
///
/// # Errors
/// `INVALID_ARGUMENT` with the path of the wrong field; the reply comes back unused.
pub fn decode_params<P: Params>(
    params: &[u8],
    meta: CallMeta,
    reply: Option<ReplyTo>,
) -> Result<<P::Service as Service>::Call, (Status, Option<ReplyTo>)> {
    match crate::codec::from_slice::<P>(params) {
        Ok(params) => Ok(params.into_call(meta, reply.map(Reply::wire))),
        Err(mut status) => {
            let method = P::Service::METHODS[P::METHOD].name;
            status.message = format!("{}/{method}: {}", P::Service::NAME, status.message);
            status.details_mut().stage.get_or_insert(Stage::Admission);
            Err((status, reply))
        }
    }
}

/// The error of a method number that the service does not have.
#[must_use]
pub fn no_such_method<S: Service>(method: usize) -> Status {
    Status::new(
        Code::Unimplemented,
        format!("{} has {} methods and no number {method}", S::NAME, S::METHODS.len()),
    )
    .executed(Executed::No)
    .stage(Stage::Admission)
}

/// Runs a handler, answers its caller, and returns the failure when there is no caller.
///
/// # Errors
/// [`Panic`] when the handler panicked, after the caller has been answered.
pub async fn answer<T: Serialize + Send + 'static, E: RpcError>(
    reply: Option<Reply<T, E>>,
    handler: impl Future<Output = Result<T, Fault<E>>>,
) -> Result<Option<Status>, Panic> {
    match reply {
        Some(reply) => reply.run(handler).await.map(|()| None),
        None => match AssertUnwindSafe(handler).catch_unwind().await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(fault)) => Ok(Some(fault.into_status())),
            Err(payload) => Err(Panic::from_payload(&*payload)),
        },
    }
}

/// The value of a one-way call's answer, which nobody sends: `Output` is `()` there, MessagePack's nil.
pub(super) fn nothing<P: Params>() -> Result<P::Output, Status> {
    debug_assert!(P::Service::METHODS[P::METHOD].kind == MethodKind::OneWay);
    crate::codec::from_slice(&[0xC0])
}

/// Longest wait of a call that is passed on for the node that it is passed on to. That node may have left; then
/// the call goes where its key belongs by now.
const FORWARD_PATIENCE: Duration = Duration::from_millis(500);

/// Makes a call again, to another target, and answers its caller with what comes back.
#[must_use]
pub fn forward<P: Params>(
    params: P,
    meta: CallMeta,
    reply: Option<Reply<P::Output, <P::Service as Service>::Error>>,
    caller: Arc<dyn Caller>,
    target: Target,
) -> BoxFuture<()> {
    // Who waits for the call, and who may cancel it, are the same at its new place.
    let scope = CallScope::new(meta.chain);
    if let Some(reply) = &reply {
        reply.cancel_token().on_cancel(&scope);
    }
    let options = CallOptions {
        deadline_at: meta.deadline,
        priority: Some(meta.priority),
        scope: Some(scope),
        trace: meta.trace,
        passed: meta.passed,
        nested: true,
        idempotency_key: meta.idempotency_key,
        node_patience: Some(FORWARD_PATIENCE),
        ..CallOptions::default()
    };
    let call = Handle::<P::Service>::new(Some(caller), target).with_options(options).call(params);
    Box::pin(async move {
        let answer = call.await;
        if let Some(reply) = reply {
            reply.send(answer.map_err(|error| match error {
                CallError::Typed(error, _) => Fault::Typed(error),
                CallError::Status(status) => Fault::Status(status),
            }));
        }
    })
}

/// The MessagePack of one parameter.
#[must_use]
pub fn encode_param<T: Serialize + ?Sized>(value: &T) -> Option<Vec<u8>> {
    crate::codec::to_named(value).ok()
}

/// Stops the compiler where a method of a keyed actor's contract has no parameter of the key's name.
///
/// # Panics
/// In a constant: that is the message of the compiler.
pub const fn assert_keyed(methods: &'static [MethodSpec], key: &str, message: &'static str) {
    let mut at = 0;
    while at < methods.len() {
        if !has_field(methods[at].fields, key) {
            panic!("{}", message);
        }
        at += 1;
    }
}

const fn has_field(fields: &[&str], key: &str) -> bool {
    let mut at = 0;
    while at < fields.len() {
        if same(fields[at].as_bytes(), key.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}
