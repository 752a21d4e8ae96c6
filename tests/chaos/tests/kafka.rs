//! The same between topics of a real Kafka: `tests/servers/kafka.sh start DIR` prints what `AFFLUX_TEST_KAFKA` has to be.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::process::Command;
use std::sync::Mutex;

/// One cluster at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Runs the program: whether it found everything right, what it says, and what is wrong.
fn chaos(arguments: &[&str]) -> (bool, serde_json::Value, String) {
    let _turn = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    let server =
        std::env::var("AFFLUX_TEST_KAFKA").expect("AFFLUX_TEST_KAFKA is not set: see tests/servers/kafka.sh");
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_afflux-chaos"));
    let ran = chaos.args(["--kafka", &server, "--json"]).args(arguments).output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let report = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{wrong}"));
    (ran.status.success(), report, wrong.into_owned())
}

#[test]
#[ignore = "needs Kafka"]
fn nothing_is_lost_or_doubled_between_topics_when_workers_and_the_coordinator_are_killed() {
    for (victim, kills) in [("any", 4), ("coordinator", 2)] {
        let (right, report, wrong) = chaos(&["--kills", &kills.to_string(), "--victim", victim]);
        println!("{report}");
        assert!(right, "{report}{wrong}");
        assert_eq!(report["blows"].as_array().unwrap().len(), kills);
        assert!(report["rows"].as_u64() > Some(1_000), "{report}");
        assert!(report["attempts"].as_u64() > Some(1), "no attempt was lost: {report}");
    }
}

#[test]
#[ignore = "needs Kafka"]
fn a_sink_without_transactions_is_found() {
    let (right, report, wrong) = chaos(&["--kills", "2", "--victim", "worker", "--mistake", "repeat"]);
    assert!(!right && report["duplicated"].as_u64() > Some(0), "it was not found: {report}{wrong}");
    let kept = wrong.lines().find_map(|line| line.strip_prefix("logs and checkpoints are kept in "));
    std::fs::remove_dir_all(kept.unwrap()).unwrap();
}
