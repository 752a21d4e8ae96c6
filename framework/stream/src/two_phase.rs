//! Sinks with transactions: prepared at a barrier, committed when the epoch is durable everywhere.
//!
//! The two phases are those of Gray's two-phase commit with the job as the coordinator: its manifest is the
//! decision, and once it is written every transaction that the epoch holds *will* be committed, by the task
//! that prepared it or by whoever is restored from the epoch (Carbone et al. 2017, "State Management in
//! Apache Flink", section 4.3).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use afflux_mesh::Backoff;
use afflux_mesh::bugs::{self, Bug};
use afflux_wire::{Code, Status};

use crate::Result;
use crate::batch::Batch;
use crate::guarantee::Delivery;
use crate::reach::Reaching;
use crate::sink::{LAST_EPOCH, Sink, SinkWriter};
use crate::snapshot::is_round;
use crate::source::IoContext;
use crate::time::Timestamp;

/// Transactions of one task whose epoch is durable and that are not committed yet; with more its input waits.
pub const UNCOMMITTED_TRANSACTIONS_MAX: usize = 1_024;
/// Transactions of one task that wait for an epoch to complete; with more the task fails and says that
/// checkpoints do.
pub const PREPARED_TRANSACTIONS_MAX: usize = 65_536;
/// Pauses between two tries to commit.
const COMMIT_BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(30) };

/// An output with transactions. [`two_phase`] makes a [`Sink`] of it, which writes each record exactly once
/// where the sources can be read again and the job takes checkpoints.
///
/// What the engine does with it, in this order:
///
/// 1. After a start or restore: [`Committer::poll_commit`] with every transaction that the checkpoint
///    holds, whoever prepared it; then [`Committer::poll_abort`] for what earlier attempts began and the
///    checkpoint does not know; only then is the [writer](TwoPhaseSink::writer) opened and given rows.
/// 2. At each barrier: [`TwoPhaseWriter::poll_flush`] until it is ready, then [`TwoPhaseWriter::prepare`],
///    whose transactions go into the checkpoint together with [`TwoPhaseWriter::state`].
/// 3. When the epoch is durable everywhere: [`Committer::poll_commit`], beside the next rows. A failure that
///    may pass is tried again with growing pauses for as long as it takes, and said in the log; any
///    other fails the task, and the next attempt commits at its start.
/// 4. At the end of a bounded input the last transactions are committed by an epoch of their own.
///    Without checkpoints by themselves (`checkpoint.interval_ms = 0`) everything is one transaction that is
///    committed at the end, and in a round of confirmations where a source needs those.
///
/// So a transaction must outlive the process that prepared it: another one, on another machine, commits
/// it by its [`Committable`](TwoPhaseSink::Committable) alone. And a commit may come twice.
///
/// The same job may run in another number of tasks after a restore. Transactions and states of the old
/// tasks are then dealt over the new ones, those of task `s` to task `s mod n`.
///
/// ```
/// # use std::collections::{BTreeMap, BTreeSet};
/// # use std::sync::{Arc, Mutex};
/// # use std::task::{Context, Poll};
/// use afflux_stream::{Batch, Committer, IoContext, Result, Transaction, TwoPhaseSink, TwoPhaseWriter, two_phase};
///
/// /// A ledger that keeps prepared entries apart from those that count.
/// #[derive(Default)]
/// struct Books { prepared: BTreeMap<String, Vec<u64>>, ledger: BTreeMap<String, Vec<u64>> }
/// #[derive(Clone, Default)]
/// struct Ledger(Arc<Mutex<Books>>);
///
/// struct Writer { ledger: Ledger, cx: IoContext, rows: Vec<u64> }
///
/// impl TwoPhaseSink<u64> for Ledger {
///     type Committable = String;
///     type State = ();
///     fn writer(&self, _: Vec<()>, cx: &IoContext) -> Result<Box<dyn TwoPhaseWriter<u64, String, ()>>> {
///         Ok(Box::new(Writer { ledger: self.clone(), cx: cx.clone(), rows: Vec::new() }))
///     }
///     fn committer(&self, _: &IoContext) -> Result<Box<dyn Committer<String>>> {
///         Ok(Box::new(self.clone()))
///     }
///     fn kind(&self) -> &'static str {
///         "ledger"
///     }
/// }
///
/// impl TwoPhaseWriter<u64, String, ()> for Writer {
///     fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
///         self.rows.append(&mut batch.rows);
///         batch.clear();
///         Ok(())
///     }
///     fn prepare(&mut self, epoch: u64) -> Result<Vec<String>> {
///         // Unique among all attempts and tasks of the job.
///         let id = format!("{}-{}-{epoch}", self.cx.attempt, self.cx.subtask);
///         self.ledger.0.lock().unwrap().prepared.insert(id.clone(), std::mem::take(&mut self.rows));
///         Ok(vec![id])
///     }
///     fn state(&mut self) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// impl Committer<String> for Ledger {
///     fn poll_commit(&mut self, due: &mut Vec<Transaction<String>>, _: &mut Context<'_>) -> Poll<Result<()>> {
///         let mut books = self.0.lock().unwrap();
///         for transaction in due.drain(..) {
///             // The second time there is nothing left to do.
///             if let Some(rows) = books.prepared.remove(&transaction.committable) {
///                 books.ledger.insert(transaction.committable, rows);
///             }
///         }
///         Poll::Ready(Ok(()))
///     }
/// }
///
/// # use afflux_stream::{Flow, JobSettings, generate};
/// let flow = Flow::new("payments", JobSettings { checkpoint_interval_ms: 1_000, ..JobSettings::default() });
/// flow.source("amounts", generate(9, |i| i)).untimed().sink("ledger", two_phase(Ledger::default()));
/// let plan = flow.finish().unwrap();
/// assert!(plan.guarantees()[0].to_string().contains("exactly once"));
/// ```
pub trait TwoPhaseSink<T>: Send + Sync + 'static {
    /// What whoever commits a transaction needs: an id, the names of files, offsets.
    type Committable: Serialize + DeserializeOwned + Send + 'static;
    /// What a writer remembers beside its transactions, such as a file that stays open over a barrier; `()`
    /// for most.
    type State: Serialize + DeserializeOwned + Send + 'static;

    /// Opens the writer of a task. `states` are those of the old tasks that fall to this one: none at the
    /// first start, one after a restore at the same parallelism, any number otherwise.
    ///
    /// # Errors
    /// When the output cannot be written: names it and says what to do.
    #[allow(clippy::type_complexity, reason = "a box of a trait of three types")]
    fn writer(
        &self,
        states: Vec<Self::State>,
        cx: &IoContext,
    ) -> Result<Box<dyn TwoPhaseWriter<T, Self::Committable, Self::State>>>;

    /// Opens what commits for a task.
    ///
    /// # Errors
    /// As [`TwoPhaseSink::writer`].
    fn committer(&self, cx: &IoContext) -> Result<Box<dyn Committer<Self::Committable>>>;

    /// Asks whether what it talks to answers; see [`Source::reach`](crate::Source::reach).
    fn reach(&self, _cx: &IoContext) -> Option<Reaching> {
        None
    }

    /// Kind of sink, shown in graphs, such as `partitioned files`.
    fn kind(&self) -> &'static str;

    /// What is written to, such as a path: shown in graphs and summaries.
    fn target(&self) -> Option<String> {
        None
    }

    /// Whether all records must reach one task.
    fn single(&self) -> bool {
        false
    }
}

/// Writes the records of one task into transactions. Nothing here may block for long: it runs on a
/// thread that other tasks share.
pub trait TwoPhaseWriter<T, C, S>: Send {
    /// Whether there is room for another batch; see [`SinkWriter::poll_ready`].
    ///
    /// # Errors
    /// Names the output and what failed.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Takes all rows out of the batch.
    ///
    /// # Errors
    /// Names the output and what failed.
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()>;

    /// No later record has an event time before `watermark`.
    ///
    /// # Errors
    /// As [`TwoPhaseWriter::write`].
    fn watermark(&mut self, _watermark: Timestamp) -> Result<()> {
        Ok(())
    }

    /// Hands on what was written, and is ready when the output has confirmed all of it.
    ///
    /// # Errors
    /// As [`TwoPhaseWriter::write`].
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The first phase: ends the transactions in which rows were written since the last call (or some of
    /// them, where [`TwoPhaseWriter::state`] keeps the others), so that from now on each can be committed
    /// whatever happens to this process. What it returns must be on stable storage before it returns.
    /// With [`LAST_EPOCH`] nothing comes any more, and all of them must end.
    ///
    /// # Errors
    /// As [`TwoPhaseWriter::write`].
    fn prepare(&mut self, epoch: u64) -> Result<Vec<C>>;

    /// What [`TwoPhaseSink::writer`] needs to go on from exactly here; asked for right behind `prepare`.
    ///
    /// # Errors
    /// As [`TwoPhaseWriter::write`].
    fn state(&mut self) -> Result<S>;

    /// Records that the output has refused so far, each of them said in the log.
    fn refused(&self) -> u64 {
        0
    }
}

/// A transaction that was prepared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction<C> {
    /// The epoch whose barrier ended it; [`LAST_EPOCH`] behind the end of the input.
    pub epoch: u64,
    /// The attempt of the job that prepared it. The attempt that commits it stands in the committer's
    /// [`IoContext`], together with what fences it: a target that can check them refuses an older one.
    pub attempt: u64,
    /// What the writer gave.
    pub committable: C,
}

/// Commits the transactions of one task, and those of tasks that are no more.
pub trait Committer<C>: Send {
    /// The second phase: makes these visible, the first first, and takes out those that are done. Ready
    /// when none is left. One that was committed before is done: after a failure it is told again.
    ///
    /// # Errors
    /// What is left is tried again, after a pause, where the code says that it may pass (`UNAVAILABLE`,
    /// `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, `ABORTED`). Any other fails the task: give `DATA_LOSS` when
    /// the target has forgotten a prepared transaction, with its name and what to do.
    fn poll_commit(&mut self, due: &mut Vec<Transaction<C>>, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Aborts or removes what earlier attempts of the job began for this task and did not prepare, or
    /// prepared for an epoch that was not completed. Polled until it is ready, once, when all that the
    /// checkpoint holds is committed and before the writer is opened. Other tasks may not be as far yet,
    /// so it must leave theirs alone; those of a task number beyond the tasks of now belong to task
    /// `number mod parallelism`.
    ///
    /// # Errors
    /// As [`Committer::poll_commit`].
    fn poll_abort(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A [`Sink`] of a [`TwoPhaseSink`]: `.sink("out", two_phase(ledger))`.
pub fn two_phase<K>(sink: K) -> TwoPhase<K> {
    TwoPhase { sink: Arc::new(sink) }
}

/// The [`Sink`] that runs a [`TwoPhaseSink`]; see [`two_phase`].
pub struct TwoPhase<K> {
    sink: Arc<K>,
}

impl<K> Clone for TwoPhase<K> {
    fn clone(&self) -> Self {
        Self { sink: Arc::clone(&self.sink) }
    }
}

impl<K> TwoPhase<K> {
    /// Of a sink that is shared already.
    pub fn of(sink: Arc<K>) -> Self {
        Self { sink }
    }
}

/// What a checkpoint holds of one task, as MessagePack with names.
#[derive(Serialize, Deserialize)]
struct Saved<S, L> {
    state: S,
    /// Prepared, and not known to be committed.
    transactions: L,
}

impl<T: 'static, K: TwoPhaseSink<T>> Sink<T> for TwoPhase<K> {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let states: Vec<(u32, Vec<u8>)> =
            state.map(|state| (cx.subtask, state.to_vec())).into_iter().collect();
        self.restore(&states, cx)
    }

    fn restore(&self, states: &[(u32, Vec<u8>)], cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let (mut mine, mut due) = (Vec::new(), Vec::new());
        for (task, bytes) in states.iter().filter(|(task, _)| task % cx.parallelism.max(1) == cx.subtask) {
            let saved: Saved<K::State, Vec<Transaction<K::Committable>>> =
                rmp_serde::from_slice(bytes).map_err(|e| {
                    Status::new(
                        Code::DataLoss,
                        format!(
                            "what task {task} of the `{}` sink saved cannot be read: {e}; its transactions are \
                             not committed. Restore with the build that took the checkpoint",
                            self.sink.kind()
                        ),
                    )
                })?;
            mine.push(saved.state);
            if !bugs::on(Bug::ForgottenCommit) {
                due.extend(saved.transactions);
            }
        }
        due.sort_by_key(|transaction| (transaction.attempt, transaction.epoch));
        Ok(Box::new(Driver::<T, K> {
            committer: self.sink.committer(cx)?,
            sink: Arc::clone(&self.sink),
            cx: cx.clone(),
            stage: Stage::Recovering(mine),
            prepared: VecDeque::new(),
            durable: 0,
            due,
            ended: false,
            confirming: false,
            retry: None,
            failures: 0,
        }))
    }

    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        self.sink.reach(cx)
    }
    fn kind(&self) -> &'static str {
        self.sink.kind()
    }
    fn target(&self) -> Option<String> {
        self.sink.target()
    }
    fn single(&self) -> bool {
        self.sink.single()
    }
    fn delivery(&self) -> Delivery {
        Delivery::Transactional
    }
}

type Writer<T, K> =
    Box<dyn TwoPhaseWriter<T, <K as TwoPhaseSink<T>>::Committable, <K as TwoPhaseSink<T>>::State>>;

enum Stage<T, K: TwoPhaseSink<T>> {
    /// Commits what the checkpoint holds, then aborts what it does not.
    Recovering(Vec<K::State>),
    Open(Writer<T, K>),
}

/// Runs the protocol for one task.
struct Driver<T, K: TwoPhaseSink<T>> {
    sink: Arc<K>,
    cx: IoContext,
    committer: Box<dyn Committer<K::Committable>>,
    stage: Stage<T, K>,
    /// Waits for its epoch to be durable; epochs rise.
    prepared: VecDeque<Transaction<K::Committable>>,
    /// The last epoch that is.
    durable: u64,
    /// To be committed now.
    due: Vec<Transaction<K::Committable>>,
    /// The last transactions are prepared.
    ended: bool,
    /// Those of a round of confirmations are.
    confirming: bool,
    retry: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    failures: u32,
}

/// Whether a failure may pass by itself.
fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted)
}

impl<T: 'static, K: TwoPhaseSink<T>> Driver<T, K> {
    /// Commits, or aborts, what there is; tries again what may pass.
    fn poll_target(
        &mut self,
        cx: &mut Context<'_>,
        what: &str,
        mut act: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<Result<()>>,
    ) -> Poll<Result<()>> {
        loop {
            if let Some(retry) = &mut self.retry {
                ready!(retry.as_mut().poll(cx));
                self.retry = None;
            }
            match ready!(act(self, cx)) {
                Ok(()) => {
                    if self.failures > 0 {
                        tracing::info!(sink = %self.cx.operator, failures = self.failures, "{what} has succeeded");
                    }
                    self.failures = 0;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if may_pass(error.code) => {
                    let pause = COMMIT_BACKOFF.wait(self.failures, u64::from(self.cx.subtask));
                    self.failures += 1;
                    tracing::warn!(
                        pipeline = %self.cx.pipeline, sink = %self.cx.operator, task = self.cx.subtask,
                        transactions = self.due.len(), failures = self.failures,
                        pause_ms = pause.as_millis() as u64, %error, "{what} failed and is tried again"
                    );
                    self.retry = Some(Box::pin(self.cx.clock.sleep(pause)));
                }
                Err(mut error) => {
                    error.message = format!("{what} failed: {}", error.message);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while self.prepared.front().is_some_and(|transaction| transaction.epoch <= self.durable) {
            self.due.extend(self.prepared.pop_front());
        }
        if self.due.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let committed =
            self.poll_target(cx, "a commit", |this, cx| this.committer.poll_commit(&mut this.due, cx));
        if matches!(committed, Poll::Ready(Ok(()))) {
            self.due.clear();
        }
        committed
    }

    /// The writer, once all is committed and aborted that came before it.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<&mut Writer<T, K>>> {
        if let Stage::Recovering(_) = self.stage {
            ready!(self.poll_due(cx))?;
            ready!(self.poll_target(cx, "an abort", |this, cx| this.committer.poll_abort(cx)))?;
            if let Stage::Recovering(states) = &mut self.stage {
                let writer = self.sink.writer(std::mem::take(states), &self.cx)?;
                self.stage = Stage::Open(writer);
            }
        }
        Poll::Ready(self.writer())
    }

    fn writer(&mut self) -> Result<&mut Writer<T, K>> {
        match &mut self.stage {
            Stage::Open(writer) => Ok(writer),
            Stage::Recovering(_) => Err(Status::internal("a sink was used before it was ready")),
        }
    }

    fn prepare(&mut self, epoch: u64) -> Result<()> {
        let attempt = self.cx.attempt;
        let transactions = self.writer()?.prepare(epoch)?;
        self.prepared.extend(transactions.into_iter().map(|committable| Transaction {
            epoch,
            attempt,
            committable,
        }));
        if self.prepared.len() > PREPARED_TRANSACTIONS_MAX {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "{} transactions wait for a checkpoint to complete, at most {PREPARED_TRANSACTIONS_MAX} may: \
                     the log says why checkpoints fail",
                    self.prepared.len()
                ),
            ));
        }
        Ok(())
    }
}

impl<T: 'static, K: TwoPhaseSink<T>> SinkWriter<T> for Driver<T, K> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.due.len() >= UNCOMMITTED_TRANSACTIONS_MAX {
            ready!(self.poll_due(cx))?;
        }
        ready!(self.poll_open(cx))?.poll_ready(cx)
    }

    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.writer()?.write(batch)
    }

    fn watermark(&mut self, watermark: Timestamp) -> Result<()> {
        self.writer()?.watermark(watermark)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_open(cx))?.poll_flush(cx)
    }

    fn poll_confirm(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.confirming {
            ready!(self.poll_flush(cx))?;
            // Nothing is saved: what was prepared is visible when the round has passed.
            self.prepare(0)?;
            self.due.extend(self.prepared.drain(..));
            self.confirming = true;
        }
        ready!(self.poll_due(cx))?;
        self.confirming = false;
        Poll::Ready(Ok(()))
    }

    fn snapshot(&mut self, epoch: u64) -> Result<Vec<u8>> {
        self.prepare(epoch)?;
        self.ended |= epoch == LAST_EPOCH;
        let state = self.writer()?.state()?;
        let transactions: Vec<&Transaction<K::Committable>> = self.due.iter().chain(&self.prepared).collect();
        rmp_serde::to_vec_named(&Saved { state, transactions })
            .map_err(|e| Status::internal(format!("what the sink has to commit cannot be saved: {e}")))
    }

    fn completed(&mut self, epoch: u64) -> Result<()> {
        if !is_round(epoch) {
            self.durable = self.durable.max(epoch);
        }
        Ok(())
    }

    fn poll_commit(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.stage {
            Stage::Open(_) => self.poll_due(cx),
            Stage::Recovering(_) => Poll::Ready(Ok(())),
        }
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.ended {
            ready!(self.poll_flush(cx))?;
            self.prepare(LAST_EPOCH)?;
            self.ended = true;
        }
        self.durable = LAST_EPOCH;
        self.poll_due(cx)
    }

    fn refused(&self) -> u64 {
        match &self.stage {
            Stage::Open(writer) => writer.refused(),
            Stage::Recovering(_) => 0,
        }
    }
}
