//! A node's share of pipelines: its worker, and the job desk while it leads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use afflux_actor::{Clock, Serves, ServiceEntry, Spec};
use afflux_mesh::{PeerEvent, PeerState};
use afflux_registry::{Fence, Registry};
use afflux_stream::job::{Executor, RestartSettings, RestartStrategy, Storage};
use afflux_stream::{Guarantee, JobSettings, OnError, OnPoison, PoisonSettings, StateBackend, StateRoot};
use afflux_wire::{ActorPath, NodeId, Status};

use super::Node;
use super::facts::takes_tasks;
use super::hosted::Stop;
use crate::engine::{
    Desk, DeskParts, Follow, JobDesk, JobMetrics, JobReports, OperatorMetrics, Pipelines, Standing,
    StateMetrics, WorkerActor, WorkerParts,
};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// The lock of the node that coordinates jobs.
const DESK_LOCK: &str = "afflux.jobs";

/// The counter that keeps the token of the first leader of a registry's life.
const SINCE_COUNTER: &str = "afflux.jobs.since";

/// The settings of a job whose request says nothing.
pub(crate) fn defaults(settings: &Settings) -> JobSettings {
    JobSettings {
        // 0: the desk takes one task per slot.
        parallelism: u32::try_from(settings.pipeline_parallelism).unwrap_or(u32::MAX),
        linger_ms: settings.pipeline_linger_ms,
        on_error: if settings.source_on_error == "skip" { OnError::Skip } else { OnError::Fail },
        chaining: settings.pipeline_chaining == "on",
        checkpoint_interval_ms: settings.checkpoint_interval_ms,
        checkpoint_incremental: settings.checkpoint_incremental == "on",
        replay: None,
        guarantee: guarantee_named(&settings.pipeline_guarantee),
        restart: RestartSettings {
            strategy: match settings.restart_strategy.as_str() {
                "exponential" => RestartStrategy::Exponential,
                "none" => RestartStrategy::Never,
                _ => RestartStrategy::Auto,
            },
            backoff_initial_ms: settings.restart_backoff_initial_ms,
            backoff_max_ms: settings.restart_backoff_max_ms,
            backoff_multiplier: settings.restart_backoff_multiplier,
            failures_max: settings.restart_failures_max,
            window_ms: settings.restart_window_ms,
        },
        poison: PoisonSettings {
            policy: if settings.pipeline_on_poison == "set_aside" {
                OnPoison::SetAside
            } else {
                OnPoison::Fail
            },
            failures: settings.pipeline_poison_failures,
            records_max: settings.pipeline_poison_records_max,
            show: settings.pipeline_poison_show == "on",
        },
        rescale_auto: settings.pipeline_rescale == "auto",
        state_backend: if settings.state_backend == "disk" {
            StateBackend::Disk
        } else {
            StateBackend::Memory
        },
        ..JobSettings::default()
    }
}

/// What a setting's word asks for; nothing where it is `any`.
pub(crate) fn guarantee_named(word: &str) -> Option<Guarantee> {
    match word {
        "exactly_once" => Some(Guarantee::ExactlyOnce),
        "at_least_once" => Some(Guarantee::AtLeastOnce),
        _ => None,
    }
}

/// Where this node keeps state on disk. What an earlier process of this node left there goes.
fn state_root(settings: &Settings, node: &NodeId) -> StateRoot {
    let below = match settings.state_dir.as_str() {
        "" => std::env::temp_dir().join("afflux-state"),
        directory => PathBuf::from(directory),
    };
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = format!("{}-{node}", settings.cluster).chars().map(safe).collect();
    let directory = below.join(name);
    if let Err(error) = std::fs::remove_dir_all(&directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "state of an earlier process stays");
    }
    StateRoot::below(directory)
        .cache_bytes(settings.state_cache_mb << 20)
        .reserve_bytes(settings.state_reserve_mb << 20)
}

/// The storage of checkpoints that settings name, if they name one.
pub(crate) fn storage(settings: &Settings) -> Result<Option<Storage>> {
    let (name, url) = match (settings.checkpoint_url.as_str(), settings.checkpoint_dir.as_str()) {
        ("", "") => return Ok(None),
        ("", directory) => ("checkpoint.dir", directory),
        (url, _) => ("checkpoint.url", url),
    };
    // Keys and endpoint of a bucket are named as every other program names them.
    let options: Vec<(String, String)> =
        std::env::vars().filter(|(key, _)| key.starts_with("AWS_")).collect();
    let retain = usize::try_from(settings.checkpoint_retain).unwrap_or(usize::MAX);
    match Storage::open(url, &options) {
        Ok(storage) => Ok(Some(storage.retaining(retain).retiring())),
        Err(status) => Err(Error::failed(format!("{name} = {url}: {}", status.message))),
    }
}

/// The same, once something was written there and read: a node without access to its storage ends here,
/// and not with the first checkpoint of a job that it runs.
pub(super) async fn storage_reached(
    settings: &Settings,
    node: &NodeId,
    clock: &Clock,
) -> Result<Option<Storage>> {
    let Some(storage) = storage(settings)? else { return Ok(None) };
    let since_1970 = clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    if let Err(status) = storage.reach(node.as_str(), &since_1970.as_nanos().to_string()).await {
        return Err(Error::failed(format!(
            "node {node} cannot use its checkpoint storage: {}",
            status.message
        ))
        .hint("see `checkpoint.url` and `checkpoint.dir`, and the rights of this node there"));
    }
    Ok(Some(storage))
}

/// The token of the first leader of this registry's life, which is this one if there was none.
async fn since(registry: Arc<dyn Registry>, fence: Fence) -> u64 {
    let own = i64::try_from(fence.0).unwrap_or(i64::MAX);
    let noted = registry.counter_compare_and_set(SINCE_COUNTER, 0, own).await;
    match (noted, registry.counter(SINCE_COUNTER).await) {
        (Ok(_), Ok(since)) => u64::try_from(since).unwrap_or(u64::MAX),
        // It cannot be told: nothing of an earlier life is taken up.
        (noted, since) => {
            let error = noted.err().or(since.err()).map(|error| error.to_string()).unwrap_or_default();
            tracing::warn!(error, "the registry does not say since when it is there");
            fence.0
        }
    }
}

impl Node {
    /// Starts the worker of this node, and coordinates jobs whenever this node leads.
    ///
    /// # Errors
    /// A checkpoint directory that cannot be used.
    pub(super) fn run_pipelines(
        &self,
        pipelines: &Arc<Pipelines>,
        given: Option<Storage>,
        clock: &Clock,
    ) -> Result<()> {
        let inner = &self.inner;
        let storage = match given {
            Some(storage) => Some(storage),
            None => storage(&inner.settings)?,
        };
        let standing = Standing::of(&inner.settings, pipelines)?;
        let metrics = JobMetrics::new(&inner.metrics)?;
        let state = state_root(&inner.settings, self.id());
        StateMetrics::register(&inner.metrics, state.counters())?;
        let worker = WorkerParts {
            pipelines: Arc::clone(pipelines),
            executor: Executor {
                threads: Arc::clone(&inner.threads),
                node: self.id().clone(),
                mesh: Some(inner.mesh.clone()),
                caller: Some(inner.mesh.caller()),
                clock: clock.clone(),
                metrics: Arc::clone(&inner.around.metrics),
                state,
            },
            mesh: inner.mesh.clone(),
            storage: storage.clone(),
            build: inner.facts.build.clone(),
            metrics: OperatorMetrics::new(&inner.metrics)?,
            checkpoints: metrics.checkpoints(),
        };
        let stop = self.host_own("afflux.worker", move || Ok(WorkerActor::new(worker.clone())));
        inner.stops.lock().push(stop);
        let watcher = inner.registry.watch();
        let build = inner.facts.build.clone();
        let (pipelines, mesh, defaults) =
            (Arc::clone(pipelines), inner.mesh.clone(), defaults(&inner.settings));
        let (own_build, io, clock) = (build.clone(), self.io().clone(), clock.clone());
        let (wall, links) = (clock.clone(), inner.mesh.clone());
        let registry = Arc::clone(&inner.registry);
        let follow = Follow {
            leave: Duration::from_millis(inner.settings.pipeline_rescale_leave_ms),
            cooldown: Duration::from_millis(inner.settings.pipeline_rescale_cooldown_ms),
        };
        // A job runs on nodes of one build only, and a lost link overrides the registry.
        let nodes: Arc<dyn Fn() -> Vec<(NodeId, u32)> + Send + Sync> = Arc::new(move || {
            let view = watcher.latest();
            let peers = links.peers();
            let lost = |node: &NodeId| {
                let peer = peers.iter().find(|peer| peer.node == *node);
                peer.is_some_and(|peer| match &peer.state {
                    PeerState::Up => false,
                    // Not linked yet is not lost.
                    PeerState::Connecting => peer.incarnation.is_some(),
                    PeerState::Draining | PeerState::Unreachable(_) => true,
                })
            };
            let able = view.instances.iter().filter(|i| takes_tasks(i) && i.build == build && !lost(&i.node));
            able.map(|i| (i.node.clone(), i.slots)).collect::<Vec<(NodeId, u32)>>()
        });
        let now_ms: Arc<dyn Fn() -> i64 + Send + Sync> = Arc::new(move || {
            let since = wall.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        });
        let parts = move |fence: Fence| DeskParts {
            pipelines: Arc::clone(&pipelines),
            mesh: mesh.clone(),
            node: mesh.node().clone(),
            storage: storage.clone(),
            build: own_build.clone(),
            defaults: defaults.clone(),
            nodes: Arc::clone(&nodes),
            now_ms: Arc::clone(&now_ms),
            io: io.clone(),
            clock: clock.clone(),
            fence: fence.0,
            leads: {
                let registry = Arc::clone(&registry);
                Arc::new(move || {
                    let registry = Arc::clone(&registry);
                    Box::pin(async move {
                        let holder = registry.holder(DESK_LOCK).await.map_err(|error| error.to_string())?;
                        Ok(holder.is_some_and(|(_, held)| held == fence))
                    })
                })
            },
            since: {
                let registry = Arc::clone(&registry);
                Arc::new(move || Box::pin(since(Arc::clone(&registry), fence)))
            },
            metrics: metrics.clone(),
            standing: standing.clone(),
            follow,
        };
        let node = self.clone();
        self.lead(DESK_LOCK.to_owned(), move |fence| {
            let desk = Desk::open(parts(fence));
            let served = Arc::clone(&desk);
            let stop = node.host_own("afflux.jobs", move || Ok(JobDesk::new(&served)));
            Box::new(move |reason| {
                desk.close();
                stop(reason);
            })
        });
        self.tell_of_dead_nodes();
        Ok(())
    }

    /// Tells the desk, if it is here, of every peer whose link is lost.
    fn tell_of_dead_nodes(&self) {
        let mut events = self.inner.mesh.peer_events();
        let (mesh, facts) = (self.inner.mesh.clone(), Arc::clone(&self.inner.facts));
        self.io().spawn_future(async move {
            while let Some(event) = events.next().await {
                let leads = || facts.entries.lock().iter().any(|entry| entry.name == "afflux.job-reports");
                let (peer, life, reason) = match event {
                    PeerEvent::Down(peer, life, reason) => (peer, life, reason),
                    PeerEvent::Up(peer, _) => {
                        if leads() {
                            let reports = mesh.client_on::<JobReports>(mesh.node());
                            if let Err(error) = reports.node_up(peer.to_string()).fail_fast().await {
                                tracing::debug!(%peer, %error, "the job desk was not told of a node");
                            }
                        }
                        continue;
                    }
                };
                // Two nodes that dial each other end up with one of two links: nobody has died.
                let linked_again = mesh.peers().into_iter().any(|known| {
                    known.node == peer && known.incarnation == Some(life) && known.state == PeerState::Up
                });
                if linked_again {
                    tracing::debug!(%peer, %reason, "a link was replaced");
                    continue;
                }
                if !leads() {
                    continue;
                }
                let reports = mesh.client_on::<JobReports>(mesh.node());
                if let Err(error) = reports.node_down(peer.to_string(), reason.to_string()).fail_fast().await
                {
                    tracing::warn!(%peer, %error, "the job desk was not told of a lost node");
                }
            }
        });
    }

    /// Starts an actor of the framework and offers what it serves; returns what stops it.
    fn host_own<A: Serves>(
        &self,
        name: &str,
        factory: impl FnMut() -> std::result::Result<A, Status> + Send + 'static,
    ) -> Stop {
        let around = &self.inner.around;
        let spec =
            Spec::new(ActorPath::new(name), Arc::clone(&around.metrics)).caller(Arc::clone(&around.caller));
        let handle = around.place.spawn::<A>(spec, factory);
        let entries: Vec<ServiceEntry> = A::services(handle.address());
        let names: Vec<&'static str> = entries.iter().map(|entry| entry.name).collect();
        for entry in entries {
            self.offer(entry);
        }
        let node = self.clone();
        Box::new(move |reason| {
            for service in names {
                node.withdraw(service);
            }
            handle.stop(reason);
        })
    }
}
