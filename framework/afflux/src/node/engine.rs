//! A node's share of pipelines: its worker, and the job desk while it leads.

use std::sync::Arc;

use afflux_actor::{Clock, Serves, ServiceEntry, Spec};
use afflux_mesh::{PeerEvent, PeerState};
use afflux_registry::InstanceState;
use afflux_stream::job::{Executor, Storage};
use afflux_stream::{Guarantee, JobSettings, OnError};
use afflux_wire::{ActorPath, NodeId, Status};

use super::Node;
use super::hosted::Stop;
use crate::engine::{DeskParts, JobDesk, JobReports, OperatorMetrics, Pipelines, WorkerActor, WorkerParts};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// The lock of the node that coordinates jobs.
const DESK_LOCK: &str = "afflux.jobs";

/// The settings of a job whose request says nothing.
pub(crate) fn defaults(settings: &Settings) -> JobSettings {
    JobSettings {
        // 0: the desk takes one task per slot.
        parallelism: u32::try_from(settings.pipeline_parallelism).unwrap_or(u32::MAX),
        linger_ms: settings.pipeline_linger_ms,
        on_error: if settings.source_on_error == "skip" { OnError::Skip } else { OnError::Fail },
        chaining: settings.pipeline_chaining == "on",
        checkpoint_interval_ms: settings.checkpoint_interval_ms,
        replay: None,
        guarantee: guarantee_named(&settings.pipeline_guarantee),
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
        let worker = WorkerParts {
            pipelines: Arc::clone(pipelines),
            executor: Executor {
                threads: Arc::clone(&inner.threads),
                node: self.id().clone(),
                mesh: Some(inner.mesh.clone()),
                caller: Some(inner.mesh.caller()),
                clock: clock.clone(),
                metrics: Arc::clone(&inner.around.metrics),
            },
            mesh: inner.mesh.clone(),
            storage: storage.clone(),
            build: inner.facts.build.clone(),
            metrics: OperatorMetrics::new(&inner.metrics)?,
        };
        let stop = self.host_own("afflux.worker", move || Ok(WorkerActor::new(worker.clone())));
        inner.stops.lock().push(stop);
        let watcher = inner.registry.watch();
        let build = inner.facts.build.clone();
        let wall = clock.clone();
        let desk = DeskParts {
            pipelines: Arc::clone(pipelines),
            mesh: inner.mesh.clone(),
            node: self.id().clone(),
            storage,
            build: inner.facts.build.clone(),
            defaults: defaults(&inner.settings),
            // A job runs on nodes of one build only.
            nodes: Arc::new(move || {
                let view = watcher.latest();
                let able =
                    view.instances.iter().filter(|i| i.state == InstanceState::Ready && i.build == build);
                able.map(|i| (i.node.clone(), i.slots)).collect::<Vec<(NodeId, u32)>>()
            }),
            now_ms: Arc::new(move || {
                let since = wall.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }),
            io: self.io().clone(),
            clock: clock.clone(),
        };
        let node = self.clone();
        self.lead(DESK_LOCK.to_owned(), move || {
            let desk = desk.clone();
            node.host_own("afflux.jobs", move || Ok(JobDesk::new(desk.clone())))
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
                let PeerEvent::Down(peer, life, reason) = event else { continue };
                // Two nodes that dial each other end up with one of two links: nobody has died.
                let linked_again = mesh.peers().into_iter().any(|known| {
                    known.node == peer && known.incarnation == Some(life) && known.state == PeerState::Up
                });
                if linked_again {
                    tracing::debug!(%peer, %reason, "a link was replaced");
                    continue;
                }
                let leads = facts.entries.lock().iter().any(|entry| entry.name == "afflux.job-reports");
                if !leads {
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
