//! A fixed list of addresses: for a handful of nodes that never move.

use std::sync::Arc;
use std::time::Duration;

use afflux_wire::Incarnation;
use afflux_wire::NodeId;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;

use crate::error::RegistryError;
use crate::instance::Instance;
use crate::registry::{Fence, LeaseId, Registry};
use crate::view::{Publisher, View, Watcher};

const NAME: &str = "static";

/// A list of addresses that never changes, with the record of this process among them. It knows of no
/// other node more than its address, never removes one, and has no locks.
///
/// ```
/// use afflux_registry::{Registry, StaticRegistry};
/// let registry = StaticRegistry::new(["10.0.0.4:7400", "10.0.0.5:7400"]);
/// assert_eq!(registry.watch().latest().instances.len(), 2);
/// ```
pub struct StaticRegistry {
    addresses: Vec<String>,
    /// What this process registered here, with its lease.
    own: Mutex<Option<(LeaseId, Instance)>>,
    publisher: Publisher,
}

impl StaticRegistry {
    /// A registry of these addresses, each `host:port`.
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        addresses.sort();
        addresses.dedup();
        let registry = Self { addresses, own: Mutex::new(None), publisher: Publisher::new() };
        registry.publish(None);
        registry
    }

    /// A node that is known by its address alone bears it as its name, until a handshake tells more.
    fn publish(&self, own: Option<&Instance>) {
        let others = self.addresses.iter().filter(|a| own.is_none_or(|own| own.address != **a));
        let mut instances: Vec<_> =
            others.map(|a| Instance::new(NodeId::new(a.as_str()), Incarnation(0), a.as_str())).collect();
        instances.extend(own.cloned());
        self.publisher.seen(instances);
    }
}

fn no_locks<'a, R: Send + 'a>() -> BoxFuture<'a, Result<R, RegistryError>> {
    unsupported("locks")
}

fn unsupported<'a, R: Send + 'a>(what: &'static str) -> BoxFuture<'a, Result<R, RegistryError>> {
    Box::pin(std::future::ready(Err(RegistryError::Unsupported { registry: NAME, what })))
}

impl Registry for StaticRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn coordinates(&self) -> Result<(), RegistryError> {
        Err(RegistryError::Unsupported { registry: NAME, what: "leases" })
    }

    fn register(&self, instance: Instance, _ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
        let mut own = self.own.lock();
        let lease = LeaseId(own.as_ref().map_or(1, |(lease, _)| lease.0 + 1));
        self.publish(Some(&instance));
        *own = Some((lease, instance));
        Box::pin(std::future::ready(Ok(lease)))
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        let held = self.own.lock().as_ref().is_some_and(|(own, _)| *own == lease);
        let lost = RegistryError::LeaseLost { registry: NAME, lease };
        Box::pin(std::future::ready(if held { Ok(()) } else { Err(lost) }))
    }

    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        let mut own = self.own.lock();
        if own.as_ref().is_some_and(|(own, _)| *own == lease) {
            *own = None;
            self.publish(None);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
        Box::pin(std::future::ready(Ok(self.publisher.view())))
    }

    fn watch(&self) -> Watcher {
        self.publisher.watcher()
    }

    fn acquire<'a>(
        &'a self,
        _name: &'a str,
        _holder: &'a str,
        _ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
        no_locks()
    }

    fn renew<'a>(&'a self, _name: &'a str, _fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        no_locks()
    }

    fn release<'a>(&'a self, _name: &'a str, _fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        no_locks()
    }

    fn holder<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
        no_locks()
    }

    fn counter<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
        unsupported("counters")
    }

    fn counter_compare_and_set<'a>(
        &'a self,
        _name: &'a str,
        _expected: i64,
        _new: i64,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        unsupported("counters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn names(registry: &StaticRegistry) -> Vec<String> {
        let view = registry.watch().latest();
        assert!(view.reachable);
        view.instances.iter().map(|i| format!("{}@{}", i.node, i.address)).collect()
    }

    #[test]
    fn the_record_of_this_process_takes_the_place_of_its_address() {
        let registry = StaticRegistry::new(["h:2", "h:1", "h:2"]);
        assert_eq!(names(&registry), ["h:1@h:1", "h:2@h:2"]);
        let own = Instance::new("me", Incarnation(4), "h:2");
        let lease = registry.register(own, Duration::from_secs(1)).now_or_never().unwrap().unwrap();
        assert_eq!(names(&registry), ["h:1@h:1", "me@h:2"]);
        assert_eq!(registry.keep_alive(lease).now_or_never(), Some(Ok(())));
        registry.deregister(lease).now_or_never().unwrap().unwrap();
        assert_eq!(names(&registry), ["h:1@h:1", "h:2@h:2"]);
        assert!(registry.keep_alive(lease).now_or_never().unwrap().is_err());
    }

    #[test]
    fn it_refuses_locks_and_names_itself() {
        let registry = StaticRegistry::new(["h:1"]);
        let error = registry.acquire("leader", "a", Duration::from_secs(1)).now_or_never().unwrap();
        let message = error.unwrap_err().to_string();
        assert!(message.contains("registry static has no locks"), "{message}");
        let error = registry.counter_add("orders", 1).now_or_never().unwrap().unwrap_err();
        assert!(error.to_string().contains("registry static has no counters"), "{error}");
        assert!(registry.coordinates().unwrap_err().to_string().contains("use memory, etcd"));
    }
}
