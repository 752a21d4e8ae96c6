//! Sinks with transactions: each row once, wherever the job dies, whoever is restored, however often the
//! target refuses.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_stream::job::{start_attempt, start_local};
use afflux_stream::{
    Batch, Committer, Flow, Guarantee, IoContext, JobSettings, LAST_EPOCH, Plan, Restore, Result, Sink,
    SinkWriter, Transaction, TwoPhaseSink, TwoPhaseWriter, two_phase, vec_source,
};
use afflux_wire::{Code, Status};
use proptest::prelude::*;

/// What the target holds: rows by the id of their transaction.
#[derive(Default)]
struct Books {
    open: BTreeMap<String, Vec<u64>>,
    prepared: BTreeMap<String, Vec<u64>>,
    committed: BTreeMap<String, Vec<u64>>,
    /// Calls of the target from now on until one dies, before or behind its effect.
    dies_in: Option<(u32, bool)>,
    /// Commits that are refused before one succeeds.
    refusals: u32,
    tries: u32,
}

/// A target outside, which survives every process.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Books>>);

fn dead() -> Status {
    Status::internal("killed")
}

impl Ledger {
    /// A call of the target, which may be the last that this process makes.
    fn call<R>(&self, effect: impl FnOnce(&mut Books) -> R) -> Result<R> {
        let mut books = self.0.lock().unwrap();
        let dies = match &mut books.dies_in {
            None => None,
            Some((0, behind)) => Some(*behind),
            Some((calls, _)) => {
                *calls -= 1;
                None
            }
        };
        match dies {
            Some(false) => Err(dead()),
            Some(true) => {
                effect(&mut books);
                books.dies_in = Some((0, false));
                Err(dead())
            }
            None => Ok(effect(&mut books)),
        }
    }

    fn committed(&self) -> Vec<u64> {
        let books = self.0.lock().unwrap();
        let mut rows: Vec<u64> = books.committed.values().flatten().copied().collect();
        rows.sort_unstable();
        rows
    }
}

struct Writer {
    ledger: Ledger,
    cx: IoContext,
    /// Rows that stay open over barriers: the number says how many barriers the last has seen.
    held: Vec<u64>,
    every: u32,
    barriers: u32,
}

impl Writer {
    fn id(&self, epoch: u64) -> String {
        format!("a{}-t{}-e{epoch}", self.cx.attempt, self.cx.subtask)
    }
}

/// The ledger, and after how many barriers a transaction ends.
struct Target(Ledger, u32);

impl TwoPhaseSink<u64> for Target {
    type Committable = String;
    type State = Vec<u64>;

    fn writer(
        &self,
        states: Vec<Vec<u64>>,
        cx: &IoContext,
    ) -> Result<Box<dyn TwoPhaseWriter<u64, String, Vec<u64>>>> {
        let held = states.into_iter().flatten().collect();
        Ok(Box::new(Writer { ledger: self.0.clone(), cx: cx.clone(), held, every: self.1, barriers: 0 }))
    }
    fn committer(&self, cx: &IoContext) -> Result<Box<dyn Committer<String>>> {
        Ok(Box::new(Desk { ledger: self.0.clone(), cx: cx.clone() }))
    }
    fn kind(&self) -> &'static str {
        "ledger"
    }
}

impl TwoPhaseWriter<u64, String, Vec<u64>> for Writer {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        let id = self.id(0);
        self.held.extend(&batch.rows);
        let rows = std::mem::take(&mut batch.rows);
        self.ledger.call(|books| books.open.entry(id).or_default().extend(rows))
    }
    fn prepare(&mut self, epoch: u64) -> Result<Vec<String>> {
        self.barriers += 1;
        // Some transactions stay open over a barrier; their rows are in the state.
        if epoch != LAST_EPOCH && !self.barriers.is_multiple_of(self.every) {
            return Ok(Vec::new());
        }
        let (id, open) = (self.id(epoch), self.id(0));
        let rows = std::mem::take(&mut self.held);
        self.ledger.call(|books| {
            books.open.remove(&open);
            books.prepared.insert(id.clone(), rows);
        })?;
        Ok(vec![id])
    }
    fn state(&mut self) -> Result<Vec<u64>> {
        Ok(self.held.clone())
    }
}

struct Desk {
    ledger: Ledger,
    cx: IoContext,
}

impl Committer<String> for Desk {
    fn poll_commit(&mut self, due: &mut Vec<Transaction<String>>, _: &mut Context<'_>) -> Poll<Result<()>> {
        while let Some(transaction) = due.first() {
            let id = transaction.committable.clone();
            let done = self.ledger.call(|books| {
                books.tries += 1;
                if books.refusals > 0 {
                    books.refusals -= 1;
                    return Err(Status::unavailable("the ledger is shut"));
                }
                match books.prepared.remove(&id) {
                    Some(rows) => assert!(books.committed.insert(id, rows).is_none()),
                    None if books.committed.contains_key(&id) => {}
                    None => return Err(Status::new(Code::DataLoss, format!("{id} was never prepared"))),
                }
                Ok(())
            });
            if let Err(status) = done.and_then(|done| done) {
                return Poll::Ready(Err(status));
            }
            due.remove(0);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_abort(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        let (task, tasks) = (self.cx.subtask, self.cx.parallelism);
        Poll::Ready(self.ledger.call(|books| {
            let foreign = |id: &String| {
                let mut parts = id.split('-').map(|part| part.get(1..).unwrap().parse::<u64>().unwrap());
                let (attempt, number) = (parts.next().unwrap(), parts.next().unwrap() as u32);
                attempt >= self.cx.attempt || number % tasks != task
            };
            books.open.retain(|id, _| foreign(id));
            books.prepared.retain(|id, _| foreign(id));
        }))
    }
}

/// A job of this sink alone, driven by hand: rows in order, barriers, completions, deaths.
struct Job {
    ledger: Ledger,
    every: u32,
    attempt: u64,
    epoch: u64,
    writers: Vec<Box<dyn SinkWriter<u64>>>,
    next: u64,
    /// The last durable checkpoint: the position of the source and the states.
    durable: (u64, Vec<(u32, Vec<u8>)>),
}

fn poll<R>(mut f: impl FnMut(&mut Context<'_>) -> Poll<Result<R>>) -> Result<R> {
    let waker = std::task::Waker::noop();
    for _ in 0..3 {
        if let Poll::Ready(ready) = f(&mut Context::from_waker(waker)) {
            return ready;
        }
    }
    panic!("nothing to wait for");
}

impl Job {
    fn start(&mut self, parallelism: u32) -> Result<()> {
        self.attempt += 1;
        self.ledger.0.lock().unwrap().refusals = 0;
        let sink = two_phase(Target(self.ledger.clone(), self.every));
        self.next = self.durable.0;
        self.writers.clear();
        for subtask in 0..parallelism {
            let cx = IoContext { subtask, parallelism, attempt: self.attempt, ..IoContext::new("p", "out") };
            self.writers.push(sink.restore(&self.durable.1, &cx)?);
        }
        for writer in &mut self.writers {
            poll(|cx| writer.poll_ready(cx))?;
        }
        Ok(())
    }

    fn write(&mut self, rows: u64) -> Result<()> {
        let tasks = self.writers.len() as u64;
        for _ in 0..rows {
            let writer = self.writers.get_mut((self.next % tasks) as usize).unwrap();
            poll(|cx| writer.poll_ready(cx))?;
            writer.write(&mut Batch::untimed(vec![self.next]))?;
            self.next += 1;
        }
        Ok(())
    }

    /// A checkpoint; `durable` where its manifest is written, `told` where the tasks hear of it.
    fn checkpoint(&mut self, last: bool, durable: bool, told: bool) -> Result<()> {
        self.epoch += 1;
        let mut states = Vec::new();
        for (task, writer) in self.writers.iter_mut().enumerate() {
            poll(|cx| writer.poll_flush(cx))?;
            states.push((task as u32, writer.snapshot(if last { LAST_EPOCH } else { self.epoch })?));
        }
        if !durable {
            return Ok(());
        }
        self.durable = (self.next, states);
        if told {
            for writer in &mut self.writers {
                writer.completed(if last { LAST_EPOCH } else { self.epoch })?;
                poll(|cx| writer.poll_commit(cx))?;
                if last {
                    poll(|cx| writer.poll_end(cx))?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    Checkpoint {
        durable: bool,
        told: bool,
    },
    Die {
        parallelism: u32,
    },
    /// The target's call of this number from here on is the last of the process, before its effect or behind.
    DieIn {
        calls: u32,
        behind: bool,
        parallelism: u32,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u64..20).prop_map(Step::Write),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(durable, told)| Step::Checkpoint { durable, told }),
        1 => (1_u32..4).prop_map(|parallelism| Step::Die { parallelism }),
        2 => (0_u32..12, any::<bool>(), 1_u32..4)
            .prop_map(|(calls, behind, parallelism)| Step::DieIn { calls, behind, parallelism }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_row_is_committed_once_wherever_the_job_dies(
        steps in steps(),
        parallelism in 1_u32..4,
        every in 1_u32..4,
    ) {
        let ledger = Ledger::default();
        let mut job = Job {
            ledger: ledger.clone(), every, attempt: 0, epoch: 0, writers: Vec::new(), next: 0,
            durable: (0, Vec::new()),
        };
        job.start(parallelism).unwrap();
        let mut widths = parallelism;
        for step in steps {
            let done = match step {
                Step::Write(rows) => job.write(rows),
                Step::Checkpoint { durable, told } => job.checkpoint(false, durable, told),
                Step::Die { parallelism } => {
                    widths = parallelism;
                    Err(dead())
                }
                Step::DieIn { calls, behind, parallelism } => {
                    widths = parallelism;
                    ledger.0.lock().unwrap().dies_in = Some((calls, behind));
                    Ok(())
                }
            };
            if done.is_err() {
                prop_assert!(done.unwrap_err().message.contains("killed"));
                ledger.0.lock().unwrap().dies_in = None;
                job.start(widths).unwrap();
            }
            // Never more than what is durable, and never one twice.
            let committed = ledger.committed();
            let mut once = committed.clone();
            once.dedup();
            prop_assert_eq!(&once, &committed);
            prop_assert!(committed.last().is_none_or(|last| *last < job.durable.0));
        }
        // The end, which dies as well until it comes through.
        loop {
            let ended = job.checkpoint(true, true, true);
            let rows = job.durable.0;
            if ended.is_ok() {
                prop_assert_eq!(ledger.committed(), (0..rows).collect::<Vec<_>>());
                prop_assert!(ledger.0.lock().unwrap().prepared.is_empty());
                break;
            }
            ledger.0.lock().unwrap().dies_in = None;
            job.start(widths).unwrap();
        }
    }
}

const ROWS: u64 = 3_000;

fn plan(ledger: &Ledger, parallelism: u32, interval_ms: u64) -> Plan {
    let flow = Flow::new(
        "payments",
        JobSettings { parallelism, checkpoint_interval_ms: interval_ms, ..JobSettings::default() },
    );
    let numbers = flow.source("numbers", vec_source((0..ROWS).collect())).untimed();
    numbers.rebalance().sink("ledger", two_phase(Target(ledger.clone(), 1)));
    flow.finish().unwrap()
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::inline_slots(2).unwrap())
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH)
}

fn run(plan: Plan, restore: Option<Restore>) {
    afflux_actor::test::system(|| async move {
        let attempt = 1 + u64::from(restore.is_some());
        start_attempt(&plan, threads(), clock(), None, restore, attempt).unwrap().finish().await.unwrap();
    });
}

#[test]
fn a_bounded_job_commits_at_its_end_with_and_without_checkpoints() {
    for interval_ms in [0, 1_000] {
        for parallelism in [1, 3] {
            let ledger = Ledger::default();
            run(plan(&ledger, parallelism, interval_ms), None);
            assert_eq!(ledger.committed(), (0..ROWS).collect::<Vec<_>>(), "{interval_ms} {parallelism}");
        }
    }
}

#[test]
fn a_job_that_dies_between_the_manifest_and_the_commits_is_finished_by_whoever_is_restored() {
    for (before, after) in [(1, 1), (2, 3), (3, 1)] {
        let ledger = Ledger::default();
        let first = plan(&ledger, before, 1_000);
        let restore = afflux_actor::test::system(|| async move {
            let mut run = start_local(&first, threads(), clock(), None, None).unwrap();
            while run.readings().iter().flat_map(|t| &t.operators).all(|o| o.records_in == 0) {
                tokio::task::yield_now().await;
            }
            // The run is dropped before anything is committed.
            run.save(1).await.unwrap()
        });
        assert!(ledger.committed().is_empty(), "nothing is committed before it is durable");
        run(plan(&ledger, after, 1_000), Some(restore));
        assert_eq!(ledger.committed(), (0..ROWS).collect::<Vec<_>>(), "{before} to {after}");
    }
}

#[test]
fn the_last_output_is_committed_by_an_epoch_behind_the_end_and_not_before() {
    let ledger = Ledger::default();
    let first = plan(&ledger, 2, 1_000);
    let seen = ledger.clone();
    afflux_actor::test::system(|| async move {
        let mut run = start_local(&first, threads(), clock(), None, None).unwrap();
        while run.readings().iter().flat_map(|t| &t.operators).map(|o| o.records_in).sum::<u64>() < 2 * ROWS {
            tokio::task::yield_now().await;
        }
        // The tasks end; nothing is visible until an epoch says so.
        let restore = run.save(1).await.unwrap();
        drop(run);
        assert!(seen.committed().is_empty());
        start_attempt(&first, threads(), clock(), None, Some(restore), 2).unwrap().finish().await.unwrap();
        assert_eq!(seen.committed(), (0..ROWS).collect::<Vec<_>>());
    });
}

#[test]
fn a_commit_that_is_refused_is_tried_again_until_it_succeeds() {
    afflux_actor::test::paused(|| async {
        let ledger = Ledger::default();
        ledger.0.lock().unwrap().refusals = 12;
        let sink = two_phase(Target(ledger.clone(), 1));
        let cx = IoContext { clock: clock(), ..IoContext::new("p", "out") };
        let mut writer = Sink::<u64>::open(&sink, None, &cx).unwrap();
        poll_fn(|cx| writer.poll_ready(cx)).await.unwrap();
        writer.write(&mut Batch::untimed(vec![7])).unwrap();
        let saved = writer.snapshot(1).unwrap();
        poll_fn(|cx| writer.poll_commit(cx)).await.unwrap();
        assert!(ledger.committed().is_empty(), "not durable yet");
        writer.completed(1).unwrap();
        let began = cx.clock.now();
        poll_fn(|cx| writer.poll_commit(cx)).await.unwrap();
        assert_eq!(ledger.committed(), [7]);
        assert_eq!(ledger.0.lock().unwrap().tries, 13);
        // 100 ms doubled up to 30 s, each shortened by up to a half.
        assert!(cx.clock.now() - began > std::time::Duration::from_secs(40));
        // Whoever is restored from the epoch commits it again, and finds it done.
        let states = [(0, saved)];
        let cx = IoContext { attempt: 2, ..cx };
        let mut writer = Sink::<u64>::restore(&sink, &states, &cx).unwrap();
        poll_fn(|cx| writer.poll_ready(cx)).await.unwrap();
        assert_eq!(ledger.committed(), [7]);
    });
}

#[test]
fn a_transaction_that_the_target_has_forgotten_fails_the_task_with_its_name() {
    let ledger = Ledger::default();
    let sink = two_phase(Target(ledger.clone(), 1));
    let mut writer = Sink::<u64>::open(&sink, None, &IoContext::new("p", "out")).unwrap();
    poll(|cx| writer.poll_ready(cx)).unwrap();
    writer.write(&mut Batch::untimed(vec![7])).unwrap();
    writer.snapshot(1).unwrap();
    ledger.0.lock().unwrap().prepared.clear();
    writer.completed(1).unwrap();
    let status = poll(|cx| writer.poll_commit(cx)).unwrap_err();
    assert_eq!(status.code, Code::DataLoss);
    assert!(status.message.contains("a commit failed: a1-t0-e1 was never prepared"), "{status}");
}

#[test]
fn what_is_asked_for_is_given_or_refused_with_the_sink_and_the_cure() {
    let exactly_once = JobSettings { guarantee: Some(Guarantee::ExactlyOnce), ..JobSettings::default() };
    let build = |settings: JobSettings| {
        let flow = Flow::new("payments", settings);
        let numbers = flow.source("numbers", vec_source((0..ROWS).collect())).untimed();
        numbers.sink("ledger", two_phase(Target(Ledger::default(), 1)));
        flow.finish()
    };
    let refused = build(exactly_once.clone()).err().unwrap().message;
    for part in [
        "pipeline payments: exactly once is asked for",
        "`ledger` gives at least once",
        "`checkpoint.interval_ms`",
    ] {
        assert!(refused.contains(part), "{part} is not in: {refused}");
    }
    let plan = build(JobSettings { checkpoint_interval_ms: 1_000, ..exactly_once }).unwrap();
    let line = plan.guarantees()[0].to_string();
    assert!(line.starts_with("numbers → ledger: exactly once: "), "{line}");
}
