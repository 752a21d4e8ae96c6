//! The suite, and faults, over a real etcd: `tests/servers/etcd.sh start DIR` prints what
//! `AFFLUX_TEST_ETCD` has to be.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::suite::{self, Fixture, every_behaviour};
use afflux_registry::{
    EtcdConfig, EtcdRegistry, Instance, Registration, RegistrationState, Registry, RegistryError, View,
    Watcher,
};
use afflux_wire::Incarnation;
use futures_util::future::BoxFuture;
use support::{Proxy, Server, address, pass, spawner, unique};

const TTL: Duration = Duration::from_secs(3);

struct Etcd {
    proxy: Proxy,
    server: String,
    base: String,
    registry: Arc<EtcdRegistry>,
}

impl Etcd {
    async fn new(server: &str, test: &str) -> Self {
        let proxy = Proxy::new(server).await;
        let base = format!("/test/{}", unique(test));
        let registry = Arc::new(connect(&proxy, &base));
        Self { proxy, server: server.to_owned(), base, registry }
    }

    fn etcdctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.server]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn connect(proxy: &Proxy, base: &str) -> EtcdRegistry {
    let mut config = EtcdConfig::new([proxy.address.to_string()], base);
    config.operation_max = Duration::from_secs(3);
    EtcdRegistry::start(config, spawner()).unwrap()
}

impl Fixture for Etcd {
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry) as _
    }
    fn cut(&self) {
        self.proxy.cut();
    }
    fn heal(&self) {
        self.proxy.heal();
    }
    fn forget(&self) -> BoxFuture<'_, ()> {
        self.etcdctl(&["del", "--prefix", &format!("{}/nodes/", self.base)]);
        self.etcdctl(&["del", "--prefix", &format!("{}/locks/", self.base)]);
        Box::pin(std::future::ready(()))
    }
    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(pass(span))
    }
    fn ttl(&self) -> Duration {
        TTL
    }
}

macro_rules! over_etcd {
    ($($behaviour:ident),* $(,)?) => {$(
        #[tokio::test]
        #[ignore = "needs etcd"]
        async fn $behaviour() {
            let etcd = Etcd::new(&address("AFFLUX_TEST_ETCD"), stringify!($behaviour)).await;
            suite::$behaviour(&etcd).await;
        }
    )*};
}
every_behaviour!(over_etcd);

async fn until(watcher: &mut Watcher, fits: impl Fn(&View) -> bool) -> Arc<View> {
    let search = async {
        loop {
            let view = watcher.next().await.unwrap();
            if fits(&view) {
                return view;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), search).await.expect("no such view came")
}

fn instance(name: &str) -> Instance {
    Instance::new(name, Incarnation(1), format!("{name}.test:7400"))
}

fn there(view: &View, names: &[&str]) -> bool {
    view.reachable && view.instances.iter().map(|i| i.node.as_str()).eq(names.iter().copied())
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_watch_that_fell_behind_a_compaction_lists_again() {
    let etcd = Etcd::new(&address("AFFLUX_TEST_ETCD"), "compaction").await;
    let mut watcher = etcd.registry.watch();
    etcd.registry.register(instance("a"), TTL * 10).await.unwrap();
    until(&mut watcher, |view| there(view, &["a"])).await;
    etcd.proxy.cut();
    until(&mut watcher, |view| !view.reachable).await;
    // Meanwhile one comes by another way, one goes, and the history of it is thrown away.
    let direct = EtcdConfig::new([etcd.server.clone()], etcd.base.clone());
    let direct = EtcdRegistry::start(direct, spawner()).unwrap();
    direct.register(instance("b"), TTL * 10).await.unwrap();
    etcd.etcdctl(&["del", &format!("{}/nodes/a", etcd.base)]);
    let status = etcd.etcdctl(&["get", "/", "--write-out", "json"]);
    let revision = serde_json::from_str::<serde_json::Value>(&status).unwrap()["header"]["revision"].clone();
    etcd.etcdctl(&["compact", &revision.to_string()]);
    etcd.proxy.heal();
    until(&mut watcher, |view| there(view, &["b"])).await;
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_link_that_carries_nothing_is_noticed_and_the_last_view_stays() {
    let etcd = Etcd::new(&address("AFFLUX_TEST_ETCD"), "silence").await;
    let mut watcher = etcd.registry.watch();
    etcd.registry.register(instance("a"), TTL * 10).await.unwrap();
    until(&mut watcher, |view| there(view, &["a"])).await;
    etcd.proxy.silence();
    let during = until(&mut watcher, |view| !view.reachable).await;
    assert_eq!(during.instances.len(), 1);
    assert!(matches!(etcd.registry.view().await, Err(RegistryError::Unreachable { .. })));
    assert!(watcher.silence().is_some_and(|silence| silence >= Duration::from_secs(1)));
    etcd.proxy.heal();
    until(&mut watcher, |view| there(view, &["a"])).await;
}

/// Registers over a server of its own, does something to that, and wants the record back.
async fn registered_through(fault: impl AsyncFnOnce(&Server, &mut Watcher, &Registration)) {
    let server = Server::start("etcd.sh");
    let etcd = Etcd::new(&server.address, "fault").await;
    let (registration, driver) = Registration::new(etcd.registry(), instance("a"), TTL);
    tokio::spawn(driver);
    let mut watcher = etcd.registry.watch();
    until(&mut watcher, |view| there(view, &["a"])).await;
    fault(&server, &mut watcher, &registration).await;
    let back = registration.wait_for(RegistrationState::is_registered);
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("the node never registered again");
    until(&mut watcher, |view| there(view, &["a"])).await;
    registration.close().await;
    assert!(etcd.registry.view().await.unwrap().instances.is_empty());
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_registration_survives_a_server_that_is_killed_and_started_again() {
    registered_through(async |server, watcher, _| {
        server.tell("kill");
        let during = until(watcher, |view| !view.reachable).await;
        assert_eq!(during.instances.len(), 1, "unreachable is not empty");
        server.tell("start");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_registration_survives_a_server_that_is_stopped_for_longer_than_the_lease() {
    registered_through(async |server, watcher, registration| {
        server.tell("pause");
        until(watcher, |view| !view.reachable).await;
        let lost = registration.wait_for(|state| !state.is_registered());
        tokio::time::timeout(TTL * 3, lost).await.expect("the lease cannot be sure any more");
        server.tell("resume");
    })
    .await;
}
