//! What checkpoints and restores cost, on the node that coordinates a job and on those that run its tasks.

use std::time::Duration;

use afflux_stream::SnapshotReading;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

/// Seconds of a checkpoint or of a part of one.
const SECONDS: [f64; 13] = [0.001, 0.003, 0.01, 0.02, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// A part of a checkpoint's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// From the trigger to the manifest.
    Total,
    /// The manifest is written.
    Commit,
    /// A task's part is stored.
    Upload,
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Phase::Total => "total",
            Phase::Commit => "commit",
            Phase::Upload => "upload",
        }
    }
}

/// Counts what checkpoints and restores take. Clones are the same.
#[derive(Clone)]
pub struct CheckpointMetrics {
    duration: HistogramVec,
    pause: HistogramVec,
    start_delay: HistogramVec,
    progress: GaugeVec,
    restores: IntCounterVec,
    restore: HistogramVec,
    replayed: IntGaugeVec,
}

impl CheckpointMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is taken already.
    pub fn new(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let opts = HistogramOpts::new(format!("afflux_{name}"), help).buckets(SECONDS.to_vec());
            HistogramVec::new(opts, labels)
        };
        let metrics = Self {
            duration: histogram(
                "checkpoint_duration_seconds",
                "From a checkpoint's start to its manifest, and parts of that.",
                &["pipeline", "phase"],
            )?,
            pause: histogram(
                "checkpoint_pause_seconds",
                "The longest turn of a task from its barrier until its snapshot was written.",
                &["pipeline"],
            )?,
            start_delay: histogram(
                "checkpoint_start_delay_seconds",
                "From a checkpoint's start on a node until a task there passed its barrier.",
                &["pipeline"],
            )?,
            progress: GaugeVec::new(
                Opts::new(
                    "afflux_checkpoint_progress_ratio",
                    "Tasks that have stored their part of the checkpoint under way, of all; 1 when it is done.",
                ),
                &["pipeline"],
            )?,
            restores: IntCounterVec::new(
                Opts::new("afflux_restores_total", "Attempts that were begun from a checkpoint."),
                &["pipeline", "cause"],
            )?,
            restore: histogram(
                "restore_duration_seconds",
                "A node reads a checkpoint for its tasks.",
                &["pipeline"],
            )?,
            replayed: IntGaugeVec::new(
                Opts::new(
                    "afflux_restore_replayed_records",
                    "Records that sources had read behind the checkpoint which the last attempt began from.",
                ),
                &["pipeline"],
            )?,
        };
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.pause.clone()))?;
        registry.register(Box::new(metrics.start_delay.clone()))?;
        registry.register(Box::new(metrics.progress.clone()))?;
        registry.register(Box::new(metrics.restores.clone()))?;
        registry.register(Box::new(metrics.restore.clone()))?;
        registry.register(Box::new(metrics.replayed.clone()))?;
        Ok(metrics)
    }

    /// A part of a checkpoint took so long.
    pub(super) fn took(&self, pipeline: &str, phase: Phase, took: Duration) {
        self.duration.with_label_values(&[pipeline, phase.as_str()]).observe(took.as_secs_f64());
    }

    /// A task has written its snapshot; `since_start` from the checkpoint's start on this node until then,
    /// where that is known.
    pub(super) fn snapshot(&self, pipeline: &str, reading: &SnapshotReading, since_start: Option<Duration>) {
        for (phase, seconds) in [("align", reading.last_align_s), ("snapshot", reading.last_write_s)] {
            self.duration.with_label_values(&[pipeline, phase]).observe(seconds);
        }
        self.pause.with_label_values(&[pipeline]).observe(reading.last_pause_s);
        if let Some(since) = since_start {
            let delay = (since.as_secs_f64() - reading.last_write_s).max(0.0);
            self.start_delay.with_label_values(&[pipeline]).observe(delay);
        }
    }

    /// So many of these tasks have stored their part of the checkpoint under way.
    pub(super) fn progress(&self, pipeline: &str, stored: usize, tasks: usize) {
        self.progress.with_label_values(&[pipeline]).set(stored as f64 / tasks.max(1) as f64);
    }

    /// An attempt begins from a checkpoint.
    pub(super) fn restored(&self, pipeline: &str, cause: &str) {
        self.restores.with_label_values(&[pipeline, cause]).inc();
    }

    /// So many records are read again by the attempt that begins from a checkpoint.
    pub(super) fn replays(&self, pipeline: &str, records: u64) {
        self.replayed.with_label_values(&[pipeline]).set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// A node has read a checkpoint for its tasks.
    pub(super) fn read(&self, pipeline: &str, took: Duration) {
        self.restore.with_label_values(&[pipeline]).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_until_the_barrier_is_what_is_left_when_the_writing_is_taken_off() {
        let registry = prometheus::Registry::new();
        let metrics = CheckpointMetrics::new(&registry).unwrap();
        let reading = SnapshotReading {
            last_align_s: 0.5,
            last_write_s: 2.0,
            last_pause_s: 0.25,
            ..SnapshotReading::default()
        };
        metrics.snapshot("p", &reading, Some(Duration::from_secs(3)));
        // What was begun elsewhere has no delay here.
        metrics.snapshot("p", &reading, None);
        metrics.took("p", Phase::Upload, Duration::from_secs(4));
        metrics.progress("p", 1, 4);
        metrics.restored("p", "failure");
        metrics.read("p", Duration::from_secs(5));
        metrics.replays("p", 9);
        metrics.replays("p", 6);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "afflux_checkpoint_duration_seconds_sum{phase=\"align\",pipeline=\"p\"} 1",
            "afflux_checkpoint_duration_seconds_sum{phase=\"snapshot\",pipeline=\"p\"} 4",
            "afflux_checkpoint_duration_seconds_sum{phase=\"upload\",pipeline=\"p\"} 4",
            "afflux_checkpoint_pause_seconds_sum{pipeline=\"p\"} 0.5",
            "afflux_checkpoint_start_delay_seconds_sum{pipeline=\"p\"} 1",
            "afflux_checkpoint_start_delay_seconds_count{pipeline=\"p\"} 1",
            "afflux_checkpoint_progress_ratio{pipeline=\"p\"} 0.25",
            "afflux_restores_total{cause=\"failure\",pipeline=\"p\"} 1",
            "afflux_restore_duration_seconds_sum{pipeline=\"p\"} 5",
            "afflux_restore_replayed_records{pipeline=\"p\"} 6",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }
}
