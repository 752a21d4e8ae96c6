//! Following a job from its start to its end, on the terminal.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::called;
use crate::error::{Error, Result};
use crate::jobs::{JobInfo, JobRequest, JobsClient};
use crate::progress::{Show, Summary, thousands};
use crate::settings::{Layers, Origin, SCHEMA};
use crate::signals::Signals;

/// Between two questions to the coordinator.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A coordinator that has not answered for this long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Settings that a job's request may carry.
const JOB_SETTINGS: [&str; 19] = [
    "pipeline.parallelism",
    "pipeline.linger_ms",
    "pipeline.chaining",
    "pipeline.guarantee",
    "source.on_error",
    "checkpoint.interval_ms",
    "checkpoint.incremental",
    "pipeline.rescale",
    "restart.strategy",
    "restart.backoff_initial_ms",
    "restart.backoff_max_ms",
    "restart.backoff_multiplier",
    "restart.failures_max",
    "restart.window_ms",
    "state.backend",
    "pipeline.on_poison",
    "pipeline.poison_failures",
    "pipeline.poison_records_max",
    "pipeline.poison_show",
];

/// How following ended.
pub(crate) enum Followed {
    /// The job did.
    Ended(JobInfo),
    /// Somebody asked this process to stop; the job runs on.
    Interrupted(&'static str, JobInfo),
}

/// The request for a pipeline: what this process was told to set, and nothing that is a default.
pub(crate) fn request(
    pipeline: &str,
    layers: &Layers,
    parallelism: Option<u32>,
    replay: Option<f64>,
) -> JobRequest {
    let mut settings: BTreeMap<String, String> = SCHEMA
        .iter()
        .filter(|setting| JOB_SETTINGS.contains(&setting.name))
        .map(|setting| (setting, layers.get(setting)))
        .filter(|(_, (value, origin))| *origin != Origin::Default && value.to_string() != "0")
        .map(|(setting, (value, _))| (setting.name.to_owned(), value.to_string()))
        .collect();
    if let Some(parallelism) = parallelism.filter(|tasks| *tasks > 0) {
        settings.insert("pipeline.parallelism".to_owned(), parallelism.to_string());
    }
    JobRequest { pipeline: pipeline.to_owned(), settings, replay, ..JobRequest::default() }
}

/// Shows a job until it ends or this process is asked to stop; `latest` is what was last heard of it.
///
/// # Errors
/// A coordinator that no longer answers.
pub(crate) async fn follow(
    jobs: &JobsClient,
    started: JobInfo,
    show: &mut Show,
    signals: &mut Signals,
    latest: &RefCell<JobInfo>,
) -> Result<Followed> {
    let start = Instant::now();
    let mut heard = start;
    let mut job = started;
    loop {
        show.update(start.elapsed(), &job.progress);
        if job.has_ended() {
            show.clear();
            return Ok(Followed::Ended(job));
        }
        tokio::select! {
            biased;
            signal = signals.next() => {
                show.clear();
                return Ok(Followed::Interrupted(signal, job));
            }
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        match jobs.show(job.id.clone()).deadline(Duration::from_secs(2)).await {
            Ok(now) => {
                heard = Instant::now();
                latest.replace(now.clone());
                job = now;
            }
            Err(error) if heard.elapsed() < SILENCE_MAX && is_passing(&error) => {
                tracing::debug!(%error, "the coordinator does not answer");
            }
            answer => job = called(answer)?,
        }
    }
}

/// Whether the next try may be answered.
fn is_passing(error: &crate::contract::CallError) -> bool {
    use afflux_wire::Code;
    matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}

/// Starts a job. Right after its nodes, the coordinator may not be there yet: that is waited for.
///
/// # Errors
/// What the coordinator refuses.
pub(crate) async fn submit(jobs: &JobsClient, request: JobRequest) -> Result<JobInfo> {
    called(jobs.submit(request).await)
}

/// What a job that has ended means for the exit code.
///
/// # Errors
/// A job that failed or was cancelled.
pub(crate) fn outcome(job: &JobInfo) -> Result<Summary> {
    match job.state.as_str() {
        "finished" => Ok(summary(job)),
        "failed" => {
            let why = job.error.clone().unwrap_or_else(|| "no reason is known".to_owned());
            Err(Error::failed(format!("{} failed: {why}", job.pipeline)))
        }
        state => Err(Error::failed(format!("{} was {state} {}", job.pipeline, how_far(job)))),
    }
}

/// A job as a summary.
pub(crate) fn summary(job: &JobInfo) -> Summary {
    Summary {
        pipeline: job.pipeline.clone(),
        nodes: job.nodes().len(),
        records_in: job.progress.records_in,
        records_out: job.progress.records_out,
        late: job.progress.late,
        skipped: job.progress.skipped,
        wall_s: job.wall_s,
        cpu_s: (job.cpu_s * 1e3).round() / 1e3,
        output: job.output.clone(),
    }
}

/// `after 1,234 records in and 56 out, 42 % of the input`.
pub(crate) fn how_far(job: &JobInfo) -> String {
    let progress = &job.progress;
    let mut text = format!(
        "after {} records in and {} out",
        thousands(progress.records_in),
        thousands(progress.records_out)
    );
    if let Some(total) = progress.input_total.filter(|total| *total > 0) {
        text.push_str(&format!(", {:.0} % of the input", 100.0 * progress.input_done as f64 / total as f64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::JobProgress;

    fn job(state: &str) -> JobInfo {
        JobInfo {
            pipeline: "hourly".into(),
            state: state.into(),
            error: Some("node node-2 died".into()),
            progress: JobProgress {
                records_in: 1_200,
                records_out: 7,
                input_done: 1,
                input_total: Some(4),
                ..JobProgress::default()
            },
            ..JobInfo::default()
        }
    }

    #[test]
    fn only_a_finished_job_is_a_success() {
        assert_eq!(outcome(&job("finished")).unwrap().records_in, 1_200);
        assert_eq!(outcome(&job("failed")).unwrap_err().to_string(), "hourly failed: node node-2 died");
        let cancelled = outcome(&job("cancelled")).unwrap_err().to_string();
        assert_eq!(cancelled, "hourly was cancelled after 1,200 records in and 7 out, 25 % of the input");
    }

    #[test]
    fn a_request_carries_what_was_set_and_no_defaults() {
        let mut layers = Layers::default();
        layers.set("source.on_error=skip").unwrap();
        layers.set("node.slots=2").unwrap();
        let request = request("hourly", &layers, Some(6), Some(2.0));
        let settings: Vec<_> = request.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(settings, [("pipeline.parallelism", "6"), ("source.on_error", "skip")]);
        assert_eq!(request.replay, Some(2.0));
    }
}
