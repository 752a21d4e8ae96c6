//! What a node knows of itself, and tells as `afflux.node`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use afflux_actor::{Clock, Place, ServiceEntry, clock};
use afflux_mesh::Mesh;
use afflux_registry::{Instance, InstanceState, Registry, ServiceRecord, watch};
use afflux_wire::contract::{Cx, Fault, Service};
use afflux_wire::{ActorPath, Status};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::concurrent::{Concurrent, log_panic};
use crate::load::NodeLoad;
use crate::node_service::{
    DrainInfo, NamedActor, NodeInfo, NodeService, NodeServiceCall, NodeServiceHandler, OWN_PREFIX,
    ServiceInfo,
};
use crate::telemetry::{LogLines, RECENT, level_named};

/// Label of a node that drains: it is reached as before, so that its tasks can take a checkpoint, and is given none.
pub(super) const DRAINS: &str = "afflux.drains";

/// Whether a node takes new tasks.
pub(super) fn takes_tasks(instance: &Instance) -> bool {
    instance.state == InstanceState::Ready && !instance.labels.contains_key(DRAINS)
}

/// The unchanging facts of a node, and the services it offers now.
pub(super) struct Facts {
    pub(super) id: String,
    pub(super) incarnation: u64,
    pub(super) address: String,
    pub(super) admin: Option<String>,
    pub(super) build: String,
    pub(super) slots: u32,
    pub(super) draining: AtomicBool,
    pub(super) metrics: prometheus::Registry,
    pub(super) started: std::time::Instant,
    pub(super) entries: Mutex<Vec<ServiceEntry>>,
    /// Labels of its record.
    pub(super) labels: Mutex<BTreeMap<String, String>>,
    /// Who is told when another node has given keys back, by the name of the actor.
    pub(super) nudges: Mutex<Vec<(String, Arc<Notify>)>>,
    pub(super) mesh: Mesh,
    pub(super) clock: Clock,
    pub(super) registry: Arc<dyn Registry>,
    /// Whether the cluster's registry is in this process.
    pub(super) holds_registry: bool,
    /// What is left, once it was asked to drain.
    pub(super) drain: Mutex<Option<DrainInfo>>,
    /// Somebody has asked it to drain.
    pub(super) asked: watch::Sender<bool>,
}

impl Facts {
    /// Adds a service, in place of one of the same name.
    pub(super) fn add(&self, entry: ServiceEntry) {
        let mut entries = self.entries.lock();
        entries.retain(|known| known.name != entry.name);
        entries.push(entry);
    }

    pub(super) fn remove(&self, service: &str) {
        self.entries.lock().retain(|entry| entry.name != service);
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Refuses to empty a node that others cannot do without.
    pub(super) async fn may_drain(&self) -> Result<(), Status> {
        let view = self.registry.view().await?;
        let others = view.instances.iter().any(|other| takes_tasks(other) && other.node.as_str() != self.id);
        if !others {
            return Err(Status::precondition(format!(
                "{} is the only node that is ready: nobody could take over what it does; start another node first, or \
                 stop this one (SIGTERM)",
                self.id
            )));
        }
        if self.holds_registry {
            return Err(Status::precondition(format!(
                "{} holds the registry of the cluster (registry = embedded): the other nodes would lose it; use another \
                 registry, or stop the whole cluster",
                self.id
            )));
        }
        Ok(())
    }

    /// Says from now on that it drains, and what is left.
    pub(super) fn begin_drain(&self) {
        self.drain();
        self.drain
            .lock()
            .get_or_insert_with(|| DrainInfo { phase: "tasks".to_owned(), ..DrainInfo::default() });
    }

    /// Notes how far the drain is.
    pub(super) fn drains(&self, note: impl FnOnce(&mut DrainInfo)) {
        if let Some(info) = &mut *self.drain.lock() {
            note(info);
            info.tasks_max = info.tasks_max.max(info.tasks);
            info.calls_max = info.calls_max.max(info.calls);
        }
    }

    /// Calls of other nodes to services of the program that are not answered yet.
    pub(super) fn calls(&self) -> u64 {
        let open = NodeLoad::read(&self.metrics).in_flight;
        open.iter().filter(|(service, _)| !service.starts_with(OWN_PREFIX)).map(|(_, calls)| calls).sum()
    }

    /// What the registry is told of the services.
    pub(super) fn records(&self) -> Vec<ServiceRecord> {
        self.entries.lock().iter().map(super::record).collect()
    }

    fn info(&self) -> NodeInfo {
        let usage = crate::process::usage();
        NodeInfo {
            id: self.id.clone(),
            pid: std::process::id(),
            incarnation: self.incarnation,
            state: if self.draining.load(Ordering::Acquire) { "draining" } else { "ready" }.to_owned(),
            address: self.address.clone(),
            admin: self.admin.clone(),
            build: self.build.clone(),
            slots: self.slots,
            cpu_s: usage.cpu_seconds,
            resident_bytes: usage.resident_bytes as u64,
            services: self.entries.lock().iter().map(|entry| entry.name.to_owned()).collect(),
            tasks: Vec::new(),
            drain: self.drain.lock().clone(),
        }
    }

    /// The service that tells these facts.
    pub(super) fn serve(self: &Arc<Self>, place: Place) -> ServiceEntry {
        let facts = Telling(Arc::clone(self));
        Concurrent::<NodeService, _>::entry(place, None, move |call: NodeServiceCall, mut cx: Cx| {
            let mut facts = facts.clone();
            async move {
                let ended = call.dispatch(&mut facts, &mut cx).await;
                log_panic(NodeService::NAME, ended, cx.take_failure());
            }
        })
    }
}

#[derive(Clone)]
struct Telling(Arc<Facts>);

impl NodeServiceHandler for Telling {
    async fn info(&mut self, _: &mut Cx) -> Result<NodeInfo, Fault> {
        Ok(self.0.info())
    }

    async fn actors(&mut self, _: &mut Cx, name: String) -> Result<Vec<NamedActor>, Fault> {
        let found = self.0.mesh.named_actor(&ActorPath::new(name));
        let told = found.map(|(id, services)| NamedActor {
            path: id.path.to_string(),
            incarnation: id.incarnation.0,
            life: id.life,
            services: services.into_iter().map(str::to_owned).collect(),
        });
        Ok(told.into_iter().collect())
    }

    async fn vacated(&mut self, _: &mut Cx, name: String) -> Result<(), Fault> {
        for (_, wake) in self.0.nudges.lock().iter().filter(|(keyed, _)| *keyed == name) {
            wake.notify_one();
        }
        Ok(())
    }

    async fn clock(&mut self, _: &mut Cx) -> Result<i64, Fault> {
        let since = self.0.clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    async fn drain(&mut self, _: &mut Cx) -> Result<NodeInfo, Fault> {
        if !*self.0.asked.borrow() {
            self.0.may_drain().await?;
            self.0.begin_drain();
            self.0.asked.send_replace(true);
        }
        Ok(self.0.info())
    }

    async fn load(&mut self, _: &mut Cx) -> Result<NodeLoad, Fault> {
        let usage = crate::process::usage();
        Ok(NodeLoad {
            id: self.0.id.clone(),
            at_ms: u64::try_from(clock::now().saturating_duration_since(self.0.started).as_millis())
                .unwrap_or(u64::MAX),
            cpu_s: usage.cpu_seconds,
            resident_bytes: usage.resident_bytes as u64,
            ..NodeLoad::read(&self.0.metrics)
        })
    }

    async fn logs(&mut self, _: &mut Cx, after: u64, count: u32, level: String) -> Result<LogLines, Fault> {
        let Some(least) = level_named(&level) else {
            let text = format!("level is `{level}`: expected error, warn, info, debug or trace");
            return Err(afflux_wire::Status::invalid(text).into());
        };
        Ok(RECENT.read(self.0.incarnation, after, count as usize, least))
    }

    async fn services(&mut self, _: &mut Cx) -> Result<Vec<ServiceInfo>, Fault> {
        let entries = self.0.entries.lock();
        Ok(entries.iter().map(ServiceInfo::of).collect())
    }
}
