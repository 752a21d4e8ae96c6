//! Keyed services of a node: declared, owned in part, given back when the node leaves.

use std::sync::Arc;
use std::time::Duration;

use afflux_mesh::KEYED_LABEL;
use afflux_wire::NodeId;
use tokio::sync::Notify;

use super::Node;
use crate::error::{Error, Result};
use crate::keyed::{DeclaredKeyed, Drive, KeyedMetrics, KeyedParts, run};
use crate::node_service::NodeService;

impl Node {
    /// Offers keyed services, and owns its share of their keys until it leaves.
    ///
    /// # Errors
    /// A registry without locks, which cannot say who owns a key.
    pub(super) fn host_keyed(&self, declared: &[DeclaredKeyed]) -> Result<()> {
        if declared.is_empty() {
            return Ok(());
        }
        let inner = &self.inner;
        let metrics = KeyedMetrics::new(&inner.metrics)?;
        for keyed in declared {
            inner.registry.coordinates().map_err(|error| {
                Error::usage(format!("the actor {} has a key, and {error}", keyed.name))
                    .hint("a keyed actor has one owner at a time, which a lock of the registry says")
            })?;
            let wake = Arc::new(Notify::new());
            let parts = KeyedParts {
                around: inner.around.clone(),
                node: self.id().clone(),
                view: Arc::new(inner.registry.watch()),
                wake: Arc::clone(&wake),
                metrics: metrics.clone(),
            };
            let (host, entries) = keyed.start(parts);
            inner.facts.nudges.lock().push((keyed.name.clone(), Arc::clone(&wake)));
            {
                let mut labels = inner.facts.labels.lock();
                for entry in &entries {
                    let label = format!("{KEYED_LABEL}{}", entry.name);
                    labels.insert(label, format!("{} {}", keyed.keyed.param, keyed.name));
                }
            }
            for entry in entries {
                self.offer(entry);
            }
            let (mesh, place, name) = (inner.mesh.clone(), self.io().clone(), keyed.name.clone());
            let vacated = move |node: NodeId| {
                let call = mesh.client_on::<NodeService>(&node).vacated(name.clone()).fail_fast();
                place.spawn_future(async move {
                    if let Err(error) = call.await {
                        tracing::debug!(%node, %error, "a node was not told of partitions that are free");
                    }
                });
            };
            let (registry, name) = (Arc::clone(&inner.registry), keyed.name.clone());
            let holder = format!("{}/{}", self.id(), inner.mesh.incarnation().0);
            let (ttl, metrics) = (Duration::from_millis(inner.settings.registry_ttl_ms), metrics.clone());
            self.until_closing(move |closing| {
                let vacated = Box::new(vacated);
                Box::pin(run(Drive { name, host, registry, holder, ttl, closing, wake, vacated, metrics }))
            });
        }
        Ok(())
    }
}
