//! The job desk: coordinates jobs while this node leads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use afflux_mesh::Mesh;
use afflux_stream::OperatorKind;
use afflux_stream::job::{
    Action, CheckpointFile, Coordinator, Deployment, Event, JobState, Storage, TaskId, place,
};
use afflux_stream::{Epochs, JobSettings, Plan};
use afflux_wire::{Attempt, Code, NodeId, Status};

use super::pipelines::Pipelines;
use super::settings::job_settings;
use super::why::{Look, Looks};
use super::worker::{Share, TaskShare, Worker};
use crate::contract::{Cx, Fault, NoError};
use crate::error::suggest;
use crate::jobs::{JobInfo, JobRequest, Jobs, JobsHandler, TaskPlace};
use crate::macros::{Actor, Service};
use crate::progress::{JobProgress, OperatorProgress};
use crate::why::Why;

/// Ended jobs that are remembered.
const ENDED_JOBS_MAX: usize = 100;
/// How long a task's loss of its neighbour waits for the news of the node that died.
const SUSPICION: Duration = Duration::from_millis(700);
/// Tries to tell the desk, whose mailbox may be full, that an epoch is due.
const EPOCH_TRIES_MAX: u32 = 100;
/// Longest wait for nodes that a request counts on.
const NODES_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at who is there.
const NODES_LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Looks at a job that are kept to be compared with the next.
const LOOKS_MAX: usize = 8;
/// A look is compared with one at least so much older, so that two who ask do not spoil each other's
/// answers, and at most so much.
const LOOKS_APART: std::ops::Range<Duration> = Duration::from_millis(200)..Duration::from_secs(60);
/// Longest wait for a worker's counts.
const READINGS_DEADLINE: Duration = Duration::from_secs(1);

/// What workers and the mesh tell the desk.
#[derive(Service)]
#[service(name = "afflux.job-reports", version = "1.0")]
pub enum JobReports {
    /// A task has `finished`, or has committed its last output after that (`closed`), `failed` (`epoch` is the code, `body` the message), has `saved` its
    /// part of an epoch (`body` is the file as JSON) or could not (`save_failed`), or has passed the
    /// barrier of a round of confirmations (`confirmed`).
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
    /// The next epoch of a job that starts them by itself is due.
    #[rpc(oneway)]
    EpochDue {
        /// The job's id.
        job: String,
    },
    /// A suspicion is due: fail the job with what its task told, if no node was found dead.
    #[rpc(oneway)]
    Suspected {
        /// The job's id.
        job: String,
    },
}

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
}

struct Entry {
    coordinator: Coordinator,
    plan: Plan,
    started_ms: i64,
    ended_ms: Option<i64>,
    /// Processor seconds of each node when the job began, and now.
    cpu: BTreeMap<NodeId, (f64, f64)>,
    shares: BTreeMap<TaskId, TaskShare>,
    suspicion: Option<Event>,
    /// The counts when somebody asked why, the latest last.
    looks: VecDeque<Look>,
}

/// Coordinates jobs. One lives on the node that leads.
#[derive(Actor)]
#[actor(serves(Jobs, JobReports), mailbox = 4096)]
pub struct JobDesk {
    parts: DeskParts,
    jobs: BTreeMap<String, Entry>,
    next: u64,
}

impl JobDesk {
    /// A desk without jobs.
    pub fn new(parts: DeskParts) -> Self {
        Self { parts, jobs: BTreeMap::new(), next: 0 }
    }

    /// The nodes there are, once there are so many or it has been waited long enough.
    async fn nodes(&self, min: u32) -> Vec<(NodeId, u32)> {
        let until = self.parts.clock.now() + NODES_WAIT;
        loop {
            let nodes = (self.parts.nodes)();
            if nodes.len() >= min as usize || self.parts.clock.now() >= until {
                return nodes;
            }
            self.parts.clock.sleep(NODES_LOOK_AGAIN).await;
        }
    }

    fn new_id(&mut self, pipeline: &str) -> String {
        self.next += 1;
        // Time makes ids of different leaders differ; the number those of one.
        format!("{pipeline}-{:x}-{}", (self.parts.now_ms)() / 1000, self.next)
    }

    /// Feeds events to a job until nothing is left to be done.
    async fn drive(&mut self, job: &str, first: VecDeque<Event>, mut actions: Vec<Action>) {
        let mut events = first;
        loop {
            let Some(entry) = self.jobs.get_mut(job) else { return };
            while let Some(event) = events.pop_front() {
                actions.extend(entry.coordinator.step(event));
            }
            if actions.is_empty() {
                return;
            }
            let deployment = Arc::clone(entry.coordinator.deployment());
            let calls = std::mem::take(&mut actions)
                .into_iter()
                .map(|action| carry_out(&self.parts, Arc::clone(&deployment), action));
            for outcome in join_all(calls).await {
                let Some(entry) = self.jobs.get_mut(job) else { return };
                match outcome {
                    Outcome::Deployed(node, result) => {
                        if let Ok(share) = &result {
                            entry.cpu.insert(node.clone(), (share.cpu_s, share.cpu_s));
                        }
                        events.push_back(Event::Deployed(node, result.map(|_| ())));
                    }
                    Outcome::Committed(epoch, result) => events.push_back(Event::Committed(epoch, result)),
                    Outcome::Stopped(node, Ok(share)) => entry.take(&node, share),
                    Outcome::Stopped(node, Err(error)) => {
                        tracing::debug!(%node, %error, "a node did not answer a stop");
                    }
                    Outcome::Ended => {
                        entry.ended_ms.get_or_insert((self.parts.now_ms)());
                    }
                    Outcome::Nothing => {}
                }
            }
        }
    }

    async fn event(&mut self, job: &str, event: Event) {
        self.drive(job, VecDeque::from([event]), Vec::new()).await;
    }

    /// Asks the workers of a running job for their counts.
    async fn refresh(&mut self, job: &str) {
        let Some(entry) = self.jobs.get(job).filter(|e| !e.coordinator.state().is_terminal()) else {
            return;
        };
        let nodes: Vec<NodeId> = entry.cpu.keys().cloned().collect();
        let asked = nodes.into_iter().map(|node| {
            let client = self.parts.mesh.client_on::<Worker>(&node);
            async move { (node, client.readings(job.to_owned()).deadline(READINGS_DEADLINE).await) }
        });
        for (node, share) in join_all(asked).await {
            if let (Some(entry), Ok(share)) = (self.jobs.get_mut(job), share) {
                entry.take(&node, share);
            }
        }
    }

    fn find(&self, job: &str) -> Result<&Entry, Status> {
        self.jobs.get(job).ok_or_else(|| {
            let known: Vec<&str> = self.jobs.keys().map(String::as_str).collect();
            Status::not_found(format!(
                "no job is named `{job}`; {}",
                if known.is_empty() {
                    "there is none".to_owned()
                } else {
                    format!("there are {}", known.join(", "))
                }
            ))
        })
    }

    /// The job that is asked about: the one of this id, else the newest that has the operator, a
    /// running one before one that has ended.
    fn job_with(&self, job: &str, operator: &str) -> Result<String, Status> {
        let has = |entry: &Entry| entry.plan.graph().operators.iter().any(|o| o.name == operator);
        let looked_at: Vec<(&String, &Entry)> = if job.is_empty() {
            self.jobs.iter().collect()
        } else {
            self.jobs.get_key_value(job).map(|found| vec![found]).ok_or_else(|| match self.find(job) {
                Err(status) => status,
                Ok(_) => Status::internal("a job is there and is not"),
            })?
        };
        let newest = looked_at
            .iter()
            .filter(|(_, entry)| has(entry))
            .max_by_key(|(_, entry)| (entry.ended_ms.is_none(), entry.started_ms));
        newest.map(|(id, _)| (*id).clone()).ok_or_else(|| {
            let names: BTreeSet<&str> = looked_at
                .iter()
                .flat_map(|(_, entry)| &entry.plan.graph().operators)
                .map(|o| o.name.as_str())
                .collect();
            Status::not_found(format!("no job has an operator `{operator}`; {}", suggest(operator, names)))
        })
    }

    /// Forgets the oldest ended jobs.
    fn prune(&mut self) {
        let mut ended: Vec<(i64, String)> =
            self.jobs.iter().filter_map(|(id, e)| e.ended_ms.map(|at| (at, id.clone()))).collect();
        ended.sort_unstable();
        let excess = ended.len().saturating_sub(ENDED_JOBS_MAX);
        for (_, id) in ended.into_iter().take(excess) {
            self.jobs.remove(&id);
        }
    }
}

enum Outcome {
    Deployed(NodeId, Result<Share, Status>),
    Committed(u64, Result<(), Status>),
    Stopped(NodeId, Result<Share, Status>),
    Ended,
    Nothing,
}

async fn carry_out(parts: &DeskParts, deployment: Arc<Deployment>, action: Action) -> Outcome {
    let (job, attempt) = (deployment.job.clone(), deployment.attempt.0);
    match action {
        Action::Deploy(node) => {
            let text = match serde_json::to_string(&*deployment) {
                Ok(text) => text,
                Err(e) => return Outcome::Deployed(node, Err(Status::internal(e.to_string()))),
            };
            let client = parts.mesh.client_on::<Worker>(&node);
            let share = client.deploy(text, parts.node.to_string()).await.map_err(Status::from);
            Outcome::Deployed(node, share)
        }
        Action::Trigger(node, epoch) => {
            let client = parts.mesh.client_on::<Worker>(&node);
            if let Err(error) = client.trigger(job, attempt, epoch).await {
                tracing::warn!(%node, epoch, %error, "a node did not take an epoch's start");
            }
            Outcome::Nothing
        }
        Action::Completed(node, epoch) => {
            let client = parts.mesh.client_on::<Worker>(&node);
            if let Err(error) = client.completed(job, attempt, epoch).await {
                tracing::warn!(%node, epoch, %error, "a node did not take an epoch's completion");
            }
            Outcome::Nothing
        }
        Action::Stop(node, reason) => {
            let client = parts.mesh.client_on::<Worker>(&node);
            let share = client.stop(job, attempt, reason.message).fail_fast().await.map_err(Status::from);
            Outcome::Stopped(node, share)
        }
        Action::Commit(manifest) => {
            let epoch = manifest.epoch;
            let result = match &parts.storage {
                Some(storage) => storage.commit(&manifest).await,
                None => Err(Status::precondition("no checkpoint storage: set `checkpoint.dir`")),
            };
            Outcome::Committed(epoch, result)
        }
        Action::Ended => Outcome::Ended,
    }
}

impl Entry {
    /// What keeps an operator; remembers the counts for the next time.
    fn why(&mut self, job: &str, operator: &str, now_ms: i64, at: Instant) -> Option<Why> {
        let now = Look { at, shares: self.shares.clone() };
        let apart = |look: &&Look| LOOKS_APART.contains(&at.duration_since(look.at));
        let looks = Looks {
            graph: self.plan.graph(),
            placement: &self.coordinator.deployment().placement,
            now: &now,
            before: self.looks.iter().rev().find(apart),
            now_ms,
        };
        let why = looks.why(operator)?;
        // Who asks again and again does not push out the looks to compare with.
        if self.looks.back().is_none_or(|last| at.duration_since(last.at) >= LOOKS_APART.start) {
            self.looks.push_back(now);
        }
        if self.looks.len() > LOOKS_MAX {
            self.looks.pop_front();
        }
        let state = self.coordinator.state().as_str().to_owned();
        Some(Why { job: job.to_owned(), state, ..why })
    }

    fn take(&mut self, node: &NodeId, share: Share) {
        if let Some((_, now)) = self.cpu.get_mut(node) {
            *now = share.cpu_s.max(*now);
        }
        for task in share.tasks {
            self.shares.insert(TaskId { chain: task.chain, subtask: task.subtask }, task);
        }
    }

    fn info(&self, id: &str, now_ms: i64) -> JobInfo {
        let deployment = self.coordinator.deployment();
        let graph = self.plan.graph();
        let mut tasks = Vec::new();
        for (chain, places) in graph.chains.iter().zip(&deployment.placement) {
            let name = chain.operators.last().map_or("", String::as_str);
            for (subtask, node) in places.iter().enumerate() {
                tasks.push(TaskPlace {
                    path: format!("{}/{name}/{subtask}", deployment.pipeline),
                    operators: chain.operators.clone(),
                    subtask: subtask as u32,
                    node: node.to_string(),
                });
            }
        }
        let output = graph.operators.iter().filter_map(|o| o.target.clone()).next_back();
        JobInfo {
            id: id.to_owned(),
            pipeline: deployment.pipeline.clone(),
            state: self.coordinator.state().as_str().to_owned(),
            error: match self.coordinator.state() {
                JobState::Failed(status) => Some(status.message.clone()),
                _ => None,
            },
            started_ms: self.started_ms,
            wall_s: (self.ended_ms.unwrap_or(now_ms) - self.started_ms).max(0) as f64 / 1000.0,
            cpu_s: self.cpu.values().map(|(before, now)| now - before).sum(),
            output: output.unwrap_or_default(),
            tasks,
            progress: self.progress(),
            last_checkpoint: self.coordinator.last_completed(),
        }
    }

    fn progress(&self) -> JobProgress {
        let graph = self.plan.graph();
        let mut progress = JobProgress {
            pipeline: graph.pipeline.clone(),
            state: self.coordinator.state().as_str().to_owned(),
            ..JobProgress::default()
        };
        let mut total = 0;
        for share in self.shares.values() {
            progress.input_done += share.input_done;
            total += share.input_total;
        }
        progress.input_total = (total > 0).then_some(total);
        for operator in &graph.operators {
            let mut shown = OperatorProgress { name: operator.name.clone(), ..OperatorProgress::default() };
            // Of the longest life: a task without input ends at once, and its shares mean nothing.
            let tasks = || self.shares.values().filter(|s| s.chain == operator.chain);
            let lived = tasks().map(|s| s.busy_s + s.idle_s + s.backpressured_s).fold(1e-9, f64::max);
            for share in tasks() {
                shown.tasks += 1;
                for (name, records_in, records_out, late, errors) in &share.operators {
                    if *name == operator.name {
                        shown.records_in += records_in;
                        shown.records_out += records_out;
                        progress.late += late;
                        progress.skipped += errors;
                    }
                }
                shown.busy_ratio = shown.busy_ratio.max(share.busy_s / lived);
                shown.backpressured_ratio = shown.backpressured_ratio.max(share.backpressured_s / lived);
                if share.watermark_ms > i64::MIN && share.watermark_ms < i64::MAX {
                    let least = shown.watermark_ms.map_or(share.watermark_ms, |w| w.min(share.watermark_ms));
                    shown.watermark_ms = Some(least);
                }
            }
            match operator.kind {
                OperatorKind::Source => progress.records_in += shown.records_in,
                OperatorKind::Sink if operator.detail != "count" => progress.records_out += shown.records_in,
                _ => {}
            }
            if operator.kind == OperatorKind::Sink {
                progress.watermark_ms = match (progress.watermark_ms, shown.watermark_ms) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            progress.operators.push(shown);
        }
        progress
    }
}

impl JobsHandler for JobDesk {
    async fn submit(&mut self, _: &mut Cx, request: JobRequest) -> Result<JobInfo, Fault<NoError>> {
        let mut settings = job_settings(self.parts.defaults.clone(), &request.settings)?;
        if request.replay.is_some() {
            settings.replay = request.replay;
        }
        let restore = match &request.restore {
            None => None,
            Some(text) => Some(self.checkpoint_named(text).await?),
        };
        let mut nodes = self.nodes(request.nodes_min).await;
        nodes.sort();
        nodes.retain(|(_, slots)| *slots > 0);
        if nodes.is_empty() {
            return Err(Status::unavailable(
                "no node has slots for tasks: start one with `node --join ADDRESS`",
            )
            .into());
        }
        if !request.settings.contains_key("pipeline.parallelism")
            && !request.settings.contains_key("parallelism")
            && settings.parallelism == 0
        {
            settings.parallelism = nodes.iter().map(|(_, slots)| *slots).sum();
        }
        if settings.checkpoint_interval_ms > 0 && self.parts.storage.is_none() {
            return Err(Status::precondition(format!(
                "checkpoint.interval_ms is {}, and there is no checkpoint storage: set `checkpoint.dir`",
                settings.checkpoint_interval_ms
            ))
            .into());
        }
        let plan = self.parts.pipelines.plan(&request.pipeline, settings.clone())?;
        let names: Vec<NodeId> = nodes.into_iter().map(|(node, _)| node).collect();
        let id = self.new_id(&request.pipeline);
        let deployment = Arc::new(Deployment {
            job: id.clone(),
            pipeline: request.pipeline,
            attempt: Attempt(1),
            settings,
            build: self.parts.build.clone(),
            fingerprint: plan.graph().fingerprint(),
            graph: plan.graph().clone(),
            placement: place(&plan.widths(), &names),
            splits: plan.splits()?,
            restore: restore.as_ref().map(|r| r.1),
            restore_from: restore.map(|r| r.0),
        });
        let (coordinator, actions) = Coordinator::new(deployment);
        let entry = Entry {
            coordinator,
            plan,
            started_ms: (self.parts.now_ms)(),
            ended_ms: None,
            cpu: BTreeMap::new(),
            shares: BTreeMap::new(),
            suspicion: None,
            looks: VecDeque::new(),
        };
        self.jobs.insert(id.clone(), entry);
        self.drive(&id, VecDeque::new(), actions).await;
        self.arm_epoch(&id);
        self.prune();
        self.show_now(&id)
    }

    async fn list(&mut self, _: &mut Cx) -> Result<Vec<JobInfo>, Fault<NoError>> {
        let now = (self.parts.now_ms)();
        let mut jobs: Vec<JobInfo> = self.jobs.iter().map(|(id, e)| e.info(id, now)).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.started_ms));
        Ok(jobs)
    }

    async fn show(&mut self, _: &mut Cx, job: String) -> Result<JobInfo, Fault<NoError>> {
        self.refresh(&job).await;
        self.show_now(&job)
    }

    async fn cancel(&mut self, _: &mut Cx, job: String) -> Result<JobInfo, Fault<NoError>> {
        self.find(&job)?;
        self.event(&job, Event::Cancel).await;
        self.show_now(&job)
    }

    async fn why(&mut self, _: &mut Cx, job: String, operator: String) -> Result<Why, Fault<NoError>> {
        let job = self.job_with(&job, &operator)?;
        self.refresh(&job).await;
        let (now_ms, at) = ((self.parts.now_ms)(), self.parts.clock.now());
        let why = self.jobs.get_mut(&job).and_then(|entry| entry.why(&job, &operator, now_ms, at));
        Ok(why.ok_or_else(|| Status::not_found(format!("job {job} has no operator `{operator}`")))?)
    }

    async fn checkpoint(&mut self, _: &mut Cx, job: String) -> Result<JobInfo, Fault<NoError>> {
        if self.parts.storage.is_none() {
            return Err(Status::precondition("no checkpoint storage: set `checkpoint.dir`").into());
        }
        if self.find(&job)?.coordinator.state().is_terminal() {
            return Err(Status::precondition(format!("job {job} has ended: there is nothing to save")).into());
        }
        self.event(&job, Event::Checkpoint).await;
        self.show_now(&job)
    }
}

impl JobDesk {
    fn show_now(&self, job: &str) -> Result<JobInfo, Fault<NoError>> {
        Ok(self.find(job)?.info(job, (self.parts.now_ms)()))
    }

    /// Tells this desk when the next epoch of a job is due, if it starts them by itself.
    fn arm_epoch(&self, job: &str) {
        let Some(entry) = self.jobs.get(job).filter(|e| !e.coordinator.state().is_terminal()) else {
            return;
        };
        let Some(Epochs::Checkpoints(after) | Epochs::Rounds(after)) = entry.plan.epochs() else { return };
        let client = self.parts.mesh.client_on::<JobReports>(&self.parts.node);
        let (clock, job) = (self.parts.clock.clone(), job.to_owned());
        self.parts.io.spawn_with(move || async move {
            for _ in 0..EPOCH_TRIES_MAX {
                clock.sleep(after).await;
                match client.epoch_due(job.clone()).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%job, %error, "the desk did not take a due epoch"),
                }
            }
            tracing::warn!(%job, "the desk took no due epoch: no more begin by themselves");
        });
    }

    /// `JOB` (its latest checkpoint) or `JOB/EPOCH`.
    async fn checkpoint_named(&self, text: &str) -> Result<(String, u64), Status> {
        let storage = self.parts.storage.as_ref().ok_or_else(|| {
            Status::precondition("no checkpoint storage to restore from: set `checkpoint.dir`")
        })?;
        let (job, wanted) = match text.rsplit_once('/') {
            Some((job, epoch)) => {
                let epoch: u64 = epoch.parse().map_err(|_| {
                    Status::invalid(format!("`{text}` is no checkpoint: expected JOB or JOB/EPOCH"))
                })?;
                (job, Some(epoch))
            }
            None => (text, None),
        };
        let epochs = storage.epochs(job).await?;
        let found = match wanted {
            Some(epoch) => epochs.iter().copied().find(|e| *e == epoch),
            None => epochs.last().copied(),
        };
        match found {
            Some(epoch) => Ok((job.to_owned(), epoch)),
            None => Err(Status::not_found(format!(
                "job {job} has no complete checkpoint `{text}`; complete epochs: {epochs:?}"
            ))),
        }
    }
}

impl JobReportsHandler for JobDesk {
    async fn report(
        &mut self,
        _: &mut Cx,
        job: String,
        attempt: u64,
        chain: u32,
        subtask: u32,
        kind: String,
        epoch: u64,
        body: String,
    ) -> Result<(), Fault<NoError>> {
        let (attempt, task) = (Attempt(attempt), TaskId { chain, subtask });
        let event = match kind.as_str() {
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
                tracing::error!(%job, %task, epoch, error = body, "a checkpoint failed");
                Event::SaveFailed(attempt, epoch)
            }
            "confirmed" => Event::TaskConfirmed(attempt, epoch, task),
            _ => {
                let code = Code::from_number(u8::try_from(epoch).unwrap_or(0));
                let event = Event::TaskFailed(attempt, task, Status::new(code, body));
                if code == Code::Unavailable {
                    // A neighbour or a link is gone; the news of a dead node says more.
                    if let Some(entry) = self.jobs.get_mut(&job)
                        && entry.suspicion.is_none()
                    {
                        entry.suspicion = Some(event);
                        let client = self.parts.mesh.client_on::<JobReports>(&self.parts.node);
                        let clock = self.parts.clock.clone();
                        self.parts.io.spawn_with(move || async move {
                            clock.sleep(SUSPICION).await;
                            if let Err(error) = client.suspected(job).await {
                                tracing::warn!(%error, "a suspicion was not delivered");
                            }
                        });
                    }
                    return Ok(());
                }
                event
            }
        };
        self.event(&job, event).await;
        Ok(())
    }

    async fn node_down(&mut self, _: &mut Cx, node: String, reason: String) -> Result<(), Fault<NoError>> {
        let jobs: Vec<String> = self.jobs.keys().cloned().collect();
        for job in jobs {
            self.event(&job, Event::NodeDown(NodeId::new(node.as_str()), reason.clone())).await;
        }
        Ok(())
    }

    async fn epoch_due(&mut self, _: &mut Cx, job: String) -> Result<(), Fault<NoError>> {
        let Some(entry) = self.jobs.get(&job).filter(|e| !e.coordinator.state().is_terminal()) else {
            return Ok(());
        };
        let due = match entry.plan.epochs() {
            Some(Epochs::Checkpoints(_)) => Event::Checkpoint,
            Some(Epochs::Rounds(_)) => Event::Round,
            None => return Ok(()),
        };
        self.event(&job, due).await;
        self.arm_epoch(&job);
        Ok(())
    }

    async fn suspected(&mut self, _: &mut Cx, job: String) -> Result<(), Fault<NoError>> {
        if let Some(event) = self.jobs.get_mut(&job).and_then(|e| e.suspicion.take()) {
            self.event(&job, event).await;
        }
        Ok(())
    }
}
