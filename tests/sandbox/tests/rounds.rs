//! Sources that acknowledge, over several nodes: the desk tells them what is done with, by rounds of
//! confirmations or with checkpoints at an interval.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use afflux_sandbox::{BACKINGS, Cluster, run, until_async};
use afflux_stream::{Batch, Flow, IoContext, ReadState, Result, Source, Split, SplitReader, is_round};

const ROWS: u64 = 500;

/// What was acknowledged of each split, by which kind of epoch.
type Told = Arc<Mutex<BTreeMap<String, (u64, bool)>>>;

/// Three splits of numbers, and silence behind them.
#[derive(Clone, Default)]
struct Queue(Told);

struct Reader {
    told: Told,
    split: String,
    next: u64,
    barriers: BTreeMap<u64, u64>,
}

impl Source for Queue {
    type Item = u64;
    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let split = |id: &str| Split { id: id.to_owned(), payload: Vec::new(), size: None };
        Ok(["a", "b", "c"].map(split).to_vec())
    }
    fn open(&self, split: &Split, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SplitReader<u64>>> {
        let (told, split) = (Arc::clone(&self.0), split.id.clone());
        Ok(Box::new(Reader { told, split, next: 0, barriers: BTreeMap::new() }))
    }
    fn kind(&self) -> &'static str {
        "queue"
    }
    fn acknowledges(&self) -> bool {
        true
    }
}

impl SplitReader<u64> for Reader {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<u64>,
        _: usize,
    ) -> Poll<Result<ReadState>> {
        if self.next == ROWS {
            return Poll::Pending;
        }
        batch.rows.push(self.next);
        self.next += 1;
        Poll::Ready(Ok(ReadState::More))
    }
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }
    fn barrier(&mut self, epoch: u64) {
        self.barriers.insert(epoch, self.next);
    }
    fn completed(&mut self, epoch: u64) {
        let read = self.barriers.remove(&epoch).unwrap();
        self.told.lock().unwrap().insert(self.split.clone(), (read, is_round(epoch)));
    }
}

fn pipeline(queue: &Queue) -> impl Fn(&Flow) -> Result<()> + Send + Sync + 'static {
    let queue = queue.clone();
    move |flow| {
        flow.source("queue", queue.clone()).untimed().rebalance().count("all");
        Ok(())
    }
}

fn all_told(queue: &Queue, round: bool) -> Option<()> {
    let told = queue.0.lock().unwrap();
    (told.len() == 3 && told.values().all(|t| *t == (ROWS, round))).then_some(())
}

#[test]
fn a_source_that_acknowledges_hears_by_itself_what_all_tasks_are_done_with() {
    for backing in BACKINGS {
        run(|| async move {
            let queue = Queue::default();
            let cluster = Cluster::of(3, backing).pipeline("queue", pipeline(&queue)).start().await;
            let job = cluster.submit("queue", 3).await.unwrap().id;
            until_async("every row acknowledged", async || all_told(&queue, true)).await;
            assert_eq!(cluster.job(&job).await.last_checkpoint, None, "a round is no checkpoint, {backing}");
            cluster.jobs().cancel(job).await.unwrap();
            cluster.close().await;
        });
    }
}

#[test]
fn checkpoints_at_an_interval_acknowledge_when_they_are_complete() {
    for backing in BACKINGS {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_owned();
        run(|| async move {
            let queue = Queue::default();
            let cluster = Cluster::of(3, backing)
                .checkpoints(&at)
                .settings(|s| s.checkpoint_interval_ms = 50)
                .pipeline("queue", pipeline(&queue))
                .start()
                .await;
            let job = cluster.submit("queue", 3).await.unwrap().id;
            until_async("every row acknowledged", async || all_told(&queue, false)).await;
            until_async("a third checkpoint", async || {
                cluster.job(&job).await.last_checkpoint.filter(|epoch| *epoch >= 3)
            })
            .await;
            cluster.jobs().cancel(job).await.unwrap();
            cluster.close().await;
        });
    }
}

#[test]
fn an_interval_without_a_place_for_checkpoints_is_refused() {
    run(|| async move {
        let queue = Queue::default();
        let cluster = Cluster::of(1, BACKINGS[0])
            .settings(|s| s.checkpoint_interval_ms = 50)
            .pipeline("queue", pipeline(&queue))
            .start()
            .await;
        let error = cluster.submit("queue", 1).await.unwrap_err().into_status().message;
        assert!(
            error.contains("checkpoint.interval_ms is 50") && error.contains("`checkpoint.dir`"),
            "{error}"
        );
        cluster.close().await;
    });
}
