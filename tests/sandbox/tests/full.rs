//! A place of checkpoints without room: the job goes on, nothing is acknowledged meanwhile, and it ends by
//! itself. And one that does not answer.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use afflux_sandbox::{BACKINGS, Cluster, run, until_async};
use afflux_stream::job::Storage;
use afflux_stream::{Batch, Flow, IoContext, ReadState, Result, Source, Split, SplitReader};
use afflux_wire::Code;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

/// A store in memory that has no room while `full`, and takes for ever while `stuck`.
#[derive(Clone, Debug, Default)]
struct Shelf {
    objects: Arc<InMemory>,
    full: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
    /// What is put in for ever.
    waiting: Arc<AtomicU64>,
}

impl fmt::Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a shelf")
    }
}

impl Shelf {
    fn room(&self) -> object_store::Result<()> {
        if self.full.load(Relaxed) {
            let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left on device");
            return Err(Error::Generic { store: "shelf", source: Box::new(full) });
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl ObjectStore for Shelf {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.room()?;
        if self.stuck.load(Relaxed) {
            self.waiting.fetch_add(1, Relaxed);
            std::future::pending::<()>().await;
        }
        self.objects.put_opts(path, payload, options).await
    }
    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.room()?;
        self.objects.put_multipart_opts(path, options).await
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.objects.get_opts(path, options).await
    }
    async fn delete(&self, path: &Path) -> object_store::Result<()> {
        self.objects.delete(path).await
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.objects.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }
    async fn copy(&self, from: &Path, to: &Path) -> object_store::Result<()> {
        self.room()?;
        self.objects.copy(from, to).await
    }
    async fn copy_if_not_exists(&self, from: &Path, to: &Path) -> object_store::Result<()> {
        self.room()?;
        self.objects.copy_if_not_exists(from, to).await
    }
}

/// Three splits of numbers, of which so many are there.
#[derive(Clone, Default)]
struct Queue {
    there: Arc<AtomicU64>,
    waiting: Arc<Mutex<Vec<Waker>>>,
    /// What was acknowledged of each split.
    told: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Queue {
    fn put(&self, there: u64) {
        self.there.store(there, Relaxed);
        self.waiting.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    /// Whether so many of each split are acknowledged.
    fn told(&self, rows: u64) -> Option<()> {
        let told = self.told.lock().unwrap();
        (told.len() == 3 && told.values().all(|told| *told == rows)).then_some(())
    }
}

struct Reader {
    queue: Queue,
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
        let (queue, split) = (self.clone(), split.id.clone());
        Ok(Box::new(Reader { queue, split, next: 0, barriers: BTreeMap::new() }))
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
        cx: &mut Context<'_>,
        batch: &mut Batch<u64>,
        _: usize,
    ) -> Poll<Result<ReadState>> {
        self.queue.waiting.lock().unwrap().push(cx.waker().clone());
        if self.next >= self.queue.there.load(Relaxed) {
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
        self.queue.told.lock().unwrap().insert(self.split.clone(), read);
    }
}

fn sums(queue: &Queue) -> impl Fn(&Flow) -> Result<()> + Send + Sync + 'static {
    let queue = queue.clone();
    move |flow| {
        flow.source("queue", queue.clone())
            .untimed()
            .key_by(|i| i % 100)
            .reduce("sum", |a, b| a + b)
            .count("all");
        Ok(())
    }
}

/// Failed parts of checkpoints, as the node that coordinates counts them.
fn failures(cluster: &Cluster) -> u64 {
    let count = |node: &afflux::Node| -> u64 {
        let families = node.metrics().gather();
        let checkpoints = families.iter().filter(|family| family.name() == "afflux_checkpoints_total");
        let series = checkpoints.flat_map(|family| family.get_metric());
        let failed = series.filter(|m| m.get_label().iter().any(|label| label.value() == "failed"));
        failed.map(|m| m.get_counter().get_value() as u64).sum()
    };
    cluster.nodes().iter().map(count).sum()
}

#[test]
fn without_room_for_checkpoints_a_job_goes_on_unacknowledged_and_what_was_missed_comes_with_the_next() {
    for backing in BACKINGS {
        run(|| async move {
            let (shelf, queue) = (Shelf::default(), Queue::default());
            let storage = Storage::on(Arc::new(shelf.clone()), "the shelf");
            let given = storage.clone();
            let cluster = Cluster::of(2, backing)
                .settings(|settings| {
                    settings.checkpoint_interval_ms = 30;
                    // What could not be stored is followed by all there is.
                    settings.checkpoint_incremental = "on".to_owned();
                })
                .each(move |_, node| node.checkpoints_in(given.clone()))
                .pipeline("sums", sums(&queue))
                .start()
                .await;
            queue.put(500);
            let job = cluster.submit("sums", 2).await.unwrap().id;
            until_async("the first rows acknowledged", async || queue.told(500)).await;

            shelf.full.store(true, Relaxed);
            let error = storage.job_end(&job).await.unwrap();
            assert_eq!(error, None, "what is there can be read");
            let error =
                storage.end_job("another", &afflux_stream::job::JobState::Cancelled).await.unwrap_err();
            assert_eq!(error.code, Code::ResourceExhausted);
            for part in ["the shelf", "no space left on device", "make room there"] {
                assert!(error.message.contains(part), "`{part}` is missing: {error}");
            }
            let (before, missed) = (cluster.job(&job).await.last_checkpoint, failures(&cluster));
            queue.put(1_000);
            let during = until_async("more rows, and checkpoints that fail", async || {
                let job = cluster.job(&job).await;
                (job.progress.records_in >= 3_000 && failures(&cluster) >= missed + 6).then_some(job)
            })
            .await;
            assert_eq!(
                (during.state.as_str(), during.attempt, &during.failures[..]),
                ("running", 1, &[][..])
            );
            assert!(during.last_checkpoint <= before.map(|epoch| epoch + 1), "{during:?}");
            assert_eq!(queue.told(500), Some(()), "{backing}");

            shelf.full.store(false, Relaxed);
            until_async("the rest acknowledged", async || queue.told(1_000)).await;
            let after = cluster.job(&job).await;
            assert!(after.last_checkpoint > during.last_checkpoint && after.attempt == 1, "{backing}");
            let last = storage.latest_readable(&job).await.unwrap();
            assert!(last.0 >= after.last_checkpoint && last.1.is_empty(), "{last:?}, {backing}");
            cluster.jobs().cancel(job).await.unwrap();
            cluster.close().await;
        });
    }
}

#[test]
fn a_task_that_fails_is_told_of_while_what_others_have_saved_takes_for_ever_to_be_stored() {
    for backing in BACKINGS {
        run(|| async move {
            let (shelf, queue, poisoned) =
                (Shelf::default(), Queue::default(), Arc::new(AtomicBool::new(false)));
            let storage = Storage::on(Arc::new(shelf.clone()), "the shelf");
            let (source, poison) = (queue.clone(), Arc::clone(&poisoned));
            let cluster = Cluster::of(2, backing)
                .each(move |_, node| node.checkpoints_in(storage.clone()))
                .pipeline("poisoned", move |flow| {
                    let poison = Arc::clone(&poison);
                    flow.source("queue", source.clone())
                        .untimed()
                        .key_by(|i| i % 100)
                        .reduce("sum", move |a, b| {
                            assert!(!poison.swap(false, Relaxed), "poisoned");
                            a + b
                        })
                        .count("all");
                    Ok(())
                })
                .start()
                .await;
            queue.put(200);
            let job = cluster.submit("poisoned", 2).await.unwrap().id;
            until_async("the first rows", async || {
                (cluster.job(&job).await.progress.records_in >= 600).then_some(())
            })
            .await;
            shelf.stuck.store(true, Relaxed);
            cluster.jobs().checkpoint(job.clone()).await.unwrap();
            until_async("parts that wait", async || (shelf.waiting.load(Relaxed) >= 2).then_some(())).await;
            poisoned.store(true, Relaxed);
            queue.put(300);
            let told =
                until_async("the failure", async || cluster.job(&job).await.failures.into_iter().next())
                    .await;
            assert!(told.contains("poisoned"), "{told:?}, {backing}");
            shelf.stuck.store(false, Relaxed);
            cluster.jobs().cancel(job).await.unwrap();
            cluster.close().await;
        });
    }
}
