//! The job desk: coordinates jobs while this node leads.
//!
//! What a job wants done is carried out beside the handlers, and what comes of it is fed back to the
//! job: a node that does not answer delays its own job alone. Nothing here is held over an await but
//! handles; the table is locked for a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::sync::watch;

use afflux_mesh::Mesh;
use afflux_stream::job::{
    Action, AttemptRecord, CheckpointFile, Coordinator, Deployment, Event, JobState, Prepare, RewindPoint,
    Storage, TaskId, deal_again, place,
};
use afflux_stream::{Epochs, JobSettings, Plan};
use afflux_wire::{Attempt, Code, NodeId, Status};

use super::checkpoint_metrics::Phase;
use super::job_metrics::JobMetrics;
use super::pipelines::Pipelines;
use super::slots::{Follow, Slots};
use super::standing::Standing;
use super::table::{Entry, JobTable};
use super::worker::Worker;
use crate::contract::{Cx, Fault, NoError};
use crate::jobs::{JobInfo, Jobs};
use crate::macros::{Actor, Service};

/// How long a task's loss of its neighbour waits for the news of the node that died.
const SUSPICION: Duration = Duration::from_millis(700);
/// Longest wait for nodes that a request counts on.
const NODES_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at who is there.
const NODES_LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Longest wait for a worker's counts.
const READINGS_DEADLINE: Duration = Duration::from_secs(1);
/// Between two questions to a registry that does not say whether this node still leads.
const LEADS_AGAIN: Duration = Duration::from_millis(200);
/// A node that has joined gets this long to be linked to the others before jobs are given to it.
pub(super) const JOIN_SETTLES: Duration = Duration::from_secs(1);

/// What workers and the mesh tell the desk.
#[derive(Service)]
#[service(name = "afflux.job-reports", version = "1.0")]
pub enum JobReports {
    /// A task has `finished`, or has committed its last output after that (`closed`), `failed` (`epoch` is the code, `body` the message), has `panicked` (`body` is the panic as JSON), has `saved` its
    /// part of an epoch (`body` is the file as JSON) or could not (`save_failed`), or has passed the
    /// barrier of a round of confirmations (`confirmed`). `UNAVAILABLE`: tell it again, this desk does
    /// not know the job yet; `ABORTED`: the attempt is over.
    Report {
        /// The job's id.
        job: String,
        /// Its attempt.
        attempt: u64,
        /// The task's chain.
        chain: u32,
        /// Which of its tasks.
        subtask: u32,
        /// What happened.
        kind: String,
        /// The epoch, or the code.
        epoch: u64,
        /// The rest.
        body: String,
    },
    /// A node is gone.
    #[rpc(oneway)]
    NodeDown {
        /// The node.
        node: String,
        /// How that was noticed.
        reason: String,
    },
    /// There is a link to a node.
    #[rpc(oneway)]
    NodeUp {
        /// The node.
        node: String,
    },
}

/// Whether this node leads now, as the registry says.
pub type Leads = Arc<dyn Fn() -> BoxFuture<'static, Result<bool, String>> + Send + Sync>;

/// What a desk is made of.
#[derive(Clone)]
pub struct DeskParts {
    /// The builders of this executable.
    pub pipelines: Arc<Pipelines>,
    /// The node's mesh.
    pub mesh: Mesh,
    /// This node.
    pub node: NodeId,
    /// Where checkpoints are kept.
    pub storage: Option<Storage>,
    /// This executable's build id.
    pub build: String,
    /// Settings that a job has unless its request says otherwise.
    pub defaults: JobSettings,
    /// The nodes that run tasks now, with their slots.
    pub nodes: Arc<dyn Fn() -> Vec<(NodeId, u32)> + Send + Sync>,
    /// Milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Where waiting happens.
    pub io: afflux_actor::Place,
    /// The node's clock.
    pub clock: afflux_actor::Clock,
    /// The token of this node's leadership: workers refuse a lesser one than they have seen.
    pub fence: u64,
    /// Whether that still lasts.
    pub leads: Leads,
    /// Token of the first leader of this registry's life: a job begun under a lesser one is of an
    /// earlier cluster, and is not taken up.
    pub since: Arc<dyn Fn() -> BoxFuture<'static, u64> + Send + Sync>,
    /// Where jobs are counted.
    pub metrics: JobMetrics,
    /// What is started without being asked for.
    pub standing: Standing,
    /// When jobs are rescaled by themselves.
    pub follow: Follow,
}

/// Coordinates jobs. One lives on the node that leads.
#[derive(Actor)]
#[actor(serves(Jobs, JobReports), mailbox = 4096, concurrent = 1024)]
pub struct JobDesk {
    pub(super) desk: Arc<Desk>,
}

impl JobDesk {
    /// The actor in front of a desk; the jobs outlive a panic of the actor.
    pub fn new(desk: &Arc<Desk>) -> Self {
        Self { desk: Arc::clone(desk) }
    }
}

/// The jobs of a leadership.
pub struct Desk {
    pub(super) parts: DeskParts,
    pub(super) table: Mutex<JobTable>,
    /// Counts steps, for those who wait for one.
    changed: watch::Sender<u64>,
    leading: AtomicBool,
    /// The slots there are, for the jobs that follow them.
    pub(super) slots: Mutex<Slots>,
}

impl Desk {
    /// A desk, which begins to find out what jobs there are.
    pub fn open(parts: DeskParts) -> Arc<Self> {
        let table = JobTable::taking_over();
        let slots = Mutex::new(Slots::new(&(parts.nodes)(), parts.clock.now()));
        let desk = Arc::new(Self {
            parts,
            table: Mutex::new(table),
            changed: watch::Sender::new(0),
            leading: AtomicBool::new(true),
            slots,
        });
        let taking = Arc::clone(&desk);
        desk.parts.io.spawn_with(move || async move { taking.take_over().await });
        desk
    }

    /// This node leads no longer: nothing more is carried out.
    pub fn close(&self) {
        self.leading.store(false, Ordering::Release);
        self.parts.metrics.forget();
    }

    pub(super) fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Acquire)
    }

    /// The nodes there are, once there are so many or it has been waited long enough.
    pub(super) async fn nodes(&self, min: u32) -> Vec<(NodeId, u32)> {
        let until = self.parts.clock.now() + NODES_WAIT;
        loop {
            let mut nodes = (self.parts.nodes)();
            nodes.retain(|(_, slots)| *slots > 0);
            nodes.sort();
            if nodes.len() >= min as usize || self.parts.clock.now() >= until {
                return nodes;
            }
            self.parts.clock.sleep(NODES_LOOK_AGAIN).await;
        }
    }

    /// Waits until a job is so, or it has been waited long enough.
    pub(super) async fn until(&self, job: &str, wait: Duration, fits: impl Fn(&Entry) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = async {
            while self.table.lock().jobs.get(job).is_some_and(|entry| !fits(entry)) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = waited => {}
            () = self.parts.clock.sleep(wait) => {}
        }
    }

    /// Tells a job what has happened, and sees to what it wants done.
    pub(super) fn feed(self: &Arc<Self>, job: &str, event: Event) {
        self.with(job, |entry| entry.coordinator.step(event));
    }

    /// Changes a job, and sees to what it wants done.
    pub(super) fn with(self: &Arc<Self>, job: &str, change: impl FnOnce(&mut Entry) -> Vec<Action>) {
        if !self.is_leading() {
            return;
        }
        let now_ms = (self.parts.now_ms)();
        let mut table = self.table.lock();
        let Some(entry) = table.jobs.get_mut(job) else { return };
        let before = entry.coordinator.state().clone();
        let poisoned = entry.coordinator.set_aside().len();
        let actions = change(entry);
        let deployment = Arc::clone(entry.coordinator.deployment());
        if let Some((stored, tasks)) = entry.coordinator.progress() {
            self.parts.metrics.costs.progress(&deployment.pipeline, stored, tasks);
            entry.history.stored(stored, tasks);
        }
        note(job, &before, entry);
        entry.history.note(&before, &entry.coordinator, now_ms);
        for aside in entry.coordinator.set_aside().iter().skip(poisoned) {
            tracing::error!(job, operator = aside.operator, record = %aside.record, "a record is set aside");
            self.parts.metrics.set_aside(&deployment.pipeline, &aside.operator);
        }
        for action in &actions {
            match action {
                Action::Stop(..) => entry.asked_to_stop(),
                Action::Ended => entry.end(now_ms),
                Action::Trigger(_, epoch) => {
                    let begun = entry.triggered.filter(|(known, _)| known == epoch);
                    entry.triggered = begun.or(Some((*epoch, self.parts.clock.now())));
                    entry.history.begun(*epoch, deployment.attempt.0, now_ms);
                }
                _ => {}
            }
        }
        let states: Vec<(String, &'static str)> = table
            .jobs
            .values()
            .map(|e| (e.coordinator.deployment().pipeline.clone(), e.coordinator.state().as_str()))
            .collect();
        drop(table);
        self.parts.metrics.states(states, self.parts.storage.is_some());
        for action in actions {
            let (desk, deployment, job) = (Arc::clone(self), Arc::clone(&deployment), job.to_owned());
            self.parts.io.spawn_with(move || async move {
                if desk.is_leading() {
                    desk.carry_out(&job, &deployment, action).await;
                }
            });
        }
        self.changed.send_modify(|steps| *steps += 1);
    }

    /// Tells a job something after a while.
    fn feed_later(self: &Arc<Self>, job: &str, after: Duration, event: Event) {
        let (desk, job) = (Arc::clone(self), job.to_owned());
        self.parts.io.spawn_with(move || async move {
            desk.parts.clock.sleep(after).await;
            desk.feed(&job, event);
        });
    }

    async fn carry_out(self: &Arc<Self>, job: &str, deployment: &Arc<Deployment>, action: Action) {
        let (parts, attempt) = (&self.parts, deployment.attempt);
        let worker = |node: &NodeId| parts.mesh.client_on::<Worker>(node);
        let (id, fence) = (job.to_owned(), parts.fence);
        match action {
            Action::Deploy(node) => {
                let made = match serde_json::to_string(&**deployment) {
                    Ok(text) => worker(&node).deploy(text, parts.node.to_string(), fence).await,
                    Err(error) => {
                        let failed =
                            Err(Status::internal(format!("a deployment cannot be encoded: {error}")));
                        return self.feed(job, Event::Deployed(attempt, node, failed));
                    }
                };
                let made = made.map_err(Status::from);
                self.with(job, |entry| {
                    if let Ok(share) = &made {
                        entry.deployed(&node, share);
                    }
                    entry.coordinator.step(Event::Deployed(attempt, node, made.map(|_| ())))
                });
            }
            Action::Trigger(node, epoch) => {
                if let Err(error) = worker(&node).trigger(id, attempt.0, epoch, fence).await {
                    tracing::warn!(%node, epoch, %error, "a node did not take an epoch's start");
                }
            }
            Action::Completed(node, epoch) => {
                if let Err(error) = worker(&node).completed(id, attempt.0, epoch, fence).await {
                    tracing::warn!(%node, epoch, %error, "a node did not take an epoch's completion");
                }
            }
            Action::Stop(node, reason) => {
                let stopped = worker(&node).stop(id, attempt.0, reason.message, fence).fail_fast().await;
                if let Err(error) = &stopped {
                    tracing::debug!(%node, %error, "a node did not answer a stop");
                }
                let now_ms = (parts.now_ms)();
                self.with(job, |entry| {
                    entry.stopped(&node, stopped.ok(), now_ms);
                    entry.coordinator.step(Event::Stopped(attempt, node))
                });
            }
            Action::Commit(manifest) => {
                let (epoch, pipeline) = (manifest.epoch, manifest.pipeline.clone());
                let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
                let whole = manifest.files.iter().all(|file| file.refers.is_empty());
                let manifest = afflux_stream::job::Manifest { fencing_token: fence, ..*manifest };
                let begun = parts.clock.now();
                let result = match &parts.storage {
                    Some(storage) => storage.commit(&manifest).await,
                    None => Err(Status::precondition("no checkpoint storage: set `checkpoint.dir`")),
                };
                parts.metrics.costs.took(&pipeline, Phase::Commit, parts.clock.now() - begun);
                // Who was cut off may have made this manifest; the second phase is the leader's alone.
                if !self.confirmed().await {
                    return;
                }
                if let Err(error) = &result {
                    tracing::error!(job, epoch, %error, "a checkpoint failed: its manifest was not written");
                }
                let begun = self.table.lock().jobs.get(job).and_then(|entry| entry.triggered);
                let took = begun
                    .filter(|(known, _)| *known == epoch)
                    .map(|(_, at)| parts.clock.now().saturating_duration_since(at));
                let now_ms = (parts.now_ms)();
                parts.metrics.checkpoint(&pipeline, result.is_ok(), took, (bytes, whole), now_ms);
                if let Some(entry) = self.table.lock().jobs.get_mut(job) {
                    entry.history.committed(epoch, &result, bytes, now_ms);
                }
                self.feed(job, Event::Committed(epoch, result));
            }
            Action::Wait(attempt, pause) => self.feed_later(job, pause, Event::BackoffOver(attempt)),
            Action::Forget(window) => self.feed_later(job, window, Event::FailureForgotten),
            Action::Prepare(wanted) => {
                let prepared = self.prepare(job, deployment, &wanted).await;
                if !self.is_leading() {
                    return;
                }
                self.with(job, |entry| {
                    let prepared = prepared.map(|(plan, deployment)| {
                        entry.begin(plan);
                        deployment
                    });
                    entry.coordinator.step(Event::Prepared(wanted.attempt, prepared))
                });
            }
            Action::Ended => {
                let state = self.table.lock().jobs.get(job).map(|e| e.coordinator.state().clone());
                if let (Some(storage), Some(state)) = (&parts.storage, state)
                    && let Err(error) = storage.end_job(job, &state).await
                {
                    tracing::warn!(job, %error, "the end of a job was not noted: a next leader may take it up");
                }
            }
        }
    }

    /// Whether this node still leads, as the registry says; asked until it answers or the lock is lost.
    async fn confirmed(&self) -> bool {
        while self.is_leading() {
            match (self.parts.leads)().await {
                Ok(true) => return true,
                Ok(false) => {
                    tracing::warn!("another node coordinates the jobs: this one commits nothing more");
                    self.close();
                    return false;
                }
                Err(error) => {
                    tracing::debug!(error, "the registry does not say who leads");
                    self.parts.clock.sleep(LEADS_AGAIN).await;
                }
            }
        }
        false
    }

    /// Finds nodes and a checkpoint for another attempt, and notes that it begins.
    async fn prepare(
        &self,
        job: &str,
        last: &Deployment,
        wanted: &Prepare,
    ) -> Result<(Plan, Arc<Deployment>), Status> {
        let nodes: Vec<NodeId> = self.nodes(1).await.into_iter().map(|(node, _)| node).collect();
        if nodes.is_empty() {
            return Err(no_nodes());
        }
        let mut settings = last.settings.clone();
        settings.parallelism = wanted.parallelism.unwrap_or(settings.parallelism);
        let plan = self.parts.pipelines.plan(&last.pipeline, settings.clone())?;
        let listed_parallelism = last.listed_for();
        let listing = JobSettings { parallelism: listed_parallelism, ..settings.clone() };
        let listed = self.parts.pipelines.plan(&last.pipeline, listing)?.splits()?;
        let point = match &self.parts.storage {
            Some(storage) => storage.rewind_point(job, wanted.below).await?,
            None => RewindPoint::default(),
        };
        if let Some(damaged) = wanted.below {
            tracing::error!(job, damaged, used = ?point.epoch, "a checkpoint is damaged: an earlier one is used");
            self.parts.metrics.fell_back(&last.pipeline);
        }
        let deployment = Deployment {
            attempt: wanted.attempt,
            settings,
            build: self.parts.build.clone(),
            fingerprint: plan.graph().fingerprint(),
            graph: plan.graph().clone(),
            placement: place(&plan.widths(), &nodes),
            splits: deal_again(&last.splits, &listed, &plan.widths()),
            listed_parallelism,
            restore: point.epoch,
            restore_from: point.job,
            poison: wanted.poison.clone(),
            ..last.clone()
        };
        self.note_attempt(&deployment).await?;
        let cause = if wanted.parallelism.is_some() { "rescale" } else { "failure" };
        self.parts.metrics.restarted(&deployment.pipeline, cause);
        if deployment.restore.is_some() {
            self.parts.metrics.costs.restored(&deployment.pipeline, cause);
            let again = self.table.lock().jobs.get(job).map_or(0, Entry::to_replay);
            self.parts.metrics.costs.replays(&deployment.pipeline, again);
        }
        tracing::warn!(
            job,
            attempt = deployment.attempt.0,
            epoch = ?deployment.restore,
            nodes = nodes.len(),
            "the job goes on with another attempt"
        );
        Ok((plan, Arc::new(deployment)))
    }

    /// Writes the record of an attempt, where there is storage.
    pub(super) async fn note_attempt(&self, deployment: &Deployment) -> Result<(), Status> {
        let Some(storage) = &self.parts.storage else { return Ok(()) };
        let record = AttemptRecord::new(deployment.clone(), self.parts.fence);
        match storage.begin_attempt(&record).await {
            Err(status) if status.code == Code::AlreadyExists => {
                // Either another leads, or the answer to an earlier try was lost: the next number is free.
                self.confirmed().await;
                Err(Status::unavailable(format!(
                    "attempt {} of job {} was begun before",
                    deployment.attempt.0, deployment.job
                )))
            }
            noted => noted,
        }
    }

    /// Asks the workers of a running job for their counts.
    pub(super) async fn refresh(&self, job: &str) {
        let nodes = match self.table.lock().jobs.get(job) {
            Some(entry) if !entry.coordinator.state().is_terminal() => entry.nodes(),
            _ => return,
        };
        let asked = nodes.into_iter().map(|node| {
            let client = self.parts.mesh.client_on::<Worker>(&node);
            async move {
                let share = client.readings(job.to_owned()).fail_fast().deadline(READINGS_DEADLINE).await;
                (node, share)
            }
        });
        for (node, share) in join_all(asked).await {
            if let (Some(entry), Ok(share)) = (self.table.lock().jobs.get_mut(job), share) {
                entry.take(&node, share);
            }
        }
    }

    pub(super) fn show_now(&self, job: &str) -> Result<JobInfo, Fault<NoError>> {
        Ok(self.table.lock().find(job)?.info(job, (self.parts.now_ms)()))
    }

    /// Puts a job on the table and sees to what it wants done first.
    pub(super) fn admit(self: &Arc<Self>, coordinator: Coordinator, plan: Plan, first: Vec<Action>) {
        let deployment = Arc::clone(coordinator.deployment());
        let (epochs, aligned) = (plan.epochs(), !plan.aligned().is_empty());
        let entry = Entry::new(coordinator, plan, deployment.started_ms);
        let job = deployment.job.clone();
        let mut table = self.table.lock();
        table.jobs.insert(job.clone(), entry);
        table.prune();
        drop(table);
        self.with(&job, |_| first);
        if let Some(epochs) = epochs {
            self.begin_epochs(job.clone(), epochs);
        }
        if aligned {
            self.begin_align(job);
        }
    }

    /// Begins the epochs of a job that starts them by itself, until it has ended.
    fn begin_epochs(self: &Arc<Self>, job: String, epochs: Epochs) {
        let (Epochs::Checkpoints(after) | Epochs::Rounds(after)) = epochs;
        let desk = Arc::clone(self);
        self.parts.io.spawn_with(move || async move {
            loop {
                desk.parts.clock.sleep(after).await;
                let over = match desk.table.lock().jobs.get(&job) {
                    Some(entry) => entry.coordinator.state().is_terminal(),
                    None => true,
                };
                if over || !desk.is_leading() {
                    return;
                }
                desk.feed(
                    &job,
                    match epochs {
                        Epochs::Checkpoints(_) => Event::Checkpoint,
                        Epochs::Rounds(_) => Event::Round,
                    },
                );
            }
        });
    }

    /// Takes in what a worker tells of a task.
    pub(super) fn told(
        self: &Arc<Self>,
        job: &str,
        attempt: u64,
        task: TaskId,
        kind: &str,
        epoch: u64,
        body: String,
    ) -> Result<(), Status> {
        if !self.is_leading() {
            return Err(Status::unavailable("this node no longer coordinates the jobs"));
        }
        {
            let table = self.table.lock();
            let Some(entry) = table.jobs.get(job) else {
                return Err(Status::unavailable(format!("job {job} is not known here, or not yet")));
            };
            let current = entry.coordinator.deployment().attempt.0;
            if attempt < current || entry.coordinator.state().is_terminal() {
                return Err(Status::new(Code::Aborted, format!("attempt {attempt} of job {job} is over")));
            }
        }
        let attempt = Attempt(attempt);
        let event = match kind {
            "finished" => {
                let last = serde_json::from_str(&body)
                    .map_err(|e| Status::invalid(format!("a task's last words cannot be read: {e}")))?;
                Event::TaskFinished(attempt, task, last)
            }
            "closed" => Event::TaskClosed(attempt, task),
            "saved" => {
                let file: CheckpointFile = serde_json::from_str(&body)
                    .map_err(|e| Status::invalid(format!("a checkpoint file cannot be read: {e}")))?;
                Event::TaskSaved(attempt, epoch, file)
            }
            "save_failed" => {
                tracing::error!(job, %task, epoch, error = body, "a checkpoint failed");
                if let Some(entry) = self.table.lock().jobs.get_mut(job) {
                    entry.history.failed(epoch, &body, (self.parts.now_ms)());
                    let pipeline = &entry.coordinator.deployment().pipeline;
                    self.parts.metrics.checkpoint(pipeline, false, None, (0, true), 0);
                }
                Event::SaveFailed(attempt, epoch)
            }
            "confirmed" => Event::TaskConfirmed(attempt, epoch, task),
            "panicked" => {
                let kill = serde_json::from_str(&body)
                    .map_err(|e| Status::invalid(format!("a task's panic cannot be read: {e}")))?;
                Event::TaskPanicked(attempt, task, Box::new(kill))
            }
            _ => {
                let code = Code::from_number(u8::try_from(epoch).unwrap_or(0));
                let event = Event::TaskFailed(attempt, task, Status::new(code, body));
                if code == Code::Unavailable {
                    // A neighbour or a link is gone; the news of a dead node says more.
                    self.feed_later(job, SUSPICION, event);
                    return Ok(());
                }
                event
            }
        };
        self.feed(job, event);
        Ok(())
    }
}

pub(super) fn no_nodes() -> Status {
    Status::unavailable("no node has slots for tasks: start one with `node --join ADDRESS`")
}

/// Logs what has changed.
fn note(job: &str, before: &JobState, entry: &Entry) {
    let now = entry.coordinator.state();
    if before == now {
        return;
    }
    let attempt = entry.coordinator.deployment().attempt.0;
    match now {
        JobState::Restarting(status) => {
            tracing::warn!(job, attempt, error = status.message, "an attempt is over: the job restarts");
        }
        JobState::Failed(status) => tracing::error!(job, attempt, error = status.message, "the job failed"),
        _ => tracing::info!(job, attempt, state = now.as_str(), "the job is in another state"),
    }
}

impl JobReportsShared for JobDesk {
    async fn report(
        &self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        chain: u32,
        subtask: u32,
        kind: String,
        epoch: u64,
        body: String,
    ) -> Result<(), Fault<NoError>> {
        Ok(self.desk.told(&job, attempt, TaskId { chain, subtask }, &kind, epoch, body)?)
    }

    async fn node_down(&self, _: &mut Cx, node: String, reason: String) -> Result<(), Fault<NoError>> {
        let jobs: Vec<String> = self.desk.table.lock().jobs.keys().cloned().collect();
        for job in jobs {
            self.desk.feed(&job, Event::NodeDown(NodeId::new(node.as_str()), reason.clone()));
        }
        let desk = Arc::clone(&self.desk);
        self.desk.parts.io.spawn_with(move || desk.follow_slots(Duration::ZERO));
        Ok(())
    }

    async fn node_up(&self, _: &mut Cx, _: String) -> Result<(), Fault<NoError>> {
        let desk = Arc::clone(&self.desk);
        self.desk.parts.io.spawn_with(move || desk.follow_slots(JOIN_SETTLES));
        Ok(())
    }
}
