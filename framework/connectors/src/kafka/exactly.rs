//! A topic as a sink with transactions.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use afflux_stream::{
    Batch, Committer, IoContext, Reaching, Result, Transaction, TwoPhaseSink, TwoPhaseWriter,
};
use afflux_wire::{Code, Status};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::lane::{Lane, Owner};
use super::outbox::{Backlog, Outbox};
use super::reach::reaching;
use super::steward::{Desk, Order, Prepared, Steward, Terms};
use super::wire::Described;
use super::write::{Form, KafkaSink};

/// Lanes of one writer that are kept open: one that is written to, one that waits for its checkpoint, one
/// whose commit the next checkpoint has to know of.
const LANES_KEPT: usize = 3;
/// Lanes of one writer at most, while commits are slow.
const LANES_MAX: usize = 12;

/// A topic as a sink with transactions; made by [`KafkaSink::exactly_once`].
pub struct KafkaTransactions<T> {
    sink: KafkaSink<T>,
    /// A task's writer and its committer share one.
    desks: Mutex<BTreeMap<Owner, Weak<Desk>>>,
}

/// What a checkpoint keeps beside the transactions: whose lanes there are.
#[doc(hidden)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lanes {
    owner: Owner,
}

/// A transaction that waits for its checkpoint.
#[doc(hidden)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KafkaCommittable(Prepared);

impl<T: 'static> KafkaTransactions<T> {
    pub(super) fn new(sink: KafkaSink<T>) -> Self {
        Self { sink, desks: Mutex::default() }
    }

    fn desk(&self, cx: &IoContext) -> Result<Arc<Desk>> {
        let mut desks = self.desks.lock();
        desks.retain(|_, desk| desk.strong_count() > 0);
        let owner = Owner::of(cx);
        if let Some(desk) = desks.get(&owner).and_then(Weak::upgrade) {
            return Ok(desk);
        }
        let terms = Terms {
            kafka: &self.sink.kafka,
            topic: &self.sink.topic,
            prefix: &self.sink.prefix,
            timeout: self.sink.timeout,
            lost: self.sink.lost,
            unsent_max: self.sink.unsent_max,
        };
        let desk = Steward::start(&terms, cx)?;
        desks.insert(owner, Arc::downgrade(&desk));
        Ok(desk)
    }
}

impl<T: Send + 'static> TwoPhaseSink<T> for KafkaTransactions<T> {
    type Committable = KafkaCommittable;
    type State = Lanes;

    fn writer(
        &self,
        states: Vec<Lanes>,
        cx: &IoContext,
    ) -> Result<Box<dyn TwoPhaseWriter<T, KafkaCommittable, Lanes>>> {
        let form = self.sink.form(cx)?;
        let desk = self.desk(cx)?;
        let mut left: Vec<Owner> = states.into_iter().map(|state| state.owner).collect();
        if !left.iter().any(|owner| owner.job == cx.job && owner.subtask == cx.subtask) {
            // Attempts that never got as far as a checkpoint.
            left.push(Owner { attempt: 1, ..desk.owner.clone() });
        }
        desk.send(Order::Sweep(left))?;
        Ok(Box::new(Writer {
            desk,
            form,
            operator: cx.operator.clone(),
            backlog: Backlog::default(),
            current: None,
            written: false,
            asked: false,
            described: None,
        }))
    }

    fn committer(&self, cx: &IoContext) -> Result<Box<dyn Committer<KafkaCommittable>>> {
        self.sink.form(cx)?;
        Ok(Box::new(Commits { desk: self.desk(cx)?, asked: None }))
    }

    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        Some(reaching(&self.sink.kafka, &self.sink.topic, true, cx))
    }

    fn kind(&self) -> &'static str {
        "kafka transactions"
    }

    fn target(&self) -> Option<String> {
        Some(self.sink.shown())
    }
}

struct Writer<T> {
    desk: Arc<Desk>,
    form: Form<T>,
    operator: String,
    /// At most one batch.
    backlog: Backlog,
    /// What is written to.
    current: Option<Lane>,
    /// Its transaction has records.
    written: bool,
    /// The coordinator is asked about it.
    asked: bool,
    described: Option<Described>,
}

impl<T> Writer<T> {
    fn outbox(&self) -> &Outbox {
        &self.desk.outbox
    }

    /// Ready when there is a lane to write to.
    fn poll_lane(&mut self) -> Poll<Result<()>> {
        if self.current.is_some() {
            return Poll::Ready(Ok(()));
        }
        let mut done = self.desk.done.lock();
        let lane = (!done.free.is_empty()).then(|| done.free.remove(0));
        let mut retired = None;
        if lane.is_none() && done.opening == 0 && done.live >= LANES_MAX && !done.resting.is_empty() {
            // Its id is not used again in this attempt.
            retired = Some(done.resting.remove(0).0);
            done.live -= 1;
        }
        let wanted = done.free.is_empty() && done.opening == 0;
        let wanted = wanted && (lane.is_none() && done.live < LANES_MAX || done.live < LANES_KEPT);
        let number = done.next;
        if wanted {
            done.next += 1;
            done.live += 1;
            done.opening += 1;
        }
        drop(done);
        if let Some(retired) = retired {
            self.desk.send(Order::Close(Box::new(retired)))?;
        }
        if wanted {
            self.desk.send(Order::Open(number))?;
        }
        let Some(mut lane) = lane else { return Poll::Pending };
        lane.begin(&self.desk.outbox)?;
        (self.asked, self.described) = (false, None);
        self.current = Some(lane);
        Poll::Ready(Ok(()))
    }

    fn send(&mut self) -> Result<()> {
        match &self.current {
            Some(lane) => self.backlog.send(&self.desk.outbox, lane.producer()),
            None => Ok(()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, enough: fn(&Outbox) -> bool) -> Poll<Result<()>> {
        self.outbox().waker.register(cx.waker());
        self.outbox().check()?;
        self.send()?;
        if self.backlog.is_empty() && enough(self.outbox()) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<T: Send> TwoPhaseWriter<T, KafkaCommittable, Lanes> for Writer<T> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.outbox().waker.register(cx.waker());
        self.outbox().check()?;
        ready!(self.poll_lane())?;
        self.poll(cx, Outbox::has_room)
    }

    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        for row in &batch.rows {
            let message = self.form.message(row);
            let message =
                message.map_err(|what| Status::invalid(format!("sink {}: {what}", self.operator)))?;
            self.backlog.push(message);
            self.written = true;
        }
        batch.clear();
        self.send()
    }

    /// Once a transaction has records the coordinator says what another process needs to commit it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.backlog.is_empty() && self.current.is_none() {
            self.outbox().waker.register(cx.waker());
            self.outbox().check()?;
            ready!(self.poll_lane())?;
        }
        ready!(self.poll(cx, Outbox::is_empty))?;
        let Some(lane) = self.current.as_ref().filter(|_| self.written && self.described.is_none()) else {
            return Poll::Ready(Ok(()));
        };
        if !std::mem::replace(&mut self.asked, true) {
            self.desk.send(Order::Describe(lane.id.clone()))?;
            return Poll::Pending;
        }
        let told = self.desk.done.lock().described.take();
        match told {
            Some((id, described)) if id == lane.id => match described? {
                Some(described) if described.state == "Ongoing" => {
                    self.described = Some(described);
                    Poll::Ready(Ok(()))
                }
                known => {
                    let is = known.map_or_else(|| "not known".to_owned(), |known| known.state);
                    Poll::Ready(Err(Status::new(
                        Code::Aborted,
                        format!(
                            "transaction `{id}` is {is} at its coordinator: a newer attempt has given it up"
                        ),
                    )))
                }
            },
            _ => Poll::Pending,
        }
    }

    fn prepare(&mut self, epoch: u64) -> Result<Vec<KafkaCommittable>> {
        let mut done = self.desk.done.lock();
        for (_, known_to) in &mut done.resting {
            known_to.get_or_insert(epoch);
        }
        if !self.written {
            return Ok(Vec::new());
        }
        let (Some(lane), Some(known)) = (self.current.take(), self.described.take()) else {
            return Err(Status::internal("a transaction was prepared before it was flushed"));
        };
        (self.written, self.asked) = (false, false);
        let Described { producer, epoch, start_ms, .. } = known;
        let prepared = Prepared { id: lane.id.clone(), producer, epoch, start_ms };
        done.prepared.insert(lane.id.clone(), lane);
        Ok(vec![KafkaCommittable(prepared)])
    }

    fn state(&mut self) -> Result<Lanes> {
        Ok(Lanes { owner: self.desk.owner.clone() })
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        if let Some(lane) = self.current.take()
            && self.desk.send(Order::Close(Box::new(lane))).is_err()
        {
            tracing::debug!(operator = %self.operator, "a transaction is left to its time-out");
        }
    }
}

/// Commits for one task.
struct Commits {
    desk: Arc<Desk>,
    /// The transaction whose commit is under way.
    asked: Option<String>,
}

impl Committer<KafkaCommittable> for Commits {
    fn poll_commit(
        &mut self,
        due: &mut Vec<Transaction<KafkaCommittable>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        self.desk.outbox.waker.register(cx.waker());
        // That epoch is durable: what it knows to be committed is never asked for again.
        if let Some(durable) = due.iter().map(|transaction| transaction.epoch).max() {
            let mut done = self.desk.done.lock();
            let known = |(_, known_to): &(Lane, Option<u64>)| known_to.is_some_and(|epoch| epoch <= durable);
            while let Some(at) = done.resting.iter().position(known) {
                let (lane, _) = done.resting.remove(at);
                done.free.push(lane);
            }
        }
        while let Some(KafkaCommittable(prepared)) = due.first().map(|transaction| &transaction.committable) {
            let mut done = self.desk.done.lock();
            match done.committed.remove(&prepared.id).filter(|_| self.asked.as_ref() == Some(&prepared.id)) {
                Some(committed) => {
                    self.asked = None;
                    // From here on no checkpoint has it.
                    done.resting.extend(committed?.map(|lane| (lane, None)));
                    drop(done);
                    due.remove(0);
                }
                None if self.asked.is_some() => return Poll::Pending,
                None => {
                    let lane = done.prepared.remove(&prepared.id).map(Box::new);
                    drop(done);
                    self.asked = Some(prepared.id.clone());
                    self.desk.send(Order::Commit(prepared.clone(), lane))?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
