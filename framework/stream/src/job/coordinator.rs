//! A job as a state machine: `step(event) -> actions`, without a clock or a socket.
//!
//! Legal transitions: Deploying → Running → Finished; from Deploying and Running to Restarting when
//! the attempt is lost (or when it is to go on with another parallelism), and from there to Deploying
//! again; from each of the three to Failed or Cancelled. Time comes in events: [`Action::Wait`] asks for
//! [`Event::BackoffOver`], [`Action::Forget`] for [`Event::FailureForgotten`].
//!
//! An epoch is complete when every task has acknowledged it and its manifest is written; tasks that
//! have finished count as having nothing to save but their last words. Where checkpoints are taken by
//! themselves, a last epoch of nothing but last words commits the last output, and the job has
//! finished when every task has said that it did so. Epochs rise over all attempts of a job.
//!
//! A rewind: the tasks that are left are stopped, a commit that is under way is waited for (it may
//! have made an epoch), the pause passes, [`Action::Prepare`] finds nodes and checkpoint, and the next
//! attempt is deployed. All tasks of the job rewind together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use afflux_mesh::bugs::{self, Bug};
use afflux_wire::{Attempt, Code, NodeId, Status};

use super::deployment::{Deployment, TaskId};
use super::restart::is_final;
use super::storage::{CheckpointFile, Manifest};
use crate::errors::{RECORD_TEXT_BYTES_MAX, bounded};
use crate::poison::{Aside, Kill, Ledger, OnPoison, Streak, of_no_record};
use crate::snapshot::{ROUND, TaskSnapshot, is_round};

/// Failures that are remembered to be told.
const HISTORY_MAX: usize = 16;

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "error")]
pub enum JobState {
    /// Nodes are being told.
    Deploying,
    /// Tasks are at work.
    Running,
    /// An attempt was lost, for this reason; the next one is on its way.
    Restarting(Status),
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
            JobState::Restarting(_) => "restarting",
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
    Deployed(Attempt, NodeId, Result<(), Status>),
    /// A task has finished.
    TaskFinished(Attempt, TaskId, TaskSnapshot),
    /// A task that had finished has committed its last output.
    TaskClosed(Attempt, TaskId),
    /// A task cannot go on.
    TaskFailed(Attempt, TaskId, Status),
    /// Something in a task panicked.
    TaskPanicked(Attempt, TaskId, Box<Kill>),
    /// A task's part of an epoch is stored.
    TaskSaved(Attempt, u64, CheckpointFile),
    /// A task has passed the barrier of a round of confirmations.
    TaskConfirmed(Attempt, u64, TaskId),
    /// A task's part of an epoch could not be stored.
    SaveFailed(Attempt, u64),
    /// A node is gone.
    NodeDown(NodeId, String),
    /// A node has stopped its tasks of an attempt, or could not be asked: it is fenced either way.
    Stopped(Attempt, NodeId),
    /// The pause in front of this attempt is over.
    BackoffOver(Attempt),
    /// A failure is so long ago that it counts no more.
    FailureForgotten,
    /// What an attempt is made of, or why there can be none.
    Prepared(Attempt, Result<Arc<Deployment>, Status>),
    /// A new coordinator did not find all tasks of the attempt that it took over.
    NotAdopted(Status),
    /// Somebody wants a checkpoint.
    Checkpoint,
    /// Somebody wants another number of parallel tasks.
    Rescale(u32),
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
    /// Tell a node to make its tasks, then report [`Event::Deployed`].
    Deploy(NodeId),
    /// Tell a node's sources to start an epoch.
    Trigger(NodeId, u64),
    /// Write a manifest, then report [`Event::Committed`].
    Commit(Box<Manifest>),
    /// Tell a node that an epoch is durable.
    Completed(NodeId, u64),
    /// Tell a node to stop its tasks, then report [`Event::Stopped`].
    Stop(NodeId, Status),
    /// Report [`Event::BackoffOver`] for this attempt after this pause.
    Wait(Attempt, Duration),
    /// Report [`Event::FailureForgotten`] after this long.
    Forget(Duration),
    /// Find nodes and a checkpoint for an attempt, then report [`Event::Prepared`].
    Prepare(Prepare),
    /// Tell whoever waits that the job has ended.
    Ended,
}

/// What a next attempt is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// Its number.
    pub attempt: Attempt,
    /// Another number of parallel tasks.
    pub parallelism: Option<u32>,
    /// Epochs of this job from here on are damaged: an earlier one is to be taken.
    pub below: Option<u64>,
    /// What it has to know of records that kill their operator.
    pub poison: Ledger,
}

/// What a coordinator finds that takes over an attempt at work.
#[derive(Clone, Debug, Default)]
pub struct Adopted {
    /// The last epoch of the job that is durable.
    pub last_completed: Option<u64>,
    /// The epoch or round that was last begun, on any node.
    pub triggered: Option<u64>,
    /// The greatest epoch, no round, that was ever begun.
    pub epoch_max: u64,
    /// The last round that was ever begun.
    pub round_max: u64,
}

/// A job: its attempt under way and what is left of earlier ones.
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
    restarting: Option<Restarting>,
    /// A rescale that waits for its checkpoint.
    rescale: Option<u32>,
    /// Failures of the window.
    failures: u64,
    restarts: u64,
    history: VecDeque<String>,
    /// Epochs from here on turned out to be damaged.
    damaged_from: Option<u64>,
    /// Records that kill their operator.
    poison: Ledger,
}

/// Between two attempts.
#[derive(Debug)]
struct Restarting {
    attempt: Attempt,
    stopping: BTreeSet<NodeId>,
    pause_over: bool,
    preparing: bool,
    parallelism: Option<u32>,
}

impl Coordinator {
    /// The coordinator of a deployment, and what it wants done first.
    pub fn new(deployment: Arc<Deployment>) -> (Self, Vec<Action>) {
        let next_epoch = deployment.restore.unwrap_or(0) + 1;
        let mut coordinator = Self {
            state: JobState::Deploying,
            nodes: BTreeSet::new(),
            deploying: BTreeSet::new(),
            tasks: BTreeSet::new(),
            poison: deployment.poison.clone(),
            deployment: Arc::clone(&deployment),
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
            restarting: None,
            rescale: None,
            failures: 0,
            restarts: 0,
            history: VecDeque::new(),
            damaged_from: None,
        };
        let actions = coordinator.begin(deployment);
        (coordinator, actions)
    }

    /// Takes over an attempt that is at work, whose coordinator is gone. What its tasks have told
    /// that one has to be told again; an epoch that was begun is begun again on every node, which
    /// those that have begun it ignore.
    pub fn adopt(deployment: Arc<Deployment>, found: &Adopted) -> (Self, Vec<Action>) {
        let (mut coordinator, _) = Self::new(deployment);
        coordinator.state = JobState::Running;
        coordinator.deploying.clear();
        coordinator.last_completed = found.last_completed;
        let known = found.last_completed.unwrap_or(0).max(found.epoch_max);
        coordinator.next_epoch = coordinator.next_epoch.max(known + 1);
        coordinator.next_round = (found.round_max & !ROUND) + 1;
        let mut actions = Vec::new();
        match found.triggered {
            Some(round) if is_round(round) => {
                coordinator.round = Some((round, BTreeSet::new()));
                actions = coordinator.trigger(round);
            }
            Some(epoch) if Some(epoch) > found.last_completed => {
                coordinator.epochs.insert(epoch, BTreeMap::new());
                actions = coordinator.trigger(epoch);
            }
            _ => {}
        }
        // The one before may not have told all of them.
        if let Some(epoch) = found.last_completed {
            let told = coordinator.nodes.iter().map(|n| Action::Completed(n.clone(), epoch));
            actions.extend(told.collect::<Vec<_>>());
        }
        (coordinator, actions)
    }

    /// A job between two attempts, as a new coordinator finds it: `last` is what is known of the last one.
    pub fn rewound(last: Arc<Deployment>, epoch_max: u64, reason: &str) -> (Self, Vec<Action>) {
        let (mut coordinator, _) = Self::new(last);
        coordinator.next_epoch = coordinator.next_epoch.max(epoch_max + 1);
        coordinator.last_completed = (epoch_max > 0).then_some(epoch_max);
        let actions = coordinator.rewind(Status::unavailable(reason));
        (coordinator, actions)
    }

    /// Begins an attempt.
    fn begin(&mut self, deployment: Arc<Deployment>) -> Vec<Action> {
        self.nodes = deployment.placement.iter().flatten().cloned().collect();
        self.tasks = self.nodes.iter().flat_map(|node| deployment.tasks_on(node)).collect();
        self.deploying = self.nodes.clone();
        self.next_epoch = self.next_epoch.max(deployment.restore.unwrap_or(0) + 1);
        self.finished.clear();
        self.closed.clear();
        self.last_words = None;
        self.deployment = deployment;
        self.restarting = None;
        self.state = JobState::Deploying;
        self.nodes.iter().cloned().map(Action::Deploy).collect()
    }

    /// Where the job stands.
    pub fn state(&self) -> &JobState {
        &self.state
    }

    /// What is being run.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// The nodes that its tasks are on, as far as they live.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter()
    }

    /// How many tasks have stored their part of the epoch under way, of how many that have to; nothing
    /// while there is none.
    pub fn progress(&self) -> Option<(usize, usize)> {
        let files = self.epochs.values().next()?;
        let tasks = self.tasks.iter().filter(|t| !self.finished.contains_key(t) || files.contains_key(t));
        Some((files.len(), tasks.count()))
    }

    /// The last epoch that is durable.
    pub fn last_completed(&self) -> Option<u64> {
        self.last_completed
    }

    /// How often it has begun a further attempt.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Its last failures, the latest last.
    pub fn history(&self) -> impl Iterator<Item = &str> {
        self.history.iter().map(String::as_str)
    }

    /// Whether it restarts when its attempt is lost.
    pub fn restartable(&self) -> bool {
        let settings = &self.deployment.settings;
        settings.restart.restarts(settings.checkpoint_interval_ms > 0)
    }

    fn end(&mut self, state: JobState, reason: &Status) -> Vec<Action> {
        self.state = state;
        self.epochs.clear();
        self.restarting = None;
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

    /// The attempt is lost: the next one, or the end.
    fn rewind(&mut self, mut cause: Status) -> Vec<Action> {
        self.remember(&cause.message);
        if !self.restartable() || is_final(&cause) {
            return self.fail(cause);
        }
        let restart = self.deployment.settings.restart.clone();
        self.failures += 1;
        if self.failures > restart.failures_max {
            cause.message = format!(
                "{}; the restarts are used up: {} failures within {} s (restart.failures_max = {}); before: {}",
                cause.message,
                self.failures,
                restart.window_ms / 1000,
                restart.failures_max,
                self.repeated().unwrap_or_else(|| self.told_before())
            );
            return self.fail(cause);
        }
        let mut actions = self.stop_attempt(cause, None);
        let pause = restart.pause(self.failures);
        actions.push(Action::Forget(restart.window()));
        if let Some(restarting) = &mut self.restarting {
            restarting.pause_over = false;
            actions.push(Action::Wait(restarting.attempt, pause));
        }
        actions
    }

    fn remember(&mut self, cause: &str) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(format!("attempt {}: {cause}", self.deployment.attempt.0));
    }

    /// One record has killed its operator as often as is looked on: the job goes on without it, or fails.
    fn poisoned(&mut self, status: Status, kill: Kill, streak: Streak) -> Vec<Action> {
        let settings = &self.deployment.settings.poison;
        let Streak { operator, record: Some(record), times } = streak else { return self.rewind(status) };
        if !self.restartable() {
            return self.rewind(status);
        }
        let full = self.poison.aside.len() as u64 >= settings.records_max;
        let cure = match (settings.policy, &kill.bound) {
            (OnPoison::Fail, _) => "mend the operator, or set pipeline.on_poison = set_aside: such records go \
                 to the dead letters of the pipeline (`flow.dead_letters`) then, and the job goes on without them"
                .to_owned(),
            (OnPoison::SetAside, Some(bound)) => format!("it cannot be set aside: {bound}"),
            (OnPoison::SetAside, None) if full => format!(
                "{} records are set aside already (pipeline.poison_records_max): something else than single \
                 records is wrong with the operator",
                settings.records_max
            ),
            (OnPoison::SetAside, None) => {
                let error = bounded(format_args!("{}", kill.message), RECORD_TEXT_BYTES_MAX);
                self.poison.aside.push(Aside { operator, record, error, times });
                // What it has cost is none of the budget: the job gets on.
                self.failures = self.failures.saturating_sub(times.saturating_sub(1));
                let actions = self.rewind(status);
                self.failures = self.failures.saturating_sub(1);
                return actions;
            }
        };
        let message = format!(
            "{}; this record has killed it {times} times (pipeline.poison_failures = {}): {cure}",
            status.message, settings.failures
        );
        self.remember(&message);
        self.fail(Status::precondition(message))
    }

    /// What happened to a task, for people.
    fn at_task(&self, task: TaskId, what: &str) -> String {
        let chain = self.deployment.graph.chains.get(task.chain as usize);
        let name = chain.map(|c| c.operators.join(" → ")).unwrap_or_default();
        let node = self.node_of(task).map(|n| format!(" on node {n}")).unwrap_or_default();
        format!("task {task} ({name}){node}: {what}")
    }

    /// Records that the job goes on without, the latest last.
    pub fn set_aside(&self) -> &[Aside] {
        &self.poison.aside
    }

    /// Earlier failures but the last, for a message.
    fn told_before(&self) -> String {
        let before: Vec<&str> = self.history.iter().rev().skip(1).take(3).map(String::as_str).collect();
        before.join("; ")
    }

    /// Whether all that is remembered is one failure again and again: something in the input kills an
    /// operator, and the message names both.
    fn repeated(&self) -> Option<String> {
        let cause = |told: &str| told.split_once(": ").map(|(_, cause)| cause.to_owned());
        let last = cause(self.history.back()?)?;
        if let Some(panic) = of_no_record(&last) {
            let same = self.history.iter().filter(|told| of_no_record(told) == Some(panic)).count();
            return (same > 1).then(|| {
                format!(
                    "the same {same} times: what it was at work on comes again after each restart, and is made of \
                     more than one record, so that none can be set aside (pipeline.on_poison); mend the operator, or \
                     filter what leads to it out in front of it"
                )
            });
        }
        let same = self.history.iter().filter(|told| cause(told).as_deref() == Some(&*last)).count();
        (same > 1).then(|| {
            format!(
                "the same {same} times: a record that comes again after each restart kills this operator; \
                 mend the operator, or let it set such records aside (`try_map` with `dead_letters`)"
            )
        })
    }

    /// Stops what is left of the attempt.
    fn stop_attempt(&mut self, cause: Status, parallelism: Option<u32>) -> Vec<Action> {
        let reason = Status::new(
            Code::Aborted,
            format!("attempt {} is over: {}", self.deployment.attempt.0, cause.message),
        );
        let nodes = match &self.restarting {
            // Nothing of it was deployed.
            Some(_) => BTreeSet::new(),
            None => self.nodes.clone(),
        };
        let parallelism = parallelism.or(self.restarting.as_ref().and_then(|r| r.parallelism));
        let more = u64::from(!bugs::on(Bug::ReusedAttempt));
        let attempt = match &self.restarting {
            // Its record may be there already: a number is used once.
            Some(before) => Attempt(before.attempt.0 + more),
            None => Attempt(self.deployment.attempt.0 + more),
        };
        self.epochs.clear();
        self.round = None;
        self.wanted = false;
        self.rescale = None;
        self.finished.clear();
        self.deploying.clear();
        self.state = JobState::Restarting(cause);
        self.restarting = Some(Restarting {
            attempt,
            stopping: nodes.clone(),
            pause_over: true,
            preparing: false,
            parallelism,
        });
        nodes.into_iter().map(|node| Action::Stop(node, reason.clone())).collect()
    }

    /// Asks for the next attempt once nothing of the last one is left.
    fn try_prepare(&mut self) -> Vec<Action> {
        let below = self.damaged_from;
        let committing = self.committing.is_some();
        match &mut self.restarting {
            Some(restarting)
                if restarting.stopping.is_empty()
                    && restarting.pause_over
                    && !restarting.preparing
                    && !committing =>
            {
                restarting.preparing = true;
                let (attempt, parallelism) = (restarting.attempt, restarting.parallelism);
                let poison = self.poison.clone();
                vec![Action::Prepare(Prepare { attempt, parallelism, below, poison })]
            }
            _ => Vec::new(),
        }
    }

    fn at_work(&self) -> bool {
        matches!(self.state, JobState::Deploying | JobState::Running)
    }

    /// Takes in what happened; returns what is to be done about it.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        if self.state.is_terminal() {
            return Vec::new();
        }
        match event {
            Event::Deployed(attempt, node, result) => {
                if attempt != self.deployment.attempt || !self.at_work() {
                    return Vec::new();
                }
                match result {
                    Ok(()) => {
                        self.deploying.remove(&node);
                        if self.deploying.is_empty() && self.state == JobState::Deploying {
                            self.state = JobState::Running;
                        }
                        self.last_epoch()
                    }
                    Err(mut status) => {
                        let own = self.deployment.restore_from.is_none();
                        if status.code == Code::DataLoss && own && self.deployment.restore.is_some() {
                            self.damaged_from = self.deployment.restore;
                        }
                        status.message = format!("node {node} cannot run its part: {}", status.message);
                        self.rewind(status)
                    }
                }
            }
            Event::TaskFinished(attempt, task, last) => {
                if attempt != self.deployment.attempt || !self.at_work() {
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
                if attempt != self.deployment.attempt || !self.at_work() {
                    return Vec::new();
                }
                self.closed.insert(task);
                if self.closed.len() < self.tasks.len() { Vec::new() } else { self.finish() }
            }
            Event::TaskFailed(attempt, task, mut status) => {
                if attempt != self.deployment.attempt || !self.at_work() {
                    return Vec::new();
                }
                // A task that only lost its neighbour is not the cause: the neighbour's own report
                // or its node's end is, and is on its way.
                status.message = self.at_task(task, &status.message);
                self.rewind(status)
            }
            Event::TaskPanicked(attempt, task, kill) => {
                if attempt != self.deployment.attempt || !self.at_work() {
                    return Vec::new();
                }
                let status = Status::internal(self.at_task(task, &kill.to_string()));
                match self.poison.struck(&kill, self.deployment.settings.poison.failures) {
                    Some(streak) => self.poisoned(status, *kill, streak),
                    None => self.rewind(status),
                }
            }
            Event::NodeDown(node, reason) => {
                if !self.nodes.contains(&node) {
                    return Vec::new();
                }
                let tasks = self.describe(&node);
                self.nodes.remove(&node);
                if self.at_work() {
                    let lost = format!("node {node} died ({reason}); it was running {tasks}");
                    return self.rewind(Status::unavailable(lost));
                }
                if let Some(restarting) = &mut self.restarting {
                    restarting.stopping.remove(&node);
                }
                self.try_prepare()
            }
            Event::Stopped(attempt, node) => {
                if attempt == self.deployment.attempt
                    && let Some(restarting) = &mut self.restarting
                {
                    restarting.stopping.remove(&node);
                }
                self.try_prepare()
            }
            Event::BackoffOver(attempt) => {
                if let Some(restarting) = &mut self.restarting
                    && restarting.attempt == attempt
                {
                    restarting.pause_over = true;
                }
                self.try_prepare()
            }
            Event::FailureForgotten => {
                self.failures = self.failures.saturating_sub(1);
                if self.failures == 0 {
                    self.poison.forget();
                }
                Vec::new()
            }
            Event::Prepared(attempt, prepared) => {
                if self.restarting.as_ref().is_none_or(|r| r.attempt != attempt || !r.preparing) {
                    return Vec::new();
                }
                match prepared {
                    Ok(deployment) => {
                        self.restarts += 1;
                        self.begin(deployment)
                    }
                    Err(mut status) => {
                        status.message = format!("attempt {} cannot begin: {}", attempt.0, status.message);
                        if status.code == Code::DataLoss {
                            // There is no earlier checkpoint, and a beginning would repeat output.
                            return self.fail(status);
                        }
                        self.rewind(status)
                    }
                }
            }
            Event::NotAdopted(status) => {
                if self.at_work() {
                    self.rewind(status)
                } else {
                    Vec::new()
                }
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
            Event::Rescale(parallelism) => {
                if self.state != JobState::Running {
                    return Vec::new();
                }
                self.rescale = Some(parallelism);
                self.step(Event::Checkpoint)
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
                    self.rescale = None;
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
            Event::Committed(epoch, result) => {
                self.committing = None;
                self.epochs.remove(&epoch);
                match result {
                    Ok(()) => self.last_completed = Some(epoch),
                    // The epoch is given up; a manifest that is there already is that of a coordinator
                    // that was cut off, and its epoch is nobody's now.
                    Err(_) => self.rescale = None,
                }
                if self.restarting.is_some() {
                    return self.try_prepare();
                }
                if self.last_completed != Some(epoch) {
                    return Vec::new();
                }
                let mut actions: Vec<Action> =
                    self.nodes.iter().map(|n| Action::Completed(n.clone(), epoch)).collect();
                if let Some(tasks) = self.rescale.take() {
                    let why = Status::new(Code::Aborted, format!("it goes on with {tasks} parallel tasks"));
                    actions.extend(self.stop_attempt(why, Some(tasks)));
                    actions.extend(self.try_prepare());
                } else if self.last_words != Some(epoch) {
                    actions.extend(self.last_epoch());
                }
                actions
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
            listed_parallelism: 0,
            allow_orphaned_state: false,
            started_ms: 0,
            poison: Ledger::default(),
        };
        let (mut coordinator, _) = Coordinator::new(Arc::new(deployment));
        coordinator.step(Event::Deployed(Attempt(1), node, Ok(())));
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
        assert_eq!(job.step(Event::Checkpoint), [], "one at a time");
        job.step(Event::TaskSaved(Attempt(1), 1, saved(0)));
        assert_eq!(job.progress(), Some((1, 2)));
        assert_eq!(job.step(Event::SaveFailed(Attempt(1), 1)), []);
        assert_eq!(job.step(Event::TaskSaved(Attempt(1), 1, saved(1))), [], "given up for good");
        assert_eq!(job.step(Event::Checkpoint), [Action::Trigger(node, 2)]);
    }

    #[test]
    fn the_last_output_has_an_epoch_of_its_own_and_the_job_ends_when_all_have_committed_it() {
        let mut job =
            coordinator_with(JobSettings { checkpoint_interval_ms: 1_000, ..JobSettings::default() });
        let node = NodeId::new("a");
        let last = |n| TaskSnapshot::new(n);
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

    fn restartable(nodes: &[&str], restart: crate::job::RestartSettings) -> Coordinator {
        let flow = Flow::new("p", JobSettings { parallelism: 2, ..JobSettings::default() });
        flow.source("in", generate(10, |i| i)).untimed().count("n");
        let plan = flow.finish().unwrap();
        let nodes: Vec<NodeId> = nodes.iter().map(|n| NodeId::new(*n)).collect();
        let settings =
            JobSettings { parallelism: 2, checkpoint_interval_ms: 1_000, restart, ..JobSettings::default() };
        let (mut job, _) = Coordinator::new(Arc::new(Deployment {
            job: "p-1".into(),
            pipeline: "p".into(),
            attempt: Attempt(1),
            settings,
            placement: crate::job::place(&plan.widths(), &nodes),
            graph: plan.graph().clone(),
            ..Deployment::default()
        }));
        for node in nodes {
            job.step(Event::Deployed(Attempt(1), node, Ok(())));
        }
        assert_eq!(job.state(), &JobState::Running);
        job
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name)
    }

    fn next(job: &Coordinator, attempt: u64, on: &[&str]) -> Arc<Deployment> {
        let nodes: Vec<NodeId> = on.iter().map(|n| NodeId::new(*n)).collect();
        Arc::new(Deployment {
            attempt: Attempt(attempt),
            placement: crate::job::place(&[2], &nodes),
            restore: job.last_completed(),
            ..Deployment::clone(job.deployment())
        })
    }

    fn stops(actions: &[Action]) -> Vec<&str> {
        let stops = actions.iter().filter_map(|a| match a {
            Action::Stop(node, _) => Some(node.as_str()),
            _ => None,
        });
        stops.collect()
    }

    #[test]
    fn a_dead_node_costs_the_attempt_and_not_the_job() {
        let mut job = restartable(&["a", "b"], crate::job::RestartSettings::default());
        let actions = job.step(Event::NodeDown(node("b"), "killed".into()));
        assert!(matches!(job.state(), JobState::Restarting(_)));
        assert_eq!(stops(&actions), ["a"], "only the living are asked");
        assert!(actions.contains(&Action::Wait(Attempt(2), Duration::from_millis(100))));
        assert_eq!(job.step(Event::BackoffOver(Attempt(2))), [], "node a has not stopped yet");
        let prepare =
            Prepare { attempt: Attempt(2), parallelism: None, below: None, poison: Ledger::default() };
        assert_eq!(job.step(Event::Stopped(Attempt(1), node("a"))), [Action::Prepare(prepare)]);
        assert_eq!(job.step(Event::Stopped(Attempt(1), node("a"))), [], "it is asked for once");
        let actions = job.step(Event::Prepared(Attempt(2), Ok(next(&job, 2, &["a"]))));
        assert_eq!(actions, [Action::Deploy(node("a"))]);
        // What is left of the first attempt says nothing of the second.
        job.step(Event::TaskFailed(Attempt(1), task(0), Status::internal("late")));
        job.step(Event::Deployed(Attempt(1), node("a"), Err(Status::internal("late"))));
        job.step(Event::Deployed(Attempt(2), node("a"), Ok(())));
        assert_eq!((job.state(), job.restarts()), (&JobState::Running, 1));
    }

    #[test]
    fn an_attempt_is_prepared_only_behind_a_commit_that_is_under_way() {
        let mut job = restartable(&["a"], crate::job::RestartSettings::default());
        job.step(Event::Checkpoint);
        job.step(Event::TaskSaved(Attempt(1), 1, saved(0)));
        let commit = job.step(Event::TaskSaved(Attempt(1), 1, saved(1)));
        assert!(matches!(commit[..], [Action::Commit(_)]));
        job.step(Event::TaskFailed(Attempt(1), task(0), Status::internal("x")));
        job.step(Event::Stopped(Attempt(1), node("a")));
        assert_eq!(job.step(Event::BackoffOver(Attempt(2))), [], "its manifest may make an epoch");
        let actions = job.step(Event::Committed(1, Ok(())));
        assert!(matches!(actions[..], [Action::Prepare(_)]), "{actions:?}");
        assert_eq!(job.last_completed(), Some(1));
        job.step(Event::Prepared(Attempt(2), Ok(next(&job, 2, &["a"]))));
        job.step(Event::Deployed(Attempt(2), node("a"), Ok(())));
        assert_eq!(job.step(Event::Checkpoint), [Action::Trigger(node("a"), 2)], "epochs rise over attempts");
    }

    #[test]
    fn failures_of_one_window_use_up_the_budget_and_are_told_with_the_last_error() {
        let restart = crate::job::RestartSettings { failures_max: 2, ..Default::default() };
        let mut job = restartable(&["a"], restart);
        for attempt in 1..=3 {
            if attempt == 2 {
                job.step(Event::FailureForgotten);
            }
            job.step(Event::TaskFailed(Attempt(attempt), task(0), Status::internal("operator x panicked")));
            job.step(Event::Stopped(Attempt(attempt), node("a")));
            job.step(Event::BackoffOver(Attempt(attempt + 1)));
            job.step(Event::Prepared(Attempt(attempt + 1), Ok(next(&job, attempt + 1, &["a"]))));
            job.step(Event::Deployed(Attempt(attempt + 1), node("a"), Ok(())));
            assert_eq!(job.state(), &JobState::Running, "the first is forgotten");
        }
        job.step(Event::TaskFailed(Attempt(4), task(0), Status::internal("operator x panicked")));
        let JobState::Failed(status) = job.state() else { panic!("{:?}", job.state()) };
        for part in ["operator x panicked", "restart.failures_max = 2", "the same 4 times"] {
            assert!(status.message.contains(part), "`{part}` is missing: {}", status.message);
        }
    }

    fn struck(attempt: u64, id: Option<u64>) -> Event {
        let record = id.map(|id| crate::poison::Suspect { id, ..Default::default() });
        let kill = Kill { operator: "n".into(), certain: true, record, ..Kill::default() };
        Event::TaskPanicked(Attempt(attempt), task(0), Box::new(kill))
    }

    /// The next attempt, as what is wanted of it says.
    fn begun(job: &mut Coordinator, attempt: u64) {
        job.step(Event::Stopped(Attempt(attempt - 1), node("a")));
        let prepare = job.step(Event::BackoffOver(Attempt(attempt)));
        let [Action::Prepare(wanted)] = &prepare[..] else { panic!("{prepare:?}") };
        let deployment =
            Deployment { poison: wanted.poison.clone(), ..(*next(job, attempt, &["a"])).clone() };
        job.step(Event::Prepared(Attempt(attempt), Ok(Arc::new(deployment))));
        job.step(Event::Deployed(Attempt(attempt), node("a"), Ok(())));
    }

    fn with_poison(poison: crate::poison::PoisonSettings, failures_max: u64) -> Coordinator {
        let restart = crate::job::RestartSettings { failures_max, ..Default::default() };
        let mut job = restartable(&["a"], restart);
        let mut deployment = (*job.deployment).clone();
        deployment.settings.poison = poison;
        job.deployment = Arc::new(deployment);
        job
    }

    #[test]
    fn a_record_that_kills_its_operator_three_times_is_left_out_and_costs_no_budget() {
        let poison = crate::poison::PoisonSettings {
            policy: OnPoison::SetAside,
            records_max: 2,
            ..Default::default()
        };
        let mut job = with_poison(poison, 4);
        let mut attempt = 1;
        for record in [7, 8] {
            for id in [None, Some(record), Some(record)] {
                job.step(struck(attempt, id));
                attempt += 1;
                begun(&mut job, attempt);
            }
            assert_eq!(job.set_aside().last().map(|aside| aside.record.id), Some(record));
            assert_eq!(job.deployment().poison.aside, job.set_aside(), "the next attempt is told");
            // Nobody calls for it: the window begins anew with what is left.
            job.poison.forget();
        }
        // A new coordinator knows it as well.
        let (adopted, _) = Coordinator::adopt(Arc::clone(job.deployment()), &Adopted::default());
        assert_eq!(adopted.set_aside().len(), 2);
        for id in [None, Some(9)] {
            job.step(struck(attempt, id));
            attempt += 1;
            begun(&mut job, attempt);
        }
        job.step(struck(attempt, Some(9)));
        let JobState::Failed(status) = job.state() else { panic!("{:?}", job.state()) };
        assert!(status.message.contains("2 records are set aside already"), "{}", status.message);
    }

    #[test]
    fn a_poison_fails_the_job_unless_the_policy_says_otherwise_and_can() {
        let mut job = with_poison(Default::default(), 10);
        job.step(struck(1, None));
        begun(&mut job, 2);
        job.step(struck(2, Some(7)));
        begun(&mut job, 3);
        // A failure of another kind between two of them changes nothing.
        job.step(Event::TaskFailed(Attempt(3), task(0), Status::internal("a link")));
        begun(&mut job, 4);
        job.step(struck(4, Some(7)));
        let JobState::Failed(status) = job.state() else { panic!("{:?}", job.state()) };
        for part in [
            "killed it 3 times (pipeline.poison_failures = 3)",
            "digest 0000000000000007",
            "pipeline.on_poison = set_aside",
        ] {
            assert!(status.message.contains(part), "`{part}` is missing: {}", status.message);
        }
    }

    #[test]
    fn what_is_of_no_single_record_uses_up_the_budget_and_the_cure_is_another() {
        let mut job = with_poison(
            crate::poison::PoisonSettings { policy: OnPoison::SetAside, ..Default::default() },
            3,
        );
        for attempt in 1..=4 {
            // A batch may be another each time.
            let doing = Some(format!("a batch of {attempt} records"));
            let kill =
                Kill { operator: "n".into(), certain: true, message: "no".into(), doing, ..Kill::default() };
            job.step(Event::TaskPanicked(Attempt(attempt), task(0), Box::new(kill)));
            if attempt < 4 {
                begun(&mut job, attempt + 1);
            }
        }
        let JobState::Failed(status) = job.state() else { panic!("{:?}", job.state()) };
        for part in [
            "operator n panicked: no; at work on a batch of 4 records; the restarts are used up",
            "the same 4 times",
            "none can be set aside (pipeline.on_poison); mend the operator",
        ] {
            assert!(status.message.contains(part), "`{part}` is missing: {}", status.message);
        }
        assert_eq!(job.set_aside(), []);
    }

    #[test]
    fn a_panic_that_does_not_come_again_is_forgotten_with_its_window() {
        let mut job = with_poison(Default::default(), 10);
        for attempt in 1..9 {
            job.step(struck(attempt, (attempt > 1).then_some(7)));
            begun(&mut job, attempt + 1);
            job.step(Event::FailureForgotten);
            assert_eq!(job.state(), &JobState::Running);
        }
        assert_eq!(job.set_aside(), []);
    }

    #[test]
    fn what_would_fail_again_and_jobs_that_do_not_restart_fail_at_once() {
        let mut job = restartable(&["a"], crate::job::RestartSettings::default());
        job.step(Event::TaskFailed(Attempt(1), task(0), Status::invalid("row 7")));
        assert!(matches!(job.state(), JobState::Failed(_)));
        let never = crate::job::RestartSettings {
            strategy: crate::job::RestartStrategy::Never,
            ..Default::default()
        };
        let mut job = restartable(&["a", "b"], never);
        job.step(Event::NodeDown(node("b"), "killed".into()));
        assert!(matches!(job.state(), JobState::Failed(_)));
    }

    #[test]
    fn a_damaged_checkpoint_is_followed_by_the_one_before() {
        let mut job = restartable(&["a"], crate::job::RestartSettings::default());
        job.step(Event::TaskFailed(Attempt(1), task(0), Status::internal("x")));
        job.step(Event::Stopped(Attempt(1), node("a")));
        job.step(Event::BackoffOver(Attempt(2)));
        let of_epoch = Deployment { restore: Some(7), ..Deployment::clone(&next(&job, 2, &["a"])) };
        job.step(Event::Prepared(Attempt(2), Ok(Arc::new(of_epoch))));
        let damaged = Status::new(Code::DataLoss, "file 0-0 is damaged");
        job.step(Event::Deployed(Attempt(2), node("a"), Err(damaged.clone())));
        job.step(Event::Stopped(Attempt(2), node("a")));
        let prepare =
            Prepare { attempt: Attempt(3), parallelism: None, below: Some(7), poison: Ledger::default() };
        assert_eq!(job.step(Event::BackoffOver(Attempt(3))), [Action::Prepare(prepare)]);
        job.step(Event::Prepared(Attempt(3), Err(damaged)));
        assert!(matches!(job.state(), JobState::Failed(_)), "a beginning would repeat output");
    }

    #[test]
    fn a_rescale_takes_a_checkpoint_and_begins_an_attempt_without_a_failure() {
        let mut job = restartable(&["a"], crate::job::RestartSettings::default());
        assert_eq!(job.step(Event::Rescale(3)), [Action::Trigger(node("a"), 1)]);
        job.step(Event::TaskSaved(Attempt(1), 1, saved(0)));
        job.step(Event::TaskSaved(Attempt(1), 1, saved(1)));
        let actions = job.step(Event::Committed(1, Ok(())));
        assert_eq!(actions.first(), Some(&Action::Completed(node("a"), 1)), "its output is committed");
        assert_eq!(stops(&actions), ["a"]);
        let prepare =
            Prepare { attempt: Attempt(2), parallelism: Some(3), below: None, poison: Ledger::default() };
        assert_eq!(job.step(Event::Stopped(Attempt(1), node("a"))), [Action::Prepare(prepare)]);
        assert_eq!(job.history().count(), 0);
    }

    #[test]
    fn a_new_coordinator_goes_on_with_the_epoch_that_was_begun() {
        let job = restartable(&["a"], crate::job::RestartSettings::default());
        let found =
            Adopted { last_completed: Some(4), triggered: Some(5), epoch_max: 5, ..Adopted::default() };
        let (mut job, actions) = Coordinator::adopt(Arc::clone(job.deployment()), &found);
        assert_eq!(actions, [Action::Trigger(node("a"), 5), Action::Completed(node("a"), 4)]);
        job.step(Event::TaskSaved(Attempt(1), 5, saved(0)));
        let commit = job.step(Event::TaskSaved(Attempt(1), 5, saved(1)));
        assert!(matches!(&commit[..], [Action::Commit(manifest)] if manifest.epoch == 5));
        job.step(Event::Committed(5, Ok(())));
        assert_eq!(job.step(Event::Checkpoint), [Action::Trigger(node("a"), 6)]);
        job.step(Event::NotAdopted(Status::unavailable("two tasks are gone")));
        assert!(matches!(job.state(), JobState::Restarting(_)));
    }
}
