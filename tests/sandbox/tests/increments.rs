//! Jobs whose checkpoints are what has changed since the ones before.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use afflux_sandbox::{BACKINGS, Cluster, Collect, Single, run, until_async};
use afflux_stream::job::Storage;
use afflux_stream::{BoundedOutOfOrder, Timestamp, generate, secs};

const NUMBERS: u64 = 6_000;
/// Each number up to here has a key of its own.
const KEYS: u64 = 3_000;
/// Those behind have so many keys of them.
const HOT: u64 = 20;

#[test]
fn a_job_that_loses_a_node_goes_on_from_a_checkpoint_that_is_a_chain_of_others() {
    for backing in BACKINGS {
        let out = Collect::default();
        let directory = tempfile::tempdir().unwrap();
        let (sink, at) = (out.clone(), directory.path().to_owned());
        run(|| async move {
            let mut cluster = Cluster::of(3, backing)
                .checkpoints(&at)
                .settings(|settings| {
                    settings.checkpoint_interval_ms = 50;
                    settings.checkpoint_incremental = "on".to_owned();
                    settings.restart_backoff_initial_ms = 10;
                })
                .pipeline("counts", move |flow| {
                    flow.source("numbers", generate(NUMBERS, |i| i))
                        .watermarks_by(BoundedOutOfOrder::by(secs(0)), |i| Timestamp::from_millis(*i as i64))
                        .rebalance()
                        .map(|i| (if i < KEYS { i } else { i % HOT }, 1_u64))
                        .key_by(|(key, _)| *key)
                        .reduce("count", |a, b| (a.0, a.1 + b.1))
                        .sink("out", Single(sink.clone()));
                    Ok(())
                })
                .start()
                .await;
            let job = cluster.submit_paced("counts", 3, 1.0).await.unwrap().id;
            let storage = Storage::open(at.to_str().unwrap(), &[]).unwrap();
            let chain = until_async("a checkpoint that refers to others", async || {
                let epoch = cluster.job(&job).await.last_checkpoint?;
                let manifest = storage.manifest(&job, epoch).await.ok()?;
                let counts = manifest.files.iter().filter(|f| f.states.iter().any(|s| s.operator == "count"));
                (counts.filter(|file| !file.refers.is_empty()).count() == 3).then_some(epoch)
            })
            .await;
            let lost = cluster.take("node-3");
            lost.mesh().close();
            let ended =
                until_async("the end", async || Some(cluster.job(&job).await).filter(|job| job.has_ended()))
                    .await;
            assert_eq!((ended.state.as_str(), ended.error), ("finished", None), "{backing}");
            assert!(ended.attempt > 1 && ended.last_checkpoint > Some(chain), "{backing}");
            let last = storage.latest_readable(&job).await.unwrap();
            assert!(last.0 >= ended.last_checkpoint && last.1.is_empty(), "{last:?}, {backing}");
            lost.close().await;
            cluster.close().await;
        });
        let hot = (NUMBERS - KEYS) / HOT;
        let expected: Vec<(u64, u64)> = (0..KEYS)
            .flat_map(|key| (1..=if key < HOT { hot + 1 } else { 1 }).map(move |n| (key, n)))
            .collect();
        let rows = out.take_rows();
        assert!(rows == expected, "{} rows of {}, {backing}", rows.len(), expected.len());
    }
}
