//! Every query's digest is that of an independent engine over the same events, at any parallelism.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_nexmark::queries::{QUERIES, build};
use afflux_nexmark::{Log, Tally};
use afflux_stream::job::run_local;
use afflux_stream::{Flow, JobSettings};

/// What DuckDB says of the first 60,000 events of an auction with 500 a second.
const EXPECTED: &str = include_str!("data/expected-60000-events-rate-500.tsv");

/// Queries without a digest of the independent engine.
const OTHERS: &[&str] = &["q6", "q10", "q12", "q13", "c0"];

static LOG: LazyLock<Log> = LazyLock::new(|| Log::new(60_000, 500));

fn expected() -> BTreeMap<&'static str, &'static str> {
    EXPECTED.lines().map(|line| line.split_once('\t').unwrap()).collect()
}

fn digest(query: &str, parallelism: u32) -> String {
    let tally = Tally::default();
    let flow = Flow::new(query, JobSettings { parallelism, ..JobSettings::default() });
    build(query, &flow, &LOG, tally.clone()).unwrap();
    let plan = flow.finish().unwrap();
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        run_local(&plan, threads, Clock::starting_at(SystemTime::UNIX_EPOCH)).await.unwrap()
    });
    tally.digest().to_string()
}

/// Each query on its own thread would wait for the same log; so a few, each with some of the queries.
fn check(part: usize, parts: usize) {
    for parallelism in [1, 2, 4] {
        for (query, expected) in expected().into_iter().skip(part).step_by(parts) {
            if QUERIES.contains(&query) {
                assert_eq!(digest(query, parallelism), expected, "{query} at parallelism {parallelism}");
            }
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
fn every_query_has_a_digest_or_a_test_of_its_own() {
    for query in QUERIES {
        assert!(expected().contains_key(query) || OTHERS.contains(query), "{query}");
    }
}

#[test]
fn an_unknown_query_is_refused_with_those_there_are() {
    let flow = Flow::new("q99", JobSettings::default());
    let error = build("q99", &flow, &LOG, Tally::default()).unwrap_err().message;
    assert!(error.contains("`q99`") && error.contains("q22"), "{error}");
}
