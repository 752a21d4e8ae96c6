//! The harness is tested: mistakes that the framework makes on purpose are found.

use afflux_mesh::bugs::Bug;
use afflux_simulation::{Simulation, run};

/// Seeds that are played until a mistake shows.
const SEEDS_MAX: u64 = 60;

fn is_found(bug: Bug) {
    let found = (0..SEEDS_MAX).any(|seed| {
        run(&Simulation { bug: Some(bug), kept: false, ..Simulation::of(seed) }).failure.is_some()
    });
    assert!(found, "{bug:?} was not found in {SEEDS_MAX} seeds");
}

#[test]
fn a_report_that_counts_for_two_tasks_is_found() {
    is_found(Bug::ReportTwice);
}

#[test]
fn a_task_that_is_restored_from_the_wrong_epoch_is_found() {
    is_found(Bug::WrongEpoch);
}

#[test]
fn a_watermark_ahead_of_its_records_is_found() {
    is_found(Bug::WatermarkAhead);
}

#[test]
fn a_batch_that_is_sent_twice_is_found() {
    is_found(Bug::DuplicateBatch);
}

#[test]
fn a_commit_before_the_epoch_is_complete_is_found() {
    is_found(Bug::EarlyCommit);
}

#[test]
fn credit_that_is_not_given_back_is_found() {
    is_found(Bug::LostCredit);
}
