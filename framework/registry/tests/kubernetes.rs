//! The suite, and faults, over a real API server of Kubernetes, as a user who may do what the chart's Role
//! allows: `tests/servers/kube.sh start DIR` prints what `AFFLUX_TEST_KUBERNETES` has to be.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[macro_use]
mod faults;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::suite::every_behaviour;
use afflux_registry::{Instance, InstanceState, KubernetesConfig, KubernetesRegistry, Registry, View};
use afflux_wire::{Incarnation, NodeId};
use faults::{Backend, Linked, TTL, until};
use futures_util::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use support::{address, spawner, unique};

struct Cluster {
    kubeconfig: String,
    name: String,
    registry: Arc<KubernetesRegistry>,
}

impl Cluster {
    async fn with_service(kubeconfig: &str, link: Option<SocketAddr>, service: Option<String>) -> Self {
        let mut text = std::fs::read_to_string(kubeconfig).unwrap();
        if let Some(link) = link {
            text = text.replace(&Self::target(kubeconfig), &link.to_string());
        }
        // A label's value, so at most 63 bytes.
        let name = unique("t");
        let mut config = KubernetesConfig::new(&name, std::time::SystemTime::now);
        config.kubeconfig = Some(text);
        config.service = service;
        config.operation_max = Duration::from_secs(3);
        config.probe_every = Duration::from_secs(1);
        let registry = Arc::new(KubernetesRegistry::start(config, spawner()).await.unwrap());
        Self { kubeconfig: kubeconfig.to_owned(), name, registry }
    }

    /// A client that may do everything, with no fault in between.
    async fn admin(&self) -> Client {
        let text =
            std::fs::read_to_string(self.kubeconfig.replace("node.kubeconfig", "admin.kubeconfig")).unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

impl Backend for Cluster {
    const SCRIPT: &'static str = "kube.sh";
    const VARIABLE: &'static str = "AFFLUX_TEST_KUBERNETES";

    fn target(kubeconfig: &str) -> String {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        text.split("https://").nth(1).unwrap().lines().next().unwrap().to_owned()
    }
    async fn connect(kubeconfig: &str, link: SocketAddr, test: &str) -> Self {
        let cluster = Self::with_service(kubeconfig, Some(link), None).await;
        tracing::debug!(test, cluster.name, "a cluster of its own");
        cluster
    }
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry) as _
    }
    fn forget(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let leases: Api<Lease> = Api::default_namespaced(self.admin().await);
            let ours = ListParams::default().labels(&format!("afflux.dev/cluster={}", self.name));
            leases.delete_collection(&DeleteParams::default(), &ours).await.unwrap();
        })
    }
}

macro_rules! over_kubernetes {
    ($($behaviour:ident),* $(,)?) => { over_server!(Cluster, "needs kubernetes", $($behaviour),*); };
}
every_behaviour!(over_kubernetes);

fn slice(service: &str, pods: &[(&str, bool, bool)]) -> EndpointSlice {
    let endpoint = |(address, serving, terminating): &(&str, bool, bool)| Endpoint {
        addresses: vec![(*address).to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(*serving && !*terminating),
            serving: Some(*serving),
            terminating: Some(*terminating),
        }),
        ..Endpoint::default()
    };
    let mut slice = EndpointSlice {
        address_type: "IPv4".into(),
        endpoints: pods.iter().map(endpoint).collect(),
        ports: Some(vec![EndpointPort {
            name: Some("node".into()),
            port: Some(7000),
            ..EndpointPort::default()
        }]),
        ..EndpointSlice::default()
    };
    slice.metadata.name = Some(format!("{service}-x7k2p"));
    slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), service.to_owned())].into());
    slice
}

fn states(view: &View) -> Vec<(&str, bool)> {
    view.instances.iter().map(|i| (i.node.as_str(), i.state == InstanceState::Ready)).collect()
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn pods_come_and_go_as_the_slices_of_the_service_say() {
    let service = unique("svc");
    let cluster = Cluster::with_service(&address(Cluster::VARIABLE), None, Some(service.clone())).await;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.admin().await);
    let mut watcher = cluster.registry.watch();
    let pod =
        |name: &str, host: &str| Instance::new(NodeId::new(name), Incarnation(1), format!("{host}:7000"));
    cluster.registry.register(pod("a", "10.0.0.1"), TTL * 20).await.unwrap();
    cluster.registry.register(pod("b", "10.0.0.2"), TTL * 20).await.unwrap();
    until(&mut watcher, |view| view.reachable && states(view) == [("a", false), ("b", false)]).await;
    let both = slice(&service, &[("10.0.0.1", true, false), ("10.0.0.2", true, false)]);
    slices.create(&PostParams::default(), &both).await.unwrap();
    until(&mut watcher, |view| states(view) == [("a", true), ("b", true)]).await;
    // A rolling update: one pod ends, another is ready before it has written a Lease.
    let mut rolling =
        slice(&service, &[("10.0.0.1", true, true), ("10.0.0.2", true, false), ("10.0.0.3", true, false)]);
    let name = rolling.metadata.name.clone().unwrap();
    rolling.metadata.resource_version = slices.get(&name).await.unwrap().metadata.resource_version;
    slices.replace(&name, &PostParams::default(), &rolling).await.unwrap();
    let wanted = [("10.0.0.3:7000", true), ("a", false), ("b", true)];
    until(&mut watcher, |view| states(view) == wanted).await;
    cluster.registry.register(pod("c", "10.0.0.3"), TTL * 20).await.unwrap();
    until(&mut watcher, |view| states(view) == [("a", false), ("b", true), ("c", true)]).await;
    assert_eq!(states(&cluster.registry.view().await.unwrap()), [("a", false), ("b", true), ("c", true)]);
    slices.delete(&name, &DeleteParams::default()).await.unwrap();
    until(&mut watcher, |view| states(view) == [("a", false), ("b", false), ("c", false)]).await;
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn the_lease_of_a_lock_that_somebody_deleted_leaves_no_smaller_token_behind() {
    let Linked { backend: cluster, proxy: _open } = Linked::<Cluster>::shared("deleted").await;
    let mut last = 0;
    for round in 0..4 {
        let fence = cluster.registry.acquire("x", &format!("a/{round}"), TTL).await.unwrap().unwrap();
        assert!(fence.0 > last, "{} after {last}", fence.0);
        last = fence.0;
        match round % 2 {
            0 => cluster.registry.release("x", fence).await.unwrap(),
            _ => cluster.forget().await,
        }
    }
}

#[tokio::test]
#[ignore = "needs kubernetes"]
async fn another_client_believes_a_lease_until_it_has_seen_it_stand_still() {
    let Linked { backend: cluster, proxy: _open } = Linked::<Cluster>::shared("skew").await;
    let fence = cluster.registry.acquire("x", "a/1", TTL).await.unwrap().unwrap();
    // A clock that is ten seconds ahead takes nobody's lock.
    let mut config =
        KubernetesConfig::new(&cluster.name, || std::time::SystemTime::now() + Duration::from_secs(10));
    config.kubeconfig = Some(std::fs::read_to_string(&cluster.kubeconfig).unwrap());
    let ahead = KubernetesRegistry::start(config, spawner()).await.unwrap();
    assert_eq!(ahead.acquire("x", "b/1", TTL).await.unwrap(), None);
    cluster.registry.renew("x", fence).await.unwrap();
    let next = tokio::time::timeout(TTL * 3, ahead.lock("x", "b/1", TTL)).await.unwrap().unwrap();
    assert!(next > fence);
}
