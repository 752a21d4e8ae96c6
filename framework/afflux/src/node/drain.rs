//! Leaving on request and on SIGTERM: tasks go on elsewhere, calls are answered, and then the node ends.
//!
//! What [`Node::close`] does alone loses nothing either, but jobs notice it as the loss of a node and go on from
//! their last checkpoint. Here they go on from one that is taken for it. For that the node has to be reached as
//! before: it says by a label of its record that it gets no tasks, and that it leaves only when they are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use afflux_actor::clock;
use afflux_registry::{Instance, watch};
use afflux_stream::job::Deployment;
use afflux_wire::Status;
use afflux_wire::contract::Service;
use futures_util::future::join_all;

use super::Node;
use super::facts::{DRAINS, takes_tasks};
use crate::engine::Worker;
use crate::error::Error;
use crate::jobs::JobInfo;

/// Longest wait until all tasks run elsewhere, where somebody asked for it.
const HAND_OVER_MAX: Duration = Duration::from_secs(60);
/// Longest wait until the registry shows that this node drains: before that, tasks could be given back to it.
const ANNOUNCED_MAX: Duration = Duration::from_secs(5);
/// Times that a job is asked to go elsewhere: its coordinator may have seen the news too late.
const HAND_OVERS_MAX: u32 = 3;
/// The fencing token of requests that a node makes to its own worker.
const OF_THE_NODE: u64 = 0;
/// Between two looks at what is left.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Says that a node has ended, however its end came about.
pub(super) struct Ended<'a>(pub(super) &'a watch::Sender<bool>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

impl Node {
    /// Resolves when it has been closed, by whomever.
    pub async fn closed(&self) {
        let mut ended = self.inner.ended.subscribe();
        // The sender lives as long as this node.
        let _ended = ended.wait_for(|ended| *ended).await;
    }

    /// Drains when somebody asks it to, over the node port or by the dashboard.
    pub(super) fn drain_when_asked(&self) {
        let (mut asked, mut closing) = (self.inner.facts.asked.subscribe(), self.inner.closing.subscribe());
        let node = self.clone();
        self.io().spawn_future(async move {
            let is_asked = async { asked.wait_for(|asked| *asked).await.is_ok() };
            let closes = async { closing.wait_for(|closing| *closing).await.is_ok() };
            let drains = tokio::select! {
                biased;
                _ = closes => false,
                asked = is_asked => asked,
            };
            if drains {
                tracing::info!("asked to drain");
                node.drain().await;
            }
        });
    }

    /// Leaves the cluster without losing what it does: it takes no new work, its tasks go on on other nodes
    /// from a checkpoint that is taken for it, at most a minute long; the calls it has are answered within `drain.grace_ms`; then
    /// it is [closed](Node::close). What could not be handed over ends with it, and goes on as after a loss.
    pub async fn drain(&self) {
        let inner = &self.inner;
        self.hand_over(HAND_OVER_MAX).await;
        // From now on others get the calls.
        inner.probes.unmet("serving", "the node drains");
        inner.facts.drains(|drain| drain.phase = "calls".to_owned());
        self.answer().await;
        inner.facts.drains(|drain| drain.phase = "leaving".to_owned());
        self.close().await;
    }

    /// Leaves the cluster as on SIGTERM: tasks that other nodes can take are handed over as by [`Node::drain`], within
    /// `drain.hand_over_ms`; then it is [closed](Node::close).
    pub async fn leave(&self) {
        let within = Duration::from_millis(self.inner.settings.drain_hand_over_ms);
        self.inner.probes.unmet("serving", "the node leaves");
        // A registry or a coordinator that does not answer holds nobody back for longer.
        if !within.is_zero() && tokio::time::timeout(within, self.hand_over_on_leaving(within)).await.is_err()
        {
            tracing::warn!(
                after_ms = within.as_millis(),
                "not all tasks were handed over: they go on as after a loss; drain.hand_over_ms gives them more time"
            );
        }
        self.close().await;
    }

    async fn hand_over_on_leaving(&self, within: Duration) {
        // Who asked for a drain wants it done.
        if *self.inner.facts.asked.borrow() {
            return self.closed().await;
        }
        match self.jobs_held().await {
            Ok(held) if !held.is_empty() && !self.is_closing() => {}
            Ok(_) => return,
            Err(error) => {
                return self.keep("all jobs", &format!("what runs here is not known: {}", error.message));
            }
        }
        match self.inner.facts.may_drain().await {
            Ok(()) => self.hand_over(within).await,
            Err(status) => self.keep("all jobs", &status.message),
        }
    }

    fn is_closing(&self) -> bool {
        *self.inner.closing.borrow()
    }

    /// Says that it takes no tasks, and sees to it that those it has run elsewhere.
    async fn hand_over(&self, within: Duration) {
        self.inner.facts.begin_drain();
        self.inner.facts.labels.lock().insert(DRAINS.to_owned(), "1".to_owned());
        self.publish();
        let announced_until = clock::now() + ANNOUNCED_MAX;
        while !self.is_announced().await && !self.is_closing() {
            if clock::now() >= announced_until {
                return self.keep("all jobs", "the registry does not tell others that this node drains");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let until = clock::now() + within;
        let mut asked: BTreeMap<String, u32> = BTreeMap::new();
        while clock::now() < until && !self.is_closing() {
            let held = match self.jobs_held().await {
                Ok(held) => held,
                Err(error) => {
                    tracing::debug!(%error, "what runs here is not known");
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            let tasks = held.values().sum();
            self.inner.facts.drains(|drain| drain.tasks = tasks);
            let kept = |job: &String| asked.get(job).is_some_and(|times| *times > HAND_OVERS_MAX);
            if held.keys().all(kept) {
                return;
            }
            let jobs = match self.jobs_here().await {
                Ok(jobs) => jobs,
                // Who coordinates is changing, or has not found out yet what runs here.
                Err(error) => {
                    tracing::debug!(%error, "the coordinator does not say what runs here");
                    Vec::new()
                }
            };
            let mut sent = Vec::new();
            for job in jobs {
                let times = asked.entry(job.id.clone()).or_default();
                if *times > HAND_OVERS_MAX {
                    continue;
                }
                if let Err(status) = self.others_take(&job).await {
                    *times = HAND_OVERS_MAX + 1;
                    self.keep(&job.id, &status.message);
                } else if job.state == "running" {
                    *times += 1;
                    if *times > HAND_OVERS_MAX {
                        self.keep(&job.id, &format!("it was sent away {HAND_OVERS_MAX} times, and is here"));
                    } else {
                        sent.push(job);
                    }
                }
                // One that restarts now is placed on other nodes anyway.
            }
            // One that takes long holds no other up.
            let sent = sent.iter().map(|job| async move { (job, self.send_away(job).await) });
            for (job, result) in join_all(sent).await {
                if let Err(status) = result {
                    asked.insert(job.id.clone(), HAND_OVERS_MAX + 1);
                    self.keep(&job.id, &status.message);
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Notes a job that is not handed over.
    fn keep(&self, job: &str, why: &str) {
        tracing::warn!(job, why, "not handed over");
        self.inner.facts.drains(|drain| drain.kept.push(format!("{job}: {why}")));
    }

    /// Whether the registry shows that it drains.
    async fn is_announced(&self) -> bool {
        let view = self.inner.registry.view().await;
        view.is_ok_and(|view| view.instance(self.id()).is_none_or(|own| !takes_tasks(own)))
    }

    /// The jobs whose tasks this node has, and how many, as it knows itself: no other node is asked.
    async fn jobs_held(&self) -> Result<BTreeMap<String, u32>, Status> {
        let mut jobs = BTreeMap::new();
        // A node without pipelines has no worker.
        if !self.inner.facts.entries.lock().iter().any(|entry| entry.name == Worker::NAME) {
            return Ok(jobs);
        }
        for held in self.inner.mesh.client_on::<Worker>(self.id()).running(OF_THE_NODE).await? {
            let deployment: Deployment = serde_json::from_str(&held.deployment).map_err(|error| {
                Status::internal(format!("a deployment of this node cannot be read: {error}"))
            })?;
            *jobs.entry(deployment.job).or_default() += u32::try_from(held.tasks.len()).unwrap_or(u32::MAX);
        }
        Ok(jobs)
    }

    /// The jobs with tasks here, as their coordinator has them.
    async fn jobs_here(&self) -> Result<Vec<JobInfo>, Status> {
        let mut jobs = self.cluster().jobs().await.map_err(Error::into_status)?.list().await?;
        jobs.retain(|job| !job.has_ended() && job.tasks.iter().any(|task| task.node == self.id().as_str()));
        Ok(jobs)
    }

    /// Refuses a job that no other node can run.
    async fn others_take(&self, job: &JobInfo) -> Result<(), Status> {
        let build = &self.inner.facts.build;
        let view = self.inner.registry.view().await?;
        let able = |other: &Instance| takes_tasks(other) && other.slots > 0 && other.build == *build;
        if view.instances.iter().any(|other| able(other) && other.node != *self.id()) {
            return Ok(());
        }
        Err(Status::precondition(format!(
            "no other node of build {build} is ready for job {}: it goes on when one is",
            job.id
        )))
    }

    /// Has a job take a checkpoint and go on from it, as wide as it is, on the nodes that do not drain.
    async fn send_away(&self, job: &JobInfo) -> Result<(), Status> {
        let jobs = self.cluster().jobs().await.map_err(Error::into_status)?;
        let tasks = jobs.counts(job.id.clone()).await?.parallelism;
        jobs.rescale(job.id.clone(), tasks).await?;
        Ok(())
    }

    /// Waits for the answers of the calls it has.
    async fn answer(&self) {
        let until = clock::now() + Duration::from_millis(self.inner.settings.drain_grace_ms);
        loop {
            let calls = self.inner.facts.calls();
            self.inner.facts.drains(|drain| drain.calls = calls);
            if calls == 0 || clock::now() >= until || self.is_closing() {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
