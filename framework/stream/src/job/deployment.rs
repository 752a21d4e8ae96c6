//! What travels to a node so that it can run its part of a job.

use std::fmt;

use serde::{Deserialize, Serialize};

use afflux_wire::{Attempt, NodeId};

use crate::context::{JobSettings, Placement};
use crate::graph::Graph;
use crate::poison::Ledger;
use crate::source::Split;

/// One of the parallel copies of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The chain.
    pub chain: u32,
    /// Which of its tasks.
    pub subtask: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.chain, self.subtask)
    }
}

/// One attempt of a job, as every node is told. Closures never travel: each node runs the same
/// builder with the same settings and takes chains by their index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// The job's id.
    pub job: String,
    /// The pipeline it runs.
    pub pipeline: String,
    /// The attempt; frames of another one are refused.
    pub attempt: Attempt,
    /// The settings that the builder runs with.
    pub settings: JobSettings,
    /// Hash of the executable of the coordinator.
    pub build: String,
    /// Fingerprint of the graph the coordinator built.
    pub fingerprint: u64,
    /// The graph, so that a node that built another can say where it differs.
    pub graph: Graph,
    /// Where each task runs.
    pub placement: Placement,
    /// What each source task reads.
    pub splits: Vec<Vec<Vec<Split>>>,
    /// The epoch of the checkpoint to start from.
    pub restore: Option<u64>,
    /// The checkpoint directory of the job to start from, when it is not this job's own.
    pub restore_from: Option<String>,
    /// The parallelism that its splits were listed for: that of its first attempt; 0: its own.
    #[serde(default)]
    pub listed_parallelism: u32,
    /// What the checkpoint has and the pipeline does not take is left aside.
    #[serde(default)]
    pub allow_orphaned_state: bool,
    /// When the job was submitted, in milliseconds since 1970.
    #[serde(default)]
    pub started_ms: i64,
    /// What the job knows of records that kill their operator.
    #[serde(default)]
    pub poison: Ledger,
}

impl Deployment {
    /// The parallelism that its splits were listed for.
    pub fn listed_for(&self) -> u32 {
        match self.listed_parallelism {
            0 => self.settings.parallelism,
            listed => listed,
        }
    }

    /// The tasks that run on a node.
    pub fn tasks_on(&self, node: &NodeId) -> Vec<TaskId> {
        let mut tasks = Vec::new();
        for (chain, places) in self.placement.iter().enumerate() {
            for (subtask, place) in places.iter().enumerate() {
                if place == node {
                    tasks.push(TaskId { chain: chain as u32, subtask: subtask as u32 });
                }
            }
        }
        tasks
    }
}

/// Deals the splits of an attempt out again, `[chain][subtask]`, over other numbers of tasks. A job
/// keeps the splits it began with, since positions in its checkpoints name them; what its sources list
/// beside them (`listed`, for the number of tasks it began with) has appeared since.
pub fn deal_again(
    splits: &[Vec<Vec<Split>>],
    listed: &[Vec<Vec<Split>>],
    widths: &[u32],
) -> Vec<Vec<Vec<Split>>> {
    let mut dealt: Vec<Vec<Vec<Split>>> =
        widths.iter().map(|width| vec![Vec::new(); *width as usize]).collect();
    for (chain, (tasks, into)) in splits.iter().zip(&mut dealt).enumerate() {
        let mut all: Vec<Split> = tasks.iter().flatten().cloned().collect();
        for fresh in listed.get(chain).into_iter().flatten().flatten() {
            if !all.iter().any(|known| known.id == fresh.id) {
                all.push(fresh.clone());
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        let count = into.len().max(1);
        for (index, split) in all.into_iter().enumerate() {
            if let Some(task) = into.get_mut(index % count) {
                task.push(split);
            }
        }
    }
    dealt
}

/// Deals tasks out over nodes: subtask `s` of a wide chain to node `s mod n`; single tasks to
/// different nodes, so that they do not pile up on the first.
///
/// ```
/// use afflux_stream::job::place;
/// let nodes = ["a".into(), "b".into()];
/// let placement = place(&[1, 2], &nodes);
/// assert_eq!(placement[1], ["a".into(), "b".into()]);
/// ```
pub fn place(widths: &[u32], nodes: &[NodeId]) -> Placement {
    widths
        .iter()
        .enumerate()
        .map(|(chain, width)| {
            let offset = if *width == 1 { chain } else { 0 };
            (0..*width as usize)
                .filter_map(|subtask| nodes.get((subtask + offset) % nodes.len().max(1)).cloned())
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_dealt_again_are_the_same_splits() {
        let split = |id: &str| Split { id: id.into(), ..Split::default() };
        let two = vec![vec![vec![split("0"), split("2")], vec![split("1")]], vec![vec![]]];
        let ids = |dealt: &[Vec<Split>]| -> Vec<Vec<String>> {
            dealt.iter().map(|task| task.iter().map(|s| s.id.clone()).collect()).collect()
        };
        assert_eq!(ids(&deal_again(&two, &two, &[1, 1])[0]), [["0", "1", "2"]]);
        let fresh = vec![vec![vec![split("1")], vec![split("3")]]];
        let dealt = deal_again(&two, &fresh, &[5, 1]);
        assert_eq!(ids(&dealt[0]), [vec!["0"], vec!["1"], vec!["2"], vec!["3"], vec![]]);
    }
}
