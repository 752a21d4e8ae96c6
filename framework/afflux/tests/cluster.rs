//! Nodes of one process over pipes: joining, calling, leading, leaving.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Client, Endpoint, Node, NodeBuilder};
use afflux_mesh::{MemoryNetwork, Transport};

/// Counts.
#[derive(Service)]
#[service(name = "test.counter", version = "1.0")]
pub enum Counter {
    /// Adds and returns the sum.
    #[rpc(returns = u64)]
    Add {
        /// What is added.
        n: u64,
    },
    /// Panics.
    Fail,
}

#[derive(Actor)]
#[actor(serves(Counter))]
struct CounterActor {
    sum: u64,
}

impl CounterHandler for CounterActor {
    async fn add(&mut self, _: &mut Cx, n: u64) -> Result<u64, Fault> {
        self.sum += n;
        Ok(self.sum)
    }

    async fn fail(&mut self, _: &mut Cx) -> Result<(), Fault> {
        panic!("as asked")
    }
}

fn fresh() -> Result<CounterActor> {
    Ok(CounterActor { sum: 0 })
}

struct Cluster {
    transport: Transport,
}

impl Cluster {
    fn new() -> Self {
        Self { transport: Transport::Memory(MemoryNetwork::default()) }
    }

    fn node(&self, id: &str, join: Option<&Node>) -> NodeBuilder {
        let settings = Settings {
            node_id: id.into(),
            node_listen: "host:0".into(),
            node_join: join.map(Node::address).unwrap_or_default(),
            node_slots: 1,
            admin_listen: String::new(),
            drain_grace_ms: 200,
            ..Settings::default()
        };
        NodeBuilder::new(settings).transport(self.transport.clone()).inline()
    }

    async fn client(&self, node: &Node) -> Result<Client> {
        let endpoint = Endpoint {
            address: node.address(),
            cluster: "afflux".into(),
            token: String::new(),
            ..Endpoint::default()
        };
        Client::connect_over(&endpoint, self.transport.clone()).await
    }
}

fn run<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F) {
    let limited =
        || async { tokio::time::timeout(Duration::from_secs(60), test()).await.expect("took over a minute") };
    afflux::actor::system(limited).unwrap().unwrap();
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[test]
fn a_node_calls_a_service_of_the_node_it_joined_and_the_other_way_round() {
    run(|| async {
        let cluster = Cluster::new();
        let seed = cluster.node("a", None).service("counter", fresh).start().await?;
        let other = cluster.node("b", Some(&seed)).start().await?;
        other.ready().await;
        assert_eq!(other.client::<Counter>().add(2).await?, 2);
        assert_eq!(seed.client::<Counter>().add(3).await?, 5);
        other.close().await;
        seed.close().await;
        Ok(())
    });
}

#[test]
fn a_client_that_is_no_node_sees_nodes_and_services_and_calls_them() {
    run(|| async {
        let cluster = Cluster::new();
        let seed = cluster.node("a", None).start().await?;
        let other = cluster.node("b", Some(&seed)).service("counter", fresh).start().await?;
        seed.ready().await;
        other.ready().await;
        // Through the node that does not hold the registry.
        let client = cluster.client(&other).await?;
        let nodes = client.nodes().await?;
        let ids: Vec<_> = nodes.iter().map(|node| (node.id.as_str(), node.state.as_str())).collect();
        assert_eq!(ids, [("a", "ready"), ("b", "ready")]);
        assert_eq!(nodes[0].pid, std::process::id());
        let services = client.services().await?;
        let counter = services.iter().find(|offered| offered.service.name == "test.counter").unwrap();
        assert_eq!(counter.nodes, ["b"]);
        assert_eq!(counter.service.methods[0].doc, "Adds and returns the sum.");
        assert_eq!(client.client::<Counter>().add(4).await?, 4);
        client.close();
        other.close().await;
        seed.close().await;
        Ok(())
    });
}

#[test]
fn a_wrong_type_in_an_untyped_call_is_told_with_its_path() {
    run(|| async {
        let cluster = Cluster::new();
        let seed = cluster.node("a", None).service("counter", fresh).start().await?;
        seed.ready().await;
        let client = cluster.client(&seed).await?;
        let target = afflux::contract::Target::service("test.counter");
        let call = async |method: &str, params: serde_json::Value| {
            let params = afflux_wire::codec::to_named(&params).unwrap();
            client.call_raw(&target, method, params, Duration::from_secs(5)).await
        };
        let bytes = call("Add", serde_json::json!({ "n": 7 })).await?;
        assert_eq!(afflux_wire::codec::from_slice::<u64>(&bytes)?, 7);
        let wrong = call("Add", serde_json::json!({ "n": "seven" })).await.unwrap_err();
        assert_eq!(wrong.code, Code::InvalidArgument);
        assert!(wrong.message.contains("test.counter/Add") && wrong.message.contains('n'), "{wrong}");
        let unknown = call("Ad", serde_json::json!({})).await.unwrap_err();
        assert_eq!(unknown.code, Code::Unimplemented);
        assert!(unknown.message.contains("Add"), "{unknown}");
        seed.close().await;
        Ok(())
    });
}

#[test]
fn a_panic_is_the_callers_error_and_the_next_call_finds_a_fresh_state() {
    run(|| async {
        let cluster = Cluster::new();
        let seed = cluster.node("a", None).service("counter", fresh).start().await?;
        let counter = seed.client::<Counter>();
        assert_eq!(counter.add(2).await?, 2);
        let error = counter.fail().await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.to_string().contains("as asked"), "{error}");
        assert_eq!(counter.add(3).await?, 3);
        seed.close().await;
        Ok(())
    });
}

#[test]
fn a_singleton_lives_once_and_moves_when_its_node_leaves() {
    run(|| async {
        let cluster = Cluster::new();
        let starts = Arc::new(AtomicU32::new(0));
        let counted = {
            let starts = Arc::clone(&starts);
            move || {
                starts.fetch_add(1, Ordering::SeqCst);
                fresh()
            }
        };
        let seed = cluster.node("a", None).start().await?;
        let first = cluster.node("b", Some(&seed)).singleton("counter", counted.clone()).start().await?;
        first.ready().await;
        assert_eq!(seed.client::<Counter>().add(1).await?, 1);
        let second = cluster.node("c", Some(&seed)).singleton("counter", counted).start().await?;
        second.ready().await;
        assert_eq!(second.client::<Counter>().add(1).await?, 2, "the same actor for both");
        assert_eq!(starts.load(Ordering::SeqCst), 1);
        first.close().await;
        until("the singleton has moved", async || {
            let call = seed.client::<Counter>().add(1).fail_fast().await;
            matches!(call, Ok(1))
        })
        .await;
        assert_eq!(starts.load(Ordering::SeqCst), 2);
        second.close().await;
        seed.close().await;
        Ok(())
    });
}

#[test]
fn a_node_that_leaves_is_gone_from_the_registry_at_once() {
    run(|| async {
        let cluster = Cluster::new();
        let seed = cluster.node("a", None).start().await?;
        let other = cluster.node("b", Some(&seed)).start().await?;
        other.ready().await;
        seed.ready().await;
        let names = async || {
            let view = seed.registry().view().await.unwrap();
            view.instances.iter().map(|i| i.node.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names().await, ["a", "b"]);
        other.close().await;
        assert_eq!(names().await, ["a"]);
        seed.close().await;
        Ok(())
    });
}

#[test]
fn nobody_there_and_another_cluster_are_told_apart() {
    run(|| async {
        let cluster = Cluster::new();
        let seed = cluster.node("a", None).start().await?;
        let at = |address: &str, name: &str| Endpoint {
            address: address.into(),
            cluster: name.into(),
            token: String::new(),
            tls: None,
        };
        let nobody =
            Client::connect_over(&at("host:9", "afflux"), cluster.transport.clone()).await.err().unwrap();
        assert!(nobody.to_string().contains("cannot join through host:9"), "{nobody}");
        let stranger = Client::connect_over(&at(&seed.address(), "shop"), cluster.transport.clone())
            .await
            .err()
            .unwrap();
        let text = stranger.to_string();
        assert!(text.contains("shop") && text.contains("afflux"), "{text}");
        seed.close().await;
        Ok(())
    });
}
