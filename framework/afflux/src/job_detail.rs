//! A job in full, as the dashboard shows it: the answer of `Jobs::Detail`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::jobs::JobInfo;

/// A job at a moment, with the counts of each task, its checkpoints and what has happened to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobDetail {
    /// The job.
    pub info: JobInfo,
    /// Its operators, chains and exchanges, as `/api/v1/graph/PIPELINE` shows them.
    pub graph: serde_json::Value,
    /// When the tasks were asked, milliseconds since 1970 on the coordinator's calendar.
    pub at_ms: i64,
    /// What its tasks have counted since the attempt began.
    pub tasks: Vec<TaskDetail>,
    /// Its latest checkpoints, the newest last, as far as this coordinator has seen them.
    pub checkpoints: Vec<CheckpointInfo>,
    /// What has happened to it, the newest last, as far as this coordinator has seen it.
    pub events: Vec<JobEvent>,
}

/// What one task has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TaskDetail {
    /// Its chain of operators.
    pub chain: u32,
    /// Which of the chain's tasks, from 0.
    pub subtask: u32,
    /// Its node.
    pub node: String,
    /// Its operators, in order.
    pub operators: Vec<OperatorCounts>,
    /// Seconds at work.
    pub busy_s: f64,
    /// Seconds without input.
    pub idle_s: f64,
    /// Seconds without room downstream.
    pub backpressured_s: f64,
    /// What it does now, which is not in the seconds yet: `busy`, `idle` or `backpressured`.
    pub doing: String,
    /// Its input watermark, milliseconds since 1970; nothing before the first and after the last.
    pub watermark_ms: Option<i64>,
    /// The watermark that it has handed on.
    pub watermark_out_ms: Option<i64>,
    /// Input read, in the source's unit.
    pub input_done: u64,
    /// Input there is, 0 when that is not known.
    pub input_total: u64,
}

/// What one operator of one task has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OperatorCounts {
    /// Its name.
    pub name: String,
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
    /// Records that came too late.
    pub late: u64,
    /// Inputs that were skipped.
    pub errors: u64,
}

/// A checkpoint, as the coordinator has seen it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointInfo {
    /// Its epoch.
    pub epoch: u64,
    /// The attempt that took it.
    pub attempt: u64,
    /// `in_progress`, `completed` or `failed`.
    pub state: String,
    /// Whether it is kept until somebody deletes it.
    pub savepoint: bool,
    /// Its start, milliseconds since 1970; of one that an earlier coordinator took, its end.
    pub started_ms: i64,
    /// Milliseconds from its start to its manifest, or to its failure; nothing where the start is not known.
    pub took_ms: Option<u64>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Tasks that have stored their part.
    pub tasks_stored: u32,
    /// Tasks that have to.
    pub tasks: u32,
    /// Why it failed.
    pub error: Option<String>,
}

/// Something that happened to a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobEvent {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// The attempt.
    pub attempt: u64,
    /// The job's state from then on, such as `restarting`.
    pub state: String,
    /// Why, where there is a reason.
    pub text: String,
}
