//! Who runs a job: the coordinator decides, a worker on each node carries out.
//!
//! [`Deployment`] is what travels (never a closure); [`Executor`] makes tasks from it on one node;
//! [`Coordinator`] is the pure state machine of a job; [`Storage`] keeps checkpoints;
//! [`run_local`] runs a bounded plan in this process, for tests and benchmarks.

mod attempts;
mod coordinator;
mod deployment;
mod executor;
mod local;
mod positions;
mod restart;
mod storage;

pub use attempts::{AttemptRecord, RewindPoint};
pub use coordinator::{Action, Adopted, Coordinator, Event, JobState, Prepare};
pub use deployment::{Deployment, TaskId, deal_again, place};
pub use executor::{Executor, JobReport, Running, RunningTask, Unstored};
pub use local::{LocalRun, run_local, start_attempt, start_local};
pub use restart::{RestartSettings, RestartStrategy};
pub use storage::{
    CheckpointFile, Damage, JobEnd, JobSpec, MANIFEST_NAMES_KEPT, MANIFEST_VERSION, Manifest, Past,
    PastCheckpoint, RETAIN_DEFAULT, StateChange, StateInfo, StateLook, Storage, StoredJob, UPLOAD_PART_BYTES,
    UPLOAD_PARTS_MAX,
};
