//! `check --connect` and `drain`, as they are typed.

use super::{Dev, fails, json, succeeds};

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
