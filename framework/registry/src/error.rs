//! Why a registry did not do what it was asked.

use std::time::Duration;

use afflux_wire::{Code, Executed, Incarnation, NodeId, Status};

use crate::registry::LeaseId;

/// Why a registry did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It gave no answer: nothing is known of what is in it.
    #[error("the registry {registry} cannot be reached: {reason}")]
    Unreachable {
        /// The registry's name.
        registry: &'static str,
        /// What happened.
        reason: String,
    },
    /// The lease has expired, or another registration has taken its place: register again.
    #[error("{lease} has expired in the registry {registry}: register again")]
    LeaseLost {
        /// The registry's name.
        registry: &'static str,
        /// The lease.
        lease: LeaseId,
    },
    /// A later life of the same node is registered: this one is over.
    #[error(
        "node {node} is registered with incarnation {newer:?}, later than {ours:?}: this process is the \
         old one and has to end"
    )]
    Superseded {
        /// The node.
        node: NodeId,
        /// The incarnation that was refused.
        ours: Incarnation,
        /// The one that is registered.
        newer: Incarnation,
    },
    /// The lock is not held with this fencing token, or no longer.
    #[error("the lock {name:?} is not held with fencing token {fence}: acquire it again")]
    NotHeld {
        /// The lock.
        name: String,
        /// The token.
        fence: u64,
    },
    /// This registry cannot do that at all.
    #[error("the registry {registry} has no {what}: use memory, etcd, ZooKeeper or Kubernetes for that")]
    Unsupported {
        /// The registry's name.
        registry: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// A limit of the registry.
    #[error("the registry {registry} holds {max} {what}, its limit: {cure}")]
    Full {
        /// The registry's name.
        registry: &'static str,
        /// Of what.
        what: &'static str,
        /// How many fit.
        max: usize,
        /// What helps.
        cure: &'static str,
    },
    /// A counter cannot hold that.
    #[error("the counter {name:?} is {value}: adding {n} leaves the range of a 64-bit number")]
    Overflow {
        /// The counter.
        name: String,
        /// Its value.
        value: i64,
        /// What was to be added.
        n: i64,
    },
    /// A name that cannot be part of a key.
    #[error("the name {name:?} of a lock or a counter is not 1 to {max} bytes without control characters")]
    Name {
        /// The name, cut.
        name: String,
        /// The most bytes.
        max: usize,
    },
    /// Settings that make no registry.
    #[error("the registry {registry} cannot be set up: {reason}")]
    Setup {
        /// The registry's name.
        registry: &'static str,
        /// What is wrong and what to change.
        reason: String,
    },
    /// A time to live that nothing can be kept alive with.
    #[error("a time to live of {ttl:?} is outside {min:?} to {max:?}")]
    Ttl {
        /// The one asked for.
        ttl: Duration,
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let code = match &error {
            RegistryError::Unreachable { .. } => Code::Unavailable,
            RegistryError::LeaseLost { .. } => Code::NotFound,
            RegistryError::Superseded { .. } | RegistryError::NotHeld { .. } => Code::Aborted,
            RegistryError::Unsupported { .. } => Code::Unimplemented,
            RegistryError::Full { .. } => Code::ResourceExhausted,
            RegistryError::Overflow { .. } => Code::OutOfRange,
            RegistryError::Name { .. } | RegistryError::Ttl { .. } => Code::InvalidArgument,
            RegistryError::Setup { .. } => Code::FailedPrecondition,
        };
        let executed = match &error {
            RegistryError::Unreachable { .. } => Executed::Maybe,
            _ => Executed::No,
        };
        Status::new(code, error.to_string()).executed(executed)
    }
}
