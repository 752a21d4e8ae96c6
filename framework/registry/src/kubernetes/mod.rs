//! Kubernetes: a Lease (`coordination.k8s.io`) for each node, lock and counter, and, where a headless
//! Service is named, its EndpointSlices for which pods are ready. Nothing else is read or written, so a
//! Role with these two kinds is enough.
//!
//! A node's Lease carries its record as an annotation. Times in a Lease are those of whoever wrote it,
//! and clocks differ: like Kubernetes' own leader election, a Lease counts as expired when it has not
//! changed for its duration *since it was seen to change here*.
//!
//! The fencing token of a lock is the number of its holders so far (`leaseTransitions`) above the
//! cluster's resource version before the Lease was created: both only grow, so a token is greater than
//! all before it even when somebody deleted the Lease in between.

mod counter;
mod follow;
mod lock;
mod objects;
mod shared;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use afflux_wire::NodeId;
use futures_core::future::BoxFuture;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::coordination::Spawner;
use crate::error::RegistryError;
use crate::instance::Instance;
use crate::registry::{Fence, LeaseId, Registry, check_ttl, sum};
use crate::view::{View, Watcher};
use objects::Kind;
use shared::{Held, Shared};

const NAME: &str = "kubernetes";

/// How the API server is reached, and what is used there.
#[derive(Clone)]
pub struct KubernetesConfig {
    /// The cluster's name, a label of everything that belongs to it.
    pub cluster: String,
    /// The namespace; empty for that of the pod, or of the kubeconfig.
    pub namespace: String,
    /// The headless Service whose EndpointSlices say which pods are ready.
    pub service: Option<String>,
    /// A kubeconfig as YAML; without one the pod's service account, else the usual file.
    pub kubeconfig: Option<String>,
    /// A request is given up after this long.
    pub operation_max: Duration,
    /// A silent watch is checked by a request after this long.
    pub probe_every: Duration,
    /// The wall clock, for the times that a Lease shows.
    pub wall: fn() -> SystemTime,
}

impl KubernetesConfig {
    /// Leases of this cluster in the pod's namespace, found as a pod finds its API server.
    pub fn new(cluster: impl Into<String>, wall: fn() -> SystemTime) -> Self {
        Self {
            cluster: cluster.into(),
            namespace: String::new(),
            service: None,
            kubeconfig: None,
            operation_max: Duration::from_secs(2),
            probe_every: Duration::from_secs(2),
            wall,
        }
    }
}

impl std::fmt::Debug for KubernetesConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KubernetesConfig({} in {:?}, service {:?})", self.cluster, self.namespace, self.service)
    }
}

/// A registry in Kubernetes.
pub struct KubernetesRegistry {
    shared: Arc<Shared>,
}

impl KubernetesRegistry {
    /// A registry that is followed from now on by what `spawner` runs, until it is dropped. An API
    /// server that cannot be reached shows in the view. Must be called inside tokio.
    ///
    /// # Errors
    /// [`RegistryError::Setup`]: no way to an API server is configured.
    pub async fn start(config: KubernetesConfig, spawner: Spawner) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Setup { registry: NAME, reason };
        let access = match &config.kubeconfig {
            Some(text) => {
                let kubeconfig = Kubeconfig::from_yaml(text)
                    .map_err(|error| wrong(format!("the kubeconfig cannot be read: {error}")))?;
                let options = KubeConfigOptions::default();
                kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(|error| wrong(format!("the kubeconfig cannot be used: {error}")))?
            }
            None => kube::Config::infer().await.map_err(|error| {
                wrong(format!("there is no API server here: {error}: run in a pod or set a kubeconfig"))
            })?,
        };
        let client = kube::Client::try_from(access)
            .map_err(|error| wrong(format!("the API server cannot be used: {error}")))?;
        let shared = Arc::new(Shared::new(config, client));
        spawner(Box::pin(follow::follow_leases(Arc::downgrade(&shared))));
        if shared.config.service.is_some() {
            spawner(Box::pin(follow::follow_slices(Arc::downgrade(&shared))));
        }
        Ok(Self { shared })
    }

    async fn put_record(&self, instance: Instance, ttl: Duration) -> Result<LeaseId, RegistryError> {
        check_ttl(ttl)?;
        let shared = &*self.shared;
        let holder = format!("{}/{}", instance.node, instance.incarnation.0);
        let record = serde_json::to_string(&instance)
            .map_err(|error| RegistryError::Setup { registry: NAME, reason: error.to_string() })?;
        loop {
            let present = shared.get(Kind::Node, instance.node.as_str()).await?;
            let alive = present.as_ref().filter(|lease| shared.is_alive(lease));
            if let Some(there) = alive.and_then(objects::record_of) {
                instance.check_not_superseded(there.incarnation)?;
            }
            let mut lease = present.unwrap_or_else(|| {
                objects::empty(&shared.config.cluster, Kind::Node, instance.node.as_str())
            });
            objects::take(&mut lease, &holder, ttl, shared.now());
            objects::annotate(&mut lease, objects::RECORD, record.clone());
            if let Some(written) = shared.write(lease).await? {
                return Ok(LeaseId(shared.hold(Held::new(&written, ttl))));
            }
        }
    }
}

impl Registry for KubernetesRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
        Box::pin(self.put_record(instance, ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            match self.shared.extend(lease.0).await? {
                true => Ok(()),
                false => Err(RegistryError::LeaseLost { registry: NAME, lease }),
            }
        })
    }

    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(self.shared.give_up(lease.0))
    }

    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
        Box::pin(self.shared.look())
    }

    fn record<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<Option<Instance>, RegistryError>> {
        Box::pin(async move {
            let lease = self.shared.get(Kind::Node, node.as_str()).await?;
            Ok(lease.filter(|lease| self.shared.is_alive(lease)).as_ref().and_then(objects::record_of))
        })
    }

    fn watch(&self) -> Watcher {
        self.shared.publisher.watcher()
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
        Box::pin(lock::acquire(&self.shared, name, holder, ttl))
    }

    fn lock<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Fence, RegistryError>> {
        Box::pin(lock::wait(&self.shared, name, holder, ttl))
    }

    fn renew<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(lock::renew(&self.shared, name, fence))
    }

    fn release<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(lock::release(&self.shared, name, fence))
    }

    fn holder<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
        Box::pin(lock::holder(&self.shared, name))
    }

    fn counter<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
        Box::pin(counter::get(&self.shared, name))
    }

    fn counter_compare_and_set<'a>(
        &'a self,
        name: &'a str,
        expected: i64,
        new: i64,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            let set = counter::change(&self.shared, name, |v| Ok((v == expected).then_some(new))).await?;
            Ok(set.is_some())
        })
    }

    fn counter_add<'a>(&'a self, name: &'a str, n: i64) -> BoxFuture<'a, Result<i64, RegistryError>> {
        Box::pin(async move {
            let new = counter::change(&self.shared, name, |value| sum(name, value, n).map(Some)).await?;
            Ok(new.unwrap_or_default())
        })
    }
}
