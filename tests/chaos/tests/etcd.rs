//! The same over a real etcd: `tests/servers/etcd.sh start DIR` prints what `AFFLUX_TEST_ETCD` has to be.

#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::process::Command;

/// Leases are 1.5 s here, which etcd makes 2; then two more.
const COMMITTED_MS_MAX: u64 = 8_000;

#[test]
#[ignore = "needs etcd"]
fn nothing_is_lost_over_etcd_when_nodes_are_killed_and_the_coordinator_is_stopped() {
    let server =
        std::env::var("AFFLUX_TEST_ETCD").expect("AFFLUX_TEST_ETCD is not set: see tests/servers/etcd.sh");
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_afflux-chaos"));
    let ran = chaos.args(["--kills", "5", "--stops", "1", "--json", "--etcd", &server]).output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}{wrong}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["blows"].as_array().unwrap().len(), 6);
    println!("{report}");
    assert!(report["committed"]["worst_ms"].as_u64().unwrap() < COMMITTED_MS_MAX, "{report}");
}
