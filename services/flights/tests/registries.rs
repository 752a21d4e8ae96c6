//! The program as three node processes over a real registry: they find each other there, one leads the jobs, and
//! when it is killed another does.

#![allow(clippy::unwrap_used, reason = "these are tests")]
#![cfg(any(feature = "etcd", feature = "zookeeper", feature = "kubernetes"))]

mod common;

use afflux_sandbox::{Process, Program, until};
use common::{assert_equal, first_rows, oracle, place};

/// Rows of the input: 22 days.
const ROWS: usize = 20_000;

/// A lock of a dead node is free after this long.
const TTL_MS: &str = "registry.ttl_ms=3000";

/// The port that a node's log tells.
fn started(program: &Program, id: &str, registry: &[&str]) -> (Process, String) {
    let node = ["node", "--id", id, "--slots", "1", "--log-format", "json", "--set", TTL_MS];
    let mut process = program.start(&[&node, registry].concat());
    process.until_says("node started");
    let said = process.stderr();
    let line = said.lines().find(|line| line.contains("node started")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    (process, address)
}

/// The names of the nodes, once there are this many.
fn there(program: &Program, cluster: &str, address: &str, nodes: usize) {
    until("as many nodes as there should be, and one that coordinates jobs", || {
        let ended = program.run(&["nodes", "--json", "--set", cluster, "--address", address]);
        let seen: serde_json::Value = serde_json::from_str(&ended.stdout).ok()?;
        let jobs = program.run(&["jobs", "--json", "--set", cluster, "--address", address]);
        (seen.as_array()?.len() == nodes && jobs.code == Some(0)).then_some(())
    });
}

fn flights_run_over(registry: &[&str]) {
    // One server may serve several runs: each is a cluster of its own.
    let cluster = format!("cluster=flights-{}", std::process::id());
    let registry = &[registry, &["--set", &cluster]].concat()[..];
    let program = Program::new(env!("CARGO_BIN_EXE_flights"));
    let text = first_rows(ROWS);
    place(program.directory(), &text);
    let wanted = oracle(&text);
    let out = program.directory().join("out/hourly-delays.csv");
    let mut nodes: Vec<(Process, String)> =
        (1..=3).map(|number| started(&program, &format!("node-{number}"), registry)).collect();
    there(&program, &cluster, &nodes[2].1, 3);
    let run = ["run", "hourly-delays", "--parallelism", "3", "--json", "--set", &cluster, "--address"];
    let line = program.json(&[&run[..], &[&nodes[2].1]].concat());
    assert_eq!(line["records_in"].as_u64(), Some(ROWS as u64));
    assert_equal(&out, &wanted);

    // The first to come led. It dies without a word.
    let (first, _) = nodes.remove(0);
    first.signal("KILL");
    first.end();
    there(&program, &cluster, &nodes[0].1, 2);
    std::fs::remove_file(&out).unwrap();
    let run = ["run", "hourly-delays", "--parallelism", "2", "--json", "--set", &cluster, "--address"];
    program.json(&[&run[..], &[&nodes[0].1]].concat());
    assert_equal(&out, &wanted);
}

/// What `tests/servers` printed.
#[allow(dead_code, reason = "each registry is a feature")]
fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: see tests/servers"))
}

#[test]
#[cfg(feature = "etcd")]
#[ignore = "needs etcd"]
fn three_nodes_over_etcd_run_the_pipeline_and_survive_the_one_that_leads() {
    let endpoints = format!("registry.endpoints={}", server("AFFLUX_TEST_ETCD"));
    flights_run_over(&["--set", "registry=etcd", "--set", &endpoints]);
}

#[test]
#[cfg(feature = "zookeeper")]
#[ignore = "needs zookeeper"]
fn three_nodes_over_zookeeper_run_the_pipeline_and_survive_the_one_that_leads() {
    let endpoints = format!("registry.endpoints={}", server("AFFLUX_TEST_ZOOKEEPER"));
    flights_run_over(&["--set", "registry=zookeeper", "--set", &endpoints]);
}

#[test]
#[cfg(feature = "kubernetes")]
#[ignore = "needs kubernetes"]
fn three_nodes_over_kubernetes_run_the_pipeline_and_survive_the_one_that_leads() {
    let kubeconfig = format!("registry.kubeconfig={}", server("AFFLUX_TEST_KUBERNETES"));
    flights_run_over(&["--set", "registry=kubernetes", "--set", &kubeconfig]);
}
