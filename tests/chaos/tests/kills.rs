//! Some kills in each run of the tests; `.ci/run chaos` does 50.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::process::Command;
use std::sync::Mutex;

/// One cluster at a time, so that how long something takes says something.
static ONE: Mutex<()> = Mutex::new(());

/// Runs the program, which finds nothing wrong, and returns what it says.
fn chaos(arguments: &[&str]) -> serde_json::Value {
    let (right, report, wrong) = ran(arguments);
    assert!(right, "{report}{wrong}");
    report
}

/// Runs the program: whether it found everything right, and what it says.
fn ran(arguments: &[&str]) -> (bool, serde_json::Value, String) {
    let _turn = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    let ran =
        Command::new(env!("CARGO_BIN_EXE_afflux-chaos")).args(arguments).arg("--json").output().unwrap();
    let wrong = String::from_utf8_lossy(&ran.stderr).into_owned();
    let report = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {wrong}"));
    (ran.status.success(), report, wrong)
}

#[test]
fn nothing_is_lost_or_counted_twice_when_workers_and_the_coordinator_are_killed() {
    for victim in ["worker", "coordinator"] {
        let report = chaos(&["--kills", "2", "--victim", victim, "--seed", "7"]);
        assert_eq!(report["blows"].as_array().unwrap().len(), 2);
        let coordinators =
            report["blows"].as_array().unwrap().iter().filter(|blow| blow["coordinator"] == true);
        assert_eq!(coordinators.count(), if victim == "worker" { 0 } else { 2 }, "{report}");
        assert!(report["rows"].as_u64().unwrap() > 1_000, "{report}");
        assert!(report["attempts"].as_u64().unwrap() > 1, "no attempt was lost: {report}");
    }
}

#[test]
fn nothing_is_lost_when_the_network_breaks_and_when_the_coordinator_sleeps_longer_than_its_lease() {
    let report =
        chaos(&["--kills", "0", "--breaks", "3", "--stops", "1", "--victim", "coordinator", "--seed", "11"]);
    assert_eq!(report["blows"].as_array().unwrap().len(), 4);
    let stopped = report["blows"].as_array().unwrap().iter().find(|blow| blow["what"] == "stop");
    assert!(stopped.is_some_and(|blow| blow["coordinator"] == true), "{report}");
}

#[test]
fn a_job_goes_on_when_all_nodes_are_killed_at_once() {
    let report = chaos(&["--kills", "0", "--blackouts", "2", "--seed", "31"]);
    assert!(report["attempts"].as_u64() > Some(1), "{report}");
}

#[test]
fn a_pipeline_that_loses_no_node_neither_pauses_nor_begins_again() {
    let report = chaos(&["--kills", "2", "--nodes", "4", "--beside", "--seed", "3"]);
    assert_eq!(report["beside"]["begun"], 1, "{report}");
}

#[test]
fn a_source_that_leaves_out_or_repeats_a_record_is_found() {
    for (mistake, found) in [("skip", "lost"), ("repeat", "duplicated")] {
        let (right, report, wrong) = ran(&["--kills", "1", "--victim", "worker", "--mistake", mistake]);
        assert!(!right && report[found].as_u64() > Some(0), "{mistake} was not found: {report}{wrong}");
        let kept = wrong.lines().find_map(|line| line.strip_prefix("logs and checkpoints are kept in "));
        std::fs::remove_dir_all(kept.unwrap()).unwrap();
    }
}
