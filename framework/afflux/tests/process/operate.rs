//! `check --connect` and `drain`, as they are typed; SIGTERM.

use std::time::Instant;

use super::{Dev, PATIENCE, fails, json, program, succeeds, text};

pub(super) fn what_a_cluster_needs_is_checked_and_a_node_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let dev = Dev::start(at, &["dev", "--hold", "--nodes", "2"]);
    dev.until("stay up until Ctrl-C");
    let checked = json(&succeeds(at, &["check", "--connect", "--json", "--set", "checkpoint.dir=kept"]));
    let state = |what: &str| {
        let rows = checked["reached"].as_array().unwrap();
        let row = rows.iter().find(|row| row["what"] == what).unwrap_or_else(|| panic!("{what}: {checked}"));
        row["state"].as_str().unwrap().to_owned()
    };
    assert!(state("cluster").starts_with("ok, 2 nodes"), "{checked}");
    // They are those of this machine.
    assert!(state("clocks").starts_with("ok, 2 compared; the clock of node-"), "{checked}");
    assert!(state("checkpoint storage").contains("listed"), "{checked}");

    fails(at, &["drain", "node-7"], 2, &["no node `node-7`", "node-2"]);
    let drained = succeeds(at, &["drain", "node-2"]);
    assert!(drained.lines().last() == Some("node-2 has left"), "{drained}");
    let nodes = json(&succeeds(at, &["nodes", "--json"]));
    let left: Vec<&str> = nodes.as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    assert_eq!(left, ["node-1"]);
    fails(at, &["drain", "node-1"], 1, &["node-1 is the only node that is ready"]);
    dev.signal("SIGINT");
    assert_eq!(dev.end().0, Some(0));
}

pub(super) fn a_node_that_is_terminated_hands_its_tasks_over() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let kept = ["--set", "checkpoint.dir=kept", "--set", "checkpoint.interval_ms=200", "--slots", "1"];
    let seed = Dev::start(at, &[&["node", "--id", "seed", "--log-format", "json"][..], &kept].concat());
    let started = seed.until("node started");
    let address = json(started.last().unwrap())["address"].as_str().unwrap().to_owned();
    let other = Dev::start(at, &[&["node", "--id", "other", "--join", &address][..], &kept].concat());
    other.until("node started");
    let deadline = Instant::now() + PATIENCE;
    let job = || json(&succeeds(at, &["jobs", "--json", "--address", &address]))[0].clone();
    while !succeeds(at, &["nodes", "--address", &address]).contains("other") {
        assert!(Instant::now() < deadline, "node other does not join");
    }
    let run = ["run", "endless", "--detach", "--address", &address, "--parallelism", "2"];
    loop {
        let started = program(at, &run).output().unwrap();
        if started.status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", text(&started.stderr));
    }
    while !job()["tasks"].as_array().is_some_and(|tasks| tasks.iter().any(|task| task["node"] == "other")) {
        assert!(Instant::now() < deadline, "{}", job());
    }
    other.signal("SIGTERM");
    let (code, said) = other.end();
    assert_eq!(code, Some(0), "{said}");
    let job = job();
    assert!(job["tasks"].as_array().unwrap().iter().all(|task| task["node"] == "seed"), "{job}");
    assert!(job["attempt"] == 2 && job["failures"] == serde_json::json!([]), "{job}");
    seed.signal("SIGTERM");
    assert_eq!(seed.end().0, Some(0));
}
