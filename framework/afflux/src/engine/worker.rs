//! The worker: runs this node's share of jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use afflux_mesh::Mesh;
use afflux_mesh::bugs::{self, Bug};
use afflux_stream::job::{Deployment, Executor, Running, Storage, TaskId};
use afflux_stream::{Doing, EdgeReading, OperatorReading, Restore, SplitReading, TaskReading, is_round};
use afflux_wire::{Code, Status};

use super::checkpoint_metrics::CheckpointMetrics;
use super::fences::Fences;
use super::metrics::OperatorMetrics;
use super::pipelines::Pipelines;
use super::takeover::begun;
use super::teller::{Begun, Teller, Telling, Told};
use crate::contract::{Cx, Fault, NoError};
use crate::macros::{Actor, Service};
use crate::process;

/// Events of one job's tasks that wait to be told to the coordinator.
const EVENTS_MAX: usize = 4_096;

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
    /// Records that it has taken behind the last durable epoch.
    #[serde(default)]
    pub unsaved: u64,
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
            unsaved: reading.unsaved,
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

/// A node's part of an attempt, for a coordinator that takes over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    /// The deployment, as JSON.
    pub deployment: String,
    /// Its tasks here: chain and subtask.
    pub tasks: Vec<(u32, u32)>,
    /// The epoch or round that was last begun here; 0: none.
    pub triggered: u64,
    /// The greatest epoch that was begun here; 0: none.
    pub epoch_max: u64,
    /// The greatest round that was begun here; 0: none.
    pub round_max: u64,
    /// The last of each kind that each of its tasks has told.
    pub told: Vec<Told>,
}

/// Runs a node's share of jobs. Called by the coordinator alone, with the token of its leadership: a
/// lesser one than has been seen is refused with `ABORTED`, since another node leads.
#[derive(Service)]
#[service(name = "afflux.worker", version = "1.0")]
pub enum Worker {
    /// Makes and starts this node's tasks of a deployment (JSON).
    #[rpc(returns = Share, deadline = "60s")]
    Deploy {
        /// The deployment.
        deployment: String,
        /// The node that coordinates the job.
        coordinator: String,
        /// The coordinator's fencing token; 0: the node itself.
        #[serde(default)]
        fence: u64,
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
        /// The coordinator's fencing token; 0: the node itself.
        #[serde(default)]
        fence: u64,
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
        /// The coordinator's fencing token; 0: the node itself.
        #[serde(default)]
        fence: u64,
    },
    /// Takes in how far the aligned sources of a job are on other nodes, and returns how far they are on
    /// this one: source, and the latest record of its slowest split in milliseconds since 1970. The least
    /// number: nothing was read yet; the greatest: it holds nobody back.
    #[rpc(returns = Vec<(String, i64)>, idempotent, deadline = "2s")]
    Align {
        /// The job's id.
        job: String,
        /// Its attempt.
        attempt: u64,
        /// On other nodes.
        others: Vec<(String, i64)>,
        /// The coordinator's fencing token; 0: the node itself.
        #[serde(default)]
        fence: u64,
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
        /// The coordinator's fencing token; 0: the node itself.
        #[serde(default)]
        fence: u64,
    },
    /// What this node runs.
    #[rpc(returns = Vec<Held>, idempotent, deadline = "2s")]
    Running {
        /// The coordinator's fencing token; 0: the node itself.
        #[serde(default)]
        fence: u64,
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
    /// Where it is counted what checkpoints cost.
    pub checkpoints: CheckpointMetrics,
}

/// This node's part of an attempt.
struct Part {
    running: Running,
    /// As it came: JSON.
    deployment: String,
    triggered: u64,
    epoch_max: u64,
    round_max: u64,
    completed: u64,
    begun: Begun,
    told: Telling,
    /// Nobody needs to be told any more.
    over: Arc<AtomicBool>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// The actor that runs this node's share of jobs.
#[derive(Actor)]
#[actor(serves(Worker), mailbox = 1024)]
pub struct WorkerActor {
    parts: WorkerParts,
    running: BTreeMap<String, Part>,
    fences: Fences,
}

impl WorkerActor {
    /// A worker without jobs.
    pub fn new(parts: WorkerParts) -> Self {
        Self { parts, running: BTreeMap::new(), fences: Fences::default() }
    }

    async fn restore(&self, deployment: &Deployment) -> Result<Option<Arc<Restore>>, Status> {
        let Some(epoch) = deployment.restore else { return Ok(None) };
        let storage = self.parts.storage.as_ref().ok_or_else(|| {
            Status::precondition("this node has no checkpoint storage: set `checkpoint.dir`")
        })?;
        let job = deployment.restore_from.as_deref().unwrap_or(&deployment.job);
        let before = if bugs::on(Bug::WrongEpoch) { storage.read(job, epoch - 1).await.ok() } else { None };
        let clock = &self.parts.executor.clock;
        let begun = clock.now();
        let (_, restore) = match before {
            Some(before) => before,
            None => storage.read(job, epoch).await?,
        };
        self.parts.checkpoints.read(&deployment.pipeline, clock.now() - begun);
        Ok(Some(Arc::new(restore)))
    }

    /// Sees whether this node has the storage that the job's checkpoints go to, before anything runs.
    async fn reach(&self, deployment: &Deployment) -> Result<(), Status> {
        // Played nodes have one disk, and a seed that is noted somewhere keeps its meaning.
        #[cfg(feature = "simulated")]
        if afflux_actor::simulated::has_begun() {
            return Ok(());
        }
        let node = self.parts.executor.node.as_str();
        match &self.parts.storage {
            Some(storage) => storage.reach_job(node, &deployment.job, deployment.attempt).await,
            None if deployment.settings.checkpoint_interval_ms > 0 => Err(Status::precondition(format!(
                "checkpoint.interval_ms is {}, and node {node} has no checkpoint storage: set `checkpoint.url` there, too",
                deployment.settings.checkpoint_interval_ms
            ))),
            None => Ok(()),
        }
    }

    fn share(&self, job: &str) -> Share {
        Share {
            cpu_s: process::cpu_seconds(),
            tasks: self
                .running
                .get(job)
                .map(|part| part.running.tasks.iter().map(|t| TaskShare::new(t.id, t.meter.read())).collect())
                .unwrap_or_default(),
        }
    }

    fn of_attempt(&mut self, job: &str, attempt: u64) -> Option<&mut Part> {
        self.running.get_mut(job).filter(|part| part.running.deployment().attempt.0 == attempt)
    }

    /// Stops the tasks of a job, whatever attempt they are of.
    fn end(&mut self, job: &str, reason: String) {
        if let Some(part) = self.running.remove(job) {
            part.running.stop(&Status::new(Code::Cancelled, reason));
            for task in &part.running.tasks {
                self.parts.metrics.remove(&task.meter);
            }
        }
    }
}

impl WorkerHandler for WorkerActor {
    async fn deploy(
        &mut self,
        _: &mut Cx,
        deployment: String,
        _coordinator: String,
        fence: u64,
    ) -> Result<Share, Fault<NoError>> {
        self.fences.admit(fence)?;
        let text = deployment;
        let deployment: Deployment = serde_json::from_str(&text)
            .map_err(|e| Status::invalid(format!("the deployment cannot be read: {e}")))?;
        if deployment.build != self.parts.build {
            return Err(Status::precondition(format!(
                "this node runs build {}, the job was submitted by build {}; a job runs on nodes of one build",
                self.parts.build, deployment.build
            ))
            .into());
        }
        let runs = self.running.get(&deployment.job).map(|part| part.running.deployment().attempt.0);
        self.fences.begin(&deployment.job, deployment.attempt.0, runs)?;
        let deployment = Arc::new(deployment);
        let job = deployment.job.clone();
        // What is left of an earlier attempt, whose coordinator could not say so.
        self.end(&job, format!("attempt {} begins", deployment.attempt.0));
        let plan = self.parts.pipelines.plan(&deployment.pipeline, deployment.settings.clone())?;
        self.reach(&deployment).await?;
        let restore = self.restore(&deployment).await?;
        let (sender, events) = tokio::sync::mpsc::channel(EVENTS_MAX);
        let (told, over, begun) = (Telling::default(), Arc::new(AtomicBool::new(false)), Begun::default());
        let stamps = self.parts.executor.clock.clone();
        let unstored = Arc::new(OnceLock::new());
        let teller = Teller {
            deployment: Arc::clone(&deployment),
            storage: self.parts.storage.clone(),
            costs: self.parts.checkpoints.clone(),
            operators: self.parts.metrics.clone(),
            desk: self.parts.mesh.client::<super::desk::JobReports>(),
            own: self.parts.mesh.client_on::<Worker>(self.parts.mesh.node()),
            clock: stamps.clone(),
            told: Arc::clone(&told),
            begun: Arc::clone(&begun),
            unstored: Arc::clone(&unstored),
            over: Arc::clone(&over),
        };
        self.parts.executor.threads.io().spawn_with(move || teller.tell_all(events));
        let running = self.parts.executor.deploy(
            &plan,
            deployment,
            restore,
            Arc::new(move |id, event| {
                if sender.try_send((id, event, stamps.now())).is_err() {
                    tracing::error!(task = %id, "a task's report was lost: its queue is full or closed");
                }
            }),
        )?;
        let _ = unstored.set(running.unstored());
        for task in &running.tasks {
            self.parts.metrics.add(running.deployment(), task.id, &task.meter);
        }
        let part = Part {
            running,
            deployment: text,
            triggered: 0,
            epoch_max: 0,
            round_max: 0,
            completed: 0,
            begun,
            told,
            over,
        };
        self.running.insert(job.clone(), part);
        Ok(self.share(&job))
    }

    async fn trigger(
        &mut self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        epoch: u64,
        fence: u64,
    ) -> Result<(), Fault<NoError>> {
        self.fences.admit(fence)?;
        let now = self.parts.executor.clock.now();
        if let Some(part) = self.of_attempt(&job, attempt) {
            let before = if is_round(epoch) { part.round_max } else { part.epoch_max };
            // A coordinator that takes over begins again what was begun.
            if epoch > before {
                part.triggered = epoch;
                begun(epoch, &mut part.epoch_max, &mut part.round_max);
                *part.begun.lock() = Some((epoch, now));
                part.running.trigger(epoch);
            }
        }
        Ok(())
    }

    async fn completed(
        &mut self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        epoch: u64,
        fence: u64,
    ) -> Result<(), Fault<NoError>> {
        self.fences.admit(fence)?;
        if let Some(part) = self.of_attempt(&job, attempt)
            && (is_round(epoch) || epoch > part.completed)
        {
            if !is_round(epoch) {
                part.completed = epoch;
            }
            part.running.completed(epoch);
        }
        Ok(())
    }

    async fn align(
        &mut self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        others: Vec<(String, i64)>,
        fence: u64,
    ) -> Result<Vec<(String, i64)>, Fault<NoError>> {
        self.fences.admit(fence)?;
        let part = self.of_attempt(&job, attempt).ok_or_else(|| {
            Status::not_found(format!("attempt {attempt} of job {job} does not run on this node"))
        })?;
        Ok(part.running.align(&others))
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
        fence: u64,
    ) -> Result<Share, Fault<NoError>> {
        self.fences.admit(fence)?;
        let share = self.share(&job);
        let runs = self.running.get(&job).map(|part| part.running.deployment().attempt.0);
        if runs.is_some_and(|runs| runs <= attempt) {
            self.end(&job, reason);
        }
        self.fences.stopped(&job, attempt);
        Ok(share)
    }

    async fn running(&mut self, _: &mut Cx, fence: u64) -> Result<Vec<Held>, Fault<NoError>> {
        self.fences.admit(fence)?;
        let held = self.running.values().map(|part| Held {
            deployment: part.deployment.clone(),
            tasks: part.running.tasks.iter().map(|task| (task.id.chain, task.id.subtask)).collect(),
            triggered: part.triggered,
            epoch_max: part.epoch_max,
            round_max: part.round_max,
            told: part.told.lock().values().cloned().collect(),
        });
        Ok(held.collect())
    }
}
