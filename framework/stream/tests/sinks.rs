//! Outputs that answer later: a full one holds its source back, and neither a checkpoint, a round of
//! confirmations nor the end passes before the output has confirmed.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_stream::job::start_local;
use afflux_stream::{
    Batch, Epochs, Flow, IoContext, JobSettings, Plan, ROUND_INTERVAL, ReadState, Result, Sink, SinkWriter,
    Source, Split, SplitReader, is_round,
};

/// Rows that an output takes before it wants a confirmation.
const UNCONFIRMED_MAX: usize = 100;

/// What a broker would hold, and the hand on its confirmations.
#[derive(Default)]
struct Outside {
    written: Vec<u64>,
    confirmed: usize,
    ended: bool,
    wakers: Vec<Waker>,
    /// What each split has read so far, and what it may forget.
    read: BTreeMap<String, u64>,
    acknowledged: BTreeMap<String, u64>,
    /// Epochs that sources have heard of.
    completed: Vec<u64>,
}

#[derive(Clone, Default)]
struct Broker(Arc<Mutex<Outside>>);

impl Broker {
    fn confirm(&self, rows: usize) {
        let mut outside = self.0.lock().unwrap();
        outside.confirmed = (outside.confirmed + rows).min(outside.written.len());
        outside.wakers.drain(..).for_each(Waker::wake);
    }

    fn get<T>(&self, f: impl FnOnce(&Outside) -> T) -> T {
        f(&self.0.lock().unwrap())
    }

    /// Waits until the tasks have brought the outside to where `f` holds.
    async fn reaches(&self, f: impl Fn(&Outside) -> bool) {
        for _ in 0..100_000 {
            if self.get(&f) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("written {}, confirmed {}", self.get(|o| o.written.len()), self.get(|o| o.confirmed));
    }
}

struct Writer(Broker);

impl Writer {
    fn poll(&self, cx: &mut Context<'_>, unconfirmed_max: usize) -> Poll<Result<()>> {
        let mut outside = self.0.0.lock().unwrap();
        if outside.written.len() - outside.confirmed <= unconfirmed_max {
            return Poll::Ready(Ok(()));
        }
        outside.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl Sink<u64> for Broker {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(Writer(self.clone())))
    }
    fn kind(&self) -> &'static str {
        "broker"
    }
    fn single(&self) -> bool {
        true
    }
}

impl SinkWriter<u64> for Writer {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(cx, UNCONFIRMED_MAX)
    }
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        self.0.0.lock().unwrap().written.append(&mut batch.rows);
        Ok(())
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(cx, 0)
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        assert!(self.0.get(|o| o.written.len() == o.confirmed), "saved before it was confirmed");
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        let mut outside = self.0.0.lock().unwrap();
        assert_eq!(outside.written.len(), outside.confirmed, "ended before it was confirmed");
        outside.ended = true;
        Ok(())
    }
    fn refused(&self) -> u64 {
        3
    }
}

/// Numbers from two splits; `batches` of ten each, and then silence or the end.
#[derive(Clone)]
struct Queue {
    broker: Broker,
    batches: u64,
    ends: bool,
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
        Ok(["a", "b"].map(|id| Split { id: id.to_owned(), payload: Vec::new(), size: None }).to_vec())
    }
    fn open(&self, split: &Split, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SplitReader<u64>>> {
        Ok(Box::new(Reader {
            queue: self.clone(),
            split: split.id.clone(),
            next: 0,
            barriers: BTreeMap::new(),
        }))
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
        if self.next == self.queue.batches * 10 {
            return if self.queue.ends { Poll::Ready(Ok(ReadState::End)) } else { Poll::Pending };
        }
        batch.rows.extend(self.next..self.next + 10);
        self.next += 10;
        self.queue.broker.0.lock().unwrap().read.insert(self.split.clone(), self.next);
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
        let mut outside = self.queue.broker.0.lock().unwrap();
        outside.acknowledged.insert(self.split.clone(), read);
        outside.completed.push(epoch);
    }
}

fn plan(broker: &Broker, batches: u64, ends: bool, parallelism: u32) -> Plan {
    let flow = Flow::new("queue", JobSettings { parallelism, ..JobSettings::default() });
    let queue = Queue { broker: broker.clone(), batches, ends };
    flow.source("in", queue).untimed().map(|x| x).rebalance().sink("out", broker.clone());
    flow.finish().unwrap()
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline_slots(2).unwrap())
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

#[test]
fn a_source_that_acknowledges_asks_for_rounds_and_an_interval_for_checkpoints() {
    let broker = Broker::default();
    assert_eq!(plan(&broker, 1, true, 1).epochs(), Some(Epochs::Rounds(ROUND_INTERVAL)));
    let plain = |checkpoint_interval_ms| {
        let flow = Flow::new("plain", JobSettings { checkpoint_interval_ms, ..JobSettings::default() });
        flow.source("in", afflux_stream::vec_source(vec![1])).untimed().count("n");
        flow.finish().unwrap().epochs()
    };
    assert_eq!(plain(0), None);
    assert_eq!(plain(500), Some(Epochs::Checkpoints(std::time::Duration::from_millis(500))));
}

#[test]
fn a_full_output_holds_its_source_back_and_the_end_waits_for_the_last_confirmation() {
    let broker = Broker::default();
    let plan = plan(&broker, 200, true, 1);
    afflux_actor::test::system(|| async move {
        let run = start_local(&plan, threads(), clock(), None, None).unwrap();
        broker.reaches(|o| o.written.len() > UNCONFIRMED_MAX).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        // What the output took too much is one batch; the rest are the buffers of one edge.
        let written = broker.get(|o| o.written.len());
        assert!(written <= UNCONFIRMED_MAX + afflux_stream::BATCH_ROWS_MAX, "{written}");
        let mut finish = pin!(run.finish());
        let readings = loop {
            broker.confirm(50);
            let polled = poll_fn(|cx| Poll::Ready(finish.as_mut().poll(cx))).await;
            if let Poll::Ready(readings) = polled {
                break readings.unwrap();
            }
            if broker.get(|o| o.ended) {
                break finish.await.unwrap();
            }
            tokio::task::yield_now().await;
        };
        assert!(broker.get(|o| o.ended && o.written.len() == 4_000));
        let refused: u64 = readings.iter().flat_map(|t| &t.operators).map(|o| o.errors).sum();
        assert_eq!(refused, 3, "what the output refused is counted");
    });
}

#[test]
fn neither_a_round_nor_a_checkpoint_completes_before_the_output_has_confirmed() {
    for parallelism in [1, 2] {
        for epoch in [1 | afflux_stream::ROUND, 1] {
            let broker = Broker::default();
            let plan = plan(&broker, 4, false, parallelism);
            afflux_actor::test::system(|| async move {
                let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
                broker.reaches(|o| o.written.len() == 80).await;
                {
                    let mut taken = pin!(run.checkpoint(epoch));
                    for confirmed in 0..80 {
                        for _ in 0..20 {
                            let polled = poll_fn(|cx| Poll::Ready(taken.as_mut().poll(cx))).await;
                            assert!(polled.is_pending(), "{confirmed} of 80 confirmed were enough");
                            tokio::task::yield_now().await;
                        }
                        assert!(broker.get(|o| o.completed.is_empty()));
                        broker.confirm(1);
                    }
                    taken.await.unwrap();
                }
                broker.reaches(|o| o.completed.len() == 2).await;
                assert_eq!(broker.get(|o| o.completed.clone()), [epoch, epoch], "{}", is_round(epoch));
                broker.get(|o| {
                    assert_eq!(o.acknowledged, BTreeMap::from([("a".into(), 40), ("b".into(), 40)]))
                });
            });
        }
    }
}

#[test]
fn what_was_read_behind_a_barrier_is_not_acknowledged_with_it() {
    let broker = Broker::default();
    let plan = plan(&broker, 1_000, false, 2);
    afflux_actor::test::system(|| async move {
        let mut run = start_local(&plan, threads(), clock(), None, None).unwrap();
        broker.reaches(|o| o.written.len() >= 50).await;
        for round in 1..=5 {
            let confirming = broker.clone();
            {
                let mut done = pin!(run.confirm(round));
                while poll_fn(|cx| Poll::Ready(done.as_mut().poll(cx))).await.is_pending() {
                    confirming.confirm(10);
                    tokio::task::yield_now().await;
                }
            }
            broker.reaches(|o| o.completed.len() == 2 * round as usize).await;
            broker.get(|o| {
                let acknowledged: u64 = o.acknowledged.values().sum();
                assert!(acknowledged <= o.confirmed as u64, "{acknowledged} of {} confirmed", o.confirmed);
                assert!(acknowledged > 0);
                assert!(o.read.values().sum::<u64>() >= acknowledged);
            });
        }
    });
}
