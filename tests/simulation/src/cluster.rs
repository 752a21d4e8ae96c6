//! The machines: three nodes that work, and one that holds the registry and plays the user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use afflux::jobs::{JobInfo, JobRequest, Jobs, JobsClient};
use afflux::registry_service::{Home, serve};
use afflux::settings::Settings;
use afflux::{NodeBuilder, Pipelines};
use afflux_actor::{Clock, Place};
use afflux_mesh::{Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_registry::{MemoryRegistry, Registry};
use afflux_stream::job::Storage;
use afflux_wire::{Code, Incarnation};

use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::pipeline::{Expected, Load, PIPELINE, build};
use crate::trace::note;

/// The machine that holds the registry. It is never disturbed: a real one is many machines.
pub(crate) const LAUNCHER: &str = "launcher";
/// The machines that work.
pub(crate) const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];

const PORT: u16 = 7000;
const CLUSTER: &str = "played";
/// Leases of nodes and of the coordinator.
const LEASE: Duration = Duration::from_secs(2);
/// Between two checkpoints.
const EPOCHS_EVERY: Duration = Duration::from_millis(250);
/// Between two looks of the user at the job.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Before a node whose process has ended is started again.
const START_AGAIN: Duration = Duration::from_millis(200);
/// Longest pause before a job begins another attempt.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Failures that a job survives: more than a fate has.
const FAILURES_MAX: u64 = 10_000;
/// Names of manifests that stay where old checkpoints are deleted: few, so that a simulation loses some.
const NAMES_KEPT: usize = 8;
/// How long the user waits after an answer that did not come: what was asked for may still happen.
const UNANSWERED: Duration = Duration::from_secs(5);
/// What the calendar says when a simulation begins: it has nothing to do with today's date.
const CALENDAR: Duration = Duration::from_secs(1_600_000_000);

/// What all machines of a simulation share, and the simulation looks at.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) load: Load,
    pub(crate) expected: Arc<Expected>,
    pub(crate) ledger: Ledger,
    pub(crate) disk: Disk,
    /// How wrong each machine's calendar is, in milliseconds.
    pub(crate) skews: Arc<BTreeMap<&'static str, AtomicI64>>,
    /// Tasks of each step that the user wants from now on.
    pub(crate) parallelism: Arc<AtomicU32>,
    /// Whether the job recovers by itself, or the user starts it again.
    pub(crate) recovers: bool,
    /// Whether old checkpoints are deleted.
    pub(crate) retires: bool,
    /// Whether the user has seen all of it.
    pub(crate) done: Arc<AtomicBool>,
}

impl World {
    fn storage(&self) -> Storage {
        let storage = Storage::on(Arc::new(self.disk.clone()), "played");
        if self.retires { storage.naming(NAMES_KEPT).retiring() } else { storage }
    }

    fn clock(&self, machine: &'static str) -> Clock {
        let skews = Arc::clone(&self.skews);
        Clock::new(move || {
            let skew = skews.get(machine).map_or(0, |skew| skew.load(Ordering::Relaxed));
            let now = CALENDAR + turmoil::sim_elapsed().unwrap_or_default();
            let skewed = i64::try_from(now.as_millis()).unwrap_or(i64::MAX) + skew;
            UNIX_EPOCH + Duration::from_millis(u64::try_from(skewed).unwrap_or(0))
        })
    }

    fn is_complete(&self) -> bool {
        self.ledger.rows() >= self.expected.rows()
    }
}

fn address(machine: &str) -> String {
    format!("{machine}:{PORT}")
}

/// A machine that works: a node, started again whenever its process would have ended.
pub(crate) async fn worker(world: World, machine: &'static str) -> turmoil::Result {
    loop {
        let settings = Settings {
            cluster: CLUSTER.to_owned(),
            node_id: machine.to_owned(),
            node_listen: format!("0.0.0.0:{PORT}"),
            node_advertise: address(machine),
            node_join: address(LAUNCHER),
            node_slots: 2,
            admin_listen: String::new(),
            registry_ttl_ms: LEASE.as_millis() as u64,
            checkpoint_interval_ms: EPOCHS_EVERY.as_millis() as u64,
            // Otherwise the user starts it again.
            restart_strategy: if world.recovers { "auto" } else { "none" }.to_owned(),
            restart_backoff_max_ms: BACKOFF_MAX.as_millis() as u64,
            restart_failures_max: FAILURES_MAX,
            drain_grace_ms: 50,
            // Little, so that a channel lives on the credit that comes back.
            channel_credit_bytes: 1_024,
            ..Settings::default()
        };
        let mut pipelines = Pipelines::default();
        let (load, ledger) = (world.load, world.ledger.clone());
        pipelines.add(PIPELINE, Arc::new(move |flow: &_| build(flow, load, &ledger, machine)));
        let started = NodeBuilder::new(settings)
            .transport(Transport::Simulated)
            .pipelines(Arc::new(pipelines))
            .clock(world.clock(machine))
            .checkpoints_in(world.storage())
            .inline()
            .start()
            .await;
        match started {
            Ok(node) => {
                note(format_args!("{machine}: node started"));
                node.superseded().await;
                note(format_args!("{machine}: node superseded"));
                node.close().await;
            }
            Err(error) => note(format_args!("{machine}: node not started: {error}")),
        }
        tokio::time::sleep(START_AGAIN).await;
    }
}

/// The machine with the registry, on which the user sits.
pub(crate) async fn launcher(world: World) -> turmoil::Result {
    let place = Place::current().ok_or("a simulation has places")?;
    let config = MeshConfig {
        incarnation: Incarnation(1),
        listen: Some(format!("0.0.0.0:{PORT}")),
        advertise: Some(address(LAUNCHER)),
        ..MeshConfig::new(LAUNCHER, CLUSTER)
    };
    let mesh = Mesh::start(config, Transport::Simulated, place.clone(), MeshMetrics::unregistered())?;
    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new());
    let home = Home { node: LAUNCHER.to_owned(), address: address(LAUNCHER) };
    mesh.serve(serve(Arc::clone(&registry), home, place.clone()));
    let (followed, mut views) = (mesh.clone(), registry.watch());
    place.spawn_future(async move {
        while let Some(view) = views.next().await {
            let nodes: Vec<String> =
                view.instances.iter().map(|i| format!("{}/{}", i.node, i.incarnation.0)).collect();
            note(format_args!("registry: {}", nodes.join(" ")));
            followed.set_view(&view);
        }
    });
    User { jobs: mesh.client::<Jobs>(), storage: world.storage(), world, job: None, base: None, wide: 0 }
        .act()
        .await
}

/// Who starts the job, and starts it again where it cannot help itself.
struct User {
    jobs: JobsClient,
    storage: Storage,
    world: World,
    /// The job that runs.
    job: Option<String>,
    /// The job whose latest checkpoint is the latest of all.
    base: Option<String>,
    /// Tasks of each step that were asked for last.
    wide: u32,
}

impl User {
    async fn act(mut self) -> turmoil::Result {
        let mut state = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.world.is_complete() {
                note(format_args!("user: all is committed"));
                self.world.done.store(true, Ordering::Relaxed);
                std::future::pending::<()>().await;
            }
            let Some(job) = self.job.clone() else {
                self.submit().await;
                continue;
            };
            self.rescale(&job).await;
            match self.jobs.show(job.clone()).await {
                Ok(info) => {
                    if info.state != state {
                        let error = info.error.clone().unwrap_or_default();
                        note(format_args!("user: job {job} is {}, {error}", info.state));
                        state.clone_from(&info.state);
                    }
                    if info.has_ended() {
                        self.lost(job).await;
                    }
                }
                Err(error) => {
                    let status = error.into_status();
                    // Where jobs recover by themselves it is found, sooner or later.
                    if status.code == Code::NotFound && !self.world.recovers {
                        note(format_args!("user: nobody knows job {job}"));
                        self.lost(job).await;
                    }
                }
            }
        }
    }

    async fn submit(&mut self) {
        let parallelism = self.world.parallelism.load(Ordering::Relaxed);
        let request = JobRequest {
            pipeline: PIPELINE.to_owned(),
            settings: [("pipeline.parallelism".to_owned(), parallelism.to_string())].into(),
            restore: self.base.clone(),
            ..JobRequest::default()
        };
        match self.jobs.submit(request).await {
            Ok(JobInfo { id, .. }) => {
                note(format_args!("user: job {id} submitted, {parallelism} wide, from {:?}", self.base));
                (self.job, self.wide) = (Some(id), parallelism);
            }
            Err(error) => {
                note(format_args!("user: not submitted: {error}"));
                // It may be running nevertheless, or will be, and nobody but this user starts one.
                if self.world.recovers {
                    tokio::time::sleep(UNANSWERED).await;
                    self.wide = parallelism;
                    self.job = loop {
                        match self.storage.unended().await {
                            Ok(begun) => break begun.last().cloned(),
                            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
                        }
                    };
                }
                for job in self.jobs.list().await.unwrap_or_default() {
                    if !job.has_ended() {
                        self.job = Some(job.id);
                    }
                }
            }
        }
    }

    /// Asks a job that recovers by itself for another number of tasks, when fate wants that; one that the
    /// user starts again gets it then.
    async fn rescale(&mut self, job: &str) {
        let wanted = self.world.parallelism.load(Ordering::Relaxed);
        if !self.world.recovers || self.wide == wanted {
            return;
        }
        match self.jobs.rescale(job.to_owned(), wanted).await {
            Ok(info) => {
                note(format_args!("user: job {job} is {} after a rescale to {wanted}", info.state));
                self.wide = wanted;
            }
            Err(error) => {
                note(format_args!("user: not rescaled: {error}"));
                tokio::time::sleep(UNANSWERED).await;
            }
        }
    }

    /// A job has ended, and there is more to be done.
    async fn lost(&mut self, job: String) {
        loop {
            match self.storage.epochs(&job).await {
                Ok(epochs) => {
                    if !epochs.is_empty() {
                        self.base = Some(job);
                    }
                    break;
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        self.job = None;
    }
}
