//! A bounded plan run to its end in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use afflux_actor::{ActorMetrics, Clock, Threads};
use afflux_wire::contract::Caller;
use afflux_wire::{Attempt, Code, NodeId, Status};

use super::deployment::{Deployment, TaskId, place};
use super::executor::{Executor, Running};
use crate::Result;
use crate::flow::Plan;
use crate::meter::TaskReading;
use crate::poison::Ledger;
use crate::snapshot::{ROUND, Restore, TaskSnapshot, is_round};
use crate::state::StateRoot;
use crate::task::TaskEvent;

/// Events of tasks that wait to be read.
const EVENTS_MAX: usize = 4096;

/// A plan running in this process.
pub struct LocalRun {
    running: Running,
    events: mpsc::Receiver<(TaskId, TaskEvent)>,
    finished: BTreeMap<TaskId, TaskSnapshot>,
    snapshots: BTreeMap<u64, BTreeMap<TaskId, TaskSnapshot>>,
    /// Tasks that have committed what they wrote last, where they stay for that.
    closed: usize,
    /// Finished tasks stay until an epoch behind their end is durable.
    stays: bool,
    /// The greatest epoch that was begun.
    epoch: u64,
    lost: Arc<Mutex<u64>>,
}

/// Starts a plan on these threads.
///
/// # Errors
/// When an input is missing or the plan cannot be deployed.
pub fn start_local(
    plan: &Plan,
    threads: Arc<Threads>,
    clock: Clock,
    caller: Option<Arc<dyn Caller>>,
    restore: Option<Restore>,
) -> Result<LocalRun> {
    start_attempt(plan, threads, clock, caller, restore, 1)
}

/// The same as a certain attempt of the job: each start from a checkpoint is one more, and what an earlier
/// one began and did not prepare is aborted. [`start_local`] is always the first.
///
/// # Errors
/// As [`start_local`].
pub fn start_attempt(
    plan: &Plan,
    threads: Arc<Threads>,
    clock: Clock,
    caller: Option<Arc<dyn Caller>>,
    restore: Option<Restore>,
    attempt: u64,
) -> Result<LocalRun> {
    let node = NodeId::new("local");
    let widths = plan.widths();
    let deployment = Deployment {
        job: format!("{}-local", plan.graph().pipeline),
        pipeline: plan.graph().pipeline.clone(),
        attempt: Attempt(attempt),
        settings: (**plan.settings()).clone(),
        build: String::new(),
        fingerprint: plan.graph().fingerprint(),
        graph: plan.graph().clone(),
        placement: place(&widths, std::slice::from_ref(&node)),
        splits: plan.splits()?,
        restore: None,
        restore_from: None,
        listed_parallelism: 0,
        allow_orphaned_state: false,
        started_ms: 0,
        poison: Ledger::default(),
    };
    let executor = Executor {
        threads,
        node,
        mesh: None,
        caller,
        clock,
        metrics: ActorMetrics::unregistered(),
        state: StateRoot::default(),
    };
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let lost = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&lost);
    let running = executor.deploy(
        plan,
        Arc::new(deployment),
        restore.map(Arc::new),
        Arc::new(move |id, event| {
            if sender.try_send((id, event)).is_err() {
                *counted.lock() += 1;
            }
        }),
    )?;
    Ok(LocalRun {
        running,
        events,
        finished: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        closed: 0,
        stays: plan.settings().checkpoint_interval_ms > 0,
        epoch: 0,
        lost,
    })
}

/// Runs a bounded plan to its end and returns what each task counted.
///
/// ```
/// # use std::sync::Arc;
/// use afflux_actor::{Clock, Threads};
/// use afflux_stream::{Flow, JobSettings, generate, job::run_local};
/// let readings = afflux_actor::system(|| async {
///     let flow = Flow::new("evens", JobSettings::default());
///     flow.source("numbers", generate(1000, |i| i)).untimed().filter(|x| x % 2 == 0).count("evens");
///     let plan = flow.finish().unwrap();
///     let threads = Arc::new(Threads::inline().unwrap());
///     run_local(&plan, threads, Clock::new(std::time::SystemTime::now)).await.unwrap()
/// }).unwrap();
/// let evens = readings.iter().flat_map(|t| &t.operators).find(|o| o.name == "evens").unwrap();
/// assert_eq!(evens.records_in, 500);
/// ```
///
/// # Errors
/// The first failure of a task.
pub async fn run_local(plan: &Plan, threads: Arc<Threads>, clock: Clock) -> Result<Vec<TaskReading>> {
    start_local(plan, threads, clock, None, None)?.finish().await
}

impl LocalRun {
    /// Takes a checkpoint: what every task saved at one barrier. What it covers is committed when this
    /// returns, as far as the tasks have come to it.
    ///
    /// # Errors
    /// The first failure of a task, or `FAILED_PRECONDITION` when the run ended first.
    pub async fn checkpoint(&mut self, epoch: u64) -> Result<Restore> {
        let restore = self.save(epoch).await?;
        self.running.completed(epoch);
        Ok(restore)
    }

    /// The first half of a checkpoint, after which nobody is told that it is complete: what a job leaves
    /// behind that dies between the manifest and the commits.
    ///
    /// # Errors
    /// As [`LocalRun::checkpoint`].
    pub async fn save(&mut self, epoch: u64) -> Result<Restore> {
        if !is_round(epoch) {
            self.epoch = self.epoch.max(epoch);
        }
        self.running.trigger(epoch);
        loop {
            let saved = self.snapshots.get(&epoch);
            let has = |task: &TaskId| saved.is_some_and(|saved| saved.contains_key(task));
            if self.running.tasks.iter().all(|t| has(&t.id) || self.finished.contains_key(&t.id))
                && (self.stays || saved.is_some())
            {
                break;
            }
            if !self.step().await? && !self.stays {
                return Err(Status::precondition("the run ended before the checkpoint was complete"));
            }
        }
        let saved = self.snapshots.remove(&epoch).unwrap_or_default();
        // Who has passed the barrier ended behind it: its last words are no part of this epoch.
        let ended: Vec<TaskSnapshot> =
            self.finished.iter().filter(|(id, _)| !saved.contains_key(id)).map(|(_, s)| s.clone()).collect();
        Ok(Restore::new(saved.into_values().chain(ended)))
    }

    /// Makes a round of confirmations: the sinks have confirmed what the sources had read when it began,
    /// and the sources know. Each `round` is greater than the one before.
    ///
    /// # Errors
    /// As [`LocalRun::checkpoint`].
    pub async fn confirm(&mut self, round: u64) -> Result<()> {
        self.checkpoint(round | ROUND).await.map(|_| ())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The first failure of a task.
    pub async fn finish(mut self) -> Result<Vec<TaskReading>> {
        while self.step().await? {}
        if self.stays {
            self.running.completed(self.epoch + 1);
            while self.closed < self.running.tasks.len() {
                self.next().await?;
            }
        }
        Ok(self.running.tasks.iter().map(|t| t.meter.read()).collect())
    }

    /// The counters of the tasks.
    pub fn meters(&self) -> Vec<Arc<crate::meter::TaskMeter>> {
        self.running.tasks.iter().map(|t| Arc::clone(&t.meter)).collect()
    }

    /// What each task has counted so far.
    pub fn readings(&self) -> Vec<TaskReading> {
        self.running.tasks.iter().map(|t| t.meter.read()).collect()
    }

    /// One event; `false` when all tasks have finished.
    async fn step(&mut self) -> Result<bool> {
        if *self.lost.lock() > 0 {
            return Err(Status::internal("events of tasks were lost"));
        }
        if self.finished.len() >= self.running.tasks.len() {
            return Ok(false);
        }
        self.next().await?;
        Ok(self.finished.len() < self.running.tasks.len())
    }

    async fn next(&mut self) -> Result<()> {
        match self.events.recv().await {
            None => return Err(Status::new(Code::Internal, "the tasks ended without a word")),
            Some((id, TaskEvent::Failed(mut status))) => {
                status.message = format!("task {id}: {}", status.message);
                return Err(status);
            }
            Some((id, TaskEvent::Panicked(kill))) => {
                return Err(Status::internal(format!("task {id}: {kill}")));
            }
            Some((id, TaskEvent::Finished(last))) => {
                self.finished.insert(id, last);
            }
            Some((_, TaskEvent::Closed)) => self.closed += 1,
            Some((id, TaskEvent::Snapshot(mut snapshot))) => {
                snapshot.gather()?;
                self.snapshots.entry(snapshot.epoch).or_default().insert(id, snapshot);
            }
        }
        Ok(())
    }
}
