//! From a service's name to a mailbox beside or a link: what every call passes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use afflux_actor::{ServiceEntry, clock};
use afflux_wire::contract::{
    Avoid, CallMeta, CallScope, CallSpan, Caller, Failure, Hedge, MethodSpec, Outgoing, Placement, Policy,
    REDIRECTS_MAX, Remote, ReplyTo, ResponseSink, ResponseSlot, Retry, Started, Target, TraceParent,
};
use afflux_wire::{Code, Executed, Incarnation, NodeId, Stage, Status};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::oneshot;

use crate::balancer::{Candidate, Moment, Pick, schedule, score, spills};
use crate::config::{MeshConfig, mix, name_hash};
use crate::endpoint::{Endpoint, Reach};
use crate::hash::IdMap;
use crate::link::{Link, MethodName};
use crate::mesh::Shared;
use crate::metrics::MeshMetrics;
use crate::services::{ServiceTable, nearest};
use crate::target::{CalledService, CalledServices};

/// Endpoints that a call may try when the first one closes under its hands.
const PICKS_MAX: u32 = 3;
/// A call hedged "at its p95" gets its second attempt when this part of its like are answered.
const HEDGE_QUANTILE: f64 = 0.95;
/// A caller that waits for an endpoint looks again this often, whatever was announced.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The deadline of a call without types that sets none.
const RAW_DEADLINE: Duration = Duration::from_secs(30);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An immutable table of what can be called; rebuilt at every change of services, links or view.
#[derive(Default)]
pub(crate) struct Routes {
    services: IdMap<Arc<str>, Route>,
    /// Nodes that are known and to which there is no link.
    unlinked: usize,
}

struct Route {
    local: Option<Arc<ServiceEntry>>,
    /// Those of the own zone first.
    endpoints: Vec<Endpoint>,
    near: usize,
    schedule: Vec<u16>,
    policy: Policy,
    local_first: bool,
    /// The hash of this node's name.
    own: u64,
    called: Arc<CalledService>,
    picks: IntCounter,
}

/// A service while its route is built: here, over links, and how many of those drain.
type Offer<'a> = (Option<Arc<ServiceEntry>>, Vec<&'a Reach>, i64);

/// Where a call goes.
pub(crate) enum Choice {
    Local(Arc<ServiceEntry>),
    Link(Arc<Link>),
}

/// What routes are made from.
pub(crate) struct Ground<'a> {
    pub(crate) services: &'a ServiceTable,
    pub(crate) reaches: &'a [Reach],
    pub(crate) unlinked: usize,
    pub(crate) policies: &'a BTreeMap<String, Policy>,
    pub(crate) config: &'a MeshConfig,
    pub(crate) metrics: &'a Arc<MeshMetrics>,
}

impl Routes {
    pub(crate) fn build(ground: &Ground<'_>, called: &mut CalledServices) -> Self {
        let Ground { services, reaches, unlinked, policies, config, metrics } = ground;
        let mut found: BTreeMap<String, Offer<'_>> = BTreeMap::new();
        for entry in services.entries() {
            found.entry(entry.name.to_owned()).or_default().0 = Some(Arc::new(entry.clone()));
        }
        for reach in *reaches {
            for service in reach.link.offers.read().keys() {
                let (_, open, draining) = found.entry(service.clone()).or_default();
                if reach.open { open.push(reach) } else { *draining += 1 }
            }
        }
        called.tidy(|name| found.contains_key(name));
        let now = clock::now();
        let own = name_hash(config.node.as_str());
        let route = |(name, (local, reaches, draining)): (String, Offer<'_>)| {
            let called = called.service(&name, config, metrics, now);
            let near = |reach: &Reach| config.zone.is_some() && reach.labels.zone == config.zone;
            let mut endpoints: Vec<Endpoint> = reaches
                .into_iter()
                .map(|reach| Endpoint {
                    link: Arc::clone(&reach.link),
                    health: reach.link.health_in(&name, &called.group),
                    weight: reach.labels.weight,
                    near: near(reach),
                    hash: name_hash(reach.link.peer.as_str()),
                })
                .collect();
            endpoints.sort_by_key(|endpoint| !endpoint.near);
            let healths = endpoints.iter().map(|endpoint| Arc::clone(&endpoint.health)).collect();
            called.group.members(healths, i64::from(local.is_some()));
            metrics.endpoints.with_label_values(&[name.as_str(), "draining"]).set(draining);
            let policy = policies.get(&name).copied().unwrap_or(config.policy);
            let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
            let route = Route {
                local,
                near: endpoints.iter().filter(|endpoint| endpoint.near).count(),
                schedule: schedule(&weights),
                endpoints,
                policy,
                local_first: config.local_first,
                own,
                picks: metrics.picks(&name, policy.name()),
                called,
            };
            // Nothing is left of a service whose last endpoint drains, except its gauge.
            (Arc::from(name), route)
        };
        let services = found.into_iter().map(route).collect();
        Self { services, unlinked: *unlinked }
    }

    /// Zeroes the gauges of services that are gone.
    pub(crate) fn forget(&self, next: &Self, metrics: &MeshMetrics) {
        for name in self.services.keys().filter(|name| !next.services.contains_key(*name)) {
            for state in ["ready", "ejected", "draining"] {
                metrics.endpoints.with_label_values(&[name, state]).set(0);
            }
        }
    }

    /// A node that offers a service over a link, and the names of its methods.
    pub(crate) fn offered(&self, service: &str) -> Option<(NodeId, Vec<String>)> {
        let endpoints = &self.services.get(service)?.endpoints;
        let link = endpoints.iter().map(|endpoint| &endpoint.link).find(|link| link.is_up())?;
        let methods = link.offers.read().get(service)?.keys().cloned().collect();
        Some((link.peer.clone(), methods))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let reached = self.services.iter().filter(|(_, route)| route.is_reached());
        let mut names: Vec<String> = reached.map(|(name, _)| name.as_ref().to_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Picks an endpoint.
    #[inline]
    pub(crate) fn choose(
        &self,
        target: &Target,
        placement: &Placement<'_>,
        config: &MeshConfig,
    ) -> Result<Choice, Status> {
        let Some(route) = self.services.get(&target.service).filter(|route| route.is_reached()) else {
            return Err(self.nobody(target));
        };
        let picked = match &target.node {
            None => route.pick(placement),
            Some(node) if *node == config.node => route.local.clone().map(Choice::Local),
            Some(node) => route
                .endpoints
                .iter()
                .find(|endpoint| endpoint.link.peer == *node && endpoint.link.is_up())
                .map(|endpoint| route.over(endpoint, route.policy)),
        };
        match picked {
            Some(choice) => Ok(choice),
            None if placement.elsewhere => Err(self.nobody(target)),
            None if target.node.is_none() && route.endpoints.iter().any(|e| e.link.is_up()) => {
                Err(Status::new(
                    Code::ResourceExhausted,
                    format!(
                        "all {} endpoints of {} have as many unanswered calls as their in_flight_max \
                         allows: call less often, or run more instances",
                        route.endpoints.len(),
                        target.service
                    ),
                )
                .executed(Executed::No)
                .stage(Stage::Connect)
                .retry_after_ms(10))
            }
            None => Err(self.nobody(target)),
        }
    }

    #[cold]
    fn nobody(&self, target: &Target) -> Status {
        let Target { service, node, .. } = target;
        let text = match (node, self.services.get(service)) {
            (Some(node), Some(_)) => format!("node {node} does not offer {service}, or is not linked"),
            (Some(node), None) => format!("no link to node {node}, and nobody else offers {service}"),
            (None, Some(_)) => format!("every endpoint of {service} is going away"),
            (None, None) => format!("nobody offers {service}{}", nearest(service, self.names().into_iter())),
        };
        let waiting = match self.unlinked {
            0 => String::new(),
            n => format!("; {n} known nodes are not linked yet"),
        };
        Status::unavailable(text + &waiting).executed(Executed::No).stage(Stage::Connect)
    }
}

impl Route {
    fn is_reached(&self) -> bool {
        self.local.is_some() || !self.endpoints.is_empty()
    }

    fn over(&self, endpoint: &Endpoint, policy: Policy) -> Choice {
        if policy == self.policy {
            self.picks.inc()
        } else {
            self.called.picked_by(policy)
        }
        Choice::Link(Arc::clone(&endpoint.link))
    }

    #[inline]
    fn pick(&self, placement: &Placement<'_>) -> Option<Choice> {
        let here = |_: &&Arc<ServiceEntry>| !placement.elsewhere && placement.avoid != Some(&Avoid::Here);
        let local = self.local.as_ref().filter(here);
        if let Some(local) = local
            && (self.endpoints.is_empty() || (self.local_first && self.stays(placement)))
        {
            return Some(Choice::Local(Arc::clone(local)));
        }
        let policy = placement.policy.unwrap_or(self.policy);
        let key = placement.key.or((policy == Policy::ConsistentHash).then_some(self.own));
        let turn = self.called.turn.fetch_add(1, Ordering::Relaxed);
        let pick = Pick { policy, key, turn, schedule: &self.schedule, near: self.near };
        let moment = Moment::new(placement.avoid, placement.elsewhere);
        let picked = pick.among(&self.endpoints, &moment);
        match (local, picked) {
            (Some(local), Some(endpoint)) if self.prefers_local(local, &pick, endpoint, &moment) => {
                Some(Choice::Local(Arc::clone(local)))
            }
            (_, Some(endpoint)) => Some(self.over(endpoint, policy)),
            // Better full or failed here than nowhere.
            (Some(local), None) => Some(Choice::Local(Arc::clone(local))),
            (None, None) if !placement.elsewhere => self.local.clone().map(Choice::Local),
            (None, None) => None,
        }
    }

    /// Whether a call that could stay in this process does so without a look at the others.
    fn stays(&self, placement: &Placement<'_>) -> bool {
        let policy = placement.policy.unwrap_or(self.policy);
        placement.key.is_none() && !matches!(policy, Policy::ConsistentHash | Policy::LocalityFirst)
    }

    /// Whether the mailbox beside is taken rather than the endpoint that was picked of the others.
    fn prefers_local(
        &self,
        local: &ServiceEntry,
        pick: &Pick<'_>,
        endpoint: &Endpoint,
        moment: &Moment<'_>,
    ) -> bool {
        let others = self.endpoints.len() as u64;
        let depth = || local.dispatch.depth() as f32;
        match (pick.key, pick.policy) {
            (Some(key), _) => score(key, self.own) > score(key, endpoint.hash()),
            (None, Policy::LocalityFirst) if self.local_first => !spills(depth(), endpoint.load(moment)),
            // It is one of the two that are compared as often as each of the others is.
            (None, Policy::LeastLoaded | Policy::LocalityFirst) => {
                mix(!pick.turn) % (others + 1) < 2 && depth() <= endpoint.load(moment)
            }
            (None, _) => pick.turn % (others + 1) == others,
        }
    }

    /// Whether somebody else could be asked.
    fn has_another(&self, at: Option<&Avoid>) -> bool {
        let at_node =
            |endpoint: &Endpoint| matches!(at, Some(Avoid::Node(node)) if *node == endpoint.link.peer);
        self.endpoints.iter().any(|endpoint| endpoint.link.is_up() && !at_node(endpoint))
            || (self.local.is_some() && at != Some(&Avoid::Here))
    }
}

impl Shared {
    /// Any endpoint of a target.
    #[inline]
    pub(crate) fn choose(&self, target: &Target) -> Result<Choice, Status> {
        self.choose_at(target, &Placement::default())
    }

    /// An endpoint of a target where the call wants to go.
    #[inline]
    pub(crate) fn choose_at(&self, target: &Target, placement: &Placement<'_>) -> Result<Choice, Status> {
        if self.is_closed() {
            let text = format!("node {} has closed its mesh", self.config.node);
            return Err(Status::unavailable(text).executed(Executed::No).stage(Stage::Admission));
        }
        self.routes.read().choose(target, placement, &self.config)
    }

    /// A node that offers a service over a link, and the names of its methods.
    pub(crate) fn offered(&self, service: &str) -> Option<(NodeId, Vec<String>)> {
        self.routes.read().offered(service)
    }

    /// Sends over a link; another one when it closes meanwhile.
    pub(crate) fn send(
        &self,
        target: &Target,
        first: Arc<Link>,
        method: MethodName<'_>,
        one_way: bool,
        meta: &CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        let mut link = first;
        for _ in 1..PICKS_MAX {
            match link.start(&target.service, method, one_way, meta, call) {
                Err(status) if status.code == Code::Unavailable => {
                    match self.choose_at(target, &call.placement())? {
                        Choice::Link(other) => link = other,
                        Choice::Local(_) => return Err(status),
                    }
                }
                result => return result,
            }
        }
        link.start(&target.service, method, one_way, meta, call)
    }

    /// Resolves at the next change of what can be called, or after a moment.
    pub(crate) fn changed_since_now(&self, at_most: Duration) -> impl Future<Output = ()> + Send + 'static {
        let mut changes = self.changes.subscribe();
        async move {
            let wait = at_most.min(LOOK_AGAIN);
            let _ = tokio::time::timeout(wait, changes.changed()).await;
        }
    }

    /// The same as [`Shared::call_raw`], and follows the word that what is called lives elsewhere.
    pub(crate) async fn call_raw_following(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, Status> {
        let until = clock::now() + deadline;
        let mut target = target.clone();
        for _ in 0..REDIRECTS_MAX {
            let left = until.saturating_duration_since(clock::now());
            match self.call_raw(&target, method, params.clone(), left).await {
                Err(status) if status.was_executed() == Executed::No => match status.redirected() {
                    Some(redirect) => target.node = Some(redirect.node.clone()),
                    None => return Err(status),
                },
                answer => return answer,
            }
        }
        self.call_raw(&target, method, params, until.saturating_duration_since(clock::now())).await
    }

    /// A call without types: params and result are MessagePack.
    pub(crate) async fn call_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, Status> {
        let meta = CallMeta { deadline: Some(clock::now() + deadline), ..CallMeta::default() };
        self.call_raw_with(target, method, params, meta).await
    }

    /// A one-way call without types; it is on its way when this returns.
    pub(crate) fn tell_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        meta: CallMeta,
    ) -> Result<(), Status> {
        match self.choose(target)? {
            Choice::Local(entry) => {
                let index = method_index(&entry, method)?;
                entry.dispatch.dispatch(index, &params, meta, None);
            }
            Choice::Link(link) => {
                // The slot stays empty: nobody answers.
                let mut call = RawCall { params, slot: RawSlot::new().0 };
                self.send(target, link, MethodName::Typed(method), true, &meta, &mut call)?;
            }
        }
        Ok(())
    }

    /// An endpoint that understands a method, where the one that was picked does not.
    #[cold]
    fn compatible(&self, target: &Target, method: &MethodSpec) -> Option<Choice> {
        if target.node.is_some() {
            return None;
        }
        let routes = self.routes.read();
        let route = routes.services.get(&target.service)?;
        if let Some(local) = &route.local {
            return Some(Choice::Local(Arc::clone(local)));
        }
        route
            .endpoints
            .iter()
            .map(|endpoint| &endpoint.link)
            .filter(|link| link.is_up() && link.judged.refusal(&target.service, method.name).is_none())
            .min_by_key(|link| link.in_flight.load(Ordering::Relaxed))
            .map(|link| Choice::Link(Arc::clone(link)))
    }

    /// As [`Shared::call_raw`], with all that goes with a call. Dropping it cancels the call.
    pub(crate) async fn call_raw_with(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        mut meta: CallMeta,
    ) -> Result<Vec<u8>, Status> {
        let Some(span) = self.tracer.call(meta.trace.as_ref(), &target.service, method) else {
            return self.call_raw_once(target, method, params, meta).await;
        };
        span.attempt(None);
        meta.trace = Some(span.context());
        let result = self.call_raw_once(target, method, params, meta).await;
        span.ended(result.as_ref().map(|_| ()));
        result
    }

    async fn call_raw_once(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        mut meta: CallMeta,
    ) -> Result<Vec<u8>, Status> {
        let deadline_at = *meta.deadline.get_or_insert_with(|| clock::now() + RAW_DEADLINE);
        let (slot, mut answer) = RawSlot::new();
        let mut call = RawCall { params, slot: Arc::clone(&slot) };
        let started = loop {
            let chosen = match self.choose(target) {
                Ok(Choice::Local(entry)) => {
                    deliver_raw(&entry, method, &call.params, meta.clone(), &slot)?;
                    break None;
                }
                Ok(Choice::Link(link)) => {
                    self.send(target, link, MethodName::Typed(method), false, &meta, &mut call)
                }
                Err(status) => Err(status),
            };
            match chosen {
                Ok(Started::Remote(remote, id)) => break Some((remote, id)),
                Ok(Started::Local) => break None,
                Err(status) => {
                    let left = deadline_at.saturating_duration_since(clock::now());
                    let connecting = status.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Connect));
                    if status.code != Code::Unavailable || !connecting || left.is_zero() {
                        return Err(status);
                    }
                    self.changed_since_now(left).await;
                }
            }
        };
        let mut abandoned = Abandoned(started.clone(), Arc::clone(&slot));
        let result = tokio::time::timeout_at(deadline_at.into(), &mut answer).await;
        abandoned.0 = None;
        match result {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Status::internal("the call was dropped without an answer")),
            // The link fails its calls at their deadline itself, and says more.
            Err(_) => match answer.try_recv() {
                Ok(answer) => answer,
                Err(_) => {
                    if let Some((remote, id)) = started {
                        remote.cancel(id, "deadline");
                    }
                    let text = format!("{}/{method}: no answer before the deadline", target.service);
                    Err(Status::new(Code::DeadlineExceeded, text).stage(Stage::Running))
                }
            },
        }
    }
}

impl Caller for Shared {
    #[inline]
    fn start(
        &self,
        target: &Target,
        method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        if let Some(actor) = &target.actor {
            return self.start_actor(actor, target, method, meta, call);
        }
        let keyed = self.keyed_target(target, call);
        let target = keyed.as_ref().unwrap_or(target);
        let mut choice = self.choose_at(target, &call.placement())?;
        if let Choice::Link(link) = &choice
            && let Some(refusal) = link.judged.refusal(&target.service, method.name)
        {
            choice = self.compatible(target, method).ok_or_else(|| Status::clone(&refusal))?;
        }
        match choice {
            Choice::Local(entry) => {
                call.deliver(&*entry.endpoint, meta)?;
                Ok(Started::Local)
            }
            Choice::Link(link) => {
                let one_way = !method.expects_answer();
                self.send(target, link, MethodName::Spec(method), one_way, &meta, call)
            }
        }
    }

    fn retry(&self, target: &Target, failure: &Failure<'_>) -> Retry {
        let routes = self.routes.read();
        let Some(route) = routes.services.get(&target.service) else {
            // Nobody offers it at this moment: the call waits for somebody, as a first attempt does.
            return Retry::After(failure.hint());
        };
        let only_here = failure.at == Some(&Avoid::Here);
        if only_here && (target.node.is_some() || !route.has_another(failure.at)) {
            return Retry::No;
        }
        let called = Arc::clone(&route.called);
        drop(routes);
        called.retry(failure, clock::now())
    }

    fn hedge_after(&self, target: &Target, method: &'static MethodSpec, hedge: Hedge) -> Option<Duration> {
        match hedge {
            Hedge::After(delay) => Some(delay),
            Hedge::P95 => self.metrics.latency(&target.service, method.name).quantile(HEDGE_QUANTILE),
        }
    }

    fn may_hedge(&self, target: &Target, placement: &Placement<'_>) -> bool {
        let routes = self.routes.read();
        let route = routes.services.get(&target.service).filter(|_| target.node.is_none());
        let Some(route) = route.filter(|route| route.has_another(placement.avoid)) else { return false };
        let called = Arc::clone(&route.called);
        drop(routes);
        called.hedge(clock::now())
    }

    #[inline]
    fn trace(&self, parent: Option<&TraceParent>, service: &str, method: &str) -> Option<Box<dyn CallSpan>> {
        self.tracer.call(parent, service, method)
    }

    fn changed(&self) -> BoxFuture<()> {
        Box::pin(self.changed_since_now(LOOK_AGAIN))
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<()> {
        Box::pin(async move { tokio::time::sleep_until(at.into()).await })
    }

    fn now(&self) -> Instant {
        clock::now()
    }

    fn node(&self) -> Option<&NodeId> {
        Some(&self.config.node)
    }

    fn incarnation(&self) -> Incarnation {
        self.config.incarnation
    }
}

fn deliver_raw(
    entry: &ServiceEntry,
    method: &str,
    params: &[u8],
    meta: CallMeta,
    slot: &Arc<RawSlot>,
) -> Result<(), Status> {
    let index = method_index(entry, method)?;
    let sink = Arc::clone(slot) as Arc<dyn ResponseSink>;
    entry.dispatch.dispatch(index, params, meta, Some(ReplyTo::new(sink, 0)));
    Ok(())
}

pub(crate) fn method_index(entry: &ServiceEntry, method: &str) -> Result<usize, Status> {
    entry.methods.iter().position(|spec| spec.name == method).ok_or_else(|| {
        let names = entry.methods.iter().map(|spec| spec.name.to_owned());
        Status::new(
            Code::Unimplemented,
            format!("service {} has no method `{method}`{}", entry.name, nearest(method, names)),
        )
        .executed(Executed::No)
    })
}

/// A call on its way whose future may be dropped before its answer comes.
struct Abandoned(Option<(Arc<dyn Remote>, u64)>, Arc<RawSlot>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some((remote, id)) = self.0.take() {
            remote.cancel(id, "dropped");
        }
        self.1.leave();
    }
}

pub(crate) struct RawCall {
    pub(crate) params: Vec<u8>,
    pub(crate) slot: Arc<RawSlot>,
}

impl Outgoing for RawCall {
    fn encode(&mut self, buffer: &mut Vec<u8>) -> Result<(), Status> {
        buffer.extend_from_slice(&self.params);
        Ok(())
    }

    fn deliver(&mut self, _: &(dyn std::any::Any + Send + Sync), _: CallMeta) -> Result<(), Status> {
        Err(Status::internal("a call without types is delivered as bytes"))
    }

    fn slot(&self) -> Arc<dyn ResponseSlot> {
        Arc::clone(&self.slot) as Arc<dyn ResponseSlot>
    }
}

/// Takes the answer of a call without types, from a link or from a mailbox beside.
pub(crate) struct RawSlot {
    sender: Mutex<Option<oneshot::Sender<RawAnswer>>>,
    /// What the calls of a handler beside share, cancelled when nobody waits for its answer.
    scope: Mutex<Option<Arc<CallScope>>>,
}

pub(crate) type RawAnswer = Result<Vec<u8>, Status>;

impl RawSlot {
    pub(crate) fn new() -> (Arc<Self>, oneshot::Receiver<RawAnswer>) {
        let (sender, receiver) = oneshot::channel();
        (Arc::new(Self { sender: Mutex::new(Some(sender)), scope: Mutex::default() }), receiver)
    }

    fn fill(&self, result: Result<Vec<u8>, Status>) {
        if let Some(sender) = self.sender.lock().take() {
            self.scope.lock().take();
            // Nobody waits any more: then nobody misses it.
            let _ = sender.send(result);
        }
    }

    /// Nobody waits for the answer.
    fn leave(&self) {
        let scope = self.scope.lock().take();
        if let Some(scope) = scope {
            scope.cancel();
        }
    }
}

impl ResponseSlot for RawSlot {
    fn complete(&self, result: Result<&[u8], Status>) {
        self.fill(result.map(<[u8]>::to_vec));
    }
}

impl ResponseSink for RawSlot {
    fn respond(&self, _: u64, result: Result<&[u8], &Status>) {
        self.fill(result.map(<[u8]>::to_vec).map_err(Clone::clone));
    }

    fn is_cancelled(&self, _: u64) -> bool {
        self.sender.lock().as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn on_cancel(&self, id: u64, scope: &Arc<CallScope>) {
        *self.scope.lock() = Some(Arc::clone(scope));
        if self.is_cancelled(id) {
            self.leave();
        }
    }
}

/// What somebody who waits for a node is told.
pub(crate) fn no_link(node: &NodeId) -> Status {
    Status::unavailable(format!("there is no link to node {node}"))
        .executed(Executed::No)
        .stage(Stage::Connect)
}
