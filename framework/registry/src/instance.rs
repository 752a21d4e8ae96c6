//! The record of one node.

use std::collections::BTreeMap;

use afflux_wire::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use crate::error::RegistryError;

/// Whether a node takes new work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// It does.
    #[default]
    Ready,
    /// It finishes what it has. Any state that a later version may add counts as this one here.
    #[serde(other)]
    Draining,
}

/// A service that a node offers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The name, such as `shop.orders`.
    pub name: String,
    /// The version of the contract.
    #[serde(default)]
    pub version: String,
}

/// The record of one life of one node. On the wire a named map; unknown fields are ignored and absent
/// ones take their defaults, so that two versions can share a registry.
///
/// ```
/// use afflux_registry::Instance;
/// use afflux_wire::Incarnation;
/// let instance = Instance::new("orders-1", Incarnation(7), "10.0.0.4:7400").offering("shop.orders", "1.2");
/// assert!(instance.offers("shop.orders") && !instance.offers("shop.billing"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The node.
    pub node: NodeId,
    /// Which of its lives; 0 while it is known by its address alone.
    pub incarnation: Incarnation,
    /// Host and port of its node port.
    pub address: String,
    /// Host and port of its admin HTTP, if it has one.
    #[serde(default)]
    pub admin: Option<String>,
    /// What it offers.
    #[serde(default)]
    pub services: Vec<ServiceRecord>,
    /// What its operator says of it: zone, version, weight.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its build: pipelines run on nodes of one build.
    #[serde(default)]
    pub build: String,
    /// Threads it offers to tasks.
    #[serde(default)]
    pub slots: u32,
    /// Whether it takes new work.
    #[serde(default)]
    pub state: InstanceState,
}

impl Instance {
    /// A ready node that offers nothing yet.
    pub fn new(node: impl Into<NodeId>, incarnation: Incarnation, address: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            incarnation,
            address: address.into(),
            admin: None,
            services: Vec::new(),
            labels: BTreeMap::new(),
            build: String::new(),
            slots: 0,
            state: InstanceState::Ready,
        }
    }

    /// Adds a service.
    #[must_use]
    pub fn offering(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.services.push(ServiceRecord { name: name.into(), version: version.into() });
        self
    }

    /// Whether it offers this service.
    pub fn offers(&self, service: &str) -> bool {
        self.services.iter().any(|s| s.name == service)
    }

    /// Whether more is known of it than its address.
    pub fn is_identified(&self) -> bool {
        self.incarnation != Incarnation(0)
    }

    /// Refuses this record where a later life of its node is registered.
    pub(crate) fn check_not_superseded(&self, registered: Incarnation) -> Result<(), RegistryError> {
        if registered <= self.incarnation {
            return Ok(());
        }
        Err(RegistryError::Superseded { node: self.node.clone(), ours: self.incarnation, newer: registered })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_later_version_is_read_with_its_unknown_state_as_draining() {
        let text = r#"{"node":"n","incarnation":3,"address":"h:1","state":"hibernating","mood":[1]}"#;
        let instance: Instance = serde_json::from_str(text).unwrap();
        assert_eq!(instance.state, InstanceState::Draining);
        assert_eq!(instance.services, []);
    }

    #[test]
    fn a_record_survives_its_encoding() {
        let mut instance = Instance::new("n", Incarnation(u64::MAX), "h:1").offering("a.b", "1");
        instance.labels.insert("zone".into(), "a".into());
        instance.state = InstanceState::Draining;
        let text = serde_json::to_string(&instance).unwrap();
        assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), instance);
    }
}
