//! The actor behind [`Alerts`](crate::Alerts).

use std::collections::BTreeSet;

use afflux::prelude::*;

use crate::alerts::{Alerts, AlertsError, AlertsHandler};
use crate::layering::Alert;

/// Alerts that the desk keeps; the oldest go first.
pub const ALERTS_MAX: usize = 100_000;

/// Alerts that `Latest` gives at most.
pub const LATEST_MAX: u32 = 1_000;

/// Alerts in memory, by time: a fresh desk is filled by the pipeline.
#[derive(Actor, Default)]
#[actor(serves(Alerts), mailbox = 256, overflow = "wait")]
pub struct AlertDesk {
    alerts: BTreeSet<Alert>,
}

impl AlertDesk {
    /// An empty desk.
    ///
    /// # Errors
    /// None.
    pub fn open() -> Result<Self, Status> {
        Ok(Self::default())
    }
}

impl AlertsHandler for AlertDesk {
    async fn raised(&mut self, _: &mut Cx, alerts: Vec<Alert>) -> Result<(), Fault<AlertsError>> {
        self.alerts.extend(alerts);
        while self.alerts.len() > ALERTS_MAX {
            self.alerts.pop_first();
        }
        Ok(())
    }

    async fn latest(&mut self, _: &mut Cx, count: u32) -> Result<Vec<Alert>, Fault<AlertsError>> {
        if count == 0 || count > LATEST_MAX {
            return Err(Status::invalid(format!("count is {count}: ask for 1 to {LATEST_MAX} alerts")).into());
        }
        Ok(self.alerts.iter().rev().take(count as usize).cloned().collect())
    }

    async fn against(&mut self, _: &mut Cx, account: u32) -> Result<Vec<Alert>, Fault<AlertsError>> {
        let alerts: Vec<Alert> =
            self.alerts.iter().filter(|alert| alert.account == account).cloned().collect();
        if alerts.is_empty() { Err(AlertsError::NoAlert { account }.into()) } else { Ok(alerts) }
    }
}
