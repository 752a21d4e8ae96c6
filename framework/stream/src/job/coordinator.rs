//! A job as a state machine: `step(event) -> actions`, without a clock or a socket.
//!
//! Legal transitions: Deploying → Running → Finished; from each of the first two to Failed or
//! Cancelled. An epoch is complete when every task has acknowledged it and its manifest is written;
//! tasks that have finished count as having nothing to save but their last words. Where checkpoints are
//! taken by themselves, a last epoch of nothing but last words commits the last output, and the job has
//! finished when every task has said that it did so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use afflux_mesh::bugs::{self, Bug};
use afflux_wire::{Attempt, Code, NodeId, Status};

use super::deployment::{Deployment, TaskId};
use super::storage::{CheckpointFile, Manifest};
use crate::snapshot::{ROUND, TaskSnapshot};

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "error")]
pub enum JobState {
    /// Nodes are being told.
    Deploying,
    /// Tasks are at work.
    Running,
    /// All tasks have finished.
    Finished,
    /// It cannot go on.
    Failed(Status),
    /// Somebody asked.
    Cancelled,
}

impl JobState {
    /// Whether nothing will happen any more.
    pub fn is_terminal(&self) -> bool {
        matches!(self, JobState::Finished | JobState::Failed(_) | JobState::Cancelled)
    }

    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            JobState::Deploying => "deploying",
            JobState::Running => "running",
            JobState::Finished => "finished",
            JobState::Failed(_) => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// What happens to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node has made its tasks, or refused to.
    Deployed(NodeId, Result<(), Status>),
    /// A task has finished.
    TaskFinished(Attempt, TaskId, TaskSnapshot),
    /// A task that had finished has committed its last output.
    TaskClosed(Attempt, TaskId),
    /// A task cannot go on.
    TaskFailed(Attempt, TaskId, Status),
    /// A task's part of an epoch is stored.
    TaskSaved(Attempt, u64, CheckpointFile),
    /// A task has passed the barrier of a round of confirmations.
    TaskConfirmed(Attempt, u64, TaskId),
    /// A task's part of an epoch could not be stored.
    SaveFailed(Attempt, u64),
    /// A node is gone.
    NodeDown(NodeId, String),
    /// Somebody wants a checkpoint.
    Checkpoint,
    /// A round of confirmations is due.
    Round,
    /// A manifest was written, or not.
    Committed(u64, Result<(), Status>),
    /// Somebody wants an end.
    Cancel,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Tell a node to make its tasks.
    Deploy(NodeId),
    /// Tell a node's sources to start an epoch.
    Trigger(NodeId, u64),
    /// Write a manifest, then report [`Event::Committed`].
    Commit(Box<Manifest>),
    /// Tell a node that an epoch is durable.
    Completed(NodeId, u64),
    /// Tell a node to stop its tasks.
    Stop(NodeId, Status),
    /// Tell whoever waits that the job has ended.
    Ended,
}

/// The state of one attempt of one job.
#[derive(Debug)]
pub struct Coordinator {
    deployment: Arc<Deployment>,
    state: JobState,
    nodes: BTreeSet<NodeId>,
    deploying: BTreeSet<NodeId>,
    tasks: BTreeSet<TaskId>,
    /// With what they left to later epochs.
    finished: BTreeMap<TaskId, TaskSnapshot>,
    /// Those that have committed their last output, where an epoch commits it.
    closed: BTreeSet<TaskId>,
    next_epoch: u64,
    epochs: BTreeMap<u64, BTreeMap<TaskId, CheckpointFile>>,
    committing: Option<u64>,
    next_round: u64,
    /// The round under way, and who has passed its barrier.
    round: Option<(u64, BTreeSet<TaskId>)>,
    /// A checkpoint was asked for during a round: it is taken when that is over.
    wanted: bool,
    last_completed: Option<u64>,
    /// The epoch that has nothing but last words, once there is one.
    last_words: Option<u64>,
}

impl Coordinator {
    /// The coordinator of a deployment, and what it wants done first.
    pub fn new(deployment: Arc<Deployment>) -> (Self, Vec<Action>) {
        let mut tasks = BTreeSet::new();
        let mut nodes = BTreeSet::new();
        for node in deployment.placement.iter().flatten() {
            nodes.insert(node.clone());
        }
        for node in &nodes {
            tasks.extend(deployment.tasks_on(node));
        }
        let actions = nodes.iter().cloned().map(Action::Deploy).collect();
        let next_epoch = deployment.restore.unwrap_or(0) + 1;
        let coordinator = Self {
            deploying: nodes.clone(),
            nodes,
            tasks,
            deployment,
            state: JobState::Deploying,
            finished: BTreeMap::new(),
            closed: BTreeSet::new(),
            next_epoch,
            epochs: BTreeMap::new(),
            committing: None,
            next_round: 1,
            round: None,
            wanted: false,
            last_completed: None,
            last_words: None,
        };
        (coordinator, actions)
    }

    /// Where the job stands.
    pub fn state(&self) -> &JobState {
        &self.state
    }

    /// What is being run.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// The last epoch that is durable.
    pub fn last_completed(&self) -> Option<u64> {
        self.last_completed
    }

    fn end(&mut self, state: JobState, reason: &Status) -> Vec<Action> {
        self.state = state;
        self.epochs.clear();
        let mut actions: Vec<Action> =
            self.nodes.iter().map(|node| Action::Stop(node.clone(), reason.clone())).collect();
        actions.push(Action::Ended);
        actions
    }

    fn finish(&mut self) -> Vec<Action> {
        let reason = Status::new(Code::Cancelled, "the job has finished");
        self.end(JobState::Finished, &reason)
    }

    /// Whether finished tasks wait for the epoch that commits their last output.
    fn commits_at_last(&self) -> bool {
        self.deployment.settings.checkpoint_interval_ms > 0
    }

    /// All tasks have finished: takes the epoch of nothing but their last words, behind those under way.
    /// Where it cannot be written, the next checkpoint that is due tries again.
    fn last_epoch(&mut self) -> Vec<Action> {
        if self.finished.len() < self.tasks.len() || !self.commits_at_last() {
            return Vec::new();
        }
        let actions = self.try_commit();
        if self.committing.is_some() { actions } else { self.step(Event::Checkpoint) }
    }

    fn fail(&mut self, status: Status) -> Vec<Action> {
        let reason = Status::new(Code::Aborted, format!("the job failed: {}", status.message));
        self.end(JobState::Failed(status), &reason)
    }

    /// Takes in what happened; returns what is to be done about it.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        if self.state.is_terminal() {
            return Vec::new();
        }
        match event {
            Event::Deployed(node, Ok(())) => {
                self.deploying.remove(&node);
                if self.deploying.is_empty() && self.state == JobState::Deploying {
                    self.state = JobState::Running;
                }
                self.last_epoch()
            }
            Event::Deployed(node, Err(mut status)) => {
                status.message = format!("node {node} cannot run its part: {}", status.message);
                self.fail(status)
            }
            Event::TaskFinished(attempt, task, last) => {
                if attempt != self.deployment.attempt {
                    return Vec::new();
                }
                self.finished.insert(task, last);
                if self.finished.len() < self.tasks.len() {
                    let mut actions = self.try_commit();
                    actions.extend(self.try_confirm());
                    return actions;
                }
                if self.commits_at_last() {
                    return self.last_epoch();
                }
                self.finish()
            }
            Event::TaskClosed(attempt, task) => {
                if attempt != self.deployment.attempt {
                    return Vec::new();
                }
                self.closed.insert(task);
                if self.closed.len() < self.tasks.len() { Vec::new() } else { self.finish() }
            }
            Event::TaskFailed(attempt, task, mut status) => {
                if attempt != self.deployment.attempt {
                    return Vec::new();
                }
                // A task that only lost its neighbour is not the cause: the neighbour's own report
                // or its node's end is, and is on its way.
                let chain = self.deployment.graph.chains.get(task.chain as usize);
                let name = chain.map(|c| c.operators.join(" → ")).unwrap_or_default();
                let node = self.node_of(task).map(|n| format!(" on node {n}")).unwrap_or_default();
                status.message = format!("task {task} ({name}){node}: {}", status.message);
                self.fail(status)
            }
            Event::NodeDown(node, reason) => {
                if !self.nodes.contains(&node) {
                    return Vec::new();
                }
                let tasks = self.describe(&node);
                self.nodes.remove(&node);
                self.fail(Status::unavailable(format!("node {node} died ({reason}); it was running {tasks}")))
            }
            Event::Checkpoint => {
                if self.state != JobState::Running || !self.epochs.is_empty() {
                    return Vec::new();
                }
                if self.round.is_some() {
                    self.wanted = true;
                    return Vec::new();
                }
                let epoch = self.next_epoch;
                self.next_epoch += 1;
                self.epochs.insert(epoch, BTreeMap::new());
                let mut actions = self.trigger(epoch);
                // Where all have finished it is complete at once.
                actions.extend(self.try_commit());
                actions
            }
            Event::Round => {
                if self.state != JobState::Running || !self.epochs.is_empty() || self.round.is_some() {
                    return Vec::new();
                }
                let epoch = self.next_round | ROUND;
                self.next_round += 1;
                self.round = Some((epoch, BTreeSet::new()));
                self.trigger(epoch)
            }
            Event::TaskConfirmed(attempt, epoch, task) => {
                match &mut self.round {
                    Some((under_way, passed))
                        if *under_way == epoch && attempt == self.deployment.attempt =>
                    {
                        passed.insert(task);
                    }
                    _ => return Vec::new(),
                }
                self.try_confirm()
            }
            Event::SaveFailed(attempt, epoch) => {
                // Given up, so that a later one can begin.
                if attempt == self.deployment.attempt && self.committing != Some(epoch) {
                    self.epochs.remove(&epoch);
                }
                self.last_epoch()
            }
            Event::TaskSaved(attempt, epoch, file) => {
                if attempt != self.deployment.attempt {
                    return Vec::new();
                }
                if let Some(files) = self.epochs.get_mut(&epoch) {
                    if bugs::on(Bug::ReportTwice)
                        && let Some(other) = self.tasks.iter().find(|t| !files.contains_key(t))
                    {
                        files.insert(*other, file.clone());
                    }
                    files.insert(file.task, file);
                }
                self.try_commit()
            }
            Event::Committed(epoch, Ok(())) => {
                self.committing = None;
                self.epochs.remove(&epoch);
                self.last_completed = Some(epoch);
                let mut actions: Vec<Action> =
                    self.nodes.iter().map(|n| Action::Completed(n.clone(), epoch)).collect();
                if self.last_words != Some(epoch) {
                    actions.extend(self.last_epoch());
                }
                actions
            }
            Event::Committed(epoch, Err(status)) => {
                self.committing = None;
                self.epochs.remove(&epoch);
                if status.code == Code::AlreadyExists {
                    return self.fail(status);
                }
                Vec::new()
            }
            Event::Cancel => {
                let reason = Status::new(Code::Cancelled, "the job was cancelled");
                self.end(JobState::Cancelled, &reason)
            }
        }
    }

    /// The tasks of a node with their operators, for people.
    pub fn describe(&self, node: &NodeId) -> String {
        let tasks: Vec<String> = self
            .deployment
            .tasks_on(node)
            .into_iter()
            .map(|task| {
                let chain = self.deployment.graph.chains.get(task.chain as usize);
                let name = chain.map(|c| c.operators.join(" → ")).unwrap_or_default();
                format!("{name} [{}]", task.subtask)
            })
            .collect();
        if tasks.is_empty() { "no task".to_owned() } else { tasks.join(", ") }
    }

    fn node_of(&self, task: TaskId) -> Option<&NodeId> {
        self.deployment.placement.get(task.chain as usize)?.get(task.subtask as usize)
    }

    fn trigger(&self, epoch: u64) -> Vec<Action> {
        self.nodes.iter().map(|n| Action::Trigger(n.clone(), epoch)).collect()
    }

    fn try_confirm(&mut self) -> Vec<Action> {
        let Some((epoch, passed)) = &self.round else { return Vec::new() };
        if !self.tasks.iter().all(|t| passed.contains(t) || self.finished.contains_key(t)) {
            return Vec::new();
        }
        let epoch = *epoch;
        self.round = None;
        let mut actions: Vec<Action> =
            self.nodes.iter().map(|n| Action::Completed(n.clone(), epoch)).collect();
        if std::mem::take(&mut self.wanted) {
            actions.extend(self.step(Event::Checkpoint));
        }
        actions
    }

    fn try_commit(&mut self) -> Vec<Action> {
        if self.committing.is_some() {
            return Vec::new();
        }
        let complete = self.epochs.iter().find(|(_, files)| {
            let missing =
                self.tasks.iter().filter(|t| !files.contains_key(t) && !self.finished.contains_key(t));
            missing.count() <= usize::from(bugs::on(Bug::EarlyCommit) && !files.is_empty())
        });
        let Some((&epoch, files)) = complete else { return Vec::new() };
        let manifest = Manifest {
            version: super::storage::MANIFEST_VERSION,
            job: self.deployment.job.clone(),
            pipeline: self.deployment.pipeline.clone(),
            attempt: self.deployment.attempt.0,
            epoch,
            fingerprint: self.deployment.fingerprint,
            settings: self.deployment.settings.clone(),
            widths: self.deployment.graph.chains.iter().map(|chain| chain.parallelism).collect(),
            key_groups: crate::KEY_GROUPS,
            files: files.values().cloned().collect(),
            // Who has passed the barrier ended behind it: its last words are part of later epochs.
            finished: self
                .finished
                .iter()
                .filter(|(task, _)| !files.contains_key(task))
                .map(|(_, last)| last.clone())
                .collect(),
            ..Manifest::default()
        };
        if files.is_empty() {
            self.last_words = Some(epoch);
        }
        self.committing = Some(epoch);
        vec![Action::Commit(Box::new(manifest))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flow, JobSettings, generate};

    fn coordinator() -> Coordinator {
        coordinator_with(JobSettings::default())
    }

    fn coordinator_with(settings: JobSettings) -> Coordinator {
        let flow = Flow::new("p", JobSettings { parallelism: 2, ..JobSettings::default() });
        flow.source("in", generate(10, |i| i)).untimed().count("n");
        let plan = flow.finish().unwrap();
        let node = NodeId::new("a");
        let deployment = Deployment {
            job: "p-1".into(),
            pipeline: "p".into(),
            attempt: Attempt(1),
            settings,
            build: String::new(),
            fingerprint: 0,
            graph: plan.graph().clone(),
            placement: crate::job::place(&plan.widths(), std::slice::from_ref(&node)),
            splits: Vec::new(),
            restore: None,
            restore_from: None,
        };
        let (mut coordinator, _) = Coordinator::new(Arc::new(deployment));
        coordinator.step(Event::Deployed(node, Ok(())));
        coordinator
    }

    fn task(subtask: u32) -> TaskId {
        TaskId { chain: 0, subtask }
    }

    fn saved(subtask: u32) -> CheckpointFile {
        CheckpointFile { task: task(subtask), name: "f".into(), ..CheckpointFile::default() }
    }

    #[test]
    fn a_round_completes_when_every_task_has_passed_or_finished_and_writes_nothing() {
        let mut job = coordinator();
        let node = NodeId::new("a");
        let first = ROUND | 1;
        assert_eq!(job.step(Event::Round), [Action::Trigger(node.clone(), first)]);
        assert_eq!(job.step(Event::Round), [], "one at a time");
        assert_eq!(job.step(Event::TaskConfirmed(Attempt(1), ROUND | 7, task(0))), [], "another round");
        assert_eq!(job.step(Event::TaskConfirmed(Attempt(2), first, task(0))), [], "another attempt");
        assert_eq!(job.step(Event::TaskConfirmed(Attempt(1), first, task(0))), []);
        let done = job.step(Event::TaskFinished(Attempt(1), task(1), TaskSnapshot::default()));
        assert_eq!(done, [Action::Completed(node, first)]);
        assert_eq!(job.last_completed(), None, "nothing is durable");
    }

    #[test]
    fn a_checkpoint_asked_for_in_a_round_comes_behind_it() {
        let mut job = coordinator();
        let node = NodeId::new("a");
        job.step(Event::Round);
        assert_eq!(job.step(Event::Checkpoint), []);
        job.step(Event::TaskConfirmed(Attempt(1), ROUND | 1, task(0)));
        let done = job.step(Event::TaskConfirmed(Attempt(1), ROUND | 1, task(1)));
        assert_eq!(done, [Action::Completed(node.clone(), ROUND | 1), Action::Trigger(node, 1)]);
        assert_eq!(job.step(Event::Round), [], "the checkpoint is under way");
    }

    #[test]
    fn a_checkpoint_that_could_not_be_stored_does_not_block_the_next() {
        let mut job = coordinator();
        let node = NodeId::new("a");
        assert_eq!(job.step(Event::Checkpoint), [Action::Trigger(node.clone(), 1)]);
        job.step(Event::TaskSaved(Attempt(1), 1, saved(0)));
        assert_eq!(job.step(Event::SaveFailed(Attempt(1), 1)), []);
        assert_eq!(job.step(Event::TaskSaved(Attempt(1), 1, saved(1))), [], "given up for good");
        assert_eq!(job.step(Event::Checkpoint), [Action::Trigger(node, 2)]);
    }

    #[test]
    fn the_last_output_has_an_epoch_of_its_own_and_the_job_ends_when_all_have_committed_it() {
        let mut job =
            coordinator_with(JobSettings { checkpoint_interval_ms: 1_000, ..JobSettings::default() });
        let node = NodeId::new("a");
        let last = |n| TaskSnapshot { epoch: n, parts: Vec::new() };
        assert_eq!(job.step(Event::Checkpoint), [Action::Trigger(node.clone(), 1)]);
        // The first has passed the barrier before it ended, the second ends without having seen it.
        assert_eq!(job.step(Event::TaskSaved(Attempt(1), 1, saved(0))), []);
        assert_eq!(job.step(Event::TaskFinished(Attempt(1), task(0), last(10))), []);
        let [Action::Commit(manifest)] = &job.step(Event::TaskFinished(Attempt(1), task(1), last(11)))[..]
        else {
            panic!("epoch 1 is complete")
        };
        assert_eq!((manifest.files.len(), &manifest.finished[..]), (1, &[last(11)][..]));
        let actions = job.step(Event::Committed(1, Ok(())));
        let [Action::Completed(_, 1), Action::Trigger(_, 2), Action::Commit(manifest)] = &actions[..] else {
            panic!("the last epoch follows: {actions:?}")
        };
        assert_eq!((manifest.epoch, manifest.files.len(), manifest.finished.len()), (2, 0, 2));
        assert_eq!(*job.state(), JobState::Running, "nothing of it is committed yet");
        // Where it could not be written, the next that is due tries again.
        assert_eq!(job.step(Event::Committed(2, Err(Status::unavailable("full")))), []);
        let again = job.step(Event::Checkpoint);
        assert!(matches!(&again[..], [Action::Trigger(_, 3), Action::Commit(_)]), "{again:?}");
        assert_eq!(job.step(Event::Committed(3, Ok(()))), [Action::Completed(node, 3)]);
        assert_eq!(job.step(Event::TaskClosed(Attempt(1), task(1))), []);
        assert_eq!(job.step(Event::TaskClosed(Attempt(7), task(0))), [], "another attempt");
        let ended = job.step(Event::TaskClosed(Attempt(1), task(0)));
        assert!(matches!(&ended[..], [Action::Stop(..), Action::Ended]), "{ended:?}");
        assert_eq!(*job.state(), JobState::Finished);
    }
}
