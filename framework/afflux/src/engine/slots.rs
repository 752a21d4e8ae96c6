//! The slots there are, and the jobs that follow them (`pipeline.rescale = auto`).
//!
//! A node that has joined gets a moment to be linked to the others; one that has left is counted on for a
//! while, since most come back. A job is rescaled from a checkpoint that is taken for it, so without a
//! storage it stays as it is, and that is said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afflux_stream::job::{Event, JobState};
use afflux_wire::NodeId;

use super::desk::Desk;

/// Tasks of an operator that a job is given by itself at most.
const PARALLELISM_MAX: u32 = 1024;
/// Between two looks at a job that cannot be rescaled now, since it is restarting.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When jobs are rescaled by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    /// How long the slots of a node that has left are counted on.
    pub leave: Duration,
    /// Between two rescales of a job.
    pub cooldown: Duration,
}

/// Who is there, and who has just left.
#[derive(Debug)]
pub(super) struct Slots {
    /// Since when somebody looks: before that, nobody knows who has left.
    since: Instant,
    live: BTreeMap<NodeId, u32>,
    /// Slots, and until when they are counted on.
    gone: BTreeMap<NodeId, (u32, Instant)>,
    /// When jobs were last rescaled by themselves.
    rescaled: BTreeMap<String, Instant>,
    /// Changes: who waits for an earlier one leaves it to who came later.
    changes: u64,
    /// That there is no storage was said.
    warned: bool,
}

impl Slots {
    pub(super) fn new(nodes: &[(NodeId, u32)], now: Instant) -> Self {
        Self {
            since: now,
            live: nodes.iter().cloned().collect(),
            gone: BTreeMap::new(),
            rescaled: BTreeMap::new(),
            changes: 0,
            warned: false,
        }
    }

    /// Takes in who is there.
    fn look(&mut self, nodes: Vec<(NodeId, u32)>, now: Instant, leave: Duration) {
        let live: BTreeMap<NodeId, u32> = nodes.into_iter().collect();
        for (node, slots) in std::mem::take(&mut self.live) {
            if !live.contains_key(&node) {
                self.gone.entry(node).or_insert((slots, now + leave));
            }
        }
        self.live = live;
        let live = &self.live;
        self.gone.retain(|node, (_, until)| *until > now && !live.contains_key(node));
    }

    /// The tasks that a job gets which has so many. Who has left and may come back keeps it from shrinking,
    /// and never lets it grow: a node that is replaced by one of another name is not counted twice.
    fn wanted(&self, has: u32) -> u32 {
        let live = self.live.values().sum::<u32>();
        let gone = self.gone.values().map(|(slots, _)| *slots).sum::<u32>();
        if live >= has { live.min(PARALLELISM_MAX) } else { (live + gone).min(has) }
    }

    /// When a job of this parallelism may be given so many slots; none: it has them.
    fn due(&self, job: &str, has: u32, slots: u32, follow: Follow) -> Option<Instant> {
        if slots == 0 || has == slots {
            return None;
        }
        let cool = self.rescaled.get(job).map_or(self.since, |at| *at + follow.cooldown);
        // Who has taken over does not know whom the one before still counted on.
        Some(if slots < has { cool.max(self.since + follow.leave) } else { cool })
    }

    /// When the slots may be fewer without anybody's leaving.
    fn next(&self) -> Option<Instant> {
        self.gone.values().map(|(_, until)| *until).min()
    }
}

impl Desk {
    /// Somebody has come or gone: gives the jobs that want it the slots there are, once that has lasted.
    pub(super) async fn follow_slots(self: Arc<Self>, settles: Duration) {
        let (clock, follow) = (&self.parts.clock, self.parts.follow);
        let change = {
            let mut slots = self.slots.lock();
            slots.changes += 1;
            slots.look((self.parts.nodes)(), clock.now(), follow.leave);
            slots.changes
        };
        let mut wait = settles;
        while self.is_leading() && !self.following().is_empty() {
            clock.sleep(wait).await;
            if self.slots.lock().changes != change {
                return;
            }
            match self.follow_now() {
                Some(again) => wait = again.saturating_duration_since(clock.now()).max(LOOK_AGAIN / 4),
                None => return,
            }
        }
    }

    /// Jobs that follow the slots there are, their parallelism, and whether they run.
    fn following(&self) -> Vec<(String, u32, bool)> {
        let table = self.table.lock();
        let follow = table.jobs.iter().filter_map(|(id, entry)| {
            let settings = &entry.coordinator.deployment().settings;
            let state = entry.coordinator.state();
            let runs = *state == JobState::Running;
            (settings.rescale_auto && !state.is_terminal()).then(|| (id.clone(), settings.parallelism, runs))
        });
        follow.collect()
    }

    /// Rescales what is due; returns when to look again.
    fn follow_now(self: &Arc<Self>) -> Option<Instant> {
        let (now, follow) = (self.parts.clock.now(), self.parts.follow);
        let jobs = self.following();
        let mut wanted = Vec::new();
        let mut again = {
            let mut slots = self.slots.lock();
            slots.look((self.parts.nodes)(), now, follow.leave);
            slots.rescaled.retain(|job, _| jobs.iter().any(|(id, ..)| id == job));
            let mut again = slots.next();
            for (job, has, runs) in jobs {
                let count = slots.wanted(has);
                let Some(due) = slots.due(&job, has, count, follow) else { continue };
                if self.parts.storage.is_none() {
                    if !std::mem::replace(&mut slots.warned, true) {
                        tracing::warn!(
                            job,
                            slots = count,
                            tasks = has,
                            "pipeline.rescale is `auto`, and the job stays as wide as it is: without checkpoint \
                             storage its state would be lost; set `checkpoint.dir` or `checkpoint.url`"
                        );
                    }
                    continue;
                }
                let due = if due <= now && runs {
                    slots.rescaled.insert(job.clone(), now);
                    wanted.push((job, has, count));
                    // Whether it has gone well: a checkpoint that fails leaves the job as it is.
                    now + follow.cooldown
                } else {
                    due.max(now + LOOK_AGAIN)
                };
                again = Some(again.map_or(due, |known| known.min(due)));
            }
            again
        };
        for (job, tasks, slots) in wanted {
            tracing::info!(job, tasks, slots, "nodes have come or gone: the job is rescaled");
            self.feed(&job, Event::Rescale(slots));
        }
        if self.parts.storage.is_none() && self.slots.lock().warned {
            again = None;
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLLOW: Follow = Follow { leave: Duration::from_secs(60), cooldown: Duration::from_secs(30) };

    fn nodes(names: &[&str]) -> Vec<(NodeId, u32)> {
        names.iter().map(|name| (NodeId::new(*name), 2)).collect()
    }

    #[test]
    fn a_node_that_leaves_is_counted_on_for_a_while_and_one_that_joins_at_once() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut slots = Slots::new(&nodes(&["a", "b"]), start);
        let mut look = |names: &[&str], at: u32| {
            slots.look(nodes(names), start + at * second, FOLLOW.leave);
            slots.wanted(6)
        };
        assert_eq!(look(&["a", "b", "c"], 1), 6);
        assert_eq!(look(&["a", "b"], 2), 6, "it may come back");
        assert_eq!(look(&["a", "b", "c"], 61), 6, "it has");
        assert_eq!(look(&["a", "b"], 70), 6);
        assert_eq!(look(&["a"], 100), 6);
        assert_eq!(look(&["a"], 130), 4, "the first has gone for good");
        assert_eq!(look(&["a"], 160), 2);
        assert_eq!(look(&["a", "b", "c"], 170), 6);
        assert_eq!(look(&["a", "b", "d"], 171), 6, "it was replaced");
        assert_eq!(look(&["a", "b", "d", "e"], 172), 8);
    }

    #[test]
    fn a_job_is_not_rescaled_twice_in_a_short_time_nor_shrunk_by_a_new_coordinator() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut slots = Slots::new(&nodes(&["a", "b"]), start);
        assert_eq!(slots.due("j", 4, 4, FOLLOW), None);
        assert_eq!(slots.due("j", 2, 4, FOLLOW), Some(start), "at once");
        assert_eq!(slots.due("j", 6, 4, FOLLOW), Some(start + 60 * second));
        slots.rescaled.insert("j".into(), start + 100 * second);
        assert_eq!(slots.due("j", 6, 4, FOLLOW), Some(start + 130 * second));
        assert_eq!(slots.due("j", 6, 0, FOLLOW), None, "without nodes there is nothing to follow");
    }
}
