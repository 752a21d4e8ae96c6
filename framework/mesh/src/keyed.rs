//! Keyed services: which node a key belongs to. Keys to partitions, partitions to nodes; the same answer
//! on every node that has the same view.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use afflux_registry::{InstanceState, View};
use afflux_wire::contract::{Outgoing, Target};
use afflux_wire::{Incarnation, NodeId};
use parking_lot::RwLock;

use crate::config::mix;
use crate::mesh::Shared;

/// Partitions of every keyed service: the number is the same on all nodes and builds.
///
/// One lock of the registry each, so this is also what a keyed service costs there; and no more nodes
/// than this can share its keys.
pub const KEYED_PARTITIONS: u32 = 64;

/// In a node's record, the label of a keyed service: this and its name. The value is the parameter that
/// is the key, a blank, and the name under which the partitions are owned.
pub const KEYED_LABEL: &str = "afflux.keyed/";

/// The partition of a key, which is the MessagePack of the key's parameter.
///
/// ```
/// assert!(afflux_mesh::partition_of(b"\xa5alice") < afflux_mesh::KEYED_PARTITIONS);
/// ```
#[must_use]
pub fn partition_of(key: &[u8]) -> u32 {
    // The upper bits of a product spread better than a remainder, and cost no division.
    ((u128::from(mix(fnv(key))) * u128::from(KEYED_PARTITIONS)) >> 64) as u32
}

/// The node that is to own a partition: that of the greatest weight (rendezvous hashing, Thaler and
/// Ravishankar 1996), so that a node that comes or goes moves only what it gets or had.
#[must_use]
pub fn owner_of<'a>(
    name: &str,
    partition: u32,
    nodes: impl Iterator<Item = &'a NodeId>,
) -> Option<&'a NodeId> {
    let seed = mix(fnv(name.as_bytes()) ^ (u64::from(partition) << 32));
    nodes.max_by_key(|node| (mix(fnv(node.as_str().as_bytes()) ^ seed), node.as_str()))
}

/// FNV-1a, 64 bit.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The nodes that share the partitions owned under `name`, in the order of their names.
pub fn keyed_nodes<'a>(
    view: &'a View,
    service: &'a str,
) -> impl Iterator<Item = (&'a NodeId, Incarnation)> + 'a {
    let label = format!("{KEYED_LABEL}{service}");
    view.instances
        .iter()
        .filter(move |i| {
            i.state == InstanceState::Ready && i.offers(service) && i.labels.contains_key(&label)
        })
        .map(|i| (&i.node, i.incarnation))
}

struct KeyedService {
    param: String,
    name: String,
    nodes: Vec<NodeId>,
}

/// Where the calls of keyed services go, as the registry's view says.
#[derive(Default)]
pub(crate) struct KeyedRoutes {
    any: AtomicBool,
    services: RwLock<BTreeMap<String, KeyedService>>,
}

impl KeyedRoutes {
    pub(crate) fn set_view(&self, view: &View) {
        let mut services: BTreeMap<String, KeyedService> = BTreeMap::new();
        for instance in &view.instances {
            for (label, value) in &instance.labels {
                let Some(service) = label.strip_prefix(KEYED_LABEL) else { continue };
                let Some((param, name)) = value.split_once(' ') else { continue };
                services.entry(service.to_owned()).or_insert_with(|| KeyedService {
                    param: param.to_owned(),
                    name: name.to_owned(),
                    nodes: keyed_nodes(view, service).map(|(node, _)| node.clone()).collect(),
                });
            }
        }
        self.any.store(!services.is_empty(), Ordering::Release);
        *self.services.write() = services;
    }

    fn node(&self, target: &Target, call: &dyn Outgoing) -> Option<NodeId> {
        let services = self.services.read();
        let service = services.get(&*target.service)?;
        let key = call.param(&service.param)?;
        owner_of(&service.name, partition_of(&key), service.nodes.iter()).cloned()
    }
}

impl Shared {
    /// The node that is to answer a call of a keyed service, where the call does not name one.
    #[inline]
    pub(crate) fn keyed_target(&self, target: &Target, call: &dyn Outgoing) -> Option<Target> {
        if target.node.is_some() || !self.keyed.any.load(Ordering::Acquire) {
            return None;
        }
        let node = self.keyed.node(target, call)?;
        Some(Target { node: Some(node), ..target.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(n: usize) -> Vec<NodeId> {
        (1..=n).map(|i| NodeId::new(format!("node-{i}"))).collect()
    }

    fn owners(nodes: &[NodeId]) -> Vec<&NodeId> {
        (0..KEYED_PARTITIONS).map(|p| owner_of("accounts", p, nodes.iter()).unwrap()).collect()
    }

    #[test]
    fn keys_and_partitions_stay_where_they_are_from_build_to_build() {
        let partitions = ["alice", "bob", "carol"].map(|key| partition_of(key.as_bytes()));
        let three = nodes(3);
        let first: String = owners(&three)[..16].iter().map(|node| &node.as_str()[5..]).collect();
        assert_eq!((partitions, first.as_str()), ([6, 7, 13], "3312311223113313"));
    }

    #[test]
    fn every_node_gets_its_share_of_partitions() {
        let four = nodes(4);
        let owners = owners(&four);
        for node in &four {
            let share = owners.iter().filter(|owner| **owner == node).count();
            assert!((6..=28).contains(&share), "{node} has {share} of {KEYED_PARTITIONS}");
        }
    }

    #[test]
    fn a_node_that_joins_takes_and_one_that_leaves_gives_and_nothing_else_moves() {
        let (three, four) = (nodes(3), nodes(4));
        for (before, after) in owners(&three).iter().zip(owners(&four)) {
            assert!(*before == after || after.as_str() == "node-4", "{before} to {after}");
        }
    }

    #[test]
    fn without_nodes_nobody_owns_anything() {
        assert_eq!(owner_of("s", 0, [].into_iter()), None);
    }
}
