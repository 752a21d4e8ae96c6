//! A silent split of one node holds no window of another back.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use afflux_sandbox::{BACKINGS, Cluster, run, until_async};
use afflux_stream::{
    Batch, IoContext, Late, Monotonous, ReadState, Result, Source, Split, SplitReader, Timestamp, Tumbling,
    Window, fold, millis_of, secs,
};

/// Two splits without an end: one gives a minute of records, the other one record; both have caught up
/// then.
struct Uneven;

struct Reader {
    left: std::ops::Range<i64>,
}

impl Source for Uneven {
    type Item = i64;
    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let split = |id: &str| Split { id: id.into(), payload: Vec::new(), size: None };
        Ok(vec![split("busy"), split("quiet")])
    }
    fn open(&self, split: &Split, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SplitReader<i64>>> {
        let left = if split.id == "busy" { 0..60_000 } else { 1_000..1_001 };
        Ok(Box::new(Reader { left }))
    }
    fn kind(&self) -> &'static str {
        "uneven"
    }
}

impl SplitReader<i64> for Reader {
    // Registers no waker: the engine asks again.
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<i64>,
        max: usize,
    ) -> Poll<Result<ReadState>> {
        batch.rows.extend(self.left.by_ref().take(max));
        Poll::Ready(Ok(if self.left.is_empty() { ReadState::CaughtUp } else { ReadState::More }))
    }
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[test]
fn windows_fire_on_all_nodes_once_a_quiet_split_of_one_is_idle() {
    for backing in BACKINGS {
        run(|| async move {
            let seen = Arc::new(Mutex::new(Vec::<(i64, u64)>::new()));
            let into = Arc::clone(&seen);
            let cluster = Cluster::of(2, backing)
                .pipeline("counts", move |flow| {
                    flow.source("rows", Uneven)
                        .watermarks_by(Monotonous::times().idle_after(millis_of(200)), |t: &i64| {
                            Timestamp::from_millis(*t)
                        })
                        .key_by(|t| *t as u64 % 8)
                        .window(Tumbling::of(secs(10)))
                        .late(Late::Drop)
                        .aggregate(
                            "count",
                            fold(|| 0_u64, |n, _: &i64| *n += 1, |_, w: Window, n| (w.start.millis(), n)),
                        )
                        .inspect({
                            let into = Arc::clone(&into);
                            move |row| into.lock().unwrap().push(*row)
                        })
                        .count("out");
                    Ok(())
                })
                .start()
                .await;
            let job = cluster.submit("counts", 2).await.unwrap();
            let rows = until_async("five windows of eight keys", async || {
                let rows = seen.lock().unwrap().clone();
                (rows.len() >= 40).then_some(rows)
            })
            .await;
            let first: u64 = rows.iter().filter(|row| row.0 == 0).map(|row| row.1).sum();
            let all: u64 = rows.iter().map(|row| row.1).sum();
            assert_eq!((rows.len(), first, all), (40, 10_001, 50_001), "{backing}");
            until_async("both are idle, and nobody holds the watermark", async || {
                let why = cluster.jobs().why(job.id.clone(), "count".into()).await.unwrap();
                let quiet = why.held_by.as_ref().is_some_and(|holder| holder.split == "quiet");
                assert!(!quiet, "it is idle, {backing}: {why:?}");
                why.held_by.is_none().then_some(())
            })
            .await;
            cluster.jobs().cancel(job.id).await.unwrap();
            cluster.close().await;
        });
    }
}
