//! What a node says of itself in a HEALTH frame.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// How busy a service of the sender is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceLoad {
    /// Messages that wait in its mailbox.
    pub depth: u32,
    /// Messages that fit.
    pub capacity: u32,
}

/// The report of a HEALTH frame: a named map, unknown keys skipped, absent ones taken for "all is well".
///
/// ```
/// use afflux_wire::HealthReport;
/// let report = HealthReport { ready: false, ..HealthReport::default() };
/// assert_eq!(HealthReport::decode(&report.encode()?)?, report);
/// # Ok::<(), afflux_wire::Status>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthReport {
    /// Whether it wants new calls while others are ready.
    pub ready: bool,
    /// Whether it goes away: no new calls at all.
    pub draining: bool,
    /// Its services that have something to do, by name.
    pub services: BTreeMap<String, ServiceLoad>,
}

impl Default for HealthReport {
    fn default() -> Self {
        Self { ready: true, draining: false, services: BTreeMap::new() }
    }
}

impl HealthReport {
    /// Its MessagePack.
    ///
    /// # Errors
    /// None that is known: a map of words and numbers can be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, Status> {
        crate::codec::to_named(self)
    }

    /// Reads it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with the place of the mistake.
    pub fn decode(bytes: &[u8]) -> Result<Self, Status> {
        crate::codec::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_and_an_empty_one_says_that_all_is_well() {
        let load = ServiceLoad { depth: 7, capacity: 1_024 };
        let report = HealthReport { draining: true, ready: false, services: [("s".into(), load)].into() };
        assert_eq!(HealthReport::decode(&report.encode().unwrap()).unwrap(), report);
        assert_eq!(HealthReport::decode(&[0x80]).unwrap(), HealthReport::default());
        assert!(HealthReport::decode(&[0xa1, b'x']).is_err());
    }
}
