//! The suite, and faults, over a real etcd: `tests/servers/etcd.sh start DIR` prints what
//! `AFFLUX_TEST_ETCD` has to be.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[macro_use]
mod faults;
mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::suite::every_behaviour;
use afflux_registry::{EtcdConfig, EtcdRegistry, Registry};
use faults::{Backend, Linked, TTL, instance, there, until};
use futures_util::future::BoxFuture;
use support::{spawner, unique};

struct Etcd {
    server: String,
    base: String,
    registry: Arc<EtcdRegistry>,
}

impl Etcd {
    fn etcdctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.server]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Backend for Etcd {
    const SCRIPT: &'static str = "etcd.sh";
    const VARIABLE: &'static str = "AFFLUX_TEST_ETCD";

    async fn connect(server: &str, link: SocketAddr, test: &str) -> Self {
        let base = format!("/test/{}", unique(test));
        let mut config = EtcdConfig::new([link.to_string()], &base);
        config.operation_max = Duration::from_secs(3);
        let registry = Arc::new(EtcdRegistry::start(config, spawner()).unwrap());
        Self { server: server.to_owned(), base, registry }
    }
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry) as _
    }
    fn forget(&self) -> BoxFuture<'_, ()> {
        self.etcdctl(&["del", "--prefix", &format!("{}/nodes/", self.base)]);
        self.etcdctl(&["del", "--prefix", &format!("{}/locks/", self.base)]);
        Box::pin(std::future::ready(()))
    }
}

macro_rules! over_etcd {
    ($($behaviour:ident),* $(,)?) => { over_server!(Etcd, "needs etcd", $($behaviour),*); };
}
every_behaviour!(over_etcd);

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_watch_that_fell_behind_a_compaction_lists_again() {
    let Linked { backend: etcd, proxy } = Linked::<Etcd>::shared("compaction").await;
    let mut watcher = etcd.registry.watch();
    etcd.registry.register(instance("a"), TTL * 10).await.unwrap();
    until(&mut watcher, |view| there(view, &["a"])).await;
    proxy.cut();
    until(&mut watcher, |view| !view.reachable).await;
    // Meanwhile one comes by another way, one goes, and the history of it is thrown away.
    let direct = EtcdConfig::new([etcd.server.clone()], etcd.base.clone());
    let direct = EtcdRegistry::start(direct, spawner()).unwrap();
    direct.register(instance("b"), TTL * 10).await.unwrap();
    etcd.etcdctl(&["del", &format!("{}/nodes/a", etcd.base)]);
    let status = etcd.etcdctl(&["get", "/", "--write-out", "json"]);
    let revision = serde_json::from_str::<serde_json::Value>(&status).unwrap()["header"]["revision"].clone();
    etcd.etcdctl(&["compact", &revision.to_string()]);
    proxy.heal();
    until(&mut watcher, |view| there(view, &["b"])).await;
}
