//! All nodes, as last seen.

use std::sync::Arc;
use std::time::Duration;

use afflux_wire::NodeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::instance::{Instance, InstanceState};
use crate::watch;

/// A full snapshot of a registry: never a difference, so that nothing can be missed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Grows with every change that was seen.
    pub version: u64,
    /// One record a node, in the order of their names.
    pub instances: Vec<Instance>,
    /// Whether the registry answered. When it did not, `instances` is what it said last.
    pub reachable: bool,
}

impl View {
    /// The record of a node.
    pub fn instance(&self, node: &NodeId) -> Option<&Instance> {
        self.instances.iter().find(|i| i.node == *node)
    }

    /// The nodes that offer a service and take new calls.
    pub fn offering<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances.iter().filter(move |i| i.state == InstanceState::Ready && i.offers(service))
    }
}

/// Publishes what a registry says to its watchers: the writing half for implementors.
///
/// ```
/// use afflux_registry::{Instance, Publisher};
/// use afflux_wire::Incarnation;
/// let publisher = Publisher::new();
/// publisher.seen(vec![Instance::new("n", Incarnation(1), "h:1")]);
/// publisher.unreachable();
/// let view = publisher.view();
/// assert_eq!((view.version, view.instances.len(), view.reachable), (2, 1, false));
/// ```
#[derive(Debug)]
pub struct Publisher {
    sender: watch::Sender<Arc<View>>,
    heard: Arc<Mutex<Option<Instant>>>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Publisher {
    /// Begins with an empty view of a registry that has not answered yet.
    pub fn new() -> Self {
        Self { sender: watch::Sender::new(Arc::new(View::default())), heard: Arc::default() }
    }

    /// The registry answered, with all of its records. Nothing happens when nothing changed.
    pub fn seen(&self, mut instances: Vec<Instance>) {
        self.heard();
        instances.sort_by(|a, b| a.node.cmp(&b.node));
        self.sender.send_if_modified(|view| {
            if view.reachable && view.instances == instances {
                return false;
            }
            *view = Arc::new(View { version: view.version + 1, instances, reachable: true });
            true
        });
    }

    /// The registry answered, and nothing has changed.
    pub fn heard(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    /// The registry did not answer: the last good records stay.
    pub fn unreachable(&self) {
        self.sender.send_if_modified(|view| {
            if !view.reachable {
                return false;
            }
            let instances = view.instances.clone();
            *view = Arc::new(View { version: view.version + 1, instances, reachable: false });
            true
        });
    }

    /// What was published last.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.sender.borrow())
    }

    /// A watcher that begins with the present view.
    pub fn watcher(&self) -> Watcher {
        let mut receiver = self.sender.subscribe();
        receiver.mark_changed();
        Watcher { receiver, heard: Arc::clone(&self.heard), expiry: None }
    }
}

/// What makes time-dependent changes visible to a watcher without a task of its own.
pub(crate) trait Expiry: Send + Sync {
    /// Publishes what has expired by now; returns when something will next expire.
    fn expire(&self) -> Option<Instant>;
}

/// A subscription to views. It conflates: a slow watcher gets the latest view and no backlog.
pub struct Watcher {
    receiver: watch::Receiver<Arc<View>>,
    heard: Arc<Mutex<Option<Instant>>>,
    expiry: Option<Arc<dyn Expiry>>,
}

impl Watcher {
    pub(crate) fn expiring(mut self, expiry: Arc<dyn Expiry>) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// The present view the first time; then the next one that differs. `None` when the registry is
    /// gone. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Arc<View>> {
        loop {
            let next_expiry = self.expiry.as_ref().and_then(|e| e.expire());
            let changed = self.receiver.changed();
            let changed = match next_expiry {
                Some(at) => match tokio::time::timeout_at(at, changed).await {
                    Ok(changed) => changed,
                    Err(_elapsed) => continue,
                },
                None => changed.await,
            };
            changed.ok()?;
            return Some(Arc::clone(&self.receiver.borrow_and_update()));
        }
    }

    /// How long ago the registry was last heard of; `None` when it never was. One in this process is
    /// heard of whenever it is asked.
    pub fn silence(&self) -> Option<Duration> {
        if self.expiry.is_some() && self.latest().reachable {
            return Some(Duration::ZERO);
        }
        (*self.heard.lock()).map(|at| at.elapsed())
    }

    /// What was seen last, without waiting.
    pub fn latest(&self) -> Arc<View> {
        Arc::clone(&self.receiver.borrow())
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watcher(version {})", self.receiver.borrow().version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::Incarnation;
    use futures_util::FutureExt;

    #[test]
    fn a_draining_node_is_in_the_view_but_gets_no_new_calls() {
        let ready = Instance::new("a", Incarnation(1), "h:1").offering("s", "1");
        let mut draining = Instance::new("b", Incarnation(1), "h:2").offering("s", "1");
        draining.state = InstanceState::Draining;
        let publisher = Publisher::new();
        publisher.seen(vec![draining, ready]);
        let view = publisher.view();
        let names: Vec<_> = view.offering("s").map(|i| i.node.as_str().to_owned()).collect();
        assert_eq!(names, ["a"]);
        assert!(view.instance(&NodeId::new("b")).is_some());
    }

    #[test]
    fn the_same_records_again_wake_nobody() {
        let publisher = Publisher::new();
        let records = || vec![Instance::new("a", Incarnation(1), "h:1")];
        publisher.seen(records());
        let mut watcher = publisher.watcher();
        assert!(watcher.next().now_or_never().is_some());
        publisher.seen(records());
        assert!(watcher.next().now_or_never().is_none());
    }

    #[test]
    fn a_watcher_whose_registry_is_gone_is_told_so() {
        let publisher = Publisher::new();
        let mut watcher = publisher.watcher();
        assert!(watcher.next().now_or_never().flatten().is_some());
        drop(publisher);
        assert_eq!(watcher.next().now_or_never(), Some(None));
    }
}
