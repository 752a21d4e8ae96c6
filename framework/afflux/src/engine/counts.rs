//! What the tasks of a job have counted, by chain, for those who decide how many there should be.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afflux_stream::{JobSettings, OperatorKind};
use afflux_wire::Status;

use super::desk::Desk;
use super::worker::{TaskShare, Worker};

/// The counts of a job's tasks at a moment: only of nodes that have answered now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobCounts {
    /// The job's id.
    pub job: String,
    /// Its state, such as `running`.
    pub state: String,
    /// Its attempt: the counts of each begin at 0.
    pub attempt: u64,
    /// Tasks of each chain that has no number of its own.
    pub parallelism: u32,
    /// Slots of the nodes that there are now.
    pub slots: u32,
    /// The coordinator's calendar, milliseconds since 1970.
    pub now_ms: i64,
    /// Its chains.
    pub chains: Vec<ChainCounts>,
}

/// A chain of fused operators.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ChainCounts {
    /// Its operators, in order.
    pub operators: Vec<String>,
    /// Its tasks.
    pub tasks: u32,
    /// Whether it has the job's number of tasks, and not one of its own.
    pub scales: bool,
    /// Whether it begins with a source.
    pub reads: bool,
    /// The chains that it feeds, by their place in the list.
    pub feeds: Vec<u32>,
    /// What its tasks have counted.
    pub counted: Vec<TaskShare>,
}

impl Desk {
    /// Asks the nodes of a job for their counts.
    ///
    /// # Errors
    /// A job that is not known; a pipeline that cannot be built.
    pub(super) async fn counts(&self, job: &str) -> Result<JobCounts, Status> {
        let (nodes, deployment, state) = {
            let table = self.table.lock();
            let entry = table.find(job)?;
            let coordinator = &entry.coordinator;
            (entry.nodes(), coordinator.deployment().clone(), coordinator.state().as_str().to_owned())
        };
        let asked = nodes.into_iter().map(|node| {
            let client = self.parts.mesh.client_on::<Worker>(&node);
            async move { client.readings(job.to_owned()).fail_fast().await }
        });
        let mut counted: BTreeMap<u32, Vec<TaskShare>> = BTreeMap::new();
        for share in join_all(asked).await {
            match share {
                Ok(share) => {
                    share.tasks.into_iter().for_each(|t| counted.entry(t.chain).or_default().push(t))
                }
                Err(error) => {
                    tracing::debug!(job, %error, "a node does not tell what its tasks have counted")
                }
            }
        }
        // A chain that gets wider when the job does has no number of its own.
        let wider =
            JobSettings { parallelism: deployment.settings.parallelism + 1, ..deployment.settings.clone() };
        let wider = self.parts.pipelines.plan(&deployment.pipeline, wider)?.widths();
        let graph = &deployment.graph;
        let reads =
            |name: &String| graph.operators.iter().any(|o| o.name == *name && o.kind == OperatorKind::Source);
        let chains = graph.chains.iter().enumerate().map(|(index, chain)| {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            let mut feeds: Vec<u32> =
                graph.edges.iter().filter(|e| e.from_chain == number).map(|e| e.to_chain).collect();
            feeds.dedup();
            ChainCounts {
                operators: chain.operators.clone(),
                tasks: chain.parallelism,
                scales: wider.get(index).is_some_and(|wider| *wider > chain.parallelism),
                reads: chain.operators.first().is_some_and(reads),
                feeds,
                counted: counted.remove(&number).unwrap_or_default(),
            }
        });
        Ok(JobCounts {
            job: job.to_owned(),
            state,
            attempt: deployment.attempt.0,
            parallelism: deployment.settings.parallelism,
            slots: (self.parts.nodes)().iter().map(|(_, slots)| *slots).sum(),
            now_ms: (self.parts.now_ms)(),
            chains: chains.collect(),
        })
    }
}
