//! What `/readyz` and `/startupz` answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use afflux_registry::watch;
use parking_lot::Mutex;

/// The conditions of being ready; a process is ready when each of them holds.
///
/// ```
/// use afflux::admin::Probes;
///
/// let probes = Probes::default();
/// probes.unmet("registered", "the registry has not answered yet");
/// assert_eq!(probes.ready(), Err("registered: the registry has not answered yet\n".to_owned()));
/// probes.met("registered");
/// assert_eq!(probes.ready(), Ok("registered: ok\n".to_owned()));
/// ```
#[derive(Debug, Default)]
pub struct Probes {
    conditions: Mutex<BTreeMap<&'static str, Option<String>>>,
    /// Whether one of them does not hold.
    unready: watch::Sender<bool>,
    /// Whether all of them have held once.
    started: AtomicBool,
}

impl Probes {
    /// The condition holds.
    pub fn met(&self, condition: &'static str) {
        self.set(condition, None);
    }

    /// The condition does not hold, and why.
    pub fn unmet(&self, condition: &'static str, why: impl Into<String>) {
        self.set(condition, Some(why.into()));
    }

    fn set(&self, condition: &'static str, why: Option<String>) {
        let mut conditions = self.conditions.lock();
        conditions.insert(condition, why);
        let unready = conditions.values().any(Option::is_some);
        if !unready {
            self.started.store(true, Ordering::Relaxed);
        }
        // Under the lock, so that the last change is the last that is told.
        self.unready.send_if_modified(|known| std::mem::replace(known, unready) != unready);
    }

    /// Tells whether one of the conditions does not hold, from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        let mut receiver = self.unready.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Whether all conditions have held once, whatever came after: what `/startupz` answers.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Every condition, a line each.
    ///
    /// # Errors
    /// The lines of those that do not hold.
    pub fn ready(&self) -> Result<String, String> {
        let conditions = self.conditions.lock();
        let unmet: String = conditions
            .iter()
            .filter_map(|(name, why)| why.as_ref().map(|why| format!("{name}: {why}\n")))
            .collect();
        if unmet.is_empty() {
            Ok(conditions.keys().map(|name| format!("{name}: ok\n")).collect())
        } else {
            Err(unmet)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unmet_condition_is_enough_to_be_unready() {
        let probes = Probes::default();
        assert_eq!(probes.ready(), Ok(String::new()));
        probes.met("listening");
        probes.unmet("registered", "no answer");
        assert_eq!(probes.ready(), Err("registered: no answer\n".into()));
    }

    #[test]
    fn what_was_ready_once_has_started_whatever_comes_after() {
        let probes = Probes::default();
        probes.unmet("registered", "no answer");
        assert!(!probes.has_started());
        probes.met("registered");
        assert!(probes.has_started());
        probes.unmet("serving", "the node is shutting down");
        assert!(probes.has_started());
    }
}
