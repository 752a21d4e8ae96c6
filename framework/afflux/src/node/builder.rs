//! What a node is started from.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use afflux_actor::{ActorMetrics, Clock, Detail, Serves, Threads, cpu_quota};
use afflux_mesh::{CompatConfig, CompatMode, Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_registry::{Coordination, Instance, Registration, RegistrationState, watch};
use afflux_stream::job::Storage;
use afflux_wire::{Incarnation, Limits};
use parking_lot::Mutex;

use super::facts::Facts;
use super::hook::Hook;
use super::hosted::{Declared, Spread, Surroundings};
use super::{Inner, Node, Record, routing};
use crate::admin::{Admin, Gateway, Hosts, HttpCalls, Probes, Pulse};
use crate::catalogue::Catalogue;
use crate::client::{Client, follow};
use crate::dashboard::{Dashboard, Parts, Tile};
use crate::engine::{Pipelines, Standing};
use crate::error::{Error, Result};
use crate::keyed::{DeclaredKeyed, KeyValue};
use crate::process;
use crate::registry_metrics::RegistryMetrics;
use crate::registry_service::serve_until;
use crate::series::SeriesGuard;
use crate::settings::{Layers, Settings};

/// A node to be.
///
/// ```
/// use afflux::NodeBuilder;
/// use afflux::settings::Settings;
/// let settings = Settings { node_id: "orders-1".into(), admin_listen: String::new(), ..Settings::default() };
/// let builder = NodeBuilder::new(settings);
/// ```
#[must_use = "a node runs when it is started"]
pub struct NodeBuilder {
    settings: Settings,
    services: Vec<Declared>,
    keyed: Vec<DeclaredKeyed>,
    pipelines: Arc<Pipelines>,
    storage: Option<Storage>,
    transport: Transport,
    clock: Clock,
    inline: bool,
    metrics: prometheus::Registry,
    hooks: Vec<Hook>,
    protos: Vec<(String, String)>,
    origins: serde_json::Value,
    tiles: Vec<Tile>,
}

impl NodeBuilder {
    /// A node with these settings, over TCP, without services.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            services: Vec::new(),
            keyed: Vec::new(),
            pipelines: Arc::default(),
            storage: None,
            transport: Transport::Tcp,
            clock: Clock::new(std::time::SystemTime::now),
            inline: false,
            metrics: prometheus::Registry::new(),
            hooks: Vec::new(),
            protos: Vec::new(),
            origins: serde_json::Value::Null,
            tiles: Vec::new(),
        }
    }

    /// Offers the services of an actor on this node. `factory` runs again after a crash.
    pub fn service<A, E, F>(self, name: &str, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn() -> std::result::Result<A, E> + Clone + Send + Sync + 'static,
    {
        self.declare(Declared::new(name, Spread::EveryNode, factory))
    }

    /// Offers the services of an actor of which the whole cluster has one, while this node holds its lock.
    pub fn singleton<A, E, F>(self, name: &str, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn() -> std::result::Result<A, E> + Clone + Send + Sync + 'static,
    {
        self.declare(Declared::new(name, Spread::Once, factory))
    }

    /// Offers the actors of a key on this node, for the keys that it owns; see [`App::keyed`](crate::App::keyed).
    pub fn keyed<A, E, F>(self, name: &str, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn(&KeyValue) -> std::result::Result<A, E> + Send + Sync + 'static,
    {
        const { assert!(A::KEYED.is_some(), "this actor has no key: add `key = \"…\"` to `#[actor(…)]`") };
        match A::KEYED {
            Some(keyed) => self.declare_keyed(DeclaredKeyed::new(name, keyed, factory)),
            None => self,
        }
    }

    pub(crate) fn declare_keyed(mut self, declared: DeclaredKeyed) -> Self {
        self.keyed.push(declared);
        self
    }

    pub(crate) fn declare(mut self, declared: Declared) -> Self {
        self.services.push(declared);
        self
    }

    /// Runs tasks of these pipelines.
    pub fn pipelines(mut self, pipelines: Arc<Pipelines>) -> Self {
        self.pipelines = pipelines;
        self
    }

    /// Keeps checkpoints there, and not where the settings say.
    pub fn checkpoints_in(mut self, storage: Storage) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Reaches other nodes in another way than TCP.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Another clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Everything on the calling thread, so that many nodes fit into one test.
    pub fn inline(mut self) -> Self {
        self.inline = true;
        self
    }

    /// Runs this on the node as soon as it has started, beside its services.
    pub fn on_start<F>(self, hook: impl Fn(Node) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.hook(super::hook::boxed(hook))
    }

    pub(crate) fn hook(mut self, hook: Hook) -> Self {
        self.hooks.push(hook);
        self
    }

    /// The text of a `.proto` file that keeps the numbers of a service's fields; see [`App::proto`](crate::App::proto).
    pub fn proto(mut self, name: &str, text: &str) -> Self {
        self.protos.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Shows where its settings come from, on the settings page of the dashboard.
    pub fn origins(mut self, layers: &Layers) -> Self {
        self.origins = layers.json();
        self
    }

    /// Shows these on the overview of the dashboard; see [`App::tile`](crate::App::tile).
    pub(crate) fn tiles(mut self, tiles: Vec<Tile>) -> Self {
        self.tiles = tiles;
        self
    }

    /// Counts there.
    pub fn metrics(mut self, metrics: prometheus::Registry) -> Self {
        self.metrics = metrics;
        self
    }

    /// Starts the node. Must be called inside [`afflux_actor::system`].
    ///
    /// # Errors
    /// A port that is taken, a node to join that cannot be reached, a directory that cannot be used:
    /// with the setting to change.
    pub async fn start(self) -> Result<Node> {
        let Self {
            settings,
            services,
            keyed,
            pipelines,
            storage,
            transport,
            clock,
            inline,
            metrics,
            hooks,
            protos,
            origins,
            tiles,
        } = self;
        Tile::check(&tiles)?;
        if matches!(transport, Transport::Tcp) {
            crate::security::check_exposure(&settings)?;
        }
        let security = crate::security::Security::of(&settings)?;
        if security.tls.as_ref().is_some_and(|tls| !tls.can_accept()) {
            return Err(Error::usage(
                "tls.certificate is empty, and whoever dials this node wants to see one",
            )
            .hint("`certs node NAME` makes one and prints the settings for it"));
        }
        crate::security::announce(&settings, &metrics)?;
        process::raise_file_limit();
        let slots = match usize::try_from(settings.node_slots).unwrap_or(usize::MAX) {
            0 => cpu_quota(),
            slots => slots,
        };
        let threads = Arc::new(match inline {
            true => Threads::inline_slots(slots)?,
            false => Threads::start(slots, usize::try_from(settings.node_io_threads).unwrap_or(1))?,
        });
        let place = threads.io();
        let detail = Detail::of(&settings.metrics_detail).unwrap_or_default();
        let actor_metrics = ActorMetrics::in_detail(&metrics, detail)?;
        threads.probe(&actor_metrics);
        let mesh_metrics = MeshMetrics::in_detail(&metrics, detail)?;
        process::register(&metrics, process::build_id())?;
        process::register_config(&metrics, &settings)?;

        let wall = clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let incarnation = Incarnation(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        let id = if settings.node_id.is_empty() { default_id() } else { settings.node_id.clone() };
        let probes = Arc::new(Probes::default());
        probes.unmet("registered", "no registry has taken this node's record yet");

        // Opened first: the node port tells whoever speaks HTTP to it where this one is.
        let admin_port = match settings.admin_listen.as_str() {
            "" => None,
            listen => Some(crate::admin::bind(listen, "admin.listen")?),
        };
        let health_port = match settings.health_listen.as_str() {
            "" => None,
            listen => Some(crate::admin::bind(listen, "health.listen")?),
        };
        let admin_address =
            admin_port.as_ref().map(|port| port.local_addr().map(|a| a.to_string())).transpose()?;
        let config = MeshConfig {
            incarnation,
            build: process::build_id().to_owned(),
            build_fingerprint: u64::from_str_radix(process::build_id(), 16).unwrap_or_default(),
            token: security.token,
            tls: security.tls,
            access: security.access,
            handshakes_max: bound(settings.node_handshakes_max),
            handshakes_per_peer_max: bound(settings.node_handshakes_per_peer_max),
            connections_max: bound(settings.node_connections_max),
            connections_per_peer_max: bound(settings.node_connections_per_peer_max),
            listen: Some(settings.node_listen.clone()),
            advertise: (!settings.node_advertise.is_empty()).then(|| settings.node_advertise.clone()),
            limits: Limits {
                channel_credit_bytes: u32::try_from(settings.channel_credit_bytes).unwrap_or(u32::MAX),
                ..Limits::default()
            },
            admin_hint: admin_address.clone(),
            compat: compat(&settings),
            ..MeshConfig::new(id.as_str(), settings.cluster.clone())
        };
        let config = routing::configure(config, &settings)?;
        let mesh = Mesh::start(config, transport, place.clone(), mesh_metrics)
            .map_err(|status| crate::admin::listen_failed(&settings.node_listen, status, "node.listen"))?;
        routing::set_policies(&mesh, &settings)?;
        tell_readiness(&place, &mesh, &probes);
        let address = super::outside::address(&settings, mesh.local_address());
        crate::security::keep_fresh(&settings, mesh.clone(), &place);
        match super::reach::reach(&settings, &mesh, &id, &address, &place).await {
            Ok((registry, home)) => {
                let shown = match admin_port.is_some() || health_port.is_some() {
                    true => Some(
                        Admin::new(metrics.clone(), Arc::clone(&probes))
                            .alive(Pulse::of(&threads.all_io()))
                            .guarded(SeriesGuard::new(&metrics)?),
                    ),
                    false => None,
                };
                let health = match (health_port, shown.clone()) {
                    (Some(port), Some(shown)) => Some(shown.start_health(port)?),
                    _ => None,
                };
                let admin = match (admin_port, shown) {
                    (Some(port), Some(shown)) => {
                        let client = Client::of(mesh.clone(), Arc::clone(&registry));
                        let parts = Parts {
                            client: client.clone(),
                            clock: clock.clone(),
                            settings: origins,
                            pipelines: pipelines.names().into_iter().map(str::to_owned).collect(),
                            tiles,
                            cluster: settings.cluster.clone(),
                            build: process::build_id().to_owned(),
                        };
                        Some(
                            pages(
                                shown
                                    .inside(crate::security::admin_tls(&settings, &mesh)?)
                                    .named(Hosts::of(&settings.admin_hosts, &settings.admin_listen))
                                    .dashboard(Dashboard::open(parts, &place)),
                                client,
                                HttpCalls::new(&metrics, detail)?,
                                Arc::clone(&pipelines),
                            )
                            .start_on(port)?,
                        )
                    }
                    _ => None,
                };
                let facts = Arc::new(Facts {
                    id: id.clone(),
                    incarnation: incarnation.0,
                    address: address.clone(),
                    admin: admin_address.clone(),
                    build: process::build_id().to_owned(),
                    slots: u32::try_from(threads.slots()).unwrap_or(u32::MAX),
                    draining: AtomicBool::new(false),
                    metrics: metrics.clone(),
                    started: afflux_actor::clock::now(),
                    entries: Mutex::new(Vec::new()),
                    labels: Mutex::default(),
                    nudges: Mutex::default(),
                    mesh: mesh.clone(),
                    clock: clock.clone(),
                    registry: Arc::clone(&registry),
                    holds_registry: settings.registry == "embedded" && settings.node_join.is_empty(),
                    drain: Mutex::new(None),
                    asked: watch::Sender::new(false),
                });
                let (states, registered) = watch::channel(None);
                let registry_metrics = RegistryMetrics::new(&metrics, registry.watch())?;
                let coordination = Coordination::new(
                    Arc::clone(&registry),
                    format!("{id}/{}", incarnation.0),
                    Duration::from_millis(settings.registry_ttl_ms),
                    super::reach::spawner(&place),
                );
                let node = Node {
                    inner: Arc::new(Inner {
                        around: Surroundings {
                            place: place.clone(),
                            caller: mesh.caller(),
                            metrics: actor_metrics,
                            threads: Arc::clone(&threads),
                        },
                        settings,
                        threads,
                        mesh: mesh.clone(),
                        coordination,
                        registry_metrics,
                        registry: Arc::clone(&registry),
                        metrics,
                        probes,
                        facts: Arc::clone(&facts),
                        admin,
                        health,
                        record: watch::Sender::new(Record::default()),
                        registered,
                        closing: watch::Sender::new(false),
                        ended: watch::Sender::new(false),
                        closed: Mutex::new(Vec::new()),
                        stops: Mutex::new(Vec::new()),
                        spawned: Mutex::default(),
                        grpc: Mutex::new(None),
                    }),
                };
                follow(&place, mesh, &*registry);
                node.offer(facts.serve(place.clone()));
                let drains = Some(node.inner.mesh.drains());
                node.offer(serve_until(Arc::clone(&registry), home, place.clone(), drains));
                for declared in services {
                    match declared.spread {
                        Spread::EveryNode => {
                            let stop = node.host(&declared);
                            node.inner.stops.lock().push(stop);
                        }
                        Spread::Once => {
                            let host = node.clone();
                            node.lead(format!("service/{}", declared.name), move |_| host.host(&declared));
                        }
                    }
                }
                node.host_keyed(&keyed)?;
                if !pipelines.names().is_empty() {
                    let storage = match storage {
                        Some(given) => Some(given),
                        None => super::engine::storage_reached(node.settings(), node.id(), &clock).await?,
                    };
                    node.run_pipelines(&pipelines, storage, &clock)?;
                } else {
                    // None can be started: one that is named is an error.
                    Standing::of(node.settings(), &pipelines)?;
                }
                node.register(id, incarnation, admin_address, states);
                node.open_grpc(&protos)?;
                node.drain_when_asked();
                super::hook::start(hooks, &node, &place);
                Ok(node)
            }
            Err(error) => {
                mesh.close();
                Err(error)
            }
        }
    }
}

impl Node {
    /// Puts this node's record into the registry and keeps it there.
    fn register(
        &self,
        id: String,
        incarnation: Incarnation,
        admin: Option<String>,
        states: watch::Sender<Option<RegistrationState>>,
    ) {
        let inner = &self.inner;
        let mut instance = Instance::new(id.as_str(), incarnation, inner.facts.address.clone());
        instance.admin = admin;
        instance.build = inner.facts.build.clone();
        instance.slots = inner.facts.slots;
        instance.services = inner.facts.records();
        // Wrong ones have stopped the start already.
        instance.labels = routing::labels(&inner.settings).unwrap_or_default();
        instance.labels.extend(inner.facts.labels.lock().clone());
        let ttl = Duration::from_millis(inner.settings.registry_ttl_ms);
        let (registration, driver) = Registration::new(Arc::clone(&inner.registry), instance, ttl);
        inner.around.place.spawn_future(driver);
        inner.registry_metrics.registration(&registration);
        let record = inner.record.subscribe();
        inner.around.place.spawn_future(keep(registration, record, Arc::clone(&inner.probes), states));
    }
}

/// Passes changes of a node's record to its registration, and the state of that to `/readyz`, until the
/// node leaves.
async fn keep(
    registration: Registration,
    mut record: watch::Receiver<Record>,
    probes: Arc<Probes>,
    states: watch::Sender<Option<RegistrationState>>,
) {
    record.mark_changed();
    let mut known = None;
    loop {
        let state = registration.state();
        if known.as_ref() != Some(&state) {
            match &state {
                RegistrationState::Registered { .. } => probes.met("registered"),
                RegistrationState::Registering => {}
                other => {
                    tracing::warn!(state = ?other, "this node is not registered");
                    probes.unmet("registered", format!("{other:?}"));
                }
            }
            known = Some(state.clone());
            states.send_replace(Some(state.clone()));
        }
        tokio::select! {
            biased;
            changed = record.changed() => {
                let Record { services, labels, state, leave } = record.borrow_and_update().clone();
                if leave || changed.is_err() {
                    break;
                }
                registration.update(|instance| {
                    instance.services = services;
                    instance.labels.extend(labels);
                    instance.state = state;
                });
            }
            // A final state stays: nothing but the record can change any more.
            () = registration.wait_for(|now| *now != state), if !ended(&state) => {}
        }
    }
    registration.close().await;
}

/// Tells other nodes whether this one is ready, as long as it lives.
fn tell_readiness(place: &afflux_actor::Place, mesh: &Mesh, probes: &Arc<Probes>) {
    let (mesh, mut unready) = (mesh.clone(), probes.watch());
    place.spawn_future(async move {
        while unready.changed().await.is_ok() {
            let unready = *unready.borrow_and_update();
            mesh.set_ready(!unready);
        }
    });
}

/// Whether there will be no other state.
fn ended(state: &RegistrationState) -> bool {
    matches!(state, RegistrationState::Superseded { .. } | RegistrationState::Closed)
}

/// What MessagePack-RPC clients may do here.
fn compat(settings: &Settings) -> CompatConfig {
    let defaults = CompatConfig::default();
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let message_bytes_max = number(settings.compat_message_bytes_max);
    CompatConfig {
        mode: match settings.compat_enabled.as_str() {
            "on" => CompatMode::On,
            "off" => CompatMode::Off,
            _ => CompatMode::Auto,
        },
        connections_max: number(settings.compat_connections_max),
        in_flight_max: number(settings.compat_in_flight_max),
        message_bytes_max,
        // A message of the largest size must fit, and so must an answer like it.
        buffered_bytes_max: defaults.buffered_bytes_max.max(message_bytes_max.saturating_mul(4)),
        write_buffer_bytes_max: defaults.write_buffer_bytes_max.max(message_bytes_max.saturating_mul(4)),
        ..defaults
    }
}

/// A bound of the settings.
fn bound(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The pages of `/api/v1`.
fn pages(admin: Admin, client: Client, calls: HttpCalls, pipelines: Arc<Pipelines>) -> Admin {
    let gateway = Gateway { catalogue: Catalogue::new(client.clone()), calls };
    let (nodes, services, jobs, logs) = (client.clone(), client.clone(), client.clone(), client);
    let json = |value: std::result::Result<serde_json::Value, serde_json::Error>| {
        value.map_err(|error| afflux_wire::Status::internal(error.to_string()))
    };
    admin
        .gateway(gateway)
        .page("graph", move |pipeline| {
            let pipelines = Arc::clone(&pipelines);
            async move {
                let settings = afflux_stream::JobSettings::default();
                if pipeline.is_empty() {
                    return json(serde_json::to_value(pipelines.names()));
                }
                let known = pipelines.names();
                if !known.contains(&pipeline.as_str()) {
                    let hint = crate::error::suggest(&pipeline, known);
                    return Err(afflux_wire::Status::not_found(format!("no pipeline {pipeline}: {hint}")));
                }
                json(serde_json::to_value(pipelines.plan(&pipeline, settings)?.graph()))
            }
        })
        .page("logs", move |rest| {
            let client = logs.clone();
            async move { crate::admin::logs(&client, &rest).await }
        })
        .page("nodes", move |_| {
            let client = nodes.clone();
            async move { json(serde_json::to_value(client.nodes().await.map_err(Error::into_status)?)) }
        })
        .page("services", move |_| {
            let client = services.clone();
            async move { json(serde_json::to_value(client.services().await.map_err(Error::into_status)?)) }
        })
        .page("jobs", move |job| {
            let client = jobs.clone();
            async move {
                let client = client.jobs().await.map_err(Error::into_status)?;
                if job.is_empty() {
                    json(serde_json::to_value(client.list().await?))
                } else {
                    json(serde_json::to_value(client.show(job).await?))
                }
            }
        })
}

/// `host-pid`: unique, but not kept over restarts.
pub(crate) fn default_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|host| host.trim().to_owned())
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| "node".to_owned());
    format!("{host}-{}", std::process::id())
}
