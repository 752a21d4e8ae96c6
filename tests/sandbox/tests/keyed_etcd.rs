//! Keyed actors in three processes over a real etcd: `tests/servers/etcd.sh start DIR` prints what
//! `AFFLUX_TEST_ETCD` has to be.

#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::{Duration, Instant};

use afflux::{Client, Endpoint};
use afflux_sandbox::{FencedStore, Process, Program, Tellers, run, until_async};

/// What a stopped node held is free after this long.
const TTL_MS: &str = "registry.ttl_ms=3000";

/// A node process and its address.
fn node(program: &Program, id: &str, registry: &[String]) -> (Process, String) {
    let mut args = vec!["node", "--id", id, "--log-format", "json", "--set", TTL_MS];
    args.extend(registry.iter().map(String::as_str));
    let mut process = program.start(&args);
    process.until_says("node started");
    let said = process.stderr();
    let line = said.lines().find(|line| line.contains("node started")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    (process, address)
}

#[test]
#[ignore = "needs etcd"]
fn an_owner_that_was_stopped_beyond_its_lease_writes_nothing_when_it_wakes() {
    let server =
        std::env::var("AFFLUX_TEST_ETCD").expect("AFFLUX_TEST_ETCD is not set: see tests/servers/etcd.sh");
    let cluster = format!("tellers-{}", std::process::id());
    let set =
        ["registry=etcd".to_owned(), format!("registry.endpoints={server}"), format!("cluster={cluster}")];
    let registry: Vec<String> = set.into_iter().flat_map(|set| ["--set".to_owned(), set]).collect();
    let program = Program::new(env!("CARGO_BIN_EXE_teller"));
    let store = FencedStore::start(program.directory());
    let nodes: Vec<(Process, String)> =
        (1..=3).map(|n| node(&program, &format!("teller-{n}"), &registry)).collect();
    run(|| async move {
        let endpoint = Endpoint { address: nodes[0].1.clone(), cluster, ..Endpoint::default() };
        let client = Client::connect(&endpoint).await.unwrap();
        let accounts = client.client::<Tellers>();
        // All three own keys; the one that is to be stopped is not the one that the client asks.
        let (customer, first) = until_async("keys on all three nodes", async || {
            let (mut owners, mut found) = (std::collections::BTreeSet::new(), None);
            for n in 0..40 {
                let customer = format!("customer-{n}");
                let told = accounts.add(customer.clone(), 1).await.ok()?;
                owners.insert(told.process);
                if told.process != nodes[0].0.pid() {
                    found = Some((customer, told));
                }
            }
            found.filter(|_| owners.len() == 3)
        })
        .await;
        let owner = nodes.iter().find(|(process, _)| process.pid() == first.process).unwrap();

        // It is stopped in its handler: behind the last look at its token, in front of the write.
        store.hold(&customer);
        let waiting = tokio::task::spawn_local(std::future::IntoFuture::into_future(
            accounts.wait_and_add(customer.clone(), 1_000_000),
        ));
        until_async("it waits", async || store.waits(&customer).then_some(())).await;
        owner.0.signal("STOP");
        let stopped = Instant::now();

        let second = until_async("a new owner whose writes are accepted", async || {
            let told = accounts.add(customer.clone(), 1).deadline(Duration::from_secs(1)).await.ok()?;
            (told.process != first.process).then_some(told)
        })
        .await;
        println!("a new owner wrote {:.1} s after the first was stopped", stopped.elapsed().as_secs_f64());
        assert!(second.fence > first.fence, "{second:?} follows {first:?}");
        assert!(second.value < 1_000_000, "the stopped owner has written: {second:?}");

        // The one before wakes, and goes on to write.
        store.let_go(&customer);
        owner.0.signal("CONT");
        let late = until_async("the write of the owner before", async || {
            store.log().into_iter().find(|a| a.told.process == first.process && a.told.value >= 1_000_000)
        })
        .await;
        assert!(!late.accepted && late.told.fence == first.fence, "{late:?}");
        assert!(waiting.await.unwrap().is_err(), "a write that was refused was answered as done");

        // It takes its share again, under a token of its own.
        let third = until_async("the woken node owns the key again", async || {
            let told = accounts.add(customer.clone(), 1).deadline(Duration::from_secs(2)).await.ok()?;
            (told.process == first.process).then_some(told)
        })
        .await;
        assert!(third.fence > second.fence && third.value > second.value, "{third:?} follows {second:?}");
        store.check();
        let refused = store.log().iter().filter(|a| !a.accepted).count();
        assert_eq!(refused, 1, "{:?}", store.log());
        drop(nodes);
    });
}
