//! The small objects of a job: its specification, its checkpoints' manifests, its end.

use serde::{Deserialize, Serialize};

use crate::context::JobSettings;
use crate::graph::Graph;
use crate::job::coordinator::JobState;
use crate::job::deployment::{Deployment, TaskId};
use crate::key::KEY_GROUPS;
use crate::snapshot::{PartKind, TaskSnapshot};
use crate::source::Split;

/// Version of manifests that this build writes.
pub const MANIFEST_VERSION: u32 = 2;

/// One state of one operator in a file, in brief.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateInfo {
    /// The operator.
    pub operator: String,
    /// The state's name in the operator.
    pub state: String,
    /// How many values it has.
    pub kind: PartKind,
    /// Its rows.
    pub rows: u64,
    /// Bytes of the rows, those in files of earlier epochs too.
    pub bytes: u64,
}

/// One task's file of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFile {
    /// The task that wrote it.
    pub task: TaskId,
    /// Its name below the job's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// CRC-32 (IEEE) of its content.
    pub crc32: u32,
    /// Files of earlier epochs that hold blocks of it, by their names below the job's directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refers: Vec<String>,
    /// What is in it.
    #[serde(default)]
    pub states: Vec<StateInfo>,
}

/// What makes the files of an epoch a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version of this manifest.
    pub version: u32,
    /// The job.
    pub job: String,
    /// The pipeline.
    pub pipeline: String,
    /// The attempt that took it.
    pub attempt: u64,
    /// The epoch.
    pub epoch: u64,
    /// The number of the election that made its coordinator leader; 0: unknown.
    #[serde(default)]
    pub fencing_token: u64,
    /// Fingerprint of the graph.
    pub fingerprint: u64,
    /// Settings of the job.
    pub settings: JobSettings,
    /// Tasks of each chain.
    #[serde(default)]
    pub widths: Vec<u32>,
    /// Key groups that keys are dealt out to.
    #[serde(default)]
    pub key_groups: u32,
    /// The files.
    pub files: Vec<CheckpointFile>,
    /// What tasks that had finished before left: where their splits ended.
    #[serde(default)]
    pub finished: Vec<TaskSnapshot>,
}

/// What a job was submitted as: created before its first task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    /// Layout version of this object.
    pub version: u32,
    /// The job's id.
    pub job: String,
    /// The pipeline.
    pub pipeline: String,
    /// Settings of the job.
    pub settings: JobSettings,
    /// Tasks of each chain.
    pub widths: Vec<u32>,
    /// Key groups that keys are dealt out to.
    pub key_groups: u32,
    /// Fingerprint of the graph.
    pub fingerprint: u64,
    /// The graph.
    pub graph: Graph,
    /// Hash of the executable that submitted it.
    pub build: String,
    /// When, in milliseconds since 1970.
    pub created_ms: i64,
    /// What each source task reads in the first attempt.
    pub splits: Vec<Vec<Vec<Split>>>,
    /// The checkpoint that it began with: a job and an epoch of it.
    pub restored: Option<(String, u64)>,
}

impl JobSpec {
    /// The specification of a job whose first attempt is this.
    pub fn of(deployment: &Deployment, created_ms: i64) -> Self {
        let from = || deployment.restore_from.clone().unwrap_or_else(|| deployment.job.clone());
        Self {
            version: MANIFEST_VERSION,
            job: deployment.job.clone(),
            pipeline: deployment.pipeline.clone(),
            settings: deployment.settings.clone(),
            widths: deployment.graph.chains.iter().map(|chain| chain.parallelism).collect(),
            key_groups: KEY_GROUPS,
            fingerprint: deployment.fingerprint,
            graph: deployment.graph.clone(),
            build: deployment.build.clone(),
            created_ms,
            splits: deployment.splits.clone(),
            restored: deployment.restore.map(|epoch| (from(), epoch)),
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEnd {
    /// The job's id.
    pub job: String,
    /// Its last state.
    pub state: JobState,
}

/// A job that has left something in the storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredJob {
    /// Its id.
    pub job: String,
    /// Whether its specification is there: only then can another coordinator take it over.
    pub specified: bool,
    /// Whether it has ended.
    pub ended: bool,
}
