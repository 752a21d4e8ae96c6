//! A new leader finds out what jobs there are, and goes on with them.
//!
//! Tasks at work go on: their workers are asked what they run and what they have told so far, and that
//! is told again here. An attempt of which tasks are missing is rewound. What no worker runs is found
//! by the records of attempts in the checkpoint storage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use afflux_stream::is_round;
use afflux_stream::job::{Adopted, Coordinator, Deployment, Event, Storage, TaskId};
use afflux_wire::{Code, NodeId, Status};

use super::desk::Desk;
use super::worker::{Held, Worker};

/// Longest wait for a worker's answer.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// Questions to workers that do not answer, before their tasks count as lost.
const ASKS_MAX: u32 = 3;
/// Between two of them.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Between two looks for the jobs of the coordinator before, when the storage does not answer.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// One attempt, as the workers have it.
#[derive(Default)]
struct Found {
    deployment: Deployment,
    held: Vec<Held>,
}

impl Desk {
    /// Goes on until every job of the coordinators before is here, or cannot ever be: until then nobody
    /// looks after it.
    pub(super) async fn take_over(self: Arc<Self>) {
        while self.is_leading()
            && let Err(error) = self.look_for_jobs().await
        {
            tracing::error!(%error, "jobs of the coordinator before are not all here: they are looked for again");
            self.parts.clock.sleep(LOOK_AGAIN).await;
        }
        if self.is_leading() {
            self.table.lock().taken_over();
            self.recall();
            self.start_standing();
        }
    }

    /// Takes over what runs, and takes up what has to; an error is one that may pass.
    async fn look_for_jobs(self: &Arc<Self>) -> Result<(), Status> {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        let mut answered: BTreeSet<NodeId> = BTreeSet::new();
        for turn in 0..ASKS_MAX {
            for (node, held) in self.ask(&answered).await {
                answered.insert(node.clone());
                for held in held {
                    self.sort_in(&mut found, &node, held);
                }
            }
            let complete = |job: &Found| missing(job).is_empty();
            let nodes = (self.parts.nodes)();
            if found.values().all(complete) && nodes.iter().all(|(node, _)| answered.contains(node)) {
                break;
            }
            if turn + 1 < ASKS_MAX {
                self.parts.clock.sleep(ASK_AGAIN).await;
            }
        }
        let running: BTreeSet<String> = found.keys().cloned().collect();
        for (job, found) in found {
            // Submitted here meanwhile.
            if self.table.lock().jobs.contains_key(&job) {
                continue;
            }
            match self.adopt(&job, found).await {
                Err(error) if may_pass(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(job, %error, "a job of the coordinator before cannot be taken over");
                }
                Ok(()) => {}
            }
        }
        match self.parts.storage.clone() {
            Some(storage) => self.take_up(&storage, &running).await,
            None => Ok(()),
        }
    }

    /// Asks the nodes that have not answered yet what they run.
    async fn ask(&self, answered: &BTreeSet<NodeId>) -> Vec<(NodeId, Vec<Held>)> {
        let nodes = (self.parts.nodes)().into_iter().map(|(node, _)| node);
        let asked = nodes.filter(|node| !answered.contains(node)).map(|node| {
            let client = self.parts.mesh.client_on::<Worker>(&node);
            let fence = self.parts.fence;
            async move {
                let held = client.running(fence).fail_fast().deadline(ASK_DEADLINE).await;
                held.map(|held| (node, held))
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Keeps the latest attempt of each job; what is left of earlier ones is stopped.
    fn sort_in(&self, found: &mut BTreeMap<String, Found>, node: &NodeId, held: Held) {
        let deployment: Deployment = match serde_json::from_str(&held.deployment) {
            Ok(deployment) => deployment,
            Err(error) => return tracing::error!(%node, %error, "what a node runs cannot be read"),
        };
        let job = found.entry(deployment.job.clone()).or_default();
        let stale = deployment.attempt < job.deployment.attempt;
        if stale {
            let client = self.parts.mesh.client_on::<Worker>(node);
            let (fence, id, attempt) = (self.parts.fence, deployment.job.clone(), deployment.attempt.0);
            self.parts.io.spawn_with(move || async move {
                if let Err(error) = client.stop(id, attempt, "a later attempt runs".into(), fence).await {
                    tracing::debug!(%error, "what is left of an attempt was not stopped");
                }
            });
            return;
        }
        if deployment.attempt > job.deployment.attempt {
            // Those of an earlier one end with the first deployment of the next.
            *job = Found { deployment, held: Vec::new() };
        }
        job.held.push(held);
    }

    async fn adopt(self: &Arc<Self>, job: &str, found: Found) -> Result<(), Status> {
        let missing = missing(&found);
        let Found { deployment, held } = found;
        let plan = self.parts.pipelines.plan(&deployment.pipeline, deployment.settings.clone())?;
        let point = match &self.parts.storage {
            Some(storage) => storage.rewind_point(job, None).await?,
            None => Default::default(),
        };
        let triggered = held.iter().map(|h| h.triggered).max().filter(|epoch| *epoch > 0);
        let adopted = Adopted {
            last_completed: point.epoch.filter(|_| point.job.is_none()),
            triggered,
            epoch_max: held.iter().map(|h| h.epoch_max).max().unwrap_or(0).max(point.epoch_max),
            round_max: held.iter().map(|h| h.round_max).max().unwrap_or(0),
        };
        let attempt = deployment.attempt.0;
        let (coordinator, actions) = Coordinator::adopt(Arc::new(deployment), &adopted);
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(TaskId::to_string).collect();
            let lost = Status::unavailable(format!(
                "the node that coordinated the job is gone, and with it the tasks {}",
                names.join(", ")
            ));
            self.admit(coordinator, plan, Vec::new());
            self.feed(job, Event::NotAdopted(lost));
            return Ok(());
        }
        tracing::info!(job, attempt, epoch = ?adopted.last_completed, "a job at work was taken over");
        self.admit(coordinator, plan, actions);
        for told in held.into_iter().flat_map(|held| held.told) {
            let task = TaskId { chain: told.chain, subtask: told.subtask };
            // What belongs to an epoch that is over changes nothing.
            if let Err(error) = self.told(job, attempt, task, &told.kind, told.epoch, told.body) {
                tracing::warn!(job, %task, kind = told.kind, %error, "what a task had told cannot be read");
            }
        }
        Ok(())
    }

    /// Begins another attempt of the jobs that were begun, have not ended, and run nowhere.
    async fn take_up(self: &Arc<Self>, storage: &Storage, running: &BTreeSet<String>) -> Result<(), Status> {
        let since = (self.parts.since)().await;
        for job in storage.unended().await? {
            if running.contains(&job) || self.table.lock().jobs.contains_key(&job) {
                continue;
            }
            let Some(last) = storage.attempts(&job).await?.last().copied() else { continue };
            let record = match storage.attempt(&job, last).await {
                Ok(record) => record,
                Err(error) if may_pass(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(job, %error, "a job that has not ended cannot be taken up");
                    continue;
                }
            };
            // It is being submitted here. The token does not say so: a node that has lost the lead and has it again
            // before its lease was over has the same one, and knows nothing of its jobs.
            if self.table.lock().is_new(&job) {
                continue;
            }
            let settings = &record.deployment.settings;
            let restarts = settings.restart.restarts(settings.checkpoint_interval_ms > 0);
            if record.fencing_token < since || !restarts {
                tracing::debug!(
                    job,
                    "a job of an earlier cluster, or one that does not restart, is left alone"
                );
                continue;
            }
            let plan = match self
                .parts
                .pipelines
                .plan(&record.deployment.pipeline, record.deployment.settings.clone())
            {
                Ok(plan) => plan,
                Err(error) => {
                    tracing::error!(job, %error, "a job that has not ended cannot be taken up");
                    continue;
                }
            };
            let epoch_max = storage.epochs(&job).await?.last().copied().unwrap_or(0);
            let why = "the nodes that ran it are gone";
            let (coordinator, actions) = Coordinator::rewound(Arc::new(record.deployment), epoch_max, why);
            self.admit(coordinator, plan, actions);
        }
        Ok(())
    }
}

/// Whether the same may go well a little later: a storage that does not answer.
fn may_pass(error: &Status) -> bool {
    let final_ = [Code::DataLoss, Code::NotFound, Code::InvalidArgument, Code::FailedPrecondition];
    !final_.contains(&error.code) && error.code != Code::Unimplemented
}

/// Tasks of an attempt that no worker has.
fn missing(found: &Found) -> Vec<TaskId> {
    let there: BTreeSet<TaskId> = found
        .held
        .iter()
        .flat_map(|held| &held.tasks)
        .map(|(chain, subtask)| TaskId { chain: *chain, subtask: *subtask })
        .collect();
    let nodes: BTreeSet<&NodeId> = found.deployment.placement.iter().flatten().collect();
    let all = nodes.into_iter().flat_map(|node| found.deployment.tasks_on(node));
    all.filter(|task| !there.contains(task)).collect()
}

/// The epoch and the round that were last begun, of those a worker has seen.
pub(super) fn begun(epoch: u64, epoch_max: &mut u64, round_max: &mut u64) {
    let greatest = if is_round(epoch) { round_max } else { epoch_max };
    *greatest = epoch.max(*greatest);
}
