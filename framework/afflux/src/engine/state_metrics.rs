//! What state on disk has done, as metrics.

use std::sync::Arc;

use afflux_stream::DiskCounters;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Opts};

/// Reads the counters of a node's state on disk when somebody asks for metrics.
pub(crate) struct StateMetrics {
    counters: Arc<DiskCounters>,
    reads: IntCounter,
    rows: IntCounter,
    bytes: IntCounter,
    waits: IntCounter,
    stopped: IntGauge,
}

impl StateMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is taken already.
    pub(crate) fn register(
        registry: &prometheus::Registry,
        counters: &Arc<DiskCounters>,
    ) -> prometheus::Result<()> {
        let opts = |name: &str, help: &str| Opts::new(format!("afflux_{name}"), help);
        registry.register(Box::new(Self {
            counters: Arc::clone(counters),
            reads: IntCounter::with_opts(opts(
                "state_disk_reads_total",
                "Rows of state that were looked for on disk",
            ))?,
            rows: IntCounter::with_opts(opts(
                "state_disk_rows_written_total",
                "Rows of state written to disk",
            ))?,
            bytes: IntCounter::with_opts(opts(
                "state_disk_written_bytes_total",
                "Bytes of rows of state written to disk, merges left out",
            ))?,
            waits: IntCounter::with_opts(opts(
                "state_disk_waits_total",
                "Times a task waited for files of state to be written or merged",
            ))?,
            stopped: IntGauge::with_opts(opts(
                "state_disk_full",
                "Jobs that take no input here because the disk of their state has no room",
            ))?,
        }))
    }

    fn each(&self) -> [(&IntCounter, u64); 4] {
        let now = self.counters.reading();
        [
            (&self.reads, now.reads),
            (&self.rows, now.rows_written),
            (&self.bytes, now.bytes_written),
            (&self.waits, now.waits),
        ]
    }
}

impl Collector for StateMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let counters = [&self.reads, &self.rows, &self.bytes, &self.waits];
        counters.into_iter().flat_map(Collector::desc).chain(self.stopped.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (counter, value) in self.each() {
            counter.inc_by(value.saturating_sub(counter.get()));
        }
        self.stopped.set(i64::try_from(self.counters.reading().stopped).unwrap_or(i64::MAX));
        self.each()
            .into_iter()
            .flat_map(|(counter, _)| counter.collect())
            .chain(self.stopped.collect())
            .collect()
    }
}
