//! Pipelines in this process: the builders it knows, the worker that runs its share of a job, and
//! the desk that coordinates jobs while this node leads.
//!
//! The decisions are made by `afflux_stream::job::Coordinator`, a pure state machine; here are the
//! calls that carry them out.

mod align;
mod checkpoint_metrics;
mod counts;
mod desk;
mod fences;
mod history;
mod job_metrics;
mod metrics;
mod pipelines;
mod requests;
mod settings;
mod slots;
mod standing;
mod state_metrics;
mod table;
mod takeover;
mod teller;
mod why;
mod worker;

pub use checkpoint_metrics::CheckpointMetrics;
pub use counts::{ChainCounts, JobCounts};
pub use desk::{Desk, DeskParts, JobDesk, JobDeskMail, JobReports, JobReportsClient, Leads};
pub use job_metrics::JobMetrics;
pub use metrics::OperatorMetrics;
pub use pipelines::{Builder, Pipelines};
pub use slots::Follow;
pub use standing::Standing;
pub(crate) use state_metrics::StateMetrics;
pub use teller::Told;
pub use worker::{Held, Share, TaskShare, Worker, WorkerActor, WorkerActorMail, WorkerParts};
