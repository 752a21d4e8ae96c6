//! A transactional id with its producer.

use std::sync::Arc;
use std::time::Duration;

use afflux_stream::{IoContext, Result};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer, ThreadedProducer};
use serde::{Deserialize, Serialize};

use super::outbox::{Outbox, Reports};

/// Longest wait for one step of a transaction; each can be tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// A producer that has taken a transactional id for itself.
pub(super) struct Lane {
    pub(super) id: String,
    producer: ThreadedProducer<Reports>,
    /// A transaction was begun and not ended.
    pub(super) open: bool,
}

/// The name of a lane: no other attempt, task or job has it.
pub(super) fn id(prefix: &str, owner: &Owner, number: u32) -> String {
    format!("{prefix}-{}-{}-{}-{}-{number}", owner.job, owner.operator, owner.subtask, owner.attempt)
}

/// Whose lanes they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) job: String,
    pub(super) operator: String,
    pub(super) subtask: u32,
    pub(super) attempt: u64,
}

impl Owner {
    pub(super) fn of(cx: &IoContext) -> Self {
        Self { job: cx.job.clone(), operator: cx.operator.clone(), subtask: cx.subtask, attempt: cx.attempt }
    }
}

impl Lane {
    /// Takes the id: whoever had it before is fenced, and its open transaction is given up.
    pub(super) fn open(
        id: String,
        config: &ClientConfig,
        outbox: &Arc<Outbox>,
    ) -> std::result::Result<Self, KafkaError> {
        let producer: ThreadedProducer<Reports> =
            config.clone().set("transactional.id", &id).create_with_context(Reports(Arc::clone(outbox)))?;
        producer.init_transactions(STEP_TIMEOUT)?;
        Ok(Self { id, producer, open: false })
    }

    pub(super) const fn producer(&self) -> &ThreadedProducer<Reports> {
        &self.producer
    }

    /// Begins a transaction: this side alone, the broker hears of it with the first record.
    pub(super) fn begin(&mut self, outbox: &Outbox) -> Result<()> {
        self.producer.begin_transaction().map_err(|e| outbox.status(&e))?;
        self.open = true;
        Ok(())
    }

    /// Commits. May be tried again where the error says so.
    pub(super) fn commit(&mut self) -> std::result::Result<(), KafkaError> {
        self.producer.commit_transaction(STEP_TIMEOUT)?;
        self.open = false;
        Ok(())
    }

    /// Gives the transaction up; the broker does it by itself when its time is over.
    pub(super) fn abort(&mut self) {
        if std::mem::take(&mut self.open)
            && let Err(error) = self.producer.abort_transaction(Duration::from_secs(2))
        {
            tracing::debug!(id = %self.id, %error, "a transaction was not aborted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_attempts_tasks_or_lanes_have_one_id() {
        let owner = Owner::of(&IoContext {
            subtask: 3,
            attempt: 2,
            job: "shop-1".into(),
            ..IoContext::new("shop", "bills")
        });
        assert_eq!(id("afflux", &owner, 0), "afflux-shop-1-bills-3-2-0");
        let later = Owner { attempt: 3, ..owner.clone() };
        assert_ne!(id("afflux", &owner, 0), id("afflux", &later, 0));
        assert_ne!(id("afflux", &owner, 0), id("afflux", &owner, 1));
    }
}
