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
use crate::snapshot::{ROUND, Restore, TaskSnapshot};
use crate::task::TaskEvent;

/// Events of tasks that wait to be read.
const EVENTS_MAX: usize = 4096;

/// A plan running in this process.
pub struct LocalRun {
    running: Running,
    events: mpsc::Receiver<(TaskId, TaskEvent)>,
    left: usize,
    finished: Vec<TaskSnapshot>,
    snapshots: BTreeMap<u64, Vec<TaskSnapshot>>,
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
    let node = NodeId::new("local");
    let widths = plan.widths();
    let deployment = Deployment {
        job: format!("{}-local", plan.graph().pipeline),
        pipeline: plan.graph().pipeline.clone(),
        attempt: Attempt(1),
        settings: (**plan.settings()).clone(),
        build: String::new(),
        fingerprint: plan.graph().fingerprint(),
        graph: plan.graph().clone(),
        placement: place(&widths, std::slice::from_ref(&node)),
        splits: plan.splits()?,
        restore: None,
        restore_from: None,
    };
    let executor =
        Executor { threads, node, mesh: None, caller, clock, metrics: ActorMetrics::unregistered() };
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
    let left = running.tasks.len();
    Ok(LocalRun { running, events, left, finished: Vec::new(), snapshots: BTreeMap::new(), lost })
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
    /// Takes a checkpoint: what every task saved at one barrier.
    ///
    /// # Errors
    /// The first failure of a task, or `FAILED_PRECONDITION` when the run ended first.
    pub async fn checkpoint(&mut self, epoch: u64) -> Result<Restore> {
        self.running.trigger(epoch);
        while self.snapshots.get(&epoch).map_or(0, Vec::len) < self.left {
            if !self.step().await? {
                return Err(Status::precondition("the run ended before the checkpoint was complete"));
            }
        }
        self.running.completed(epoch);
        let saved = self.snapshots.remove(&epoch).unwrap_or_default();
        Ok(Restore::new(saved.into_iter().chain(self.finished.iter().cloned())))
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
        if self.left == 0 {
            return Ok(false);
        }
        match self.events.recv().await {
            None => Err(Status::new(Code::Internal, "the tasks ended without a word")),
            Some((id, TaskEvent::Failed(mut status))) => {
                status.message = format!("task {id}: {}", status.message);
                Err(status)
            }
            Some((_, TaskEvent::Finished(last))) => {
                self.left -= 1;
                self.finished.push(last);
                Ok(self.left > 0)
            }
            Some((_, TaskEvent::Snapshot(snapshot))) => {
                self.snapshots.entry(snapshot.epoch).or_default().push(snapshot);
                Ok(true)
            }
        }
    }
}
