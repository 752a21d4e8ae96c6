//! Locks, elections and counters of the cluster, by name.

use afflux_registry::{Counter, Election, Guard};

use super::Node;
use crate::error::{Error, Result};

/// What the framework's own locks begin with.
const RESERVED: [&str; 2] = ["afflux.", "service/"];

fn check(name: &str) -> Result<()> {
    match RESERVED.iter().find(|reserved| name.starts_with(**reserved)) {
        Some(reserved) => Err(Error::usage(format!("the name `{name}` is the framework's own"))
            .hint(format!("choose one that does not begin with `{reserved}`"))),
        None => Ok(()),
    }
}

impl Node {
    /// Waits for a lock of the cluster and keeps it until the guard is released, dropped or lost.
    ///
    /// Safe only with its fence: a holder that was stopped goes on writing when it wakes, and only
    /// whoever compares [`Guard::fence`] can refuse it.
    ///
    /// # Errors
    /// A registry without leases (static, dns), named with the cure; one that does not answer.
    pub async fn lock(&self, name: &str) -> Result<Guard> {
        check(name)?;
        Ok(self.inner.coordination.lock(name).await?)
    }

    /// Takes a lock of the cluster if it is free now.
    ///
    /// # Errors
    /// As [`Node::lock`].
    pub async fn try_lock(&self, name: &str) -> Result<Option<Guard>> {
        check(name)?;
        Ok(self.inner.coordination.try_lock(name).await?)
    }

    /// Takes part in an election until the handle is resigned or dropped.
    ///
    /// # Errors
    /// A registry without leases, named with the cure; a name that cannot be one.
    pub fn elect(&self, name: &str) -> Result<Election> {
        check(name)?;
        let election = self.inner.coordination.elect(name)?;
        let leads = self.inner.registry_metrics.election(name);
        let mut turns = election.turns();
        self.io().spawn_future(async move {
            while turns.changed().await.is_ok() {
                leads.turn(turns.borrow_and_update().is_some());
            }
            leads.turn(false);
        });
        Ok(election)
    }

    /// A counter of the cluster.
    ///
    /// # Errors
    /// A registry without counters, named with the cure; a name that cannot be one.
    pub fn counter(&self, name: &str) -> Result<Counter> {
        check(name)?;
        Ok(self.inner.coordination.counter(name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_framework_is_refused_with_the_cure() {
        for name in ["afflux.jobs", "service/book"] {
            assert!(check(name).unwrap_err().to_string().contains("does not begin with"));
        }
        assert!(check("nightly").is_ok());
    }
}
