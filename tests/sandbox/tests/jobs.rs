//! Jobs over several nodes of one process: checkpoint and restore, failure, refusal.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use afflux_sandbox::{BACKINGS, Cluster, Collect, run, until_async};
use afflux_stream::{Batch, BoundedOutOfOrder, IoContext, Sink, SinkWriter, Timestamp, generate, secs};
use afflux_wire::{Code, Status};

const NUMBERS: u64 = 40_000;

#[test]
fn a_cancelled_job_goes_on_from_its_checkpoint_and_gives_each_record_once() {
    for backing in BACKINGS {
        let out = Collect::<u64>::default();
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_owned();
        run(|| async move {
            let sink = out.clone();
            let cluster = Cluster::of(3, backing)
                .checkpoints(&at)
                .pipeline("numbers", move |flow| {
                    flow.source("numbers", generate(NUMBERS, |i| i))
                        .watermarks_by(BoundedOutOfOrder::by(secs(0)), |i| Timestamp::from_millis(*i as i64))
                        .rebalance()
                        .sink("out", sink.clone());
                    Ok(())
                })
                .start()
                .await;
            // A number a millisecond: 40 seconds, unless it is stopped.
            let job = cluster.submit_paced("numbers", 3, 1.0).await.unwrap().id;
            until_async("some records", async || {
                (cluster.job(&job).await.progress.records_in > 0).then_some(())
            })
            .await;
            let epoch = cluster.checkpoint(&job).await;
            let cancelled = cluster.jobs().cancel(job.clone()).await.unwrap();
            assert_eq!(cancelled.state, "cancelled", "{backing}");
            assert!(cancelled.progress.records_in < NUMBERS, "it must not have ended, {backing}");
            let from = format!("{job}/{epoch}");
            // The generator is cut by the number of tasks that the checkpoint was taken with.
            for tasks in [3, 4, 5] {
                let restored = cluster.finish_from("numbers", tasks, &from).await;
                assert_eq!((restored.state.as_str(), restored.error), ("finished", None), "{backing}");
                assert!(restored.progress.records_in < NUMBERS, "it began anew, {backing}");
                let rows = out.take_rows();
                assert_eq!(rows.len() as u64, NUMBERS, "{tasks} tasks, {backing}");
                assert!((0..NUMBERS).eq(rows), "{tasks} tasks, {backing}");
            }
            cluster.close().await;
        });
    }
}

#[test]
fn clusters_that_begin_jobs_in_the_same_second_over_one_storage_give_them_different_ids() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_owned();
    run(|| async move {
        let now = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let cluster = afflux::testing::TestCluster::of(1)
                .clock(afflux_actor::Clock::new(move || now))
                .checkpoints(&at)
                .pipeline("numbers", |flow| {
                    flow.source("numbers", generate(10, |i| i)).untimed().count("all");
                    Ok(())
                })
                .start()
                .await
                .unwrap();
            let job = cluster.run("numbers", 1).await.unwrap();
            assert_eq!((job.state.as_str(), job.error), ("finished", None));
            assert!(ids.insert(job.id));
            cluster.close().await;
        }
    });
}

/// Fails at a number.
struct Fragile;

struct FragileWriter;

impl Sink<u64> for Fragile {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> afflux_stream::Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(FragileWriter))
    }
    fn kind(&self) -> &'static str {
        "fragile"
    }
}

impl SinkWriter<u64> for FragileWriter {
    fn write(&mut self, batch: &mut Batch<u64>) -> afflux_stream::Result<()> {
        match batch.rows.drain(..).find(|row| *row == 30_001) {
            Some(row) => Err(Status::internal(format!("disk on fire at {row}"))),
            None => Ok(()),
        }
    }
    fn snapshot(&mut self, _: u64) -> afflux_stream::Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> afflux_stream::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failing_task_fails_the_job_with_its_operator_its_node_and_the_cause() {
    for backing in BACKINGS {
        run(|| async move {
            let cluster = Cluster::of(3, backing)
                .pipeline("fragile", |flow| {
                    flow.source("numbers", generate(NUMBERS, |i| i))
                        .untimed()
                        .rebalance()
                        .sink("out", Fragile);
                    Ok(())
                })
                .start()
                .await;
            let job = cluster.finish("fragile", 3).await;
            assert_eq!(job.state, "failed", "{backing}");
            let error = job.error.unwrap();
            for part in ["(out)", "on node node-", "disk on fire at 30001"] {
                assert!(error.contains(part), "`{part}` is missing, {backing}: {error}");
            }
            cluster.close().await;
        });
    }
}

#[test]
fn a_pipeline_that_is_not_there_is_refused_with_the_nearest() {
    for backing in BACKINGS {
        run(|| async move {
            let cluster = Cluster::of(2, backing)
                .pipeline("numbers", |flow| {
                    flow.source("n", generate(1, |i| i)).untimed().count("all");
                    Ok(())
                })
                .start()
                .await;
            let error = cluster.submit("nombers", 2).await.unwrap_err().into_status();
            assert_eq!(error.code, Code::NotFound);
            assert!(error.message.contains("did you mean `numbers`?"), "{error}");
            let error = cluster.jobs().show("nothing".into()).await.unwrap_err().into_status();
            assert_eq!(error.code, Code::NotFound);
            let error = cluster.jobs().checkpoint("nothing".into()).await.unwrap_err().into_status();
            assert!(error.message.contains("checkpoint.dir"), "{error}");
            cluster.close().await;
        });
    }
}
