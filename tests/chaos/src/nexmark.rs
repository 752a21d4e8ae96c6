//! Nexmark's digests with two kills and a rescale in the middle.
//!
//! Each node process adds up what its sinks have seen in the end, and writes it into a file; the sum of these
//! must be the digest of a run that nothing disturbed.

use std::path::Path;
use std::time::{Duration, Instant};

use afflux::jobs::{JobInfo, JobRequest};
use afflux::{App, Error, Result};
use afflux_nexmark::queries::build;
use afflux_nexmark::{Digest, Log, Tally};
use serde::Serialize;

use crate::cluster::{Cluster, Shape, TICK};

/// Those with updates of joins, a window, and a record kept for each key.
pub(crate) const QUERIES: [&str; 3] = ["q4", "q7", "q18"];
/// What an independent engine says of them.
const EXPECTED: &str =
    include_str!("../../../examples/nexmark/tests/data/expected-60000-events-rate-500.tsv");
/// Events, as the file above has them.
const EVENTS: usize = 60_000;
/// Events in a second of their time.
const RATE: usize = 500;
/// Times the speed of the events' time: 15 s in all.
const PACE: f64 = 8.0;
/// Tasks before and behind the rescale.
const TASKS: (u32, u32) = (3, 4);
/// Nodes of a run.
const NODES: usize = 3;
/// Where nodes write what they have added up.
const TALLIES: &str = "tallies";
/// Longest wait for any step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks of a node at what it has added up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What became of a query.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answered {
    pub(crate) query: String,
    /// What was added up.
    pub(crate) digest: String,
    /// What should have been.
    pub(crate) expected: String,
    /// The job's last attempt.
    pub(crate) attempts: u64,
    /// Why it did not come to its end.
    pub(crate) failure: Option<String>,
}

impl Answered {
    pub(crate) fn is_right(&self) -> bool {
        self.failure.is_none() && self.digest == self.expected
    }
}

/// Adds the queries to a program.
pub(crate) fn add(app: App) -> App {
    let log = Log::new(EVENTS, RATE);
    QUERIES.into_iter().fold(app, |app, query| {
        let (log, tally) = (log.clone(), Tally::default());
        let sums = tally.clone();
        app.pipeline(query, move |flow| Ok(build(query, flow, &log, sums.clone(), Path::new("out/none"))?))
            .on_start(move |_| tell(query, tally.clone()))
    })
}

/// Writes down what this process has added up, whenever that has changed.
async fn tell(query: &'static str, tally: Tally) -> Result<()> {
    let path = Path::new(TALLIES).join(format!("{query}-{}.json", std::process::id()));
    let mut rows = 0;
    loop {
        let digest = tally.digest();
        if digest.rows() != rows {
            rows = digest.rows();
            std::fs::create_dir_all(TALLIES)?;
            std::fs::write(path.with_extension("new"), serde_json::to_vec(&digest)?)?;
            std::fs::rename(path.with_extension("new"), &path)?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Runs a query in a directory, kills a worker, rescales, and kills the coordinator.
/// `settings` are added to those of the nodes.
pub(crate) async fn answer(query: &str, directory: &Path, settings: &[String]) -> Answered {
    let expected = EXPECTED.lines().filter_map(|line| line.split_once('\t')).find(|(name, _)| *name == query);
    let mut answered = Answered {
        query: query.to_owned(),
        digest: String::new(),
        expected: expected.map(|(_, digest)| digest.to_owned()).unwrap_or_default(),
        attempts: 0,
        failure: None,
    };
    let mut all = vec![
        "checkpoint.dir=checkpoints".to_owned(),
        "checkpoint.interval_ms=250".to_owned(),
        "admin.listen=".to_owned(),
    ];
    all.extend_from_slice(settings);
    let shape = Shape { nodes: NODES, settings: all, ..Shape::default() };
    let mut cluster = match Cluster::start(directory, shape).await {
        Ok(cluster) => cluster,
        Err(error) => return Answered { failure: Some(error.to_string()), ..answered },
    };
    match play(query, &mut cluster, directory, &answered.expected).await {
        Ok((digest, attempts)) => (answered.digest, answered.attempts) = (digest, attempts),
        Err(error) => answered.failure = Some(error.to_string()),
    }
    cluster.stop().await;
    if answered.failure.is_none() && !cluster.surprises.is_empty() {
        answered.failure = Some(cluster.surprises.join("; "));
    }
    answered
}

async fn play(query: &str, cluster: &mut Cluster, directory: &Path, expected: &str) -> Result<(String, u64)> {
    let began = Instant::now();
    while cluster.ready().await < NODES || cluster.coordinator().await.is_none() {
        turn(cluster, began, "all nodes and a coordinator").await?;
    }
    let request = JobRequest {
        pipeline: query.to_owned(),
        settings: [("pipeline.parallelism".to_owned(), TASKS.0.to_string())].into(),
        replay: Some(PACE),
        nodes_min: NODES as u32,
        ..JobRequest::default()
    };
    let id = loop {
        match cluster.submit(request.clone()).await {
            Ok(job) => break job.id,
            Err(error) => turn(cluster, began, &error.to_string()).await?,
        }
    };
    let job = until(cluster, &id, "a checkpoint", |job| job.last_checkpoint.is_some()).await?;
    let coordinator = cluster.coordinator().await;
    let worker = cluster.alive().into_iter().find(|index| Some(*index) != coordinator);
    cluster.kill(worker.unwrap_or(0))?;
    let job = goes_on(cluster, &id, &job).await?;
    cluster.rescale(&id, TASKS.1).await?;
    let job = goes_on(cluster, &id, &job).await?;
    let coordinator = cluster.coordinator().await;
    cluster.kill(coordinator.unwrap_or(0))?;
    let job = goes_on(cluster, &id, &job).await?;
    if job.has_ended() {
        return Err(Error::failed("the job ended before all was done to it"));
    }
    let job = until(cluster, &id, "the end of the job", JobInfo::has_ended).await?;
    if job.state != "finished" {
        return Err(Error::failed(format!("job {id} {}: {:?}", job.state, job.error)));
    }
    // Nodes write it down a moment later.
    let began = Instant::now();
    loop {
        let digest = sum(query, directory)?.to_string();
        if digest == expected || began.elapsed() > LOOK_EVERY * 40 {
            return Ok((digest, job.attempt));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until a later attempt has taken a checkpoint.
async fn goes_on(cluster: &mut Cluster, id: &str, before: &JobInfo) -> Result<JobInfo> {
    let (attempt, epoch) = (before.attempt, before.last_checkpoint);
    let again =
        move |job: &JobInfo| job.attempt > attempt && job.last_checkpoint > epoch && job.state == "running";
    until(cluster, id, "a checkpoint of a later attempt", |job| again(job) || job.has_ended()).await
}

async fn until(
    cluster: &mut Cluster,
    id: &str,
    what: &str,
    so: impl Fn(&JobInfo) -> bool,
) -> Result<JobInfo> {
    let began = Instant::now();
    loop {
        if let Some(job) = cluster.job(id).await.filter(&so) {
            return Ok(job);
        }
        turn(cluster, began, what).await?;
    }
}

async fn turn(cluster: &mut Cluster, began: Instant, what: &str) -> Result<()> {
    cluster.tend()?;
    if began.elapsed() > PATIENCE {
        return Err(Error::failed(format!("never within {} s: {what}", PATIENCE.as_secs())));
    }
    tokio::time::sleep(TICK).await;
    Ok(())
}

/// The sum of what the nodes have written down.
fn sum(query: &str, directory: &Path) -> Result<Digest> {
    let mut sum = Digest::default();
    let Ok(entries) = std::fs::read_dir(directory.join(TALLIES)) else { return Ok(sum) };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{query}-")) && name.ends_with(".json") {
            let digest: Digest = serde_json::from_slice(&std::fs::read(&path)?)?;
            sum.merge(&digest);
        }
    }
    Ok(sum)
}
