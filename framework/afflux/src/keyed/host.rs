//! The keyed actors of one node: which are active, and where a call goes whose key is not this node's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use afflux_actor::{ActorHandle, Address, Keyed, Serves, ServiceEntry, Spec, clock};
use afflux_mesh::{keyed_nodes, owner_of};
use afflux_registry::Watcher;
use afflux_wire::contract::{Accept, Mail, MethodKind, Refused, Target, refusal};
use afflux_wire::{ActorPath, Code, Executed, Incarnation, NodeId, Stage, Status};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{KEYED_PARTITIONS, KeyValue, KeyedMetrics, partition_of};
use crate::error::Error;
use crate::node::Surroundings;

/// Calls of one service that wait here for a partition to get its owner, or for an actor to end.
pub(crate) const WAITING_CALLS_MAX: usize = 4_096;

/// Calls of one service that this node passes on at a time, for callers that cannot be redirected.
pub(crate) const FORWARDED_CALLS_MAX: usize = 1_024;

/// Actors of a partition that is to move may finish what waits for them for as long as this.
const DRAIN_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// When a caller that was refused may try again, in milliseconds.
const RETRY_AFTER_MS: u64 = 50;

/// A keyed service as its driver sees it, without the types of its actors.
pub(crate) trait Partitions: Send + Sync {
    /// Whether a partition is meant for this node.
    fn is_wanted(&self, partition: u32) -> bool;
    /// The other node that it is meant for.
    fn meant_for(&self, partition: u32) -> Option<NodeId>;
    /// It is owned from now on, and surely until then.
    fn own(&self, partition: u32, fence: u64, until: tokio::time::Instant);
    /// It is owned for longer.
    fn extend(&self, partition: u32, until: tokio::time::Instant);
    /// It is to move: no further calls, and its actors end.
    fn leave(&self, partition: u32);
    /// Whether they have.
    fn has_left(&self, partition: u32) -> bool;
    /// The lock is given back.
    fn left(&self, partition: u32);
    /// It is owned no longer, whatever its actors do.
    fn lose(&self, partition: u32, why: &str);
    /// This node takes no partitions any more.
    fn set_closing(&self, closing: bool);
    /// Stops what is idle, and looks at what waits.
    fn tick(&self);
}

#[derive(Clone, Copy, PartialEq)]
enum Own {
    Not,
    Held { fence: u64, until: Instant },
    Leaving { drain_until: Instant },
}

enum Slot<M: Mail> {
    Active {
        handle: ActorHandle<M>,
        used: Instant,
        life: u64,
    },
    /// It was asked to stop; what came since waits for the next one.
    Ending {
        waiting: VecDeque<M>,
    },
}

struct Part<M: Mail> {
    own: Own,
    actors: BTreeMap<Arc<[u8]>, Slot<M>>,
    /// Calls that wait for an owner.
    waiting: VecDeque<M>,
}

struct State<M: Mail> {
    parts: Vec<Part<M>>,
    active: usize,
    waiting: usize,
    lives: u64,
}

/// What becomes of a call.
enum Verdict<M> {
    Taken,
    Refuse(M, Status),
    Elsewhere(M, NodeId, Incarnation),
}

type Factory<A> = dyn Fn(&KeyValue) -> Result<A, Status> + Send + Sync;

/// The keyed actors of one kind on this node.
pub(crate) struct KeyedHost<A: Serves> {
    this: Weak<Self>,
    name: String,
    keyed: Keyed,
    factory: Arc<Factory<A>>,
    parts: KeyedParts,
    /// The contracts, the first of which stands for all.
    services: Vec<&'static str>,
    one_way: BTreeSet<&'static str>,
    state: Mutex<State<A::Mail>>,
    forwarded: Arc<AtomicUsize>,
    closing: AtomicBool,
}

/// What a node gives to a keyed service.
#[derive(Clone)]
pub(crate) struct KeyedParts {
    pub(crate) around: Surroundings,
    pub(crate) node: NodeId,
    pub(crate) view: Arc<Watcher>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) metrics: KeyedMetrics,
}

/// Starts a keyed service: what moves its keys, and the methods that it answers.
type Start = dyn Fn(KeyedParts) -> (Arc<dyn Partitions>, Vec<ServiceEntry>) + Send + Sync;

/// A keyed service that a program declares.
#[derive(Clone)]
pub(crate) struct DeclaredKeyed {
    pub(crate) name: String,
    pub(crate) keyed: Keyed,
    start: Arc<Start>,
}

impl DeclaredKeyed {
    pub(crate) fn new<A, E, F>(name: &str, keyed: Keyed, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn(&KeyValue) -> Result<A, E> + Send + Sync + 'static,
    {
        let factory: Arc<Factory<A>> =
            Arc::new(move |key: &KeyValue| factory(key).map_err(|error| error.into().into_status()));
        let named = name.to_owned();
        let start = move |parts: KeyedParts| {
            let host = KeyedHost::<A>::new(&named, keyed, Arc::clone(&factory), parts);
            let entries = host.entries();
            (host as Arc<dyn Partitions>, entries)
        };
        Self { name: name.to_owned(), keyed, start: Arc::new(start) }
    }

    pub(crate) fn start(&self, parts: KeyedParts) -> (Arc<dyn Partitions>, Vec<ServiceEntry>) {
        (self.start)(parts)
    }
}

impl<A: Serves> KeyedHost<A> {
    fn new(name: &str, keyed: Keyed, factory: Arc<Factory<A>>, parts: KeyedParts) -> Arc<Self> {
        let part = || Part { own: Own::Not, actors: BTreeMap::new(), waiting: VecDeque::new() };
        Arc::new_cyclic(|this: &Weak<Self>| {
            let nobody = Arc::new(Nobody) as Arc<dyn Accept<A::Mail>>;
            let entries = A::services(&Address::over(nobody));
            let specs = entries.iter().flat_map(|entry| entry.methods);
            Self {
                this: this.clone(),
                name: name.to_owned(),
                keyed,
                factory,
                parts,
                services: entries.iter().map(|entry| entry.name).collect(),
                one_way: specs
                    .filter(|spec| spec.kind == MethodKind::OneWay && !spec.expects_answer())
                    .map(|spec| spec.name)
                    .collect(),
                state: Mutex::new(State {
                    parts: (0..KEYED_PARTITIONS).map(|_| part()).collect(),
                    active: 0,
                    waiting: 0,
                    lives: 0,
                }),
                forwarded: Arc::default(),
                closing: AtomicBool::new(false),
            }
        })
    }

    /// The services, whose calls all come through here.
    fn entries(self: &Arc<Self>) -> Vec<ServiceEntry> {
        A::services(&Address::over(Arc::clone(self) as Arc<dyn Accept<A::Mail>>))
    }

    /// The node that a partition is meant for, as far as this one knows.
    fn meant(&self, partition: u32) -> Option<(NodeId, Incarnation)> {
        let closing = self.closing.load(Ordering::Acquire);
        let view = self.parts.view.latest();
        let service = self.services.first()?;
        let nodes: Vec<(&NodeId, Incarnation)> =
            keyed_nodes(&view, service).filter(|(node, _)| !closing || **node != self.parts.node).collect();
        let owner = owner_of(&self.name, partition, nodes.iter().map(|(node, _)| *node))?;
        nodes.iter().find(|(node, _)| *node == owner).map(|(node, life)| ((*node).clone(), *life))
    }

    fn stray(&self, result: &str) {
        self.parts.metrics.strays.with_label_values(&[self.name.as_str(), result]).inc();
    }

    /// Decides about one call.
    fn admit(&self, state: &mut State<A::Mail>, mail: A::Mail) -> Verdict<A::Mail> {
        let Some(key) = mail.param(self.keyed.param) else {
            let text = format!("{}: a call without the key `{}`", self.name, self.keyed.param);
            return Verdict::Refuse(mail, Status::invalid(text));
        };
        let partition = partition_of(&key);
        let index = partition as usize;
        if let Own::Held { fence, until } = state.parts[index].own
            && clock::now() < until
        {
            return self.deliver(state, partition, key.into(), fence, mail);
        }
        match self.meant(partition) {
            Some((node, life)) if node != self.parts.node => Verdict::Elsewhere(mail, node, life),
            _ => self.wait(state, partition, None, mail),
        }
    }

    /// Gives a call to the actor of its key, which is made if there is none.
    fn deliver(
        &self,
        state: &mut State<A::Mail>,
        partition: u32,
        key: Arc<[u8]>,
        fence: u64,
        mail: A::Mail,
    ) -> Verdict<A::Mail> {
        let index = partition as usize;
        match state.parts[index].actors.get_mut(&key) {
            Some(Slot::Active { handle, used, .. }) => {
                *used = clock::now();
                let sent = handle.address().try_send(mail);
                match sent {
                    Ok(()) => Verdict::Taken,
                    Err(Refused::Closed(mail)) => {
                        // It has ended by itself, and its end is not told here yet.
                        state.parts[index]
                            .actors
                            .insert(key.clone(), Slot::Ending { waiting: VecDeque::new() });
                        self.wait(state, partition, Some(key), mail)
                    }
                    Err(refused) => {
                        let status = self.refusal(&key, &refused, handle.address());
                        Verdict::Refuse(refused.into_inner(), status)
                    }
                }
            }
            Some(Slot::Ending { .. }) => self.wait(state, partition, Some(key), mail),
            None if state.active >= self.keyed.active_max => {
                self.evict(state);
                self.stray("refused");
                let text = format!(
                    "{} actors of {} are active on node {}, its limit (active_max): add nodes, shorten `idle`, \
                     or raise it",
                    state.active, self.name, self.parts.node
                );
                Verdict::Refuse(mail, self.refused(Status::new(Code::ResourceExhausted, text)))
            }
            None => {
                state.active += 1;
                state.lives += 1;
                let life = state.lives;
                let handle = self.activate(partition, &key, fence, life);
                let verdict = match handle.address().try_send(mail) {
                    Ok(()) => Verdict::Taken,
                    Err(refused) => {
                        let status = self.refusal(&key, &refused, handle.address());
                        Verdict::Refuse(refused.into_inner(), status)
                    }
                };
                state.parts[index].actors.insert(key, Slot::Active { handle, used: clock::now(), life });
                verdict
            }
        }
    }

    fn refusal(&self, key: &Arc<[u8]>, refused: &Refused<A::Mail>, address: &Address<A::Mail>) -> Status {
        let (Refused::Full(mail) | Refused::Closed(mail) | Refused::Cycle(mail, _)) = refused;
        let name = format!("{}/{}", self.name, KeyValue(Arc::clone(key)));
        refusal(&name, mail.method(), refused, address, Some(&self.parts.node))
    }

    fn refused(&self, status: Status) -> Status {
        status
            .executed(Executed::No)
            .stage(Stage::Admission)
            .node(&self.parts.node)
            .retry_after_ms(RETRY_AFTER_MS)
    }

    /// Keeps a call until its partition has an owner, or the actor of its key has ended.
    fn wait(
        &self,
        state: &mut State<A::Mail>,
        partition: u32,
        key: Option<Arc<[u8]>>,
        mail: A::Mail,
    ) -> Verdict<A::Mail> {
        if state.waiting >= WAITING_CALLS_MAX {
            self.stray("refused");
            let text = format!(
                "{WAITING_CALLS_MAX} calls of {} wait on node {} for an owner of their keys, its limit \
                 (WAITING_CALLS_MAX)",
                self.name, self.parts.node
            );
            return Verdict::Refuse(mail, self.refused(Status::new(Code::ResourceExhausted, text)));
        }
        self.stray("waited");
        state.waiting += 1;
        let part = &mut state.parts[partition as usize];
        match key.and_then(|key| part.actors.get_mut(&key)) {
            Some(Slot::Ending { waiting }) => waiting.push_back(mail),
            _ => part.waiting.push_back(mail),
        }
        Verdict::Taken
    }

    /// Makes the actor of a key. Its end is told to [`Self::ended`].
    fn activate(&self, partition: u32, key: &Arc<[u8]>, fence: u64, life: u64) -> ActorHandle<A::Mail> {
        let around = &self.parts.around;
        let value = KeyValue(Arc::clone(key));
        let path = ActorPath::new(format!("{}/{value}", self.name));
        let spec =
            Spec::new(path, Arc::clone(&around.metrics)).caller(Arc::clone(&around.caller)).fence(fence);
        let factory = Arc::clone(&self.factory);
        let place = around.threads.io();
        let handle = place.spawn::<A>(spec, move || factory(&value));
        let (watch, host, key) = (handle.watch(), self.this.clone(), Arc::clone(key));
        place.spawn_future(async move {
            watch.await;
            if let Some(host) = host.upgrade() {
                host.ended(partition, &key, life);
            }
        });
        handle
    }

    /// An actor has ended: the calls that came meanwhile get the next one, or go elsewhere.
    fn ended(&self, partition: u32, key: &Arc<[u8]>, life: u64) {
        let waiting = {
            let mut state = self.state.lock();
            state.active -= 1;
            let part = &mut state.parts[partition as usize];
            match part.actors.get(key) {
                Some(Slot::Active { life: now, .. }) if *now != life => return,
                None => return,
                _ => {}
            }
            match part.actors.remove(key) {
                Some(Slot::Ending { waiting }) => {
                    state.waiting -= waiting.len();
                    waiting
                }
                _ => VecDeque::new(),
            }
        };
        waiting.into_iter().for_each(|mail| self.take(mail));
        self.parts.wake.notify_one();
    }

    /// Stops the idle actor that was used longest ago: there are too many.
    fn evict(&self, state: &mut State<A::Mail>) {
        let idle = |slot: &Slot<A::Mail>| match slot {
            Slot::Active { handle, used, .. } if handle.address().depth() == 0 => Some(*used),
            _ => None,
        };
        let oldest = state
            .parts
            .iter_mut()
            .flat_map(|part| part.actors.values_mut())
            .filter_map(|slot| Some((idle(slot)?, slot)))
            .min_by_key(|(used, _)| *used);
        if let Some((_, slot)) = oldest {
            passivate(slot, "it made room for another (active_max)");
        }
    }

    /// Takes a call, or sends it on.
    fn take(&self, mail: A::Mail) {
        let verdict = self.admit(&mut self.state.lock(), mail);
        match verdict {
            Verdict::Taken => {}
            Verdict::Refuse(mail, status) => mail.reject(status),
            Verdict::Elsewhere(mail, node, life) => self.send_on(mail, node, life),
        }
    }

    /// A caller on another node is told where to call; for any other this node calls.
    fn send_on(&self, mail: A::Mail, node: NodeId, life: Incarnation) {
        let told = mail.meta().peer.is_some() && !self.one_way.contains(mail.method()) && !mail.has_items();
        if told {
            self.stray("redirected");
            let text = format!("the key of this call of {} belongs to node {node}", self.name);
            let status = Status::unavailable(text).executed(Executed::No).stage(Stage::Admission);
            return mail.reject(status.node(&self.parts.node).redirect(node, life));
        }
        if self.forwarded.fetch_add(1, Ordering::AcqRel) >= FORWARDED_CALLS_MAX {
            self.forwarded.fetch_sub(1, Ordering::AcqRel);
            self.stray("refused");
            let text = format!(
                "node {} passes on {FORWARDED_CALLS_MAX} calls of {}, its limit (FORWARDED_CALLS_MAX)",
                self.parts.node, self.name
            );
            return mail.reject(self.refused(Status::new(Code::ResourceExhausted, text)));
        }
        self.stray("forwarded");
        let service = self.services.first().copied().unwrap_or_default();
        let forward = mail.forward(Arc::clone(&self.parts.around.caller), Target::on(service, node));
        let forwarded = Arc::clone(&self.forwarded);
        self.parts.around.place.spawn_future(async move {
            forward.await;
            forwarded.fetch_sub(1, Ordering::AcqRel);
        });
    }

    /// Looks again at what waits for an owner of a partition.
    fn look_again(&self, partition: u32) {
        let now = clock::now();
        let stays_here = self.meant(partition).is_none_or(|(node, _)| node == self.parts.node);
        let gave_up = |mail: &A::Mail| {
            mail.is_cancelled() || mail.meta().deadline.is_some_and(|deadline| deadline <= now)
        };
        let (waiting, over) = {
            let mut state = self.state.lock();
            let part = &mut state.parts[partition as usize];
            let held = matches!(part.own, Own::Held { until, .. } if now < until);
            let (mut over, mut rest) = (Vec::new(), VecDeque::new());
            for mail in std::mem::take(&mut part.waiting) {
                if gave_up(&mail) { over.push(mail) } else { rest.push_back(mail) }
            }
            let waiting = if held || !stays_here {
                rest
            } else {
                part.waiting = rest;
                VecDeque::new()
            };
            state.waiting -= over.len() + waiting.len();
            (waiting, over)
        };
        for mail in over {
            let text =
                format!("the deadline passed while partition {partition} of {} had no owner", self.name);
            let status = Status::new(Code::DeadlineExceeded, text);
            mail.reject(status.executed(Executed::No).stage(Stage::Queued).node(&self.parts.node));
        }
        waiting.into_iter().for_each(|mail| self.take(mail));
    }
}

/// Asks an active actor to stop; what comes from now on waits for the next one.
fn passivate<M: Mail>(slot: &mut Slot<M>, why: &str) {
    let ending = Slot::Ending { waiting: VecDeque::new() };
    if let Slot::Active { handle, .. } = slot {
        let handle = handle.clone();
        *slot = ending;
        handle.stop(Status::unavailable(format!("the actor was passivated: {why}")));
    }
}

impl<A: Serves> Accept<A::Mail> for KeyedHost<A> {
    fn accept(&self, mail: A::Mail) -> Result<(), Refused<A::Mail>> {
        self.take(mail);
        Ok(())
    }
    fn depth(&self) -> usize {
        self.state.lock().waiting
    }
    fn capacity(&self) -> usize {
        WAITING_CALLS_MAX
    }
}

/// Stands for the host while its services are listed.
struct Nobody;

impl<M: Send> Accept<M> for Nobody {
    fn accept(&self, message: M) -> Result<(), Refused<M>> {
        Err(Refused::Closed(message))
    }
    fn depth(&self) -> usize {
        0
    }
    fn capacity(&self) -> usize {
        0
    }
}

impl<A: Serves> Partitions for KeyedHost<A> {
    fn is_wanted(&self, partition: u32) -> bool {
        self.meant(partition).is_some_and(|(node, _)| node == self.parts.node)
    }

    fn meant_for(&self, partition: u32) -> Option<NodeId> {
        self.meant(partition).map(|(node, _)| node).filter(|node| *node != self.parts.node)
    }

    fn own(&self, partition: u32, fence: u64, until: tokio::time::Instant) {
        self.state.lock().parts[partition as usize].own = Own::Held { fence, until: until.into_std() };
        self.look_again(partition);
    }

    fn extend(&self, partition: u32, until: tokio::time::Instant) {
        if let Own::Held { until: known, .. } = &mut self.state.lock().parts[partition as usize].own {
            *known = until.into_std();
        }
    }

    fn leave(&self, partition: u32) {
        let drain_until = clock::now() + DRAIN_MAX;
        self.state.lock().parts[partition as usize].own = Own::Leaving { drain_until };
    }

    fn has_left(&self, partition: u32) -> bool {
        let mut state = self.state.lock();
        let part = &mut state.parts[partition as usize];
        let Own::Leaving { drain_until } = part.own else { return part.actors.is_empty() };
        let late = clock::now() >= drain_until;
        for slot in part.actors.values_mut() {
            let done = matches!(slot, Slot::Active { handle, .. } if handle.address().depth() == 0);
            if done || late {
                passivate(slot, "its key moves to another node");
            }
        }
        part.actors.is_empty()
    }

    fn left(&self, partition: u32) {
        self.state.lock().parts[partition as usize].own = Own::Not;
        self.look_again(partition);
    }

    fn lose(&self, partition: u32, why: &str) {
        tracing::warn!(service = self.name, partition, why, "a partition is lost");
        {
            let mut state = self.state.lock();
            let part = &mut state.parts[partition as usize];
            part.own = Own::Not;
            part.actors.values_mut().for_each(|slot| passivate(slot, "its node no longer owns its key"));
        }
        self.look_again(partition);
    }

    fn set_closing(&self, closing: bool) {
        self.closing.store(closing, Ordering::Release);
    }

    fn tick(&self) {
        let now = clock::now();
        let mut waiting = Vec::new();
        {
            let mut state = self.state.lock();
            for (partition, part) in (0_u32..).zip(&mut state.parts) {
                for slot in part.actors.values_mut() {
                    let idle = matches!(slot, Slot::Active { handle, used, .. }
                        if now.saturating_duration_since(*used) >= self.keyed.idle && handle.address().depth() == 0);
                    if idle {
                        passivate(slot, "it was idle");
                    }
                }
                if !part.waiting.is_empty() {
                    waiting.push(partition);
                }
            }
        }
        waiting.into_iter().for_each(|partition| self.look_again(partition));
    }
}
