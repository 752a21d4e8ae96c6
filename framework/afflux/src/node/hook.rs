//! What a program runs on every node, beside its services.

use std::sync::Arc;

use afflux_actor::Place;
use futures_util::future::BoxFuture;

use super::Node;
use crate::error::Result;

/// Makes the future that runs on a node.
pub(crate) type Hook = Arc<dyn Fn(Node) -> BoxFuture<'static, Result<()>> + Send + Sync>;

pub(crate) fn boxed<F>(hook: impl Fn(Node) -> F + Send + Sync + 'static) -> Hook
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    Arc::new(move |node| Box::pin(hook(node)))
}

/// Runs all of them. What fails is told; the node goes on.
pub(super) fn start(hooks: Vec<Hook>, node: &Node, place: &Place) {
    for hook in hooks {
        let work = hook(node.clone());
        place.spawn_future(async move {
            if let Err(error) = work.await {
                tracing::error!(%error, "what runs on the start of a node has failed");
            }
        });
    }
}
