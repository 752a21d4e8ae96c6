//! The harness is tested: mistakes that the framework makes on purpose are found.

use afflux_mesh::bugs::Bug;
use afflux_simulation::{Simulation, run};

/// Seeds that are played until a mistake shows.
const SEEDS_MAX: u64 = 60;

fn is_found(bug: Bug) {
    let found = (0..SEEDS_MAX).find_map(|seed| {
        let outcome = run(&Simulation { bug: Some(bug), kept: false, ..Simulation::of(seed) });
        outcome.failure.map(|failure| (seed, failure))
    });
    let (seed, failure) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {SEEDS_MAX} seeds"));
    println!("{bug:?} was found after {} seeds, by seed {seed}: {failure}", seed + 1);
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

#[test]
fn a_barrier_handed_on_before_all_channels_have_sent_it_is_found() {
    is_found(Bug::SkippedBarrier);
}

#[test]
fn a_sink_that_acknowledges_before_its_rows_last_is_found() {
    is_found(Bug::SkippedSync);
}

#[test]
fn an_attempt_with_the_number_of_the_one_before_is_found() {
    is_found(Bug::ReusedAttempt);
}

#[test]
fn a_restored_sink_that_does_not_commit_what_its_checkpoint_holds_is_found() {
    is_found(Bug::ForgottenCommit);
}

#[test]
fn every_mistake_has_its_test() {
    let source = include_str!("bugs.rs");
    for bug in Bug::ALL {
        assert!(source.contains(&format!("is_found(Bug::{bug:?});")), "{bug:?} is not looked for");
    }
}
