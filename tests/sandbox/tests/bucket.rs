//! A job whose checkpoints are in a bucket: `tests/servers/s3.sh start DIR` prints what `AWS_ENDPOINT` has to
//! be, and any `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` do.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use afflux_sandbox::{BACKINGS, Cluster, Collect, Single, run, until_async};
use afflux_stream::job::Storage;
use afflux_stream::{BoundedOutOfOrder, Timestamp, generate, secs};

const NUMBERS: u64 = 6_000;
const KEYS: u64 = 10;

#[test]
#[ignore = "needs s3"]
fn a_job_that_loses_a_node_goes_on_from_its_checkpoint_in_a_bucket() {
    let options: Vec<(String, String)> =
        std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect();
    assert!(
        options.iter().any(|(name, _)| name == "AWS_ENDPOINT"),
        "AWS_ENDPOINT: what tests/servers/s3.sh prints"
    );
    for (number, backing) in BACKINGS.into_iter().enumerate() {
        let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let url = format!("s3://checkpoints/jobs/{since_1970}-{number}");
        let (out, options) = (Collect::default(), options.clone());
        let sink = out.clone();
        run(|| async move {
            let mut cluster = Cluster::of(3, backing)
                .settings(|settings| {
                    settings.checkpoint_url.clone_from(&url);
                    settings.checkpoint_interval_ms = 200;
                    settings.restart_backoff_initial_ms = 10;
                })
                .pipeline("counts", move |flow| {
                    flow.source("numbers", generate(NUMBERS, |i| i))
                        .watermarks_by(BoundedOutOfOrder::by(secs(0)), |i| Timestamp::from_millis(*i as i64))
                        .rebalance()
                        .map(|i| (i % KEYS, 1_u64))
                        .key_by(|(key, _)| *key)
                        .reduce("count", |a, b| (a.0, a.1 + b.1))
                        .sink("out", Single(sink.clone()));
                    Ok(())
                })
                .start()
                .await;
            let job = cluster.submit_paced("counts", 3, 1.0).await.unwrap();
            until_async("a checkpoint", async || cluster.job(&job.id).await.last_checkpoint).await;
            let lost = cluster.take("node-3");
            lost.mesh().close();
            let ended = until_async("the end", async || {
                Some(cluster.job(&job.id).await).filter(|job| job.has_ended())
            })
            .await;
            assert_eq!((ended.state.as_str(), ended.error), ("finished", None), "{backing}");
            assert!(ended.attempt > 1 && ended.progress.records_in < NUMBERS, "it began anew, {backing}");
            let storage = Storage::open(&url, &options).unwrap();
            let last = storage.epochs(&job.id).await.unwrap().last().copied();
            // One may have been completed while the job ended, unheard.
            let told = ended.last_checkpoint;
            assert!(told.is_some() && last >= told, "{last:?} where {told:?} was told, {backing}");
            assert!(storage.job_end(&job.id).await.unwrap().is_some(), "{backing}");
            lost.close().await;
            cluster.close().await;
        });
        let mut rows = out.take_rows();
        rows.sort_unstable();
        let expected: Vec<(u64, u64)> =
            (0..KEYS).flat_map(|key| (1..=NUMBERS / KEYS).map(move |n| (key, n))).collect();
        assert!(rows == expected, "each count comes once, {backing}: {} rows", rows.len());
    }
}
