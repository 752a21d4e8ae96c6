//! A node's mesh: the handle that everything above holds, and what its tasks share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use afflux_actor::{Place, ServiceEntry, Tracer, clock};
use afflux_registry::{View, watch};
use afflux_wire::contract::{
    CallMeta, CallSpan, Caller, Failure, Handle, Hedge, Identity, MethodSpec, Outgoing, Placement, Policy,
    Retry, Service, Started, Target, TraceParent,
};
use afflux_wire::{Attempt, Incarnation, NodeId, Status};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot};

use crate::actors::ActorTable;
use crate::attach::{self, ChannelTable};
use crate::channel::{ChannelKey, ChannelReceiver, ChannelSender, RecvState, SendState};
use crate::compat::Compat;
use crate::config::{MeshConfig, mix, name_hash};
use crate::guard::{Access, Guard};
use crate::handshake::{HalfKey, Wire};
use crate::health::{self, Standing};
use crate::keyed::KeyedRoutes;
use crate::listener;
use crate::metrics::MeshMetrics;
use crate::peers::{PeerEvents, PeerInfo, Peers};
use crate::router::{Ground, Routes};
use crate::schemas::{self, Schemas};
use crate::services::ServiceTable;
use crate::target::CalledServices;
use crate::tls::{Tls, TlsMode};
use crate::transport::Transport;

/// What the tasks of a mesh share.
pub(crate) struct Shared {
    pub(crate) actors: ActorTable,
    pub(crate) keyed: KeyedRoutes,
    pub(crate) config: MeshConfig,
    pub(crate) transport: Transport,
    pub(crate) place: Place,
    pub(crate) metrics: Arc<MeshMetrics>,
    pub(crate) channels: ChannelTable,
    pub(crate) guard: Arc<Guard>,
    pub(crate) tracer: Tracer,
    pub(crate) compat: Arc<Compat>,
    tls: RwLock<Option<Tls>>,
    pub(crate) schemas: Arc<Schemas>,
    /// Control connections that wait for their data connection.
    pub(crate) halves: Mutex<BTreeMap<HalfKey, oneshot::Sender<Wire>>>,
    pub(crate) peers: Mutex<Peers>,
    pub(crate) routes: RwLock<Routes>,
    /// Counts the changes of routes and links.
    pub(crate) changes: watch::Sender<u64>,
    services: RwLock<Arc<ServiceTable>>,
    policies: Mutex<BTreeMap<String, Policy>>,
    called: Mutex<CalledServices>,
    pub(crate) standing: Standing,
    /// Whether it drains.
    pub(crate) drains: watch::Sender<bool>,
    address: String,
    next_link_id: AtomicU64,
    closed: AtomicBool,
    stop: Semaphore,
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        clock::now()
    }

    pub(crate) fn services(&self) -> Arc<ServiceTable> {
        Arc::clone(&self.services.read())
    }

    /// What others dial; empty for a mesh that does not listen.
    pub(crate) fn local_address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn next_link_id(&self) -> u64 {
        self.next_link_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Resolves once the mesh is closed.
    pub(crate) async fn stopped(&self) {
        // Never has a permit: resolves when it is closed.
        let _ = self.stop.acquire().await;
    }

    /// Builds the routes anew and tells everybody who waits for a change.
    pub(crate) fn routes_changed(&self) {
        // The lock is held until the routes are stored, so that an older build never overwrites a newer.
        let peers = self.peers.lock();
        let policies = self.policies.lock();
        let ground = Ground {
            services: &self.services(),
            reaches: &peers.reaches(),
            unlinked: peers.unlinked(),
            policies: &policies,
            config: &self.config,
            metrics: &self.metrics,
        };
        let routes = Routes::build(&ground, &mut self.called.lock());
        self.routes.read().forget(&routes, &self.metrics);
        let old = std::mem::replace(&mut *self.routes.write(), routes);
        drop(policies);
        drop(peers);
        drop(old);
        self.changes.send_modify(|version| *version += 1);
    }

    pub(crate) fn tls(&self) -> Option<Tls> {
        self.tls.read().clone()
    }

    fn change_services(&self, change: impl FnOnce(&ServiceTable) -> ServiceTable) {
        let mut services = self.services.write();
        let next = Arc::new(change(&services));
        *services = Arc::clone(&next);
        drop(services);
        let links = self.peers.lock().links();
        for link in links {
            link.put_bind(&next.bound());
        }
        self.routes_changed();
    }

    pub(crate) fn close(&self, status: &Status) {
        let peers = self.peers.lock();
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let links = peers.links();
        drop(peers);
        self.stop.close();
        self.halves.lock().clear();
        for link in links {
            link.close(status.clone());
        }
        self.changes.send_modify(|version| *version += 1);
    }
}

/// The rules with what the rest of the settings says of callers.
fn access_of(mut access: Access, config: &MeshConfig, tls: Option<&Tls>) -> Access {
    if let Some(token) = &config.token {
        access = access.cluster_token(Some(token));
    }
    if tls.is_some_and(|tls| tls.mode() == TlsMode::Mutual) {
        access = access.mutual(true);
    }
    access
}

/// A node's mesh. Cheap to clone; what it runs ends with [`Mesh::close`], not with its last clone.
///
/// ```
/// use afflux_mesh::{Mesh, MeshConfig, MeshMetrics, MemoryNetwork, Transport};
///
/// afflux_actor::system(|| async {
///     let place = afflux_actor::Place::current().expect("inside a system");
///     let transport = Transport::Memory(MemoryNetwork::default());
///     let start = |name: &str| {
///         let config = MeshConfig { listen: Some("host:0".into()), ..MeshConfig::new(name, "dev") };
///         Mesh::start(config, transport.clone(), place.clone(), MeshMetrics::unregistered())
///     };
///     let (a, b) = (start("a")?, start("b")?);
///     let node = a.connect_unknown(&b.local_address()).await?;
///     assert_eq!(node, *b.node());
///     a.close();
///     b.close();
///     Ok::<_, afflux_wire::Status>(())
/// })
/// .expect("a runtime can be made")
/// .expect("both listen");
/// ```
#[derive(Clone)]
pub struct Mesh {
    pub(crate) shared: Arc<Shared>,
}

impl Mesh {
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Starts a mesh whose tasks run on `place`; it listens when it returns, if its settings say so.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the address cannot be bound.
    pub fn start(
        config: MeshConfig,
        transport: Transport,
        place: Place,
        metrics: Arc<MeshMetrics>,
    ) -> Result<Self, Status> {
        let (bound, address) = match &config.listen {
            Some(address) => {
                let (bound, address) = transport.bind(address)?;
                (Some(bound), config.advertise.clone().unwrap_or(address))
            }
            None => (None, String::new()),
        };
        let life = mix(name_hash(config.node.as_str()) ^ mix(config.incarnation.0) ^ config.seed);
        let tracer = Tracer::new(life, config.trace_sample_ratio);
        let compat = Arc::new(Compat::new(&config.compat));
        let tls = config.tls.clone();
        let access = access_of(config.access.clone(), &config, tls.as_ref());
        let guard = Arc::new(Guard::new(config.node.clone(), access));
        metrics.certificate(tls.as_ref());
        let shared = Arc::new(Shared {
            actors: ActorTable::default(),
            keyed: KeyedRoutes::default(),
            config,
            transport,
            place,
            metrics,
            channels: ChannelTable::default(),
            guard,
            tracer,
            compat,
            tls: RwLock::new(tls),
            schemas: Arc::default(),
            halves: Mutex::default(),
            peers: Mutex::default(),
            routes: RwLock::default(),
            changes: watch::channel(0).0,
            services: RwLock::default(),
            policies: Mutex::default(),
            called: Mutex::default(),
            standing: Standing::default(),
            drains: watch::Sender::new(false),
            address,
            next_link_id: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            stop: Semaphore::new(0),
        });
        shared.place.spawn_future(health::run(Arc::clone(&shared)));
        if let Some(bound) = bound {
            shared.place.spawn_future(listener::run(Arc::clone(&shared), bound));
        }
        shared.place.spawn_future(schemas::run(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// `host:port` under which others reach this node; empty when it does not listen.
    pub fn local_address(&self) -> String {
        self.shared.local_address()
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.shared.config.node
    }

    /// Which life of it.
    pub fn incarnation(&self) -> Incarnation {
        self.shared.config.incarnation
    }

    /// Offers a service on every link; one of the same name is replaced.
    pub fn serve(&self, entry: ServiceEntry) {
        self.shared.change_services(|services| services.with(entry, &self.shared.metrics));
    }

    /// Offers a service no longer. A request that comes still is answered "not executed".
    pub fn withdraw(&self, service: &str) {
        self.shared.change_services(|services| services.without(service));
    }

    /// What starts calls, for clients and actors.
    pub fn caller(&self) -> Arc<dyn Caller> {
        Arc::clone(&self.shared) as Arc<dyn Caller>
    }

    /// A client of a service, wherever it is offered.
    ///
    /// From now on peers that offer it are compared: a method that they and this build cannot both read fails at
    /// once, with the field that differs.
    pub fn client<S: Service>(&self) -> S::Client {
        self.shared.calls(S::NAME, S::METHODS);
        S::Client::from(Handle::new(Some(self.caller()), Target::service(S::NAME)))
    }

    /// A client of a service on one node.
    pub fn client_on<S: Service>(&self, node: &NodeId) -> S::Client {
        S::Client::from(Handle::new(Some(self.caller()), Target::on(S::NAME, node.clone())))
    }

    /// How calls to a service are shared among its endpoints.
    pub fn set_policy(&self, service: &str, policy: Policy) {
        self.shared.policies.lock().insert(service.to_owned(), policy);
        self.shared.routes_changed();
    }

    /// A call without types: `params` is the MessagePack of the parameters' map, and so is the result.
    ///
    /// # Errors
    /// As any call.
    pub async fn call_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, Status> {
        self.shared.call_raw_following(target, method, params, deadline).await
    }

    /// The same with all that goes with a call; without a deadline it has ten seconds.
    ///
    /// # Errors
    /// As any call.
    pub async fn call_raw_with(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        meta: CallMeta,
    ) -> Result<Vec<u8>, Status> {
        self.shared.call_raw_with(target, method, params, meta).await
    }

    /// A one-way call without types: it has left, or is in the mailbox beside, when this returns.
    ///
    /// # Errors
    /// Nobody offers the service, or the link takes nothing more.
    pub async fn notify_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        meta: CallMeta,
    ) -> Result<(), Status> {
        self.shared.tell_raw(target, method, params, meta)
    }

    /// Other certificates, from the next handshake on; links that are up stay as they are.
    pub fn set_tls(&self, tls: Tls) {
        self.shared.metrics.certificate(Some(&tls));
        *self.shared.tls.write() = Some(tls);
    }

    /// Other certificates, callers and rules, as [`MeshConfig::tls`] and [`MeshConfig::access`] gave the first.
    /// The cluster's token stays.
    pub fn set_security(&self, tls: Option<Tls>, access: Access) {
        if let Some(tls) = tls {
            self.set_tls(tls);
        }
        self.shared.guard.set(access_of(access, &self.shared.config, self.shared.tls().as_ref()));
    }

    /// The certificates that the next handshake uses.
    pub fn tls(&self) -> Option<Tls> {
        self.shared.tls()
    }

    /// Counts a try to replace the certificates: `ok` or `failed`.
    pub fn count_tls_reload(&self, result: &str) {
        self.shared.metrics.tls_reloads.with_label_values(&[result]).inc();
    }

    /// Whether a caller that came through another door than a link may call `service/method`: what
    /// [`Guard::check`] says, with the method's own rule where the service is served here. Refusals are counted.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub fn authorize(&self, identity: Option<&Identity>, service: &str, method: &str) -> Result<(), Status> {
        let services = self.shared.services();
        let entry = services.entries().find(|entry| entry.name == service);
        let spec = entry.and_then(|entry| entry.methods.iter().find(|spec| spec.name == method));
        let allow = spec.map_or("", |spec| spec.allow);
        self.shared.guard.check(identity, service, method, allow).inspect_err(|status| {
            // A name that a caller made up is no label.
            let service = entry.map_or("unknown", |entry| entry.name);
            self.shared.metrics.rejected(service, crate::guard::reason(status));
        })
    }

    /// Counts that an actor was looked up by its name: `found`, `not_found`, or some node was `unavailable`.
    pub fn looked_up(&self, result: &'static str) {
        self.shared.metrics.looked_up(result);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What decides who may call what: every door (links, HTTP, gRPC, MessagePack-RPC) asks it.
    pub fn guard(&self) -> &Arc<Guard> {
        &self.shared.guard
    }

    /// Names of all services that can be called from here now.
    pub fn services(&self) -> Vec<String> {
        self.shared.routes.read().names()
    }

    /// A node that is reached there whatever the registry says; it is dialled from now on.
    pub fn add_peer_address(&self, node: NodeId, address: &str) {
        self.shared.add_peer(node, address);
    }

    /// What the registry says now. A node that vanished from it loses its link; a registry that
    /// cannot be reached changes nothing.
    pub fn set_view(&self, view: &View) {
        self.shared.set_view(view);
    }

    /// Dials an address whose node is not known by name; once that worked the link is kept up.
    ///
    /// # Errors
    /// Why the first try failed: nobody listens, or the other node refuses.
    pub async fn connect_unknown(&self, address: &str) -> Result<NodeId, Status> {
        let (sender, receiver) = oneshot::channel();
        self.shared.add_seed(address, true, Some(sender));
        receiver.await.unwrap_or_else(|_| Err(Status::unavailable("the mesh has closed")))
    }

    /// All nodes that are known, by name.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.peer_infos()
    }

    /// The links that come and go from now on, after an `Up` for each there is.
    pub fn peer_events(&self) -> PeerEvents {
        PeerEvents::new(Arc::clone(&self.shared))
    }

    /// Cuts the link to a node; true when there was one. It is dialled again.
    pub fn disconnect(&self, node: &NodeId) -> bool {
        let link = self.shared.peers.lock().link(node).cloned();
        if let Some(link) = &link {
            link.lose(Status::unavailable(format!("the link to node {node} was cut on request")));
        }
        link.is_some()
    }

    /// The sending end of a channel to a receiver on another node. It attaches by itself once there
    /// is a link, and fails when there is no receiver within `attach_timeout`.
    pub fn channel_sender(&self, peer: &NodeId, key: ChannelKey, fingerprint: u64) -> ChannelSender {
        let gauges = self.shared.metrics.channel(&key);
        let state = SendState::new(key, peer.clone(), fingerprint, gauges);
        let attaching = attach::run(Arc::clone(&self.shared), Arc::clone(&state));
        self.shared.place.spawn_future(attaching);
        ChannelSender::new(state)
    }

    /// The receiving end of a channel. Register it before its sender starts, or soon after.
    pub fn channel_receiver(&self, key: ChannelKey, fingerprint: u64) -> ChannelReceiver {
        let gauges = self.shared.metrics.channel(&key);
        let limits = &self.shared.config.limits;
        let (window, frame) = (limits.channel_credit_bytes, limits.frame_bytes_max);
        let state = RecvState::new(key, fingerprint, window, frame, gauges);
        self.shared.channels.insert(&state);
        let (shared, registered) = (Arc::clone(&self.shared), Arc::clone(&state));
        ChannelReceiver::new(state, Box::new(move || shared.channels.remove(&registered)))
    }

    /// Ends all receivers of this attempt and of earlier ones: their later frames are dropped and
    /// counted, and no sender of theirs attaches any more.
    pub fn release_attempt(&self, job: &str, attempt: Attempt) {
        self.shared.channels.release(job, attempt);
    }

    /// Tells all peers whether this node wants new calls. One that does not still gets them while
    /// nobody else is ready.
    pub fn set_ready(&self, ready: bool) {
        self.shared.set_ready(ready);
    }

    /// Tells all peers that this node will go away: from now on they send no new calls. It goes on
    /// serving; [`Mesh::drain`] ends that.
    pub fn leave(&self) {
        self.shared.leave();
    }

    /// Says when this mesh begins to drain: who keeps a call open for long ends it then.
    pub fn drains(&self) -> watch::Receiver<bool> {
        self.shared.drains.subscribe()
    }

    /// Tells all peers that this node goes away, waits for the answers of what was admitted, at most
    /// `grace` long, and closes.
    pub async fn drain(&self, grace: Duration) {
        self.shared.drain(grace).await;
    }

    /// Stops listening and closes all links. Calls and channels that are left fail.
    pub fn close(&self) {
        let node = &self.shared.config.node;
        self.shared.close(&Status::unavailable(format!("node {node} closed its mesh")));
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mesh({} at {:?})", self.shared.config.node, self.shared.address)
    }
}

impl Caller for Mesh {
    fn start(
        &self,
        target: &Target,
        method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        self.shared.start(target, method, meta, call)
    }

    fn retry(&self, target: &Target, failure: &Failure<'_>) -> Retry {
        self.shared.retry(target, failure)
    }

    fn hedge_after(&self, target: &Target, method: &'static MethodSpec, hedge: Hedge) -> Option<Duration> {
        self.shared.hedge_after(target, method, hedge)
    }

    fn may_hedge(&self, target: &Target, placement: &Placement<'_>) -> bool {
        self.shared.may_hedge(target, placement)
    }

    fn trace(&self, parent: Option<&TraceParent>, service: &str, method: &str) -> Option<Box<dyn CallSpan>> {
        self.shared.trace(parent, service, method)
    }

    fn changed(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        self.shared.changed()
    }

    fn sleep_until(&self, at: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        self.shared.sleep_until(at)
    }

    fn now(&self) -> Instant {
        clock::now()
    }

    fn node(&self) -> Option<&NodeId> {
        self.shared.node()
    }

    fn incarnation(&self) -> Incarnation {
        self.shared.incarnation()
    }
}
