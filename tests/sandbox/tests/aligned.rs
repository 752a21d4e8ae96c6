//! An aligned source whose splits are read on several nodes.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use afflux_sandbox::{BACKINGS, Cluster, Collect, run, until_async};
use afflux_stream::{
    Batch, BoundedOutOfOrder, IoContext, ReadState, Result, Source, Split, SplitReader, Timestamp, secs,
};

/// How far a split may be ahead of the slowest, in milliseconds.
const DRIFT_MS: i64 = 10_000;
/// What may come on top: rows of one batch, which are a millisecond each.
const BATCH_MS: i64 = 1_024;
/// Rows of each fast split.
const FAST_ROWS: i64 = 100_000;

/// What the splits share: all nodes are in this process.
#[derive(Default)]
struct Race {
    /// What the slow split is to give.
    given: VecDeque<i64>,
    ended: bool,
    waker: Option<Waker>,
    /// The last row that was read of it.
    slow: Option<i64>,
    /// The last row that was read of each fast one.
    fast: [i64; 2],
    /// By how much a fast one was ahead, at most; before the slow one began, by how many rows.
    lead: i64,
}

/// `fast-0` and `fast-2` give a row a millisecond, `slow-1` what the test says. With three nodes and
/// three tasks, each is on a node of its own.
#[derive(Clone, Default)]
struct Splits(Arc<Mutex<Race>>);

impl Splits {
    fn give(&self, row: i64) {
        let mut race = self.0.lock().unwrap();
        race.given.push_back(row);
        race.waker.take().into_iter().for_each(Waker::wake);
    }

    fn end(&self) {
        let mut race = self.0.lock().unwrap();
        race.ended = true;
        race.waker.take().into_iter().for_each(Waker::wake);
    }

    /// Both fast splits have come so far.
    async fn come_to(&self, at: i64) {
        until_async(&format!("both fast splits at {at}"), async || {
            self.0.lock().unwrap().fast.iter().all(|last| *last >= at).then_some(())
        })
        .await;
    }
}

impl Source for Splits {
    type Item = i64;
    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let split = |id: &str| Split { id: id.into(), payload: Vec::new(), size: None };
        Ok(vec![split("fast-0"), split("slow-1"), split("fast-2")])
    }
    fn open(&self, split: &Split, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SplitReader<i64>>> {
        Ok(match split.id.as_str() {
            "slow-1" => Box::new(Slow(self.clone())),
            id => Box::new(Fast { race: self.clone(), index: usize::from(id == "fast-2"), next: 0 }),
        })
    }
    fn kind(&self) -> &'static str {
        "race"
    }
}

struct Slow(Splits);

impl SplitReader<i64> for Slow {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<i64>,
        _: usize,
    ) -> Poll<Result<ReadState>> {
        let mut race = self.0.0.lock().unwrap();
        if let Some(row) = race.given.pop_front() {
            race.slow = Some(row);
            batch.rows.push(row);
            return Poll::Ready(Ok(ReadState::More));
        }
        if race.ended {
            race.slow = Some(i64::MAX);
            return Poll::Ready(Ok(ReadState::End));
        }
        race.waker = Some(cx.waker().clone());
        Poll::Pending
    }
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }
}

struct Fast {
    race: Splits,
    index: usize,
    next: i64,
}

impl SplitReader<i64> for Fast {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<i64>,
        max: usize,
    ) -> Poll<Result<ReadState>> {
        let to = FAST_ROWS.min(self.next + max as i64);
        batch.rows.extend(self.next..to);
        self.next = to;
        let mut race = self.race.0.lock().unwrap();
        race.fast[self.index] = to - 1;
        // Before the slow one has begun, the first batch alone may be read.
        let lead = match race.slow {
            Some(slow) => (to - 1).saturating_sub(slow),
            None => to + DRIFT_MS,
        };
        race.lead = race.lead.max(lead);
        Poll::Ready(Ok(if to == FAST_ROWS { ReadState::End } else { ReadState::More }))
    }
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[test]
fn fast_splits_stay_near_a_slow_one_on_another_node() {
    for backing in BACKINGS {
        run(|| async move {
            let (splits, rows) = (Splits::default(), Collect::default());
            let (source, out) = (splits.clone(), rows.clone());
            let cluster = Cluster::of(3, backing)
                .pipeline("race", move |flow| {
                    let strategy = BoundedOutOfOrder::by(secs(1)).align(secs(DRIFT_MS as u64 / 1_000));
                    flow.source("rows", source.clone())
                        .watermarks_by(strategy, |row| Timestamp::from_millis(*row))
                        .sink("out", out.clone());
                    Ok(())
                })
                .start()
                .await;
            let job = cluster.submit("race", 3).await.unwrap();
            let place = |subtask| job.tasks.iter().find(|t| t.subtask == subtask).unwrap().node.clone();
            assert!(place(0) != place(1) && place(2) != place(1), "{:?}", job.tasks);
            for at in [0, 20_000, 50_000] {
                splits.give(at);
                splits.come_to(at + DRIFT_MS).await;
            }
            let lead = splits.0.lock().unwrap().lead;
            assert!((DRIFT_MS..=DRIFT_MS + BATCH_MS).contains(&lead), "{lead} ms ahead over {backing}");
            // Once it has ended it holds nobody.
            splits.end();
            let job = until_async("the end", async || {
                Some(cluster.job(&job.id).await).filter(|job| job.has_ended())
            })
            .await;
            assert_eq!(job.state, "finished", "{:?}", job.error);
            assert_eq!(rows.take_rows().len() as i64, 2 * FAST_ROWS + 3);
            cluster.close().await;
        });
    }
}
