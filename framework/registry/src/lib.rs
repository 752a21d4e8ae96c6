//! Who is there, and who leads.
//!
//! Reading order: [`Instance`] (one node's record), [`View`] and [`Watcher`] (all of them, as last
//! seen), [`Registry`] (what a registry can do), [`MemoryRegistry`] and [`StaticRegistry`] (two that
//! need no server), [`Registration`] (keeping one's own record there), [`Coordination`] (locks, elections
//! and counters for users).
//!
//! Three rules hold over every registry, and `suite` tests them: a record lives as long as its lease;
//! "unreachable" and "empty" are different answers; a fencing token is greater than all before it.
//!
//! Not here: links and balancing (`afflux-mesh`). What is found here is soft state: evidence from a
//! connection overrides it.

mod coordination;
#[cfg(feature = "dns")]
mod dns;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod instance;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
mod key;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod memory;
mod registration;
mod registry;
mod static_list;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
mod view;
pub mod watch;
#[cfg(feature = "zookeeper")]
mod zookeeper;

pub use coordination::{Coordination, Counter, Election, Guard, Leader, Leadership, Spawner, hold};
#[cfg(feature = "dns")]
pub use dns::{DnsConfig, DnsRegistry};
pub use error::RegistryError;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdConfig, EtcdRegistry, EtcdTls};
pub use instance::{Instance, InstanceState, ServiceRecord};
#[cfg(feature = "kubernetes")]
pub use kubernetes::{KubernetesConfig, KubernetesRegistry};
pub use memory::MemoryRegistry;
pub use registration::{Registration, RegistrationState};
pub use registry::{Fence, LeaseId, Registry};
pub use static_list::StaticRegistry;
pub use view::{Publisher, View, Watcher};
#[cfg(feature = "zookeeper")]
pub use zookeeper::{ZookeeperConfig, ZookeeperRegistry};
