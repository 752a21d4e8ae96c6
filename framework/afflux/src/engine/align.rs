//! Aligned sources whose tasks are on several nodes: each node is told how far the others are.
//!
//! A place that is told is at most two rounds old, and places only rise while splits are read, so that an
//! old one holds a task too early and never too late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use afflux_stream::job::{Deployment, JobState};
use afflux_wire::{Attempt, NodeId};

use super::desk::Desk;
use super::worker::Worker;

/// Between two rounds.
const ALIGN_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for a node's answer: a slow one delays what the others are told by that.
const ALIGN_DEADLINE: Duration = Duration::from_secs(1);
/// A node that has not answered for so long holds nobody back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// How far the aligned sources of an attempt are on each of their nodes.
struct Places {
    attempt: Attempt,
    /// When each node last answered, and how far each source is there; `i64::MIN`: nothing was read yet.
    nodes: BTreeMap<NodeId, (Instant, BTreeMap<String, i64>)>,
}

impl Places {
    /// Of sources with tasks on several nodes; on each of these nothing was read yet.
    fn new(aligned: &[(&str, u32)], deployment: &Deployment, now: Instant) -> Self {
        let mut nodes: BTreeMap<NodeId, (Instant, BTreeMap<String, i64>)> = BTreeMap::new();
        for (source, chain) in aligned {
            let places = deployment.placement.get(*chain as usize);
            let places: BTreeSet<&NodeId> = places.into_iter().flatten().collect();
            if places.len() < 2 {
                continue;
            }
            for node in places {
                let of_node = nodes.entry(node.clone()).or_insert_with(|| (now, BTreeMap::new()));
                of_node.1.insert((*source).to_owned(), i64::MIN);
            }
        }
        Self { attempt: deployment.attempt, nodes }
    }

    /// What a node is to be told: for each of its sources the slowest of the other nodes.
    fn others(&self, node: &NodeId, now: Instant) -> Vec<(String, i64)> {
        let Some((_, mine)) = self.nodes.get(node) else { return Vec::new() };
        let others = self
            .nodes
            .iter()
            .filter(|(other, (heard, _))| *other != node && now < *heard + FORGOTTEN_AFTER)
            .map(|(_, (_, places))| places);
        mine.keys()
            .map(|source| {
                let least = others.clone().filter_map(|places| places.get(source)).min();
                (source.clone(), least.copied().unwrap_or(i64::MAX))
            })
            .collect()
    }

    /// Takes in a node's answer.
    fn hear(&mut self, node: &NodeId, told: &[(String, i64)], now: Instant) {
        let Some((heard, places)) = self.nodes.get_mut(node) else { return };
        *heard = now;
        for (source, latest) in told {
            if let Some(place) = places.get_mut(source) {
                *place = *latest;
            }
        }
    }
}

impl Desk {
    /// Tells the nodes of a job how far its aligned sources are on the others, until it has ended.
    pub(super) fn begin_align(self: &Arc<Self>, job: String) {
        let desk = Arc::clone(self);
        self.parts.io.spawn_with(move || async move {
            let mut places: Option<Places> = None;
            loop {
                desk.parts.clock.sleep(ALIGN_EVERY).await;
                if !desk.is_leading() {
                    return;
                }
                let now = desk.parts.clock.now();
                match desk.table.lock().jobs.get(&job) {
                    Some(entry) if *entry.coordinator.state() == JobState::Running => {
                        let deployment = entry.coordinator.deployment();
                        if places.as_ref().is_none_or(|known| known.attempt != deployment.attempt) {
                            places = Some(Places::new(&entry.plan.aligned(), deployment, now));
                        }
                    }
                    Some(entry) if !entry.coordinator.state().is_terminal() => continue,
                    _ => return,
                }
                if let Some(places) = &mut places {
                    desk.align(&job, places).await;
                }
            }
        });
    }

    async fn align(&self, job: &str, places: &mut Places) {
        let (now, attempt, fence) = (self.parts.clock.now(), places.attempt.0, self.parts.fence);
        let asked = places.nodes.keys().map(|node| {
            let (client, others) = (self.parts.mesh.client_on::<Worker>(node), places.others(node, now));
            let (node, job) = (node.clone(), job.to_owned());
            async move {
                let told = client.align(job, attempt, others, fence).fail_fast().deadline(ALIGN_DEADLINE);
                (node, told.await)
            }
        });
        for (node, told) in join_all(asked).await {
            match told {
                Ok(told) => places.hear(&node, &told, self.parts.clock.now()),
                Err(error) => tracing::debug!(job, %node, %error, "a node did not say how far it is"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_hears_the_slowest_of_the_others_that_still_answer() {
        let (now, node) = (Instant::now(), |name: &str| NodeId::new(name));
        let placement = vec![
            vec![node("a"), node("b"), node("c")],
            vec![node("a"), node("a")],
            vec![node("b"), node("c")],
        ];
        let deployment = Deployment { placement, ..Deployment::default() };
        let mut places = Places::new(&[("rows", 0), ("alone", 1), ("more", 2)], &deployment, now);
        let told = |source: &str, at| (source.to_owned(), at);
        assert_eq!(places.others(&node("a"), now), [told("rows", i64::MIN)], "one node has `alone`");
        places.hear(&node("b"), &[told("rows", 50), told("more", 7)], now);
        let later = now + Duration::from_secs(1);
        places.hear(&node("c"), &[told("rows", 40), told("more", i64::MAX)], later);
        assert_eq!(places.others(&node("a"), later), [told("rows", 40)]);
        assert_eq!(
            places.others(&node("c"), later),
            [told("more", 7), told("rows", i64::MIN)],
            "a has told nothing yet"
        );
        let silent = now + FORGOTTEN_AFTER;
        assert_eq!(places.others(&node("c"), silent), [told("more", i64::MAX), told("rows", i64::MAX)]);
        assert_eq!(places.others(&node("b"), silent), [told("more", i64::MAX), told("rows", 40)]);
        assert!(places.others(&node("d"), now).is_empty());
    }
}
