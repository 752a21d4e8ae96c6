//! The worker: runs this node's share of jobs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afflux_mesh::Mesh;
use afflux_mesh::bugs::{self, Bug};
use afflux_stream::job::{Deployment, Executor, Running, Storage, TaskId};
use afflux_stream::{
    Doing, EdgeReading, OperatorReading, Restore, SplitReading, TaskEvent, TaskReading, is_round,
};
use afflux_wire::{NodeId, Status};

use super::desk::JobReportsClient;
use super::metrics::OperatorMetrics;
use super::pipelines::Pipelines;
use crate::contract::{Cx, Fault, NoError};
use crate::macros::{Actor, Service};
use crate::process;

/// Events of one job's tasks that wait to be told to the coordinator.
const EVENTS_MAX: usize = 4_096;
/// Tries to tell the coordinator one thing, each as long as the deadline of a report at most.
const REPORT_TRIES_MAX: u32 = 6;
/// Longest wait for the coordinator to take a report.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// What one task has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskShare {
    /// The chain.
    pub chain: u32,
    /// Which of its tasks.
    pub subtask: u32,
    /// Its operators: name, records in, records out, late, errors.
    pub operators: Vec<(String, u64, u64, u64, u64)>,
    /// Seconds at work.
    pub busy_s: f64,
    /// Seconds without input.
    pub idle_s: f64,
    /// Seconds without room downstream.
    pub backpressured_s: f64,
    /// The input watermark in milliseconds since 1970.
    pub watermark_ms: i64,
    /// Input read, in the source's unit.
    pub input_done: u64,
    /// Input there is, 0 when unknown.
    pub input_total: u64,
    /// What it does now; the time since the last change is not in the seconds yet.
    #[serde(default)]
    pub doing: Doing,
    /// The watermark that it has handed on, in milliseconds since 1970.
    #[serde(default)]
    pub watermark_out_ms: i64,
    /// The slowest splits of a source.
    #[serde(default)]
    pub splits: Vec<SplitReading>,
    /// The exchanges by key that it feeds.
    #[serde(default)]
    pub edges: Vec<EdgeReading>,
}

impl TaskShare {
    pub(super) fn new(id: TaskId, reading: TaskReading) -> Self {
        Self {
            chain: id.chain,
            subtask: id.subtask,
            operators: reading
                .operators
                .into_iter()
                .map(|o: OperatorReading| (o.name, o.records_in, o.records_out, o.late, o.errors))
                .collect(),
            busy_s: reading.busy_s,
            idle_s: reading.idle_s,
            backpressured_s: reading.backpressured_s,
            watermark_ms: reading.watermark_ms,
            input_done: reading.input_done,
            input_total: reading.input_total,
            doing: reading.doing,
            watermark_out_ms: reading.watermark_out_ms,
            splits: reading.splits,
            edges: reading.edges,
        }
    }
}

/// A node's share of a job at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// Processor seconds of the node's process since its start.
    pub cpu_s: f64,
    /// Its tasks of the job.
    pub tasks: Vec<TaskShare>,
}

/// Runs a node's share of jobs. Called by the coordinator alone.
#[derive(Service)]
#[service(name = "afflux.worker", version = "1.0")]
pub enum Worker {
    /// Makes and starts this node's tasks of a deployment (JSON).
    #[rpc(returns = Share, deadline = "20s")]
    Deploy {
        /// The deployment.
        deployment: String,
        /// The node that coordinates the job.
        coordinator: String,
    },
    /// Starts an epoch at this node's sources.
    #[rpc(idempotent)]
    Trigger {
        /// The job's id.
        job: String,
        /// Its attempt.
        attempt: u64,
        /// The epoch.
        epoch: u64,
    },
    /// An epoch is durable.
    #[rpc(idempotent)]
    Completed {
        /// The job's id.
        job: String,
        /// Its attempt.
        attempt: u64,
        /// The epoch.
        epoch: u64,
    },
    /// What the tasks of a job have counted.
    #[rpc(returns = Share, idempotent, deadline = "2s")]
    Readings {
        /// The job's id.
        job: String,
    },
    /// Stops the tasks of a job; returns what they have counted.
    #[rpc(returns = Share, idempotent, deadline = "2s")]
    Stop {
        /// The job's id.
        job: String,
        /// Its attempt.
        attempt: u64,
        /// Why.
        reason: String,
    },
}

/// What a worker is made of.
#[derive(Clone)]
pub struct WorkerParts {
    /// The builders of this executable.
    pub pipelines: Arc<Pipelines>,
    /// Makes tasks.
    pub executor: Executor,
    /// The node's mesh.
    pub mesh: Mesh,
    /// Where checkpoints are kept.
    pub storage: Option<Storage>,
    /// This executable's build id.
    pub build: String,
    /// Where operators are counted.
    pub metrics: OperatorMetrics,
}

/// The actor that runs this node's share of jobs.
#[derive(Actor)]
#[actor(serves(Worker), mailbox = 1024)]
pub struct WorkerActor {
    parts: WorkerParts,
    running: BTreeMap<String, Running>,
}

impl WorkerActor {
    /// A worker without jobs.
    pub fn new(parts: WorkerParts) -> Self {
        Self { parts, running: BTreeMap::new() }
    }

    async fn restore(&self, deployment: &Deployment) -> Result<Option<Arc<Restore>>, Status> {
        let Some(epoch) = deployment.restore else { return Ok(None) };
        let storage = self.parts.storage.as_ref().ok_or_else(|| {
            Status::precondition("this node has no checkpoint storage: set `checkpoint.dir`")
        })?;
        let job = deployment.restore_from.as_deref().unwrap_or(&deployment.job);
        let before = if bugs::on(Bug::WrongEpoch) { storage.read(job, epoch - 1).await.ok() } else { None };
        let (_, restore) = match before {
            Some(before) => before,
            None => storage.read(job, epoch).await?,
        };
        Ok(Some(Arc::new(restore)))
    }

    /// Tells the coordinator what tasks tell, in their order.
    fn forward(
        &self,
        deployment: Arc<Deployment>,
        coordinator: NodeId,
        mut events: tokio::sync::mpsc::Receiver<(TaskId, TaskEvent)>,
    ) {
        let storage = self.parts.storage.clone();
        let client: JobReportsClient = self.parts.mesh.client_on::<super::desk::JobReports>(&coordinator);
        self.parts.executor.threads.io().spawn_with(move || async move {
            let (job, attempt) = (deployment.job.clone(), deployment.attempt.0);
            while let Some((id, event)) = events.recv().await {
                let (kind, epoch, body) = match event {
                    TaskEvent::Finished(last) => {
                        ("finished", 0, serde_json::to_string(&last).unwrap_or_default())
                    }
                    TaskEvent::Closed => ("closed", 0, String::new()),
                    TaskEvent::Failed(status) => ("failed", u64::from(status.code.number()), status.message),
                    TaskEvent::Snapshot(snapshot) if is_round(snapshot.epoch) => {
                        ("confirmed", snapshot.epoch, String::new())
                    }
                    TaskEvent::Snapshot(snapshot) => {
                        let epoch = snapshot.epoch;
                        let saved = match &storage {
                            Some(storage) => storage.put(&job, attempt, id, &snapshot).await,
                            None => Err(Status::precondition("no checkpoint storage: set `checkpoint.dir`")),
                        };
                        match saved.and_then(|file| {
                            serde_json::to_string(&file).map_err(|e| Status::internal(e.to_string()))
                        }) {
                            Ok(file) => ("saved", epoch, file),
                            Err(status) => ("save_failed", epoch, status.message),
                        }
                    }
                };
                // Every report can be told twice without harm, and a job that misses one never ends.
                let mut tries = 0;
                loop {
                    let told = client
                        .report(
                            job.clone(),
                            attempt,
                            id.chain,
                            id.subtask,
                            kind.to_owned(),
                            epoch,
                            body.clone(),
                        )
                        .deadline(REPORT_DEADLINE)
                        .await;
                    tries += 1;
                    match told {
                        Ok(()) => break,
                        Err(error) if tries < REPORT_TRIES_MAX => {
                            tracing::debug!(%job, task = %id, %error, "a report is told again");
                        }
                        Err(error) => {
                            tracing::error!(%job, task = %id, kind, tries, %error, "a report was given up");
                            break;
                        }
                    }
                }
            }
        });
    }

    fn share(&self, job: &str) -> Share {
        Share {
            cpu_s: process::cpu_seconds(),
            tasks: self
                .running
                .get(job)
                .map(|r| r.tasks.iter().map(|t| TaskShare::new(t.id, t.meter.read())).collect())
                .unwrap_or_default(),
        }
    }

    fn of_attempt(&self, job: &str, attempt: u64) -> Option<&Running> {
        self.running.get(job).filter(|r| r.deployment().attempt.0 == attempt)
    }
}

impl WorkerHandler for WorkerActor {
    async fn deploy(
        &mut self,
        _: &mut Cx,
        deployment: String,
        coordinator: String,
    ) -> Result<Share, Fault<NoError>> {
        let deployment: Deployment = serde_json::from_str(&deployment)
            .map_err(|e| Status::invalid(format!("the deployment cannot be read: {e}")))?;
        if deployment.build != self.parts.build {
            return Err(Status::precondition(format!(
                "this node runs build {}, the job was submitted by build {}; a job runs on nodes of one build",
                self.parts.build, deployment.build
            ))
            .into());
        }
        let deployment = Arc::new(deployment);
        if let Some(old) = self.running.get(&deployment.job)
            && old.deployment().attempt >= deployment.attempt
        {
            return Err(Status::precondition(format!(
                "attempt {} of job {} is fenced: attempt {} runs here",
                deployment.attempt.0,
                deployment.job,
                old.deployment().attempt.0
            ))
            .into());
        }
        let plan = self.parts.pipelines.plan(&deployment.pipeline, deployment.settings.clone())?;
        let restore = self.restore(&deployment).await?;
        let (sender, events) = tokio::sync::mpsc::channel(EVENTS_MAX);
        self.forward(Arc::clone(&deployment), NodeId::new(coordinator), events);
        let job = deployment.job.clone();
        let running = self.parts.executor.deploy(
            &plan,
            deployment,
            restore,
            Arc::new(move |id, event| {
                if sender.try_send((id, event)).is_err() {
                    tracing::error!(task = %id, "a task's report was lost: its queue is full or closed");
                }
            }),
        )?;
        for task in &running.tasks {
            self.parts.metrics.add(running.deployment(), task.id, &task.meter);
        }
        self.running.insert(job.clone(), running);
        Ok(self.share(&job))
    }

    async fn trigger(
        &mut self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        epoch: u64,
    ) -> Result<(), Fault<NoError>> {
        if let Some(running) = self.of_attempt(&job, attempt) {
            running.trigger(epoch);
        }
        Ok(())
    }

    async fn completed(
        &mut self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        epoch: u64,
    ) -> Result<(), Fault<NoError>> {
        if let Some(running) = self.of_attempt(&job, attempt) {
            running.completed(epoch);
        }
        Ok(())
    }

    async fn readings(&mut self, _: &mut Cx, job: String) -> Result<Share, Fault<NoError>> {
        Ok(self.share(&job))
    }

    async fn stop(
        &mut self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        reason: String,
    ) -> Result<Share, Fault<NoError>> {
        let share = self.share(&job);
        if self.of_attempt(&job, attempt).is_some()
            && let Some(running) = self.running.remove(&job)
        {
            running.stop(&Status::new(afflux_wire::Code::Cancelled, reason));
            for task in &running.tasks {
                self.parts.metrics.remove(&task.meter);
            }
        }
        Ok(share)
    }
}
