//! Jobs as the command line and other clients see them: the contract of the cluster's coordinator.
//!
//! A job is one run of a pipeline. Who runs it is in `afflux_stream::job`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::JobCounts;
use crate::job_detail::{CheckpointInfo, JobDetail};
use crate::macros::Service;
use crate::progress::JobProgress;
use crate::why::Why;

/// What a job is started with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobRequest {
    /// The pipeline's name.
    pub pipeline: String,
    /// Settings that differ from the cluster's, by the names of the settings table.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Paces the input by its event time at this multiple of its speed.
    #[serde(default)]
    pub replay: Option<f64>,
    /// Starts from a checkpoint: `JOB` (its latest) or `JOB/EPOCH`.
    #[serde(default)]
    pub restore: Option<String>,
    /// Starts from the checkpoint even when the pipeline has no operator for some of its state, which is then lost.
    #[serde(default)]
    pub allow_orphaned_state: bool,
    /// Waits a short while until the coordinator sees this many nodes: its view of the registry may
    /// lag behind that of the caller.
    #[serde(default)]
    pub nodes_min: u32,
}

/// Where one task runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TaskPlace {
    /// The task's address, `pipeline/operator/task`.
    pub path: String,
    /// The operators that are fused into it.
    pub operators: Vec<String>,
    /// Which of the operators' tasks, from 0.
    pub subtask: u32,
    /// The node.
    pub node: String,
}

/// A job at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobInfo {
    /// The job's id.
    pub id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// `deploying`, `running`, `restarting`, `stopping`, `finished`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed, or restarts.
    pub error: Option<String>,
    /// Start, milliseconds since 1970.
    pub started_ms: i64,
    /// Seconds it has been running, or ran.
    pub wall_s: f64,
    /// Processor seconds of its nodes in that time.
    pub cpu_s: f64,
    /// What its sinks write to.
    pub output: String,
    /// Its tasks.
    pub tasks: Vec<TaskPlace>,
    /// How far it has come.
    pub progress: JobProgress,
    /// The last epoch that is durable.
    pub last_checkpoint: Option<u64>,
    /// Of a job that was just started from a checkpoint: which state it goes on with, and which is new or orphaned.
    pub restored: Option<String>,
    /// Which try at running it this is, from 1; a try may be lost before it begins.
    pub attempt: u64,
    /// How often another attempt was begun, under the coordinator that answers.
    pub restarts: u64,
    /// Whether it restarts by itself when an attempt is lost.
    pub restartable: bool,
    /// Its last failures, the latest last.
    pub failures: Vec<String>,
    /// Records that it goes on without, each with the operator that it killed.
    pub set_aside: Vec<String>,
}

impl JobInfo {
    /// Whether nothing will happen any more.
    pub fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "finished" | "failed" | "cancelled")
    }

    /// The nodes that it runs on, by name.
    pub fn nodes(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> = self.tasks.iter().map(|task| task.node.as_str()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// The coordinator of the cluster's jobs. It lives on the node that leads.
#[derive(Service)]
#[service(name = "afflux.jobs", version = "1.0")]
pub enum Jobs {
    /// Starts a job.
    #[rpc(returns = JobInfo, deadline = "30s")]
    Submit {
        /// What to run.
        request: JobRequest,
    },
    /// Every job that is running or ended a short while ago, newest first.
    #[rpc(returns = Vec<JobInfo>, idempotent)]
    List,
    /// One job.
    #[rpc(returns = JobInfo, idempotent)]
    Show {
        /// The job's id.
        job: String,
    },
    /// What keeps an operator from being further than it is.
    #[rpc(returns = Why, idempotent)]
    Why {
        /// The job's id; empty for the newest that has the operator.
        job: String,
        /// The operator's name.
        operator: String,
    },
    /// What its tasks have counted, chain by chain, for those who decide how many there should be.
    #[rpc(returns = JobCounts, idempotent, readonly)]
    Counts {
        /// The job's id.
        job: String,
    },
    /// Starts a checkpoint of a running job; `last_checkpoint` of the job shows when it is complete.
    #[rpc(returns = JobInfo, deadline = "30s")]
    Checkpoint {
        /// The job's id.
        job: String,
    },
    /// One job in full: the counts of each task, its checkpoints, what has happened to it.
    #[rpc(returns = JobDetail, idempotent, readonly)]
    Detail {
        /// The job's id.
        job: String,
    },
    /// Takes a checkpoint of a running job and keeps it until somebody deletes it; answers when it is stored.
    #[rpc(returns = CheckpointInfo, deadline = "60s")]
    Savepoint {
        /// The job's id.
        job: String,
    },
    /// Takes a checkpoint and goes on from it with another number of parallel tasks, on the nodes
    /// there are then.
    #[rpc(returns = JobInfo, deadline = "30s")]
    Rescale {
        /// The job's id.
        job: String,
        /// Tasks of each operator that has no number of its own.
        parallelism: u32,
    },
    /// Stops a job; one that has ended stays as it is.
    #[rpc(returns = JobInfo, idempotent, deadline = "30s")]
    Cancel {
        /// The job's id.
        job: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_counts_each_of_its_nodes_once() {
        let place = |node: &str| TaskPlace { node: node.into(), ..TaskPlace::default() };
        let job = JobInfo { tasks: vec![place("b"), place("a"), place("b")], ..JobInfo::default() };
        assert_eq!(job.nodes(), ["a", "b"]);
    }

    #[test]
    fn only_three_states_are_ends() {
        let ended = |state: &str| JobInfo { state: state.into(), ..JobInfo::default() }.has_ended();
        assert!(ended("finished") && ended("failed") && ended("cancelled"));
        assert!(!ended("running") && !ended("deploying") && !ended("restarting") && !ended("stopping"));
    }
}
