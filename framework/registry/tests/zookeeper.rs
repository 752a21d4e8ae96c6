//! The suite, and faults, over a real ZooKeeper: `tests/servers/zookeeper.sh start DIR` prints what
//! `AFFLUX_TEST_ZOOKEEPER` has to be.
#![cfg(feature = "zookeeper")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use afflux_registry::suite::{self, Fixture, every_behaviour};
use afflux_registry::{
    Instance, Registration, RegistrationState, Registry, RegistryError, View, Watcher, ZookeeperConfig,
    ZookeeperRegistry,
};
use afflux_wire::Incarnation;
use futures_util::future::BoxFuture;
use support::{Proxy, Server, address, pass, spawner, unique};
use zookeeper_client::{Acls, Client, CreateMode};

const TTL: Duration = Duration::from_secs(3);

struct Zookeeper {
    proxy: Proxy,
    server: String,
    base: String,
    registry: Arc<ZookeeperRegistry>,
}

impl Zookeeper {
    async fn new(server: &str, test: &str) -> Self {
        let proxy = Proxy::new(server).await;
        let base = format!("/test-{}", unique(test));
        let registry = Arc::new(connect(&proxy, &base));
        Self { proxy, server: server.to_owned(), base, registry }
    }

    /// A client that no fault is between.
    async fn direct(&self) -> Client {
        Client::connect(&self.server).await.unwrap()
    }
}

async fn clear(client: &Client, path: &str) {
    for child in client.list_children(path).await.unwrap_or_default() {
        let child = format!("{path}/{child}");
        Box::pin(clear(client, &child)).await;
        // Somebody else may have done it.
        let _gone = client.delete(&child, None).await;
    }
}

fn connect(proxy: &Proxy, base: &str) -> ZookeeperRegistry {
    let mut config =
        ZookeeperConfig::new([proxy.address.to_string()], base, "shop", std::time::SystemTime::now);
    config.session = TTL;
    config.operation_max = Duration::from_secs(1);
    ZookeeperRegistry::start(config, spawner()).unwrap()
}

impl Fixture for Zookeeper {
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
        Box::pin(async {
            let client = self.direct().await;
            clear(&client, &format!("{}/shop", self.base)).await;
            clear(&client, &format!("{}/locks", self.base)).await;
        })
    }
    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(pass(span))
    }
    fn ttl(&self) -> Duration {
        TTL
    }
}

macro_rules! over_zookeeper {
    ($($behaviour:ident),* $(,)?) => {$(
        #[tokio::test]
        #[ignore = "needs zookeeper"]
        async fn $behaviour() {
            let zookeeper = Zookeeper::new(&address("AFFLUX_TEST_ZOOKEEPER"), stringify!($behaviour)).await;
            suite::$behaviour(&zookeeper).await;
        }
    )*};
}
every_behaviour!(over_zookeeper);

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
#[ignore = "needs zookeeper"]
async fn what_curators_clients_registered_is_seen_by_its_address() {
    let zookeeper = Zookeeper::new(&address("AFFLUX_TEST_ZOOKEEPER"), "curator").await;
    let mut watcher = zookeeper.registry.watch();
    zookeeper.registry.register(instance("a"), TTL * 10).await.unwrap();
    let record =
        br#"{"name":"shop","id":"6f8e","address":"10.0.0.9","port":8080,"sslPort":null,"payload":null,
        "registrationTimeUTC":1,"serviceType":"DYNAMIC","uriSpec":null}"#;
    let direct = zookeeper.direct().await;
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    direct.create(&format!("{}/shop/6f8e", zookeeper.base), record, &options).await.unwrap();
    let view = until(&mut watcher, |view| there(view, &["6f8e", "a"])).await;
    assert_eq!(view.instances[0].address, "10.0.0.9:8080");
    drop(direct);
    until(&mut watcher, |view| there(view, &["a"])).await;
}

#[tokio::test]
#[ignore = "needs zookeeper"]
async fn a_link_that_carries_nothing_is_noticed_and_the_last_view_stays() {
    let zookeeper = Zookeeper::new(&address("AFFLUX_TEST_ZOOKEEPER"), "silence").await;
    let mut watcher = zookeeper.registry.watch();
    zookeeper.registry.register(instance("a"), TTL * 10).await.unwrap();
    until(&mut watcher, |view| there(view, &["a"])).await;
    zookeeper.proxy.silence();
    let during = until(&mut watcher, |view| !view.reachable).await;
    assert_eq!(during.instances.len(), 1);
    assert!(matches!(zookeeper.registry.view().await, Err(RegistryError::Unreachable { .. })));
    assert!(watcher.silence().is_some_and(|silence| silence >= Duration::from_secs(1)));
    zookeeper.proxy.heal();
    // The session may have ended meanwhile, and the record with it.
    until(&mut watcher, |view| view.reachable).await;
}

/// Registers over a server of its own, does something to that, and wants the record back.
async fn registered_through(fault: impl AsyncFnOnce(&Server, &mut Watcher, &Registration)) {
    let server = Server::start("zookeeper.sh");
    let zookeeper = Zookeeper::new(&server.address, "fault").await;
    let (registration, driver) = Registration::new(zookeeper.registry(), instance("a"), TTL);
    tokio::spawn(driver);
    let mut watcher = zookeeper.registry.watch();
    until(&mut watcher, |view| there(view, &["a"])).await;
    fault(&server, &mut watcher, &registration).await;
    let back = registration.wait_for(RegistrationState::is_registered);
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("the node never registered again");
    until(&mut watcher, |view| there(view, &["a"])).await;
    registration.close().await;
    assert!(zookeeper.registry.view().await.unwrap().instances.is_empty());
}

#[tokio::test]
#[ignore = "needs zookeeper"]
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
#[ignore = "needs zookeeper"]
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
