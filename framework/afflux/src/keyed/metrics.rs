//! What keyed services count.

use prometheus::{IntCounterVec, IntGaugeVec, Opts};

/// The counters of all keyed services of a node.
#[derive(Clone)]
pub(crate) struct KeyedMetrics {
    /// Partitions owned here, by service.
    pub(crate) partitions: IntGaugeVec,
    /// Partitions that came and went, by service and how.
    pub(crate) moves: IntCounterVec,
    /// Calls that were not answered at once by an actor here, by service and what became of them.
    pub(crate) strays: IntCounterVec,
}

impl KeyedMetrics {
    pub(crate) fn new(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            partitions: IntGaugeVec::new(
                Opts::new("afflux_keyed_partitions", "Partitions of a keyed service that this node owns."),
                &["service"],
            )?,
            moves: IntCounterVec::new(
                Opts::new("afflux_keyed_moves_total", "Partitions that came to this node or left it."),
                &["service", "how"],
            )?,
            strays: IntCounterVec::new(
                Opts::new(
                    "afflux_keyed_strays_total",
                    "Calls of keyed services for whose key this node was not the owner, or had no room.",
                ),
                &["service", "result"],
            )?,
        };
        registry.register(Box::new(metrics.partitions.clone()))?;
        registry.register(Box::new(metrics.moves.clone()))?;
        registry.register(Box::new(metrics.strays.clone()))?;
        Ok(metrics)
    }
}
