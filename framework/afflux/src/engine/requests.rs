//! What users ask of the desk: jobs begun, shown, saved, rescaled and ended.

use std::sync::Arc;
use std::time::Duration;

use afflux_stream::job::{Coordinator, Deployment, Event, JobSpec, JobState, deal_again, place};
use afflux_stream::{JobSettings, Ledger};
use afflux_wire::{Attempt, Code, NodeId, Status};

use super::counts::JobCounts;
use super::desk::{Desk, JobDesk, no_nodes};
use super::settings::job_settings;
use super::table::Entry;
use crate::contract::{Cx, Fault, NoError};
use crate::job_detail::{CheckpointInfo, JobDetail};
use crate::jobs::{JobInfo, JobRequest, JobsShared};
use crate::why::Why;

/// Ids that are tried for a job where others have taken them.
const IDS_TRIED_MAX: u32 = 100;
/// Longest wait of a submission for its tasks to begin; the job goes on behind it.
const SUBMIT_WAIT: Duration = Duration::from_secs(25);
/// Longest wait of whoever cancels for the nodes to stop.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

impl JobsShared for JobDesk {
    async fn submit(&self, _: &mut Cx, request: JobRequest) -> Result<JobInfo, Fault<NoError>> {
        let desk = &self.desk;
        let mut settings = job_settings(desk.parts.defaults.clone(), &request.settings)?;
        if request.replay.is_some() {
            settings.replay = request.replay;
        }
        let restore = match &request.restore {
            None => None,
            Some(text) => Some(desk.checkpoint_named(text).await?),
        };
        let nodes = desk.nodes(request.nodes_min).await;
        if nodes.is_empty() {
            return Err(no_nodes().into());
        }
        if !request.settings.contains_key("pipeline.parallelism")
            && !request.settings.contains_key("parallelism")
            && settings.parallelism == 0
        {
            settings.parallelism = nodes.iter().map(|(_, slots)| *slots).sum();
        }
        if settings.checkpoint_interval_ms > 0 && desk.parts.storage.is_none() {
            return Err(Status::precondition(format!(
                "checkpoint.interval_ms is {}, and there is no checkpoint storage: set `checkpoint.dir`",
                settings.checkpoint_interval_ms
            ))
            .into());
        }
        let plan = desk.parts.pipelines.plan(&request.pipeline, settings.clone())?;
        let restored = match (&restore, &desk.parts.storage) {
            (Some((job, epoch)), Some(storage)) => {
                let change = storage.compare(job, *epoch, &plan, request.allow_orphaned_state).await?;
                tracing::info!(pipeline = request.pipeline, "state {change}");
                Some(change.to_string())
            }
            _ => None,
        };
        // Positions name splits, and some sources cut their input by the number of tasks.
        let listed_parallelism = match (&restore, &desk.parts.storage) {
            (Some((job, epoch)), Some(storage)) => storage.listed_parallelism(job, *epoch).await?,
            _ => 0,
        };
        let splits = match listed_parallelism {
            0 => plan.splits()?,
            listed => {
                let listing = JobSettings { parallelism: listed, ..settings.clone() };
                let listed = desk.parts.pipelines.plan(&request.pipeline, listing)?.splits()?;
                deal_again(&listed, &[], &plan.widths())
            }
        };
        let names: Vec<NodeId> = nodes.into_iter().map(|(node, _)| node).collect();
        let now_ms = (desk.parts.now_ms)();
        let mut deployment = Deployment {
            job: desk.table.lock().new_id(&request.pipeline, now_ms),
            pipeline: request.pipeline,
            attempt: Attempt(1),
            settings,
            build: desk.parts.build.clone(),
            fingerprint: plan.graph().fingerprint(),
            graph: plan.graph().clone(),
            placement: place(&plan.widths(), &names),
            splits,
            restore: restore.as_ref().map(|r| r.1),
            restore_from: restore.map(|r| r.0),
            listed_parallelism,
            allow_orphaned_state: request.allow_orphaned_state,
            started_ms: now_ms,
            poison: Ledger::default(),
        };
        if let Some(storage) = &desk.parts.storage {
            // Noted before any job is begun: a next leader would take this one for one of an earlier cluster.
            let since = (desk.parts.since)().await;
            if since > desk.parts.fence {
                return Err(Status::unavailable("another node coordinates the jobs").into());
            }
            let mut ids = 1;
            while let Err(status) = storage.create_job(&JobSpec::of(&deployment, now_ms)).await {
                if status.code != Code::AlreadyExists || ids == IDS_TRIED_MAX {
                    return Err(status.into());
                }
                // Another cluster over this storage has begun one in the same second.
                ids += 1;
                deployment.job = desk.table.lock().new_id(&deployment.pipeline, now_ms);
            }
        }
        let id = deployment.job.clone();
        desk.note_attempt(&deployment).await?;
        if deployment.restore.is_some() {
            desk.parts.metrics.costs.restored(&deployment.pipeline, "request");
        }
        let (coordinator, actions) = Coordinator::new(Arc::new(deployment));
        desk.admit(coordinator, plan, actions);
        let begun = |entry: &Entry| match entry.coordinator.state() {
            JobState::Deploying => false,
            state => !state.is_terminal() || entry.ended_ms.is_some(),
        };
        desk.until(&id, SUBMIT_WAIT, begun).await;
        Ok(JobInfo { restored, ..desk.show_now(&id)? })
    }

    async fn list(&self, _: &mut Cx) -> Result<Vec<JobInfo>, Fault<NoError>> {
        let now = (self.desk.parts.now_ms)();
        let table = self.desk.table.lock();
        let mut jobs: Vec<JobInfo> = table.jobs.iter().map(|(id, e)| e.info(id, now)).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.started_ms));
        Ok(jobs)
    }

    async fn show(&self, _: &mut Cx, job: String) -> Result<JobInfo, Fault<NoError>> {
        self.desk.refresh(&job).await;
        self.desk.show_now(&job)
    }

    async fn cancel(&self, _: &mut Cx, job: String) -> Result<JobInfo, Fault<NoError>> {
        self.desk.table.lock().find(&job)?;
        // How far it came is told once more: afterwards nobody can be asked.
        self.desk.refresh(&job).await;
        self.desk.feed(&job, Event::Cancel);
        self.desk.until(&job, CANCEL_WAIT, |entry| entry.ended_ms.is_some()).await;
        self.desk.show_now(&job)
    }

    async fn why(&self, _: &mut Cx, job: String, operator: String) -> Result<Why, Fault<NoError>> {
        let job = self.desk.table.lock().job_with(&job, &operator)?;
        self.desk.refresh(&job).await;
        let (now_ms, at) = ((self.desk.parts.now_ms)(), self.desk.parts.clock.now());
        let mut table = self.desk.table.lock();
        let why = table.jobs.get_mut(&job).and_then(|entry| entry.why(&job, &operator, now_ms, at));
        Ok(why.ok_or_else(|| Status::not_found(format!("job {job} has no operator `{operator}`")))?)
    }

    async fn counts(&self, _: &mut Cx, job: String) -> Result<JobCounts, Fault<NoError>> {
        Ok(self.desk.counts(&job).await?)
    }

    async fn detail(&self, _: &mut Cx, job: String) -> Result<JobDetail, Fault<NoError>> {
        Ok(self.desk.detail(&job).await?)
    }

    async fn savepoint(&self, _: &mut Cx, job: String) -> Result<CheckpointInfo, Fault<NoError>> {
        self.desk.at_work(&job)?;
        Ok(self.desk.savepoint(&job).await?)
    }

    async fn checkpoint(&self, _: &mut Cx, job: String) -> Result<JobInfo, Fault<NoError>> {
        self.desk.at_work(&job)?;
        self.desk.feed(&job, Event::Checkpoint);
        self.desk.show_now(&job)
    }

    async fn rescale(&self, _: &mut Cx, job: String, parallelism: u32) -> Result<JobInfo, Fault<NoError>> {
        if !(1..=1024).contains(&parallelism) {
            return Err(Status::invalid(format!(
                "a job cannot have {parallelism} parallel tasks: expected a number from 1 to 1024"
            ))
            .into());
        }
        self.desk.at_work(&job)?;
        let attempt = self.desk.show_now(&job)?.attempt;
        self.desk.feed(&job, Event::Rescale(parallelism));
        let done = |entry: &Entry| {
            let state = entry.coordinator.state();
            let next = entry.coordinator.deployment().attempt.0 > attempt;
            (next && *state == JobState::Running) || state.is_terminal()
        };
        self.desk.until(&job, SUBMIT_WAIT, done).await;
        self.desk.show_now(&job)
    }
}

impl Desk {
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

    /// Refuses what needs a job at work and a place for its checkpoints.
    fn at_work(&self, job: &str) -> Result<(), Status> {
        if self.parts.storage.is_none() {
            return Err(Status::precondition("no checkpoint storage: set `checkpoint.dir`"));
        }
        if self.table.lock().find(job)?.coordinator.state().is_terminal() {
            return Err(Status::precondition(format!("job {job} has ended: there is nothing to save")));
        }
        Ok(())
    }
}
