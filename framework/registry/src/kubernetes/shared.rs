//! Requests to the API server, what this process holds there, and what was seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::objects::{
    CLUSTER, Kind, age_of, combine, empty, endpoints, extend, holder_of, name_of, object_name, record_of,
    transitions_of, ttl_of, version_of,
};
use super::{KubernetesConfig, NAME};
use crate::error::RegistryError;
use crate::instance::Instance;
use crate::view::{Publisher, View};

/// Clocks that differ by more than this are not believed: a Lease whose last extension is older than
/// this and its duration is dead already when it is first seen.
const SKEW_MAX: Duration = Duration::from_secs(30);
/// A Lease of a node that is dead for this many times its duration is deleted by whoever sees it,
const LITTER_TTLS: u32 = 10;
/// and not before this long.
const LITTER_MIN: Duration = Duration::from_secs(60);

/// A Lease that this process holds.
#[derive(Clone)]
pub(super) struct Held {
    lease: Lease,
    ttl: Duration,
    expires_at: Instant,
}

impl Held {
    pub(super) fn new(lease: &Lease, ttl: Duration) -> Self {
        Self { lease: lease.clone(), ttl, expires_at: Instant::now() + ttl }
    }
}

/// When a version of a Lease was first seen here.
struct Observed {
    version: String,
    at: Instant,
    /// It was dead when it was first seen.
    dead: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) leases: BTreeMap<String, Lease>,
    pub(super) slices: BTreeMap<String, EndpointSlice>,
    observed: BTreeMap<String, Observed>,
    held: BTreeMap<u64, Held>,
    /// Which of the two watches is up.
    pub(super) leases_up: bool,
    pub(super) slices_up: bool,
}

impl State {
    /// Forgets when things were seen that are there no more.
    pub(super) fn forget_others(&mut self) {
        let Self { observed, leases, .. } = self;
        observed.retain(|name, _| leases.contains_key(name));
    }
}

pub(super) struct Shared {
    pub(super) config: KubernetesConfig,
    pub(super) leases: Api<Lease>,
    pub(super) slices: Api<EndpointSlice>,
    pub(super) publisher: Publisher,
    pub(super) state: Mutex<State>,
    /// Changes with every change of a lock, for those who wait.
    pub(super) locks: watch::Sender<u64>,
    numbers: AtomicU64,
}

/// What the API server says.
pub(super) type Answer<T> = Result<T, kube::Error>;

/// A request that met another: the object is there already, is gone, or has changed.
pub(super) fn met_another(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

pub(super) fn said(error: &kube::Error) -> RegistryError {
    let reason = match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    };
    RegistryError::Unreachable { registry: NAME, reason }
}

impl Shared {
    pub(super) fn new(config: KubernetesConfig, client: kube::Client) -> Self {
        let namespace = match config.namespace.as_str() {
            "" => client.default_namespace().to_owned(),
            namespace => namespace.to_owned(),
        };
        let slices_up = config.service.is_none();
        Self {
            leases: Api::namespaced(client.clone(), &namespace),
            slices: Api::namespaced(client, &namespace),
            config,
            publisher: Publisher::new(),
            state: Mutex::new(State { slices_up, ..State::default() }),
            locks: watch::Sender::new(0),
            numbers: AtomicU64::new(1),
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.config.wall)()
    }

    pub(super) fn lease_labels(&self) -> String {
        format!("{CLUSTER}={}", self.config.cluster)
    }

    pub(super) fn slice_labels(&self) -> String {
        format!("kubernetes.io/service-name={}", self.config.service.as_deref().unwrap_or_default())
    }

    /// One request, with its time limit.
    pub(super) async fn within<T>(
        &self,
        answer: impl Future<Output = Answer<T>>,
    ) -> Result<Answer<T>, RegistryError> {
        timeout(self.config.operation_max, answer).await.map_err(|_elapsed| RegistryError::Unreachable {
            registry: NAME,
            reason: format!("no answer within {:?}", self.config.operation_max),
        })
    }

    pub(super) async fn get(&self, kind: Kind, name: &str) -> Result<Option<Lease>, RegistryError> {
        let name = object_name(&self.config.cluster, kind, name);
        let lease = self.within(self.leases.get_opt(&name)).await?.map_err(|error| said(&error))?;
        if let Some(lease) = &lease {
            self.observe(lease);
        }
        Ok(lease)
    }

    /// Creates or replaces; `None` when somebody else was faster.
    pub(super) async fn write(&self, lease: Lease) -> Result<Option<Lease>, RegistryError> {
        let params = PostParams::default();
        let name = name_of(&lease).to_owned();
        let written = match lease.metadata.resource_version.is_some() {
            true => self.within(self.leases.replace(&name, &params, &lease)).await?,
            false => self.within(self.leases.create(&params, &lease)).await?,
        };
        match written {
            Ok(lease) => {
                self.observe(&lease);
                Ok(Some(lease))
            }
            Err(error) if met_another(&error) => Ok(None),
            Err(error) => Err(said(&error)),
        }
    }

    /// Deletes this version of an object; false when it has changed.
    pub(super) async fn delete(&self, lease: &Lease) -> Result<bool, RegistryError> {
        let preconditions = Preconditions {
            resource_version: lease.metadata.resource_version.clone(),
            uid: lease.metadata.uid.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.within(self.leases.delete(name_of(lease), &params)).await? {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            Err(error) if met_another(&error) => Ok(false),
            Err(error) => Err(said(&error)),
        }
    }

    /// Notes when this version was first seen; returns until when it lives, or `None` when it is dead.
    fn observe_in(&self, state: &mut State, lease: &Lease) -> Option<Instant> {
        let (version, now) = (version_of(lease), Instant::now());
        let ttl = ttl_of(lease);
        let known = state.observed.get(name_of(lease)).filter(|known| known.version == version);
        let (at, dead) = match known {
            Some(known) => (known.at, known.dead),
            None => {
                let first = !state.observed.contains_key(name_of(lease));
                let dead = first && age_of(lease, self.now()).is_some_and(|age| age > ttl + SKEW_MAX);
                let seen = Observed { version: version.to_owned(), at: now, dead };
                state.observed.insert(name_of(lease).to_owned(), seen);
                (now, dead)
            }
        };
        let until = at + ttl;
        (holder_of(lease).is_some() && !dead && until > now).then_some(until)
    }

    fn observe(&self, lease: &Lease) -> Option<Instant> {
        self.observe_in(&mut self.state.lock(), lease)
    }

    /// Whether somebody holds it and has extended it in time.
    pub(super) fn is_alive(&self, lease: &Lease) -> bool {
        self.observe(lease).is_some()
    }

    /// Until when it lives if nobody extends it.
    pub(super) fn alive_until(&self, lease: &Lease) -> Option<Instant> {
        self.observe(lease)
    }

    pub(super) fn hold(&self, held: Held) -> u64 {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.state.lock().held.insert(id, held);
        id
    }

    /// Extends what is held; false when it is lost, and then it is forgotten.
    pub(super) async fn extend(&self, id: u64) -> Result<bool, RegistryError> {
        loop {
            let asked = Instant::now();
            let Some(held) = self.state.lock().held.get(&id).cloned() else { return Ok(false) };
            if held.expires_at <= asked {
                self.state.lock().held.remove(&id);
                return Ok(false);
            }
            let mut wanted = held.lease.clone();
            extend(&mut wanted, self.now());
            let written = match self.write(wanted).await? {
                Some(written) => written,
                None => match self.still_ours(&held.lease).await? {
                    Some(fresh) => {
                        // Changed by somebody else, and still ours: the same again on top of that.
                        if let Some(held) = self.state.lock().held.get_mut(&id) {
                            held.lease = fresh;
                        }
                        continue;
                    }
                    None => {
                        self.state.lock().held.remove(&id);
                        return Ok(false);
                    }
                },
            };
            if let Some(held) = self.state.lock().held.get_mut(&id) {
                held.lease = written;
                held.expires_at = asked + held.ttl;
            }
            return Ok(true);
        }
    }

    /// The object as it is now, if it is the same term of the same holder.
    async fn still_ours(&self, lease: &Lease) -> Result<Option<Lease>, RegistryError> {
        let now = self.within(self.leases.get_opt(name_of(lease))).await?.map_err(|error| said(&error))?;
        Ok(now.filter(|now| {
            now.metadata.uid == lease.metadata.uid
                && transitions_of(now) == transitions_of(lease)
                && holder_of(now) == holder_of(lease)
        }))
    }

    /// Deletes what is held; what is lost already is no error.
    pub(super) async fn give_up(&self, id: u64) -> Result<(), RegistryError> {
        let Some(held) = self.state.lock().held.get(&id).cloned() else { return Ok(()) };
        let mut lease = Some(held.lease);
        while let Some(ours) = lease.take() {
            if !self.delete(&ours).await? {
                lease = self.still_ours(&ours).await?;
            }
        }
        self.state.lock().held.remove(&id);
        Ok(())
    }

    /// The newest resource version of the cluster.
    pub(super) async fn cluster_version(&self) -> Result<u64, RegistryError> {
        let params = ListParams::default().limit(1);
        let list = self.within(self.leases.list(&params)).await?.map_err(|error| said(&error))?;
        Ok(list.metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0))
    }

    /// Asks for everything now.
    pub(super) async fn look(&self) -> Result<Arc<View>, RegistryError> {
        let params = ListParams::default().labels(&self.lease_labels());
        let leases = self.within(self.leases.list(&params)).await?.map_err(|error| said(&error))?.items;
        if self.config.service.is_some() {
            let params = ListParams::default().labels(&self.slice_labels());
            let slices = self.within(self.slices.list(&params)).await?.map_err(|error| said(&error))?.items;
            let named = slices.into_iter().map(|s| (s.metadata.name.clone().unwrap_or_default(), s));
            self.state.lock().slices = named.collect();
        }
        let mut state = self.state.lock();
        // A watch that lags behind this list sets old versions for a moment; the next event mends that.
        state.leases = leases.into_iter().map(|lease| (name_of(&lease).to_owned(), lease)).collect();
        let (instances, _) = self.instances(&mut state);
        self.publisher.seen(instances.clone());
        let version = self.publisher.view().version;
        Ok(Arc::new(View { version, instances, reachable: true }))
    }

    /// The living records, and when the next of them ends.
    fn instances(&self, state: &mut State) -> (Vec<Instance>, Option<Instant>) {
        let leases: Vec<Lease> =
            state.leases.values().filter(|lease| Kind::of(lease) == Some(Kind::Node)).cloned().collect();
        let (mut records, mut next) = (Vec::new(), None::<Instant>);
        for lease in &leases {
            if let (Some(until), Some(record)) = (self.observe_in(state, lease), record_of(lease)) {
                records.push(record);
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        let pods = self.config.service.is_some().then(|| endpoints(state.slices.values()));
        let mut instances = combine(records, pods);
        instances.sort_by(|a, b| a.node.cmp(&b.node));
        (instances, next)
    }

    /// Publishes what is known, if both watches are up; returns when the next record ends.
    pub(super) fn publish(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let (instances, next) = self.instances(&mut state);
        if state.leases_up && state.slices_up {
            self.publisher.seen(instances);
        }
        next
    }

    /// Leases of nodes that are dead for long.
    pub(super) fn litter(&self) -> Vec<Lease> {
        let state = self.state.lock();
        let old = |lease: &&Lease| {
            let seen = state.observed.get(name_of(lease));
            Kind::of(lease) == Some(Kind::Node)
                && seen.is_some_and(|seen| seen.at.elapsed() > (ttl_of(lease) * LITTER_TTLS).max(LITTER_MIN))
        };
        state.leases.values().filter(old).cloned().collect()
    }

    /// Forgets when something was seen that is there no more.
    pub(super) fn forget(&self, name: &str) {
        self.state.lock().observed.remove(name);
    }

    /// A Lease of this kind that is not there yet.
    pub(super) fn fresh(&self, kind: Kind, name: &str) -> Lease {
        empty(&self.config.cluster, kind, name)
    }
}
