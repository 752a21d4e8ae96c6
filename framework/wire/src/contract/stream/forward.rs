//! A streaming call that is made again, to another target: items pass from one to the other.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::super::call::Handle;
use super::super::caller::{BoxFuture, CallOptions, Caller, Target};
use super::super::cx::CallMeta;
use super::super::fault::Fault;
use super::super::scope::CallScope;
use super::super::service::Service;
use super::emit::{Emit, Feed};
use super::incoming::Incoming;
use super::shape::{Ends, Item, Shape, StreamParams};
use crate::status::Status;

type Opened<P> =
    <<P as StreamParams>::Shape as Shape>::Opened<<<P as StreamParams>::Service as Service>::Error>;

/// Makes a streaming call again, to another target, and passes on the items of both directions.
#[must_use]
pub fn forward_stream<P: StreamParams>(
    params: P,
    meta: CallMeta,
    ends: Ends<P::Shape, <P::Service as Service>::Error>,
    caller: Arc<dyn Caller>,
    target: Target,
) -> BoxFuture<()>
where
    Opened<P>: Send,
{
    let options = CallOptions {
        scope: Some(CallScope::new(meta.chain)),
        priority: Some(meta.priority),
        deadline_at: meta.deadline,
        trace: meta.trace,
        passed: meta.passed,
        nested: true,
        idempotency_key: meta.idempotency_key,
        ..CallOptions::default()
    };
    let call = Handle::<P::Service>::new(Some(caller), target).with_options(options).open(params);
    Box::pin(async move {
        let (incoming, emit, reply) = ends.split();
        let result = match call.await {
            Ok(opened) => P::Shape::forward(opened, incoming, emit).await,
            Err(error) => Err(error.into_status()),
        };
        reply.send(result.map_err(Fault::Status));
    })
}

/// Passes on what a service sends.
pub(super) async fn down<T: Item>(mut from: Incoming<T>, mut to: Emit<T>) -> Result<(), Status> {
    while let Some(item) = from.next().await {
        to.send(item?).await?;
    }
    Ok(())
}

/// Passes on what a caller sends. Why the other side takes no more, the end of its call says.
pub(super) async fn up<T: Item>(mut from: Incoming<T>, mut to: Feed<T>) {
    while let Some(item) = from.next().await {
        let Ok(item) = item else { return };
        if to.send(item).await.is_err() {
            return;
        }
    }
    to.finish();
}

/// Runs one beside the other until the other is done.
pub(super) async fn both<R>(beside: impl Future<Output = ()>, until: impl Future<Output = R>) -> R {
    let (mut beside, mut until) = (pin!(beside), pin!(until));
    let mut running = true;
    poll_fn(|cx| {
        if running && beside.as_mut().poll(cx).is_ready() {
            running = false;
        }
        match until.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
