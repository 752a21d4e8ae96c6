//! The jobs of a desk: what each is and how it is shown.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use afflux_stream::job::{Coordinator, JobState, TaskId};
use afflux_stream::{OperatorKind, Plan};
use afflux_wire::{NodeId, Status};

use super::history::History;
use super::why::{Look, Looks};
use super::worker::{Share, TaskShare};
use crate::error::suggest;
use crate::jobs::{JobInfo, TaskPlace};
use crate::progress::{JobProgress, OperatorProgress};
use crate::why::Why;

/// Ended jobs that are remembered.
const ENDED_JOBS_MAX: usize = 100;
/// Looks at a job that are kept to be compared with the next.
const LOOKS_MAX: usize = 8;
/// A look is compared with one at least so much older, so that two who ask do not spoil each other's
/// answers, and at most so much.
const LOOKS_APART: std::ops::Range<Duration> = Duration::from_millis(200)..Duration::from_secs(60);

/// The jobs of a desk by their ids.
#[derive(Default)]
pub(super) struct JobTable {
    pub(super) jobs: BTreeMap<String, Entry>,
    next: u64,
    /// What jobs there are is being found out.
    pub(super) taking_over: bool,
    /// The ids that were given meanwhile.
    new: BTreeSet<String>,
}

/// One of them.
pub(super) struct Entry {
    pub(super) coordinator: Coordinator,
    pub(super) plan: Plan,
    started_ms: i64,
    pub(super) ended_ms: Option<i64>,
    /// Nodes that were asked to stop and have not answered.
    stopping: usize,
    /// It has ended but for these.
    ending: bool,
    /// Processor seconds of each node when the job began, and now.
    cpu: BTreeMap<NodeId, (f64, f64)>,
    shares: BTreeMap<TaskId, TaskShare>,
    /// The counts when somebody asked why, the latest last.
    looks: VecDeque<Look>,
    /// When the epoch under way was begun.
    pub(super) triggered: Option<(u64, Instant)>,
    /// For those who look at it.
    pub(super) history: History,
}

impl JobTable {
    /// Nothing is known yet.
    pub(super) fn taking_over() -> Self {
        Self { taking_over: true, ..Self::default() }
    }

    /// All jobs of the coordinators before are here.
    pub(super) fn taken_over(&mut self) {
        self.taking_over = false;
        self.new.clear();
    }

    /// Whether a job was begun here while those of the coordinators before were looked for.
    pub(super) fn is_new(&self, job: &str) -> bool {
        self.new.contains(job)
    }

    pub(super) fn new_id(&mut self, pipeline: &str, now_ms: i64) -> String {
        self.next += 1;
        // Time makes ids of different leaders differ; the number those of one.
        let id = format!("{pipeline}-{:x}-{}", now_ms / 1000, self.next);
        if self.taking_over {
            self.new.insert(id.clone());
        }
        id
    }

    pub(super) fn find(&self, job: &str) -> Result<&Entry, Status> {
        self.jobs.get(job).ok_or_else(|| {
            if self.taking_over {
                return Status::unavailable(format!(
                    "job {job} is not known yet: a new coordinator is asking the nodes what they run"
                ));
            }
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
    pub(super) fn job_with(&self, job: &str, operator: &str) -> Result<String, Status> {
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
    pub(super) fn prune(&mut self) {
        let mut ended: Vec<(i64, String)> =
            self.jobs.iter().filter_map(|(id, e)| e.ended_ms.map(|at| (at, id.clone()))).collect();
        ended.sort_unstable();
        let excess = ended.len().saturating_sub(ENDED_JOBS_MAX);
        for (_, id) in ended.into_iter().take(excess) {
            self.jobs.remove(&id);
        }
    }
}

impl Entry {
    pub(super) fn new(coordinator: Coordinator, plan: Plan, started_ms: i64) -> Self {
        Self {
            coordinator,
            plan,
            started_ms,
            ended_ms: None,
            stopping: 0,
            ending: false,
            cpu: BTreeMap::new(),
            shares: BTreeMap::new(),
            looks: VecDeque::new(),
            triggered: None,
            history: History::default(),
        }
    }

    /// What its tasks have counted, as far as they have told.
    pub(super) fn shares(&self) -> impl Iterator<Item = &TaskShare> {
        self.shares.values()
    }

    /// A node is asked to stop.
    pub(super) fn asked_to_stop(&mut self) {
        self.stopping += 1;
    }

    /// It has answered, or will not.
    pub(super) fn stopped(&mut self, node: &NodeId, share: Option<Share>, now_ms: i64) {
        self.stopping = self.stopping.saturating_sub(1);
        if let Some(share) = share {
            self.take(node, share);
        }
        self.settle(now_ms);
    }

    /// The job has ended, but for the nodes that are stopping.
    pub(super) fn end(&mut self, now_ms: i64) {
        self.ending = true;
        self.settle(now_ms);
    }

    fn settle(&mut self, now_ms: i64) {
        if self.ending && self.stopping == 0 {
            self.ended_ms.get_or_insert(now_ms);
        }
    }

    /// A node has its tasks: what it has used so far is not this job's.
    pub(super) fn deployed(&mut self, node: &NodeId, share: &Share) {
        let used = self.cpu.get(node).map_or(0.0, |(before, now)| now - before);
        let same = self.cpu.get(node).is_some_and(|(_, now)| share.cpu_s >= *now);
        let before = if same { self.cpu[node].0 } else { share.cpu_s - used };
        self.cpu.insert(node.clone(), (before, share.cpu_s));
    }

    /// Another attempt counts from its beginning.
    pub(super) fn begin(&mut self, plan: Plan) {
        self.plan = plan;
        self.shares.clear();
        self.looks.clear();
        self.triggered = None;
    }

    /// Records that sources had read behind the last durable epoch, as far as their nodes have told: the next
    /// attempt reads them again.
    pub(super) fn to_replay(&self) -> u64 {
        let graph = self.plan.graph();
        let reads =
            |chain: u32| graph.operators.iter().any(|o| o.chain == chain && o.kind == OperatorKind::Source);
        self.shares.values().filter(|share| reads(share.chain)).map(|share| share.unsaved).sum()
    }

    /// The nodes that its tasks are on.
    pub(super) fn nodes(&self) -> BTreeSet<NodeId> {
        self.coordinator.nodes().cloned().collect()
    }

    /// What keeps an operator; remembers the counts for the next time.
    pub(super) fn why(&mut self, job: &str, operator: &str, now_ms: i64, at: Instant) -> Option<Why> {
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
        let named = |failure: &&str| failure.contains(&format!("operator {operator} panicked"));
        let failures = self.coordinator.history().filter(named).map(str::to_owned).collect();
        let aside = self.coordinator.set_aside().iter().filter(|aside| aside.operator == operator);
        let set_aside = aside.map(ToString::to_string).collect();
        Some(Why { job: job.to_owned(), state, failures, set_aside, ..why })
    }

    pub(super) fn take(&mut self, node: &NodeId, share: Share) {
        let (_, now) = self.cpu.entry(node.clone()).or_insert((share.cpu_s, share.cpu_s));
        *now = share.cpu_s.max(*now);
        for task in share.tasks {
            self.shares.insert(TaskId { chain: task.chain, subtask: task.subtask }, task);
        }
    }

    /// The word for its state; a job that has ended is still stopping until its nodes have answered.
    fn state(&self) -> String {
        let state = self.coordinator.state();
        let word = if state.is_terminal() && self.ended_ms.is_none() { "stopping" } else { state.as_str() };
        word.to_owned()
    }

    pub(super) fn info(&self, id: &str, now_ms: i64) -> JobInfo {
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
            state: self.state(),
            error: match self.coordinator.state() {
                JobState::Failed(status) | JobState::Restarting(status) => Some(status.message.clone()),
                _ => None,
            },
            started_ms: self.started_ms,
            wall_s: (self.ended_ms.unwrap_or(now_ms) - self.started_ms).max(0) as f64 / 1000.0,
            cpu_s: self.cpu.values().map(|(before, now)| now - before).sum(),
            output: output.unwrap_or_default(),
            tasks,
            progress: self.progress(),
            last_checkpoint: self.coordinator.last_completed(),
            restored: None,
            attempt: deployment.attempt.0,
            restarts: self.coordinator.restarts(),
            restartable: self.coordinator.restartable(),
            failures: self.coordinator.history().map(str::to_owned).collect(),
            set_aside: self.coordinator.set_aside().iter().map(ToString::to_string).collect(),
        }
    }

    fn progress(&self) -> JobProgress {
        let graph = self.plan.graph();
        let mut progress =
            JobProgress { pipeline: graph.pipeline.clone(), state: self.state(), ..JobProgress::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_new_where_its_id_was_given_while_those_of_the_coordinator_before_were_looked_for() {
        let mut table = JobTable::taking_over();
        let id = table.new_id("p", 1_000);
        assert!(table.is_new(&id) && !table.is_new("p-0-1"));
        table.taken_over();
        assert!(!table.taking_over && !table.is_new(&id));
        let later = table.new_id("p", 1_000);
        assert!(!table.is_new(&later) && later != id);
    }
}
