//! The other nodes: who is known, how each is reached, and which link to it counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::{InstanceState, View, watch};
use afflux_wire::contract::Identity;
use afflux_wire::handshake::Hello;
use afflux_wire::{Code, Executed, Incarnation, NodeId, Status};
use tokio::sync::{Notify, oneshot};

use crate::config::name_hash;
use crate::endpoint::{Labels, Reach};
use crate::handshake::{self, Greeted, Wire};
use crate::link::{Introduction, Link, Side};
use crate::mesh::Shared;
use crate::{reader, writer};

/// Ends of links whose reason is remembered for those who ask late.
const DOWNS_KEPT_MAX: usize = 256;
/// What a superseded link may take to finish its calls.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a peer stands.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerState {
    /// It is being dialled.
    Connecting,
    /// There is a link.
    Up,
    /// There is a link, but one side finishes its work and takes no more.
    Draining,
    /// The last try failed; another follows.
    Unreachable(Status),
}

/// What is known of another node.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerInfo {
    /// Its name; the address, while nothing else is known.
    pub node: NodeId,
    /// Which life of it, once there was a link.
    pub incarnation: Option<Incarnation>,
    /// `host:port` of its node port.
    pub address: String,
    /// How it stands.
    pub state: PeerState,
    /// Round trip of the last PING.
    pub rtt: Option<Duration>,
}

/// A link came or went.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerEvent {
    /// There is a link to this life of a node.
    Up(NodeId, Incarnation),
    /// The link to it is lost, for this reason.
    Down(NodeId, Incarnation, Status),
}

/// Another node.
#[derive(Default)]
struct Peer {
    /// Given by hand: kept whatever the registry says.
    fixed: Vec<String>,
    /// From the registry's view.
    viewed: Option<(String, InstanceState)>,
    labels: Labels,
    link: Option<Arc<Link>>,
    /// Counts the links to it.
    generation: u64,
    /// A dial of ours was accepted by its port and waits for WELCOME.
    greeting: bool,
    /// Wakes the task that dials it.
    dialler: Option<Arc<Notify>>,
    error: Option<Status>,
}

impl Peer {
    fn addresses(&self) -> Vec<String> {
        let viewed = self.viewed.iter().map(|(address, _)| address.clone());
        let mut addresses: Vec<String> = viewed.chain(self.fixed.iter().cloned()).collect();
        addresses.dedup();
        addresses
    }

    fn live(&self) -> Option<&Arc<Link>> {
        self.link.as_ref().filter(|link| !link.is_lost())
    }
}

/// An address whose node is not known by name yet.
struct Seed {
    node: Option<NodeId>,
    /// Given by hand.
    fixed: bool,
    error: Option<Status>,
    dialler: Arc<Notify>,
}

/// All other nodes.
#[derive(Default)]
pub(crate) struct Peers {
    nodes: BTreeMap<NodeId, Peer>,
    seeds: BTreeMap<String, Seed>,
    generation: u64,
    downs: VecDeque<(u64, Status)>,
}

impl Peers {
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.nodes.values().filter_map(|peer| peer.live().cloned()).collect()
    }

    /// Live links. Those of nodes that drain, as they or the registry say, get no calls.
    pub(crate) fn reaches(&self) -> Vec<Reach> {
        let reach = |peer: &Peer| {
            let link = Arc::clone(peer.live()?);
            let draining = matches!(peer.viewed, Some((_, InstanceState::Draining)));
            Some(Reach { open: link.is_open() && !draining, labels: peer.labels.clone(), link })
        };
        self.nodes.values().filter_map(reach).collect()
    }

    pub(crate) fn unlinked(&self) -> usize {
        let unlinked = |seed: &&Seed| seed.node.as_ref().is_none_or(|node| self.link(node).is_none());
        self.nodes.values().filter(|peer| peer.live().is_none() && !peer.addresses().is_empty()).count()
            + self.seeds.values().filter(unlinked).count()
    }

    pub(crate) fn link(&self, node: &NodeId) -> Option<&Arc<Link>> {
        self.nodes.get(node)?.live()
    }

    /// Whether anything says that this node is there: the registry, a setting, or a link.
    pub(crate) fn knows(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|peer| peer.live().is_some() || !peer.addresses().is_empty())
    }

    /// The node whose link goes to this address.
    fn node_at(&self, address: &str) -> Option<NodeId> {
        let at = |link: &&Arc<Link>| link.address == address;
        self.nodes.iter().find(|(_, peer)| peer.live().filter(at).is_some()).map(|(node, _)| node.clone())
    }

    /// Forgets a node of which nothing is left.
    fn tidy(&mut self, node: &NodeId) {
        if self.nodes.get(node).is_some_and(|peer| peer.live().is_none() && peer.addresses().is_empty()) {
            self.nodes.remove(node);
        }
    }

    fn remember_down(&mut self, generation: u64, status: Status) {
        if self.downs.len() >= DOWNS_KEPT_MAX {
            self.downs.pop_front();
        }
        self.downs.push_back((generation, status));
    }

    fn infos(&self) -> Vec<PeerInfo> {
        let state = |link: Option<&Arc<Link>>, error: &Option<Status>| match (link, error) {
            (Some(link), _) if link.is_up() => PeerState::Up,
            (Some(_), _) => PeerState::Draining,
            (None, Some(error)) => PeerState::Unreachable(error.clone()),
            (None, None) => PeerState::Connecting,
        };
        let nodes = self.nodes.iter().map(|(node, peer)| {
            let link = peer.live();
            let rtt = link.map(|link| link.rtt_micros.load(std::sync::atomic::Ordering::Relaxed));
            PeerInfo {
                node: node.clone(),
                incarnation: peer.link.as_ref().map(|link| link.incarnation),
                address: match link {
                    Some(link) => link.address.clone(),
                    None => peer.addresses().into_iter().next().unwrap_or_default(),
                },
                state: state(link, &peer.error),
                rtt: rtt.filter(|micros| *micros > 0).map(Duration::from_micros),
            }
        });
        let seeds =
            self.seeds.iter().filter(|(_, seed)| seed.node.is_none()).map(|(address, seed)| PeerInfo {
                node: NodeId::new(address.as_str()),
                incarnation: None,
                address: address.clone(),
                state: state(None, &seed.error),
                rtt: None,
            });
        nodes.chain(seeds).collect()
    }
}

/// The metric's label.
fn tls_label(link: &Link) -> &'static str {
    if link.tls { "true" } else { "false" }
}

/// Whether a link counts more than a new one between the same lives of two nodes.
///
/// Both sides come to the same answer: of two dialled by the same node the later one survives, of two
/// that crossed the one that the lower node dialled. A peer that dials after that has lost the link
/// that this side still believes in.
fn survives(own: &NodeId, old: &Link, dialled: bool, link_id: u64, age: Duration, window: Duration) -> bool {
    if old.dialled == dialled {
        return old.id > link_id;
    }
    let own_is_lower = *own < old.peer;
    old.dialled == own_is_lower && age < window
}

impl Shared {
    /// What `mesh.peers()` shows.
    pub(crate) fn peer_infos(&self) -> Vec<PeerInfo> {
        self.peers.lock().infos()
    }

    /// Whether a HELLO for a control connection may become a link.
    pub(crate) fn judge(&self, hello: &Hello, identity: Option<&Identity>) -> Result<(), Status> {
        let own = &self.config.node;
        let refuse = |text: String| Err(Status::new(Code::AlreadyExists, text).executed(Executed::No));
        if hello.node == *own {
            return refuse(if hello.incarnation == self.config.incarnation {
                format!("node {own} has dialled itself")
            } else {
                format!("another process is node {own} in this cluster: give each node a name of its own")
            });
        }
        if self.is_closed() {
            return Err(Status::unavailable(format!("node {own} is closing")).executed(Executed::No));
        }
        let peers = self.peers.lock();
        let Some(peer) = peers.nodes.get(&hello.node) else { return Ok(()) };
        let crossed = || {
            refuse(format!(
                "nodes {own} and {} dial each other: the link that {own} dials survives",
                hello.node
            ))
        };
        if let Some(old) = peer.live().cloned() {
            if let (Some(old), Some(new)) = (old.identity.as_deref(), identity)
                && old.name != new.name
            {
                return refuse(format!(
                    "{} is linked to {own} as {old}, and now comes as {new}: give each process a name of its own",
                    hello.node
                ));
            }
            if old.incarnation > hello.incarnation {
                return refuse(format!(
                    "node {} lives on as incarnation {}, this is {}",
                    hello.node, old.incarnation.0, hello.incarnation.0
                ));
            }
            let age = self.now().saturating_duration_since(old.established);
            let window = self.config.connect_timeout;
            if old.incarnation == hello.incarnation && survives(own, &old, false, hello.link_id, age, window)
            {
                return crossed();
            }
        } else if peer.greeting && *own < hello.node {
            return crossed();
        }
        Ok(())
    }

    /// Makes a greeted pair the link to its peer, unless there is one that counts more.
    pub(crate) fn install(self: &Arc<Self>, greeted: Greeted) {
        let Greeted { hello, address, dialled, identity, control, data, services_version } = greeted;
        let tls = control.conn.is_tls();
        let own = &self.config.node;
        let introduction = Introduction { hello, address, dialled, identity, tls };
        let link = Link::new(introduction, &self.config, Arc::clone(&self.metrics));
        let mut peers = self.peers.lock();
        // Under the lock: a mesh that closes closes all links that it finds there.
        if self.is_closed() {
            return;
        }
        let generation = peers.generation + 1;
        let peer = peers.nodes.entry(link.peer.clone()).or_default();
        let old = peer.live().cloned();
        if let Some(old) = &old {
            let age = self.now().saturating_duration_since(old.established);
            let window = self.config.connect_timeout;
            let older = old.incarnation > link.incarnation;
            let equal = old.incarnation == link.incarnation;
            if older {
                tracing::debug!(peer = %link.peer, "a link of an older life was dropped");
                return;
            }
            if equal && survives(own, old, dialled, link.id, age, window) {
                drop(peers);
                tracing::debug!(peer = %link.peer, "a crossing dial was retired");
                // The peer may use it already: what it has sent is answered, then the link ends.
                self.run_link(&link, control, data);
                let life = link.incarnation;
                return self.retire(link, life);
            }
        }
        let before = std::mem::replace(&mut peer.generation, generation);
        peer.link = Some(Arc::clone(&link));
        peer.error = None;
        if let Some(dialler) = &peer.dialler {
            dialler.notify_one();
        }
        peers.generation = generation;
        // A link that only crossed another is no news of the peer: it never went away.
        if old.as_ref().is_some_and(|old| old.incarnation < link.incarnation) {
            let text = format!("the link to node {} was replaced by a newer one", link.peer);
            peers.remember_down(before, Status::unavailable(text));
        }
        drop(peers);
        if let Some(old) = old {
            self.retire(old, link.incarnation);
        }
        // Clients come and go with every command: only nodes are news.
        if link.is_node() {
            tracing::info!(peer = %link.peer, incarnation = link.incarnation.0, address = link.address, dialled, "linked");
        }
        link.compare_with(&self.schemas);
        self.run_link(&link, control, data);
        let services = self.services();
        if services.version != services_version {
            link.put_bind(&services.bound());
        }
        self.tell_standing(&link);
        self.routes_changed();
    }

    /// Starts what reads, writes and watches a link.
    fn run_link(self: &Arc<Self>, link: &Arc<Link>, control: Wire, data: Wire) {
        for side in [Side::Control, Side::Data] {
            self.metrics.opened.with_label_values(&[side.name()]).inc();
            self.metrics.connections.with_label_values(&[side.name(), tls_label(link)]).inc();
        }
        // Counted as open until the link is lost.
        let permits = (control.permit, data.permit);
        let (read, write) = control.conn.split();
        self.place.spawn_future(reader::run_control(Arc::clone(self), Arc::clone(link), read, control.buf));
        self.place.spawn_future(writer::run_control(Arc::clone(link), write));
        let (read, write) = data.conn.split();
        self.place.spawn_future(reader::run_data(Arc::clone(self), Arc::clone(link), read, data.buf));
        self.place.spawn_future(writer::run_data(Arc::clone(link), write));
        let (shared, link) = (Arc::clone(self), Arc::clone(link));
        self.place.spawn_future(async move {
            Arc::clone(&link).run_timer().await;
            drop(permits);
            shared.on_lost(&link);
        });
    }

    /// A link that was superseded: of an older life, it is lost; crossed, it takes nothing new, finishes
    /// its calls, and lives on while a channel is attached to it.
    fn retire(self: &Arc<Self>, old: Arc<Link>, by: Incarnation) {
        let text = format!("the link to node {} was replaced by a newer one", old.peer);
        let status = Status::unavailable(text);
        if old.incarnation < by {
            return old.lose(status);
        }
        old.put_goaway(Code::Unavailable, "replaced by a newer link", RETIRE_TIMEOUT);
        self.place.spawn_future(async move {
            // The whole time, since an ATTACH or a call may be on its way from the peer.
            loop {
                let until = afflux_actor::clock::now() + RETIRE_TIMEOUT;
                tokio::select! {
                    biased;
                    () = old.lost() => return,
                    () = tokio::time::sleep_until(until.into()) => {}
                }
                if !old.has_channels() {
                    crate::drain::until_idle(&old, until + RETIRE_TIMEOUT).await;
                    return old.close(status);
                }
            }
        });
    }

    fn on_lost(&self, link: &Arc<Link>) {
        for side in [Side::Control, Side::Data] {
            self.metrics.connections.with_label_values(&[side.name(), tls_label(link)]).dec();
        }
        let status = link.lost_status().cloned().unwrap_or_else(|| Status::unavailable("the link is lost"));
        let mut peers = self.peers.lock();
        let mut down = None;
        if let Some(peer) = peers.nodes.get_mut(&link.peer)
            && peer.link.as_ref().is_some_and(|known| Arc::ptr_eq(known, link))
        {
            down = Some(peer.generation);
            peer.link = None;
            peer.error = Some(status.clone());
            if let Some(dialler) = &peer.dialler {
                dialler.notify_one();
            }
        }
        if let Some(generation) = down {
            if link.is_node() {
                tracing::info!(peer = %link.peer, %status, "link lost");
            }
            peers.remember_down(generation, status);
            peers.tidy(&link.peer);
        }
        drop(peers);
        self.routes_changed();
    }

    /// The link to a node, if there is one that takes something new.
    pub(crate) fn link_to(&self, node: &NodeId) -> Option<Arc<Link>> {
        self.peers.lock().link(node).filter(|link| link.is_up()).cloned()
    }

    /// A node at an address, whatever the registry says.
    pub(crate) fn add_peer(self: &Arc<Self>, node: NodeId, address: &str) {
        if node == self.config.node || self.is_closed() {
            return;
        }
        let mut peers = self.peers.lock();
        let peer = peers.nodes.entry(node.clone()).or_default();
        if !peer.fixed.iter().any(|known| known == address) {
            peer.fixed.push(address.to_owned());
        }
        self.ensure_dialled(peer, node);
        drop(peers);
        self.routes_changed();
    }

    fn ensure_dialled(self: &Arc<Self>, peer: &mut Peer, node: NodeId) {
        if let Some(dialler) = &peer.dialler {
            return dialler.notify_one();
        }
        let wake = Arc::new(Notify::new());
        peer.dialler = Some(Arc::clone(&wake));
        self.place.spawn_future(dial(Arc::clone(self), Goal::Node(node), wake, None));
    }

    /// An address whose node says who it is; `answer` gets the result of the first try.
    pub(crate) fn add_seed(
        self: &Arc<Self>,
        address: &str,
        fixed: bool,
        answer: Option<oneshot::Sender<Result<NodeId, Status>>>,
    ) {
        let mut peers = self.peers.lock();
        let linked = peers.node_at(address);
        if let Some(seed) = peers.seeds.get_mut(address) {
            seed.fixed |= fixed;
            if answer.is_none() {
                return;
            }
        }
        if let (Some(node), true) = (&linked, answer.is_some()) {
            if let Some(answer) = answer {
                let _ = answer.send(Ok(node.clone()));
            }
            return;
        }
        let wake = Arc::new(Notify::new());
        let seed = Seed { node: None, fixed, error: None, dialler: Arc::clone(&wake) };
        if let Some(old) = peers.seeds.insert(address.to_owned(), seed) {
            // Its task sees that it was replaced, and ends.
            old.dialler.notify_one();
        }
        drop(peers);
        let goal = Goal::Seed(address.to_owned());
        self.place.spawn_future(dial(Arc::clone(self), goal, wake, answer));
    }

    /// What the registry says now. An unreachable registry changes nothing.
    pub(crate) fn set_view(self: &Arc<Self>, view: &View) {
        if !view.reachable || self.is_closed() {
            return;
        }
        self.keyed.set_view(view);
        let (mut vanished, mut seeds) = (Vec::new(), Vec::new());
        let mut peers = self.peers.lock();
        for (node, peer) in &mut peers.nodes {
            if peer.viewed.is_some() && view.instance(node).is_none() {
                peer.viewed = None;
                if peer.fixed.is_empty() {
                    vanished.extend(peer.link.clone());
                    if let Some(dialler) = &peer.dialler {
                        dialler.notify_one();
                    }
                }
            }
        }
        for instance in &view.instances {
            if instance.node == self.config.node {
                continue;
            }
            if instance.incarnation == Incarnation(0) {
                seeds.push(instance.address.clone());
                continue;
            }
            let peer = peers.nodes.entry(instance.node.clone()).or_default();
            peer.viewed = Some((instance.address.clone(), instance.state));
            peer.labels = Labels::of(&instance.node, &instance.labels);
            if let Some(link) = peer.live().filter(|link| link.incarnation < instance.incarnation) {
                vanished.push(Arc::clone(link));
            }
            self.ensure_dialled(peer, instance.node.clone());
        }
        let gone = |address: &String, seed: &Seed| !seed.fixed && !seeds.contains(address);
        let gone: Vec<String> =
            peers.seeds.iter().filter(|(a, s)| gone(a, s)).map(|(a, _)| a.clone()).collect();
        for address in gone {
            if let Some(seed) = peers.seeds.remove(&address) {
                seed.dialler.notify_one();
                vanished.extend(seed.node.and_then(|node| peers.link(&node).cloned()));
            }
        }
        drop(peers);
        for address in seeds {
            if address != self.local_address() {
                self.add_seed(&address, false, None);
            }
        }
        for link in vanished {
            link.lose(Status::unavailable(format!(
                "node {} (incarnation {}) is no longer registered",
                link.peer, link.incarnation.0
            )));
        }
        self.routes_changed();
    }

    /// Events since `known`, which is brought up to date.
    fn peer_events(&self, known: &mut BTreeMap<NodeId, (Incarnation, u64)>, out: &mut VecDeque<PeerEvent>) {
        let peers = self.peers.lock();
        let now: BTreeMap<NodeId, (Incarnation, u64)> = peers
            .nodes
            .iter()
            .filter_map(|(node, peer)| Some((node.clone(), (peer.live()?.incarnation, peer.generation))))
            .collect();
        for (node, (incarnation, generation)) in &*known {
            if now.get(node).is_none_or(|(_, current)| current != generation) {
                let told = peers.downs.iter().find(|(down, _)| down == generation);
                // Lost, and its task has not told yet.
                let fresh = peers.nodes.get(node).and_then(|peer| peer.link.as_ref()?.lost_status());
                let reason = told.map(|(_, status)| status).or(fresh).cloned();
                let reason = reason.unwrap_or_else(|| crate::router::no_link(node));
                out.push_back(PeerEvent::Down(node.clone(), *incarnation, reason));
            }
        }
        for (node, (incarnation, generation)) in &now {
            if known.get(node).is_none_or(|(_, before)| before != generation) {
                out.push_back(PeerEvent::Up(node.clone(), *incarnation));
            }
        }
        *known = now;
    }
}

/// A subscription of [`PeerEvent`]s. Starts with an `Up` for every link there is.
///
/// Events are differences between what was last seen and what is now: none is lost, a link that
/// came and went in between is not told, and nothing queues up behind a slow reader.
pub struct PeerEvents {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    known: BTreeMap<NodeId, (Incarnation, u64)>,
    pending: VecDeque<PeerEvent>,
}

impl PeerEvents {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let mut changes = shared.changes.subscribe();
        changes.mark_changed();
        Self { shared, changes, known: BTreeMap::new(), pending: VecDeque::new() }
    }

    /// The next event; nothing once the mesh is closed and all ends are told.
    pub async fn next(&mut self) -> Option<PeerEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            let closed = self.shared.is_closed();
            self.changes.borrow_and_update();
            self.shared.peer_events(&mut self.known, &mut self.pending);
            if !self.pending.is_empty() {
                continue;
            }
            if closed && self.known.is_empty() {
                return None;
            }
            // The sender lives as long as `shared`.
            let _ = self.changes.changed().await;
        }
    }
}

/// Whom a task dials.
enum Goal {
    Node(NodeId),
    Seed(String),
}

enum Plan {
    /// Nobody wants it any more.
    Stop,
    /// There is a link.
    Wait(Arc<Link>),
    Dial(Vec<String>, Option<NodeId>),
}

impl Goal {
    fn name(&self) -> &str {
        match self {
            Self::Node(node) => node.as_str(),
            Self::Seed(address) => address,
        }
    }

    fn plan(&self, shared: &Shared, wake: &Arc<Notify>) -> Plan {
        if shared.is_closed() {
            return Plan::Stop;
        }
        let mut peers = shared.peers.lock();
        match self {
            Self::Node(node) => {
                let Some(peer) = peers.nodes.get_mut(node) else { return Plan::Stop };
                let addresses = peer.addresses();
                if addresses.is_empty() {
                    peer.dialler = None;
                    peers.tidy(node);
                    return Plan::Stop;
                }
                if let Some(link) = peer.live() {
                    return Plan::Wait(Arc::clone(link));
                }
                Plan::Dial(addresses, Some(node.clone()))
            }
            Self::Seed(address) => {
                let linked = peers.node_at(address);
                let Some(seed) = peers.seeds.get_mut(address) else { return Plan::Stop };
                if !Arc::ptr_eq(&seed.dialler, wake) {
                    return Plan::Stop;
                }
                if linked.is_some() {
                    seed.node = linked;
                }
                let node = seed.node.clone();
                match node.as_ref().and_then(|node| peers.link(node)) {
                    Some(link) => Plan::Wait(Arc::clone(link)),
                    None => Plan::Dial(vec![address.clone()], None),
                }
            }
        }
    }

    fn failed(&self, shared: &Shared, status: &Status) {
        let mut peers = shared.peers.lock();
        match self {
            Self::Node(node) => {
                if let Some(peer) = peers.nodes.get_mut(node) {
                    peer.error = Some(status.clone());
                    peer.greeting = false;
                }
            }
            Self::Seed(address) => {
                if let Some(seed) = peers.seeds.get_mut(address) {
                    seed.error = Some(status.clone());
                }
            }
        }
    }

    fn greeting(&self, shared: &Shared, greeting: bool) {
        if let Self::Node(node) = self
            && let Some(peer) = shared.peers.lock().nodes.get_mut(node)
        {
            peer.greeting = greeting;
        }
    }

    /// A dial was answered by this node.
    fn answered(&self, shared: &Shared, node: &NodeId) {
        if let Self::Seed(address) = self {
            let mut peers = shared.peers.lock();
            if let Some(seed) = peers.seeds.get_mut(address) {
                seed.node = Some(node.clone());
                seed.error = None;
            }
        }
    }
}

/// Keeps a link to one peer: dials, waits while there is a link, and dials again.
async fn dial(
    shared: Arc<Shared>,
    goal: Goal,
    wake: Arc<Notify>,
    mut answer: Option<oneshot::Sender<Result<NodeId, Status>>>,
) {
    let seed =
        shared.config.seed ^ name_hash(shared.config.node.as_str()) ^ name_hash(goal.name()).rotate_left(32);
    let backoff = shared.config.backoff;
    let mut failures = 0u32;
    let mut linked_at = None;
    loop {
        let (addresses, expected) = match goal.plan(&shared, &wake) {
            Plan::Stop => return,
            Plan::Wait(link) => {
                linked_at.get_or_insert_with(|| shared.now());
                tokio::select! {
                    biased;
                    () = shared.stopped() => {}
                    () = link.lost() => {}
                    () = wake.notified() => {}
                }
                continue;
            }
            Plan::Dial(addresses, expected) => (addresses, expected),
        };
        // A link that did not last counts as a failed try: a flapping peer is not dialled in a circle.
        if let Some(at) = linked_at.take() {
            let lasted = shared.now().saturating_duration_since(at) >= backoff.max;
            failures = if lasted { 0 } else { failures + 1 };
            if failures > 1 {
                pause(&shared, &wake, backoff.wait(failures, seed)).await;
                continue;
            }
        }
        let mut error = None;
        for address in addresses {
            let connected = || goal.greeting(&shared, true);
            let dialled = handshake::dial(&shared, &address, expected.as_ref(), connected).await;
            goal.greeting(&shared, false);
            match dialled {
                Ok(greeted) => {
                    let node = greeted.hello.node.clone();
                    goal.answered(&shared, &node);
                    shared.install(greeted);
                    error = None;
                    if let Some(answer) = answer.take() {
                        let _ = answer.send(Ok(node));
                    }
                    break;
                }
                Err(status) => error = Some(status),
            }
        }
        let Some(status) = error else {
            linked_at = Some(shared.now());
            continue;
        };
        goal.failed(&shared, &status);
        if let Some(answer) = answer.take() {
            // Whoever asked decides what to do about it.
            if let Goal::Seed(address) = &goal {
                shared.peers.lock().seeds.remove(address);
            }
            let _ = answer.send(Err(status));
            return;
        }
        failures += 1;
        if failures.is_power_of_two() {
            tracing::info!(peer = goal.name(), failures, %status, "no link yet");
        }
        shared.routes_changed();
        pause(&shared, &wake, backoff.wait(failures - 1, seed)).await;
    }
}

/// Waits, unless something about the peer changes.
async fn pause(shared: &Shared, wake: &Notify, wait: Duration) {
    tokio::select! {
        biased;
        () = shared.stopped() => {}
        () = wake.notified() => {}
        () = tokio::time::sleep(wait) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MeshConfig;
    use crate::metrics::MeshMetrics;

    fn link(own: &str, peer: &str, dialled: bool, link_id: u64) -> Arc<Link> {
        let hello = Hello { node: NodeId::new(peer), link_id, ..Hello::default() };
        let introduction =
            Introduction { hello, address: String::new(), dialled, identity: None, tls: false };
        Link::new(introduction, &MeshConfig::new(own, "test"), MeshMetrics::unregistered())
    }

    const WINDOW: Duration = Duration::from_secs(5);
    const AGE: Duration = Duration::from_millis(1);

    #[test]
    fn of_two_crossing_links_both_sides_keep_the_one_that_the_lower_node_dialled() {
        let (a, b) = (NodeId::new("a"), NodeId::new("b"));
        // As `a` sees it: its own link is there, b's comes; then the other way round.
        assert!(survives(&a, &link("a", "b", true, 1), false, 1, AGE, WINDOW));
        assert!(!survives(&a, &link("a", "b", false, 1), true, 1, AGE, WINDOW));
        // As `b` sees it.
        assert!(survives(&b, &link("b", "a", false, 1), true, 1, AGE, WINDOW));
        assert!(!survives(&b, &link("b", "a", true, 1), false, 1, AGE, WINDOW));
        // A peer that dials long after has lost the link that this side still believes in.
        assert!(!survives(&a, &link("a", "b", true, 1), false, 1, WINDOW, WINDOW));
    }

    #[test]
    fn of_two_links_dialled_by_one_node_both_sides_keep_the_later_one() {
        for dialled in [true, false] {
            let own = NodeId::new(if dialled { "a" } else { "b" });
            let peer = if dialled { "b" } else { "a" };
            assert!(!survives(&own, &link(own.as_str(), peer, dialled, 1), dialled, 2, AGE, WINDOW));
            assert!(survives(&own, &link(own.as_str(), peer, dialled, 2), dialled, 1, AGE, WINDOW));
        }
    }
}
