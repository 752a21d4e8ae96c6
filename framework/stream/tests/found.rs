//! Splits that appear while a job runs: each is read by one task from its beginning, is part of the next
//! checkpoint, and holds the watermark like the others.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_stream::job::start_local;
use afflux_stream::{
    Batch, Flow, IoContext, JobSettings, Plan, ReadState, Result, Sink, SinkWriter, Source, Split,
    SplitReader,
};

/// An input whose parts can become more. Part `p` has the rows `100 p` to `100 p + 9`.
#[derive(Clone, Default)]
struct Topic(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    parts: u64,
    ended: bool,
    /// How often each was opened, and whether as one that a checkpoint did not know.
    opened: BTreeMap<String, Vec<(Option<u64>, bool)>>,
    wakers: Vec<Waker>,
}

const ROWS: u64 = 10;

impl Topic {
    fn with(parts: u64) -> Self {
        let topic = Self::default();
        topic.0.lock().unwrap().parts = parts;
        topic
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap();
        change(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
    }

    fn split(part: u64, of: u64) -> Split {
        Split { id: format!("part-{part}"), payload: vec![part as u8, of as u8], size: None }
    }
}

impl Source for Topic {
    type Item = u64;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let parts = self.0.lock().unwrap().parts;
        Ok((0..parts).map(|part| Self::split(part, parts)).collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<u64>>> {
        let next = position.map(|p| u64::from(p[0]));
        let mut state = self.0.lock().unwrap();
        state.opened.entry(split.id.clone()).or_default().push((next, cx.restored));
        let (part, of) = (u64::from(split.payload[0]), u64::from(split.payload[1]));
        Ok(Box::new(Reader { topic: self.clone(), part, of, seen: of, next: next.unwrap_or(0) }))
    }

    fn kind(&self) -> &'static str {
        "topic"
    }
}

struct Reader {
    topic: Topic,
    part: u64,
    /// Parts when the job began: the new ones are dealt out over the readers of these.
    of: u64,
    seen: u64,
    next: u64,
}

impl SplitReader<u64> for Reader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<u64>,
        _: usize,
    ) -> Poll<Result<ReadState>> {
        let rows = ROWS - self.next;
        batch.rows.extend((self.next..ROWS).map(|row| 100 * self.part + row));
        self.next = ROWS;
        let mut state = self.topic.0.lock().unwrap();
        if state.ended {
            return Poll::Ready(Ok(ReadState::End));
        }
        state.wakers.push(cx.waker().clone());
        if rows > 0 { Poll::Ready(Ok(ReadState::CaughtUp)) } else { Poll::Pending }
    }

    fn position(&self) -> Vec<u8> {
        vec![self.next as u8]
    }

    fn found(&mut self) -> Vec<Split> {
        let parts = self.topic.0.lock().unwrap().parts;
        if self.part >= self.of {
            return Vec::new();
        }
        let found = (self.seen..parts).filter(|p| p % self.of == self.part);
        let found = found.map(|p| Topic::split(p, self.of)).collect();
        self.seen = parts;
        found
    }

    fn lag(&self) -> Option<u64> {
        Some(ROWS - self.next)
    }
}

#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<u64>>>);

impl Sink<u64> for Collect {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(self.clone()))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}

impl SinkWriter<u64> for Collect {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        self.0.lock().unwrap().append(&mut batch.rows);
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Collect {
    async fn has(&self, rows: usize) {
        for _ in 0..100_000 {
            if self.0.lock().unwrap().len() == rows {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{rows} rows never came: {:?}", self.0.lock().unwrap());
    }

    fn sorted(&self) -> Vec<u64> {
        let mut rows = self.0.lock().unwrap().clone();
        rows.sort_unstable();
        rows
    }
}

fn plan(topic: &Topic, out: &Collect, parallelism: u32) -> Plan {
    let flow = Flow::new("p", JobSettings { parallelism, ..JobSettings::default() });
    flow.source("in", topic.clone()).untimed().sink("out", out.clone());
    flow.finish().unwrap()
}

fn rows(parts: u64) -> Vec<u64> {
    (0..parts).flat_map(|part| (0..ROWS).map(move |row| 100 * part + row)).collect()
}

#[test]
fn a_split_that_appears_is_read_once_and_restored_where_it_was() {
    afflux_actor::test::system(|| async {
        let (topic, out) = (Topic::with(3), Collect::default());
        let start = |plan: &Plan, restore| {
            let threads = Arc::new(Threads::inline_slots(2).unwrap());
            start_local(plan, threads, Clock::new(|| SystemTime::UNIX_EPOCH), None, restore).unwrap()
        };
        let mut run = start(&plan(&topic, &out, 2), None);
        out.has(30).await;
        topic.change(|state| state.parts = 5);
        out.has(50).await;
        assert_eq!(out.sorted(), rows(5));
        let lags: Vec<Option<u64>> = run.readings().iter().map(|t| t.input_lag).collect();
        assert_eq!(lags, [Some(0), Some(0)]);
        let saved = run.checkpoint(1).await.unwrap();
        drop(run);

        // One more, that the checkpoint does not know.
        topic.change(|state| state.parts = 6);
        let again = Collect::default();
        let run = start(&plan(&topic, &again, 3), Some(saved));
        again.has(10).await;
        assert_eq!(again.sorted(), rows(6)[50..], "the others are not read again");
        topic.change(|state| state.ended = true);
        run.finish().await.unwrap();
        let state = topic.0.lock().unwrap();
        for part in 0..3 {
            assert_eq!(state.opened[&format!("part-{part}")], [(None, false), (Some(10), true)]);
        }
        assert_eq!(state.opened["part-4"], [(None, false), (Some(10), true)]);
        assert_eq!(state.opened["part-5"], [(None, true)]);
    });
}
