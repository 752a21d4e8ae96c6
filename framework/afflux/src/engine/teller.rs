//! The teller: tells whichever node coordinates a job what becomes of its tasks here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use afflux_stream::job::{Deployment, Storage, TaskId, Unstored};
use afflux_stream::{TaskEvent, TaskSnapshot, is_round};
use afflux_wire::{Code, Status};

use super::checkpoint_metrics::{CheckpointMetrics, Phase};
use super::desk::JobReportsClient;
use super::metrics::OperatorMetrics;
use super::worker::WorkerClient;

/// Longest wait for the coordinator to take a report.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time for which one report is told again: a next coordinator has to be found meanwhile.
const REPORT_PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries; it doubles up to the longest.
const REPORT_PAUSES: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

/// What one task has told of itself, as it is told to a next coordinator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Told {
    /// The chain.
    pub chain: u32,
    /// Which of its tasks.
    pub subtask: u32,
    /// What happened, in the words of `afflux.job-reports`.
    pub kind: String,
    /// The epoch, or the code.
    pub epoch: u64,
    /// The rest.
    pub body: String,
}

/// What tasks have told, by task and kind.
pub(super) type Telling = Arc<Mutex<BTreeMap<(TaskId, &'static str), Told>>>;

/// The epoch that was last begun on this node, and when.
pub(super) type Begun = Arc<Mutex<Option<(u64, Instant)>>>;

/// What a task has to say, and when it said it.
pub(super) type Saying = (TaskId, TaskEvent, Instant);

/// Stores what the tasks of an attempt on this node have saved, and tells of them.
pub(super) struct Teller {
    pub deployment: Arc<Deployment>,
    pub storage: Option<Storage>,
    pub costs: CheckpointMetrics,
    pub operators: OperatorMetrics,
    /// Whoever coordinates.
    pub desk: JobReportsClient,
    /// This node's worker.
    pub own: WorkerClient,
    pub clock: afflux_actor::Clock,
    pub told: Telling,
    pub begun: Begun,
    pub unstored: Arc<OnceLock<Unstored>>,
    /// Nobody needs to be told any more.
    pub over: Arc<AtomicBool>,
}

impl Teller {
    /// Tells everything, what one task says in its order. A failure waits for nothing: what the task has
    /// saved before may take minutes to be stored, and counts no more.
    pub(super) async fn tell_all(self, mut events: mpsc::Receiver<Saying>) {
        let mut telling = FuturesUnordered::new();
        // Of each task: done when what it said last was told.
        let mut last: BTreeMap<TaskId, oneshot::Receiver<()>> = BTreeMap::new();
        loop {
            let (id, event, at) = tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => event,
                    None => break,
                },
                Some(()) = telling.next() => continue,
            };
            let (done, after) = oneshot::channel();
            let before = last
                .insert(id, after)
                .filter(|_| !matches!(event, TaskEvent::Failed(_) | TaskEvent::Panicked(_)));
            let this = &self;
            telling.push(async move {
                if let Some(before) = before {
                    // An error says that it was told.
                    let _ = before.await;
                }
                this.tell(id, event, at).await;
                drop(done);
            });
        }
        while telling.next().await.is_some() {}
    }

    async fn tell(&self, id: TaskId, event: TaskEvent, at: Instant) {
        let (kind, epoch, body) = match event {
            TaskEvent::Finished(last) => ("finished", 0, serde_json::to_string(&last).unwrap_or_default()),
            TaskEvent::Closed => ("closed", 0, String::new()),
            TaskEvent::Panicked(kill) => {
                let code = u64::from(Code::Internal.number());
                ("panicked", code, serde_json::to_string(&kill).unwrap_or_default())
            }
            TaskEvent::Failed(status) => ("failed", u64::from(status.code.number()), status.message),
            TaskEvent::Snapshot(snapshot) if is_round(snapshot.epoch) => {
                ("confirmed", snapshot.epoch, String::new())
            }
            TaskEvent::Snapshot(snapshot) => match self.store(id, &snapshot, at).await {
                Ok(file) => ("saved", snapshot.epoch, file),
                Err(status) => ("save_failed", snapshot.epoch, status.message),
            },
        };
        let report = Told { chain: id.chain, subtask: id.subtask, kind: kind.to_owned(), epoch, body };
        self.told.lock().insert((id, kind), report.clone());
        self.report(id, report).await;
    }

    /// Stores a task's part of an epoch, and returns its file as JSON.
    async fn store(&self, id: TaskId, snapshot: &TaskSnapshot, at: Instant) -> Result<String, Status> {
        let (pipeline, epoch) = (&self.deployment.pipeline, snapshot.epoch);
        let storing = self.clock.now();
        let saved = match &self.storage {
            Some(storage) => storage.put(&self.deployment.job, self.deployment.attempt.0, id, snapshot).await,
            None => Err(Status::precondition("no checkpoint storage: set `checkpoint.dir`")),
        };
        match &saved {
            Ok(_) => self.costs.took(pipeline, Phase::Upload, self.clock.now() - storing),
            Err(_) => {
                if let Some(unstored) = self.unstored.get() {
                    unstored.tell(id, epoch);
                }
            }
        }
        if let Some(reading) = self.operators.snapshots(&self.deployment.job, id) {
            let begun = self.begun.lock().filter(|(begun, _)| *begun == epoch);
            let since = begun.map(|(_, begun)| at.saturating_duration_since(begun));
            self.costs.snapshot(pipeline, &reading, since);
        }
        serde_json::to_string(&saved?).map_err(|e| Status::internal(e.to_string()))
    }

    /// Tells it until it is heard: every report can be told twice without harm, and a job that misses one
    /// never ends.
    async fn report(&self, id: TaskId, report: Told) {
        let (job, attempt) = (&self.deployment.job, self.deployment.attempt.0);
        let until = self.clock.now() + REPORT_PATIENCE;
        let mut pause = REPORT_PAUSES.start;
        while !self.over.load(Ordering::Acquire) {
            let Told { chain, subtask, kind, epoch, body } = report.clone();
            let answer = self
                .desk
                .report(job.clone(), attempt, chain, subtask, kind, epoch, body)
                .deadline(REPORT_DEADLINE)
                .await;
            match answer {
                Ok(()) => return,
                Err(error) if error.code() == Code::Aborted => {
                    tracing::info!(%job, attempt, "the attempt is over: its tasks here stop");
                    let reason = "a later attempt runs".to_owned();
                    if let Err(error) = self.own.stop(job.clone(), attempt, reason, 0).await {
                        tracing::warn!(%job, %error, "the tasks of an attempt were not stopped");
                    }
                    return;
                }
                Err(error) if self.clock.now() < until => {
                    tracing::debug!(%job, task = %id, %error, "a report is told again");
                    self.clock.sleep(pause).await;
                    pause = (pause * 2).min(REPORT_PAUSES.end);
                }
                Err(error) => {
                    tracing::error!(%job, task = %id, kind = report.kind, %error, "a report was given up");
                    return;
                }
            }
        }
    }
}
