//! Every query's digest is that of an independent engine over the same events, at any parallelism.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use afflux_nexmark::queries::QUERIES;
use afflux_nexmark::{Log, answer, answer_with};
use afflux_stream::{JobSettings, StateBackend};

/// What DuckDB says of the first 60,000 events of an auction with 500 a second.
const EXPECTED: &str = include_str!("data/expected-60000-events-rate-500.tsv");

/// Queries without a digest of the independent engine.
const OTHERS: &[&str] = &["q6", "q10", "q12", "q13", "c0"];

static LOG: LazyLock<Log> = LazyLock::new(|| Log::new(60_000, 500));

fn expected() -> BTreeMap<&'static str, &'static str> {
    EXPECTED.lines().map(|line| line.split_once('\t').unwrap()).collect()
}

fn digest(query: &str, parallelism: u32) -> String {
    answer(query, &LOG, parallelism).unwrap().to_string()
}

/// Each query on its own thread would wait for the same log; so a few, each with some of the queries.
fn check(part: usize, parts: usize) {
    for parallelism in [1, 2, 4] {
        for (query, expected) in expected().into_iter().skip(part).step_by(parts) {
            assert_eq!(digest(query, parallelism), expected, "{query} at parallelism {parallelism}");
        }
    }
}

#[test]
fn answers_are_those_of_an_independent_engine_first_half() {
    check(0, 2);
}

#[test]
fn answers_are_those_of_an_independent_engine_second_half() {
    check(1, 2);
}

#[test]
fn answers_are_those_of_an_independent_engine_with_state_on_disk() {
    for (query, expected) in expected() {
        let directory = tempfile::tempdir().unwrap();
        let settings = JobSettings {
            parallelism: 2,
            state_backend: StateBackend::Disk,
            state_dir: Some(directory.path().to_string_lossy().into_owned()),
            // Nearly none: what is not used goes to disk.
            state_cache_bytes: Some(1),
            ..JobSettings::default()
        };
        let found = answer_with(query, &LOG, settings).unwrap().to_string();
        assert_eq!(found, expected, "{query}");
        // A merge may end after its task.
        let left = || std::fs::read_dir(directory.path()).unwrap().count();
        let end = Instant::now() + Duration::from_secs(30);
        while left() > 0 && Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(left(), 0, "{query} left files behind");
    }
}

#[test]
fn every_query_has_a_digest_or_a_test_of_its_own() {
    for query in QUERIES {
        assert!(expected().contains_key(query) || OTHERS.contains(query), "{query}");
    }
}

#[test]
fn an_unknown_query_is_refused_with_those_there_are() {
    let error = answer("q99", &LOG, 1).unwrap_err().to_string();
    assert!(error.contains("`q99`") && error.contains("q22"), "{error}");
}
