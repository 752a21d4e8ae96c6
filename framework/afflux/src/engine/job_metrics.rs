//! What the coordinator counts of jobs and their checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use super::checkpoint_metrics::{CheckpointMetrics, Phase};

/// Bytes of a checkpoint's files.
const CHECKPOINT_BYTES: [f64; 8] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];
/// States in which a job needs nothing any more.
const ENDS: [&str; 3] = ["finished", "failed", "cancelled"];
/// Every state of a job.
const STATES: [&str; 6] = ["deploying", "running", "restarting", "finished", "failed", "cancelled"];

/// Counts the jobs that this node coordinates. Clones are the same.
#[derive(Clone)]
pub struct JobMetrics {
    jobs: IntGaugeVec,
    storeless: IntGaugeVec,
    restarts: IntCounterVec,
    checkpoints: IntCounterVec,
    pub(super) costs: CheckpointMetrics,
    bytes: HistogramVec,
    last_completed: GaugeVec,
    fallbacks: IntCounterVec,
    poison: IntCounterVec,
}

impl JobMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is taken already.
    pub fn new(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| Opts::new(format!("afflux_{name}"), help);
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::new(format!("afflux_{name}"), help).buckets(buckets.to_vec())
        };
        let metrics = Self {
            jobs: IntGaugeVec::new(
                opts("job_state", "Jobs that this node coordinates or remembers, by state."),
                &["pipeline", "state"],
            )?,
            storeless: IntGaugeVec::new(
                opts("jobs_without_checkpoint_store", "Jobs at work whose state is lost with their nodes."),
                &["pipeline"],
            )?,
            restarts: IntCounterVec::new(
                opts("job_restarts_total", "Attempts that were begun after the first."),
                &["pipeline", "cause"],
            )?,
            checkpoints: IntCounterVec::new(
                opts("checkpoints_total", "Checkpoints that were completed or given up."),
                &["pipeline", "result"],
            )?,
            costs: CheckpointMetrics::new(registry)?,
            bytes: HistogramVec::new(
                histogram("checkpoint_bytes", "Bytes of a completed checkpoint's files.", &CHECKPOINT_BYTES),
                &["pipeline", "kind"],
            )?,
            last_completed: GaugeVec::new(
                opts(
                    "checkpoint_last_completed_timestamp_seconds",
                    "When the last checkpoint was completed, since 1970.",
                ),
                &["pipeline"],
            )?,
            fallbacks: IntCounterVec::new(
                opts(
                    "checkpoint_fallbacks_total",
                    "Restarts from an earlier checkpoint because a later one is damaged.",
                ),
                &["pipeline"],
            )?,
            poison: IntCounterVec::new(
                opts(
                    "poison_records_total",
                    "Records that killed their operator again and again and that jobs go on without.",
                ),
                &["pipeline", "operator"],
            )?,
        };
        registry.register(Box::new(metrics.poison.clone()))?;
        registry.register(Box::new(metrics.jobs.clone()))?;
        registry.register(Box::new(metrics.storeless.clone()))?;
        registry.register(Box::new(metrics.restarts.clone()))?;
        registry.register(Box::new(metrics.checkpoints.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.last_completed.clone()))?;
        registry.register(Box::new(metrics.fallbacks.clone()))?;
        Ok(metrics)
    }

    /// What checkpoints cost, for the node's worker.
    pub fn checkpoints(&self) -> CheckpointMetrics {
        self.costs.clone()
    }

    /// How many jobs of each pipeline are in each state, and how many of those at work have no place for
    /// their checkpoints.
    pub(super) fn states(&self, jobs: Vec<(String, &'static str)>, stored: bool) {
        let mut at_work: BTreeMap<&str, i64> = BTreeMap::new();
        for (pipeline, state) in &jobs {
            let lost = !stored && !ENDS.contains(state);
            *at_work.entry(pipeline).or_default() += i64::from(lost);
        }
        for (pipeline, count) in at_work {
            self.storeless.with_label_values(&[pipeline]).set(count);
        }
        let mut counts: BTreeMap<(Arc<str>, &'static str), i64> = BTreeMap::new();
        for (pipeline, state) in jobs {
            let pipeline: Arc<str> = pipeline.into();
            for known in STATES {
                counts.entry((Arc::clone(&pipeline), known)).or_default();
            }
            *counts.entry((pipeline, state)).or_default() += 1;
        }
        for ((pipeline, state), count) in counts {
            self.jobs.with_label_values(&[&*pipeline, state]).set(count);
        }
    }

    /// This node coordinates no job any more.
    pub(super) fn forget(&self) {
        self.jobs.reset();
        self.storeless.reset();
    }

    /// Another attempt begins.
    pub(super) fn restarted(&self, pipeline: &str, cause: &str) {
        self.restarts.with_label_values(&[pipeline, cause]).inc();
    }

    /// A job goes on without a record.
    pub(super) fn set_aside(&self, pipeline: &str, operator: &str) {
        self.poison.with_label_values(&[pipeline, operator]).inc();
    }

    /// A damaged checkpoint was passed over.
    pub(super) fn fell_back(&self, pipeline: &str) {
        self.fallbacks.with_label_values(&[pipeline]).inc();
    }

    /// A checkpoint was completed, or given up. `whole`: its files of so many bytes refer to no earlier ones.
    pub(super) fn checkpoint(
        &self,
        pipeline: &str,
        completed: bool,
        took: Option<Duration>,
        (bytes, whole): (u64, bool),
        now_ms: i64,
    ) {
        let result = if completed { "completed" } else { "failed" };
        self.checkpoints.with_label_values(&[pipeline, result]).inc();
        if !completed {
            return;
        }
        if let Some(took) = took {
            self.costs.took(pipeline, Phase::Total, took);
        }
        self.costs.progress(pipeline, 1, 1);
        let kind = if whole { "whole" } else { "incremental" };
        self.bytes.with_label_values(&[pipeline, kind]).observe(bytes as f64);
        self.last_completed.with_label_values(&[pipeline]).set(now_ms as f64 / 1000.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_counted_in_its_state_alone_and_a_failed_checkpoint_has_no_size() {
        let registry = prometheus::Registry::new();
        let metrics = JobMetrics::new(&registry).unwrap();
        metrics.states(vec![("p".into(), "running")], true);
        metrics.states(vec![("p".into(), "restarting")], true);
        metrics.restarted("p", "failure");
        metrics.checkpoint("p", true, Some(Duration::from_millis(20)), (100, true), 5_000);
        metrics.checkpoint("p", true, None, (7, false), 5_000);
        metrics.checkpoint("p", false, None, (0, true), 6_000);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "afflux_job_state{pipeline=\"p\",state=\"running\"} 0",
            "afflux_job_state{pipeline=\"p\",state=\"restarting\"} 1",
            "afflux_job_restarts_total{cause=\"failure\",pipeline=\"p\"} 1",
            "afflux_checkpoints_total{pipeline=\"p\",result=\"failed\"} 1",
            "afflux_checkpoint_bytes_sum{kind=\"whole\",pipeline=\"p\"} 100",
            "afflux_checkpoint_bytes_sum{kind=\"incremental\",pipeline=\"p\"} 7",
            "afflux_checkpoint_duration_seconds_count{phase=\"total\",pipeline=\"p\"} 1",
            "afflux_checkpoint_progress_ratio{pipeline=\"p\"} 1",
            "afflux_checkpoint_last_completed_timestamp_seconds{pipeline=\"p\"} 5",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_job_without_a_place_for_its_checkpoints_is_counted_while_it_is_at_work() {
        let registry = prometheus::Registry::new();
        let metrics = JobMetrics::new(&registry).unwrap();
        let counted = |jobs: &[&'static str], stored: bool| {
            metrics.states(jobs.iter().map(|state| ("p".to_owned(), *state)).collect(), stored);
            metrics.storeless.with_label_values(&["p"]).get()
        };
        assert_eq!(counted(&["running", "restarting", "finished"], false), 2);
        assert_eq!(counted(&["failed", "cancelled"], false), 0);
        assert_eq!(counted(&["running"], true), 0);
        metrics.forget();
        assert!(!registry.gather().iter().any(|f| f.name() == "afflux_jobs_without_checkpoint_store"));
    }
}
