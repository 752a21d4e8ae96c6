//! Jobs that lose a node or a task, and go on by themselves; jobs that go on with other widths.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use afflux_sandbox::{BACKINGS, Cluster, ClusterBuilder, Collect, Single, run, until_async};
use afflux_stream::{BoundedOutOfOrder, Flow, Result, Timestamp, generate, secs};

const NUMBERS: u64 = 6_000;
const KEYS: u64 = 10;

/// Counts the numbers of each key: each count of each key comes once, whatever happens.
fn counts(flow: &Flow, out: &Collect<(u64, u64)>, poison: Option<Arc<AtomicU64>>) -> Result<()> {
    flow.source("numbers", generate(NUMBERS, |i| i))
        .watermarks_by(BoundedOutOfOrder::by(secs(0)), |i| Timestamp::from_millis(*i as i64))
        .rebalance()
        .map(move |i| {
            if let Some(left) = &poison
                && i == NUMBERS / 2
                && left.load(Ordering::Relaxed) > 0
            {
                left.fetch_sub(1, Ordering::Relaxed);
                panic!("poisoned by {i}");
            }
            (i % KEYS, 1)
        })
        .key_by(|(key, _)| *key)
        .reduce("count", |a, b| (a.0, a.1 + b.1))
        .sink("out", Single(out.clone()));
    Ok(())
}

fn each_count_once(out: &Collect<(u64, u64)>, what: &str) {
    let expected: Vec<(u64, u64)> =
        (0..KEYS).flat_map(|key| (1..=NUMBERS / KEYS).map(move |n| (key, n))).collect();
    let rows = out.take_rows();
    assert_eq!(rows.len(), expected.len(), "{what}");
    assert!(rows == expected, "{what}");
}

fn with_checkpoints(builder: ClusterBuilder, at: &std::path::Path) -> ClusterBuilder {
    builder.checkpoints(at).settings(|settings| {
        settings.checkpoint_interval_ms = 50;
        settings.restart_backoff_initial_ms = 10;
    })
}

#[test]
fn a_job_that_loses_a_node_goes_on_from_its_checkpoint_on_the_others() {
    for backing in BACKINGS {
        let out = Collect::default();
        let directory = tempfile::tempdir().unwrap();
        let (sink, at) = (out.clone(), directory.path().to_owned());
        run(|| async move {
            let mut cluster = with_checkpoints(Cluster::of(3, backing), &at)
                .pipeline("counts", move |flow| counts(flow, &sink, None))
                .start()
                .await;
            let job = cluster.submit_paced("counts", 3, 2.0).await.unwrap();
            assert!(job.restartable, "{backing}");
            assert!(job.nodes().contains(&"node-3"), "{backing}: {:?}", job.nodes());
            until_async("a checkpoint", async || cluster.job(&job.id).await.last_checkpoint).await;
            let lost = cluster.take("node-3");
            // As if its cable were cut: its tasks go on, and nobody hears of them.
            lost.mesh().close();
            let again = until_async("another attempt", async || {
                Some(cluster.job(&job.id).await).filter(|job| job.attempt > 1 && job.state == "running")
            })
            .await;
            assert_eq!(again.nodes(), ["node-1", "node-2"], "{backing}");
            assert!(again.failures[0].contains("node-3"), "{backing}: {:?}", again.failures);
            let ended = until_async("the end", async || {
                Some(cluster.job(&job.id).await).filter(|job| job.has_ended())
            })
            .await;
            assert_eq!((ended.state.as_str(), ended.error), ("finished", None), "{backing}");
            assert!(ended.progress.records_in < NUMBERS, "it began anew, {backing}");
            lost.close().await;
            cluster.close().await;
        });
        each_count_once(&out, &backing.to_string());
    }
}

#[test]
fn an_operator_that_panics_costs_an_attempt_and_one_that_always_does_fails_the_job_by_name() {
    for backing in BACKINGS {
        let out = Collect::default();
        let directory = tempfile::tempdir().unwrap();
        let (sink, at) = (out.clone(), directory.path().to_owned());
        run(|| async move {
            let (twice, always) = (Arc::new(AtomicU64::new(2)), Arc::new(AtomicU64::new(u64::MAX)));
            let never = Collect::default();
            let cluster = with_checkpoints(Cluster::of(2, backing), &at)
                .settings(|settings| settings.restart_failures_max = 3)
                .pipeline("twice", move |flow| counts(flow, &sink, Some(Arc::clone(&twice))))
                .pipeline("always", move |flow| counts(flow, &never, Some(Arc::clone(&always))))
                .start()
                .await;
            let job = cluster.finish("twice", 2).await;
            assert_eq!((job.state.as_str(), job.restarts), ("finished", 2), "{backing}: {:?}", job.error);
            let job = cluster.finish("always", 2).await;
            let error = job.error.unwrap();
            for part in ["poisoned by 3000", "the record: 3000", "pipeline.poison_failures = 3"] {
                assert!(error.contains(part), "`{part}` is missing, {backing}: {error}");
            }
            assert_eq!((job.state.as_str(), job.failures.len()), ("failed", 3), "{backing}");
            cluster.close().await;
        });
        each_count_once(&out, &backing.to_string());
    }
}

#[test]
fn a_job_goes_on_with_more_tasks_and_with_fewer() {
    for backing in BACKINGS {
        let out = Collect::default();
        let directory = tempfile::tempdir().unwrap();
        let (sink, at) = (out.clone(), directory.path().to_owned());
        run(|| async move {
            let cluster = Cluster::of(2, backing)
                .checkpoints(&at)
                .pipeline("counts", move |flow| counts(flow, &sink, None))
                .start()
                .await;
            let job = cluster.submit_paced("counts", 2, 2.0).await.unwrap();
            for (attempt, tasks) in [(2, 3), (3, 1)] {
                until_async("some records", async || {
                    (cluster.job(&job.id).await.progress.records_in > 0).then_some(())
                })
                .await;
                let scaled = cluster.jobs().rescale(job.id.clone(), tasks).await.unwrap();
                assert_eq!((scaled.state.as_str(), scaled.attempt), ("running", attempt), "{backing}");
                let wide = scaled.tasks.iter().filter(|t| t.operators.iter().any(|o| o == "numbers")).count();
                assert_eq!(wide as u32, tasks, "{backing}");
                assert!(scaled.failures.is_empty(), "{backing}: {:?}", scaled.failures);
            }
            let ended = until_async("the end", async || {
                Some(cluster.job(&job.id).await).filter(|job| job.has_ended())
            })
            .await;
            assert_eq!((ended.state.as_str(), ended.error), ("finished", None), "{backing}");
            cluster.close().await;
        });
        each_count_once(&out, &backing.to_string());
    }
}
