//! `afflux_registry_*`: what a node sees of its registry, read when somebody scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use afflux_registry::{InstanceState, Registration, Watcher};
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::error::Result;

/// Elections with a label of their own.
const ELECTIONS_MAX: usize = 64;

/// The metrics of a node's registry. Clones are the same.
#[derive(Clone)]
pub(crate) struct RegistryMetrics(Arc<Inner>);

struct Inner {
    watcher: Watcher,
    misses: Mutex<Arc<AtomicU64>>,
    instances: GaugeVec,
    slots: GaugeVec,
    reachable: Gauge,
    last_event: Gauge,
    heartbeat_misses: IntCounter,
    is_leader: IntGaugeVec,
    leader_changes: IntCounterVec,
    elections: Mutex<BTreeMap<String, Leads>>,
}

/// Whether this node leads in one election.
#[derive(Clone)]
pub(crate) struct Leads {
    is_leader: IntGauge,
    changes: IntCounter,
}

impl Leads {
    /// Notes a gain or a loss; the same again is none.
    pub(crate) fn turn(&self, leads: bool) {
        if self.is_leader.get() != i64::from(leads) {
            self.is_leader.set(i64::from(leads));
            self.changes.inc();
        }
    }
}

impl RegistryMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is taken already.
    pub(crate) fn new(metrics: &prometheus::Registry, watcher: Watcher) -> Result<Self> {
        let inner = Inner {
            watcher,
            misses: Mutex::default(),
            instances: GaugeVec::new(
                Opts::new("afflux_registry_instances", "Nodes in the last view."),
                &["state"],
            )?,
            slots: GaugeVec::new(
                Opts::new("afflux_slots", "Slots for tasks of the nodes in the last view."),
                &["state"],
            )?,
            reachable: Gauge::new("afflux_registry_reachable", "1 while the registry answers.")?,
            last_event: Gauge::new(
                "afflux_registry_last_event_timestamp_seconds",
                "When the registry was last heard of, since 1970.",
            )?,
            heartbeat_misses: IntCounter::new(
                "afflux_registry_heartbeat_misses_total",
                "Registrations and extensions of this node that the registry did not take.",
            )?,
            is_leader: IntGaugeVec::new(
                Opts::new("afflux_registry_is_leader", "1 while this node leads."),
                &["election"],
            )?,
            leader_changes: IntCounterVec::new(
                Opts::new(
                    "afflux_registry_leader_changes_total",
                    "Gains and losses of the lead by this node.",
                ),
                &["election"],
            )?,
            elections: Mutex::default(),
        };
        let this = Self(Arc::new(inner));
        metrics.register(Box::new(this.clone()))?;
        Ok(this)
    }

    /// Counts the misses of this registration from now on.
    pub(crate) fn registration(&self, registration: &Registration) {
        *self.0.misses.lock() = registration.misses();
    }

    /// The metrics of one election.
    pub(crate) fn election(&self, name: &str) -> Leads {
        let inner = &self.0;
        let mut elections = inner.elections.lock();
        let name =
            if elections.len() < ELECTIONS_MAX || elections.contains_key(name) { name } else { "other" };
        let leads = elections.entry(name.to_owned()).or_insert_with(|| Leads {
            is_leader: inner.is_leader.with_label_values(&[name]),
            changes: inner.leader_changes.with_label_values(&[name]),
        });
        leads.clone()
    }
}

impl Inner {
    fn families(&self) -> [&dyn Collector; 7] {
        [
            &self.instances,
            &self.slots,
            &self.reachable,
            &self.last_event,
            &self.heartbeat_misses,
            &self.is_leader,
            &self.leader_changes,
        ]
    }
}

impl Collector for RegistryMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.0.families().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let inner = &self.0;
        let view = inner.watcher.latest();
        let ready = view.instances.iter().filter(|i| i.state == InstanceState::Ready).count();
        inner.instances.with_label_values(&["ready"]).set(ready as f64);
        inner.instances.with_label_values(&["draining"]).set((view.instances.len() - ready) as f64);
        for (label, state) in [("ready", InstanceState::Ready), ("draining", InstanceState::Draining)] {
            let slots = view.instances.iter().filter(|i| i.state == state).map(|i| f64::from(i.slots));
            inner.slots.with_label_values(&[label]).set(slots.sum());
        }
        inner.reachable.set(f64::from(u8::from(view.reachable)));
        if let Some(silence) = inner.watcher.silence() {
            let now = jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
            inner.last_event.set(now - silence.as_secs_f64());
        }
        let misses = inner.misses.lock().load(Ordering::Relaxed);
        inner.heartbeat_misses.inc_by(misses.saturating_sub(inner.heartbeat_misses.get()));
        inner.families().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_registry::{Instance, Publisher};
    use afflux_wire::Incarnation;

    fn value(metrics: &prometheus::Registry, line: &str) -> Option<f64> {
        let mut text = String::new();
        prometheus::TextEncoder::new().encode_utf8(&metrics.gather(), &mut text).unwrap();
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
    }

    #[test]
    fn an_unreachable_registry_shows_with_the_nodes_of_its_last_view() {
        let metrics = prometheus::Registry::new();
        let publisher = Publisher::new();
        let registry = RegistryMetrics::new(&metrics, publisher.watcher()).unwrap();
        let mut node = Instance::new("a", Incarnation(1), "h:1");
        node.slots = 3;
        publisher.seen(vec![node]);
        assert_eq!(value(&metrics, "afflux_slots{state=\"ready\"}"), Some(3.0));
        assert_eq!(value(&metrics, "afflux_slots{state=\"draining\"}"), Some(0.0));
        assert_eq!(value(&metrics, "afflux_registry_instances{state=\"ready\"}"), Some(1.0));
        assert_eq!(value(&metrics, "afflux_registry_reachable"), Some(1.0));
        assert!(value(&metrics, "afflux_registry_last_event_timestamp_seconds") > Some(1e9));
        publisher.unreachable();
        assert_eq!(value(&metrics, "afflux_registry_instances{state=\"ready\"}"), Some(1.0));
        assert_eq!(value(&metrics, "afflux_registry_reachable"), Some(0.0));
        let leads = registry.election("desk");
        for turn in [true, true, false] {
            leads.turn(turn);
        }
        assert_eq!(value(&metrics, "afflux_registry_is_leader{election=\"desk\"}"), Some(0.0));
        assert_eq!(value(&metrics, "afflux_registry_leader_changes_total{election=\"desk\"}"), Some(2.0));
    }

    #[test]
    fn elections_beyond_the_bound_share_a_label() {
        let metrics = prometheus::Registry::new();
        let registry = RegistryMetrics::new(&metrics, Publisher::new().watcher()).unwrap();
        for n in 0..ELECTIONS_MAX + 10 {
            registry.election(&format!("e{n}")).turn(true);
        }
        let families = metrics.gather();
        let series = families.iter().find(|f| f.name() == "afflux_registry_is_leader").unwrap();
        assert_eq!(series.get_metric().len(), ELECTIONS_MAX + 1);
    }
}
