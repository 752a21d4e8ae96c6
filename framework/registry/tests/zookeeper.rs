//! The suite, and faults, over a real ZooKeeper: `tests/servers/zookeeper.sh start DIR` prints what
//! `AFFLUX_TEST_ZOOKEEPER` has to be.
#![cfg(feature = "zookeeper")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[macro_use]
mod faults;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::suite::every_behaviour;
use afflux_registry::{Registry, ZookeeperConfig, ZookeeperRegistry};
use faults::{Backend, Linked, TTL, instance, there, until};
use futures_util::future::BoxFuture;
use support::{spawner, unique};
use zookeeper_client::{Acls, Client, CreateMode};

struct Zookeeper {
    server: String,
    base: String,
    registry: Arc<ZookeeperRegistry>,
}

impl Zookeeper {
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

impl Backend for Zookeeper {
    const SCRIPT: &'static str = "zookeeper.sh";
    const VARIABLE: &'static str = "AFFLUX_TEST_ZOOKEEPER";
    const ENDS_WITH_SESSION: bool = true;

    async fn connect(server: &str, link: SocketAddr, test: &str) -> Self {
        let base = format!("/test-{}", unique(test));
        let mut config = ZookeeperConfig::new([link.to_string()], &base, "shop", std::time::SystemTime::now);
        config.session = TTL;
        config.operation_max = Duration::from_secs(1);
        let registry = Arc::new(ZookeeperRegistry::start(config, spawner()).unwrap());
        Self { server: server.to_owned(), base, registry }
    }
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry) as _
    }
    fn forget(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let client = self.direct().await;
            clear(&client, &format!("{}/shop", self.base)).await;
            clear(&client, &format!("{}/locks", self.base)).await;
        })
    }
}

macro_rules! over_zookeeper {
    ($($behaviour:ident),* $(,)?) => { over_server!(Zookeeper, "needs zookeeper", $($behaviour),*); };
}
every_behaviour!(over_zookeeper);

#[tokio::test]
#[ignore = "needs zookeeper"]
async fn what_curators_clients_registered_is_seen_by_its_address() {
    let Linked { backend: zookeeper, proxy: _open } = Linked::<Zookeeper>::shared("curator").await;
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
