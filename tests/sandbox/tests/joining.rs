//! Jobs that follow the slots there are.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use afflux_sandbox::{BACKINGS, Backing, Cluster, ClusterBuilder, Collect, Single, run, until_async};
use afflux_stream::{BoundedOutOfOrder, Flow, Result, Timestamp, generate, secs};

const NUMBERS: u64 = 12_000;
const KEYS: u64 = 10;

/// Counts the numbers of each key, and shows each count.
fn counts(flow: &Flow, out: &Collect<(u64, u64)>) -> Result<()> {
    flow.source("numbers", generate(NUMBERS, |i| i))
        .watermarks_by(BoundedOutOfOrder::by(secs(0)), |i| Timestamp::from_millis(*i as i64))
        .map(|i| (i % KEYS, 1))
        .key_by(|(key, _)| *key)
        .reduce("count", |a, b| (a.0, a.1 + b.1))
        .sink("out", Single(out.clone()));
    Ok(())
}

fn cluster(nodes: usize, backing: Backing, checkpoints: Option<&Path>) -> ClusterBuilder {
    let builder = Cluster::of(nodes, backing).settings(|settings| {
        settings.restart_backoff_initial_ms = 10;
        settings.pipeline_rescale = "auto".to_owned();
        settings.pipeline_rescale_leave_ms = 1_500;
        settings.pipeline_rescale_cooldown_ms = 100;
    });
    match checkpoints {
        Some(at) => builder.checkpoints(at).settings(|settings| settings.checkpoint_interval_ms = 50),
        None => builder,
    }
}

/// Tasks of the operator that counts.
fn width(job: &afflux::jobs::JobInfo) -> usize {
    job.tasks.iter().filter(|task| task.operators.iter().any(|operator| operator == "count")).count()
}

#[test]
fn a_job_takes_the_slots_of_a_node_that_joins_and_gives_them_back_when_one_has_left() {
    for backing in BACKINGS {
        let out = Collect::default();
        let directory = tempfile::tempdir().unwrap();
        let (sink, at) = (out.clone(), directory.path().to_owned());
        run(|| async move {
            let mut cluster = cluster(2, backing, Some(&at))
                .pipeline("counts", move |flow| counts(flow, &sink))
                .start()
                .await;
            let job = cluster.submit_paced("counts", 4, 2.0).await.unwrap();
            assert_eq!(width(&job), 4, "{backing}");
            cluster.join().await;
            let wide = until_async("the slots of the node that has joined", async || {
                let job = cluster.job(&job.id).await;
                (job.state == "running" && width(&job) == 6).then_some(job)
            })
            .await;
            assert!(wide.failures.is_empty(), "{backing}: {:?}", wide.failures);
            assert!(wide.nodes().contains(&"node-3"), "{backing}: {:?}", wide.nodes());
            let lost = cluster.take("node-3");
            lost.mesh().close();
            let narrow = until_async("fewer tasks", async || {
                let job = cluster.job(&job.id).await;
                (job.state == "running" && width(&job) == 4).then_some(job)
            })
            .await;
            assert_eq!(narrow.nodes(), ["node-1", "node-2"], "{backing}");
            assert_eq!(narrow.failures.len(), 1, "{backing}: {:?}", narrow.failures);
            let ended = until_async("the end", async || {
                Some(cluster.job(&job.id).await).filter(|job| job.has_ended())
            })
            .await;
            assert_eq!((ended.state.as_str(), ended.error), ("finished", None), "{backing}");
            lost.close().await;
            cluster.close().await;
        });
        let rows = out.take_rows();
        let expected: Vec<(u64, u64)> =
            (0..KEYS).flat_map(|key| (1..=NUMBERS / KEYS).map(move |n| (key, n))).collect();
        assert!(rows == expected, "{backing}");
    }
}

#[test]
fn without_checkpoint_storage_a_job_stays_as_wide_as_it_is() {
    let out = Collect::default();
    let sink = out.clone();
    run(|| async move {
        let mut cluster =
            cluster(1, BACKINGS[0], None).pipeline("counts", move |flow| counts(flow, &sink)).start().await;
        let job = cluster.submit_paced("counts", 2, 3.0).await.unwrap();
        cluster.join().await;
        let ended =
            until_async("the end", async || Some(cluster.job(&job.id).await).filter(|job| job.has_ended()))
                .await;
        assert_eq!((ended.state.as_str(), ended.attempt, width(&ended)), ("finished", 1, 2));
        cluster.close().await;
    });
    assert_eq!(out.take_rows().len() as u64, NUMBERS);
}
