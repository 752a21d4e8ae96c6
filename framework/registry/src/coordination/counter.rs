//! A number that the whole cluster sees.

use std::fmt;
use std::sync::Arc;

use crate::error::RegistryError;
use crate::registry::Registry;

/// A counter of the cluster: 64 bits, 0 at first, linearizable where the registry is. It has no lease
/// and stays when its users are gone. Every operation is a request to the registry: thousands a second
/// belong into an actor.
///
/// After [`RegistryError::Unreachable`] a change may have happened or not; who needs to know counts
/// with [`compare_and_set`](Self::compare_and_set), which can be tried again.
#[derive(Clone)]
pub struct Counter {
    registry: Arc<dyn Registry>,
    name: Arc<str>,
}

impl Counter {
    pub(super) fn new(registry: Arc<dyn Registry>, name: &str) -> Self {
        Self { registry, name: name.into() }
    }

    /// The counter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`].
    pub async fn get(&self) -> Result<i64, RegistryError> {
        self.registry.counter(&self.name).await
    }

    /// Adds; returns the new value, which no other addition gets.
    ///
    /// # Errors
    /// [`RegistryError::Overflow`], with nothing changed; [`RegistryError::Unreachable`], with nothing
    /// known.
    pub async fn add(&self, n: i64) -> Result<i64, RegistryError> {
        self.registry.counter_add(&self.name, n).await
    }

    /// Sets it to `new` if it is `expected`; whether it was.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`], with nothing known.
    pub async fn compare_and_set(&self, expected: i64, new: i64) -> Result<bool, RegistryError> {
        self.registry.counter_compare_and_set(&self.name, expected, new).await
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counter({:?})", self.name)
    }
}
