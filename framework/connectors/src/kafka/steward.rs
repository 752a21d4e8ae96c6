//! What a writer with transactions has done beside it, on a thread of its own, since each of it waits for a
//! broker: checking the broker's limits, opening lanes, committing, ending what others have left.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use afflux_stream::{IoContext, Result};
use afflux_wire::{Code, Status};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::cluster::Kafka;
use super::health::Health;
use super::lane::{self, Lane, Owner};
use super::outbox::Outbox;
use super::thread::{Pause, apart};
use super::trouble::{Trouble, explain};
use super::wire::{Described, Ended, Wire};
use super::write::{self, Lost};

/// Orders of one writer that wait, at most: it has a few lanes, and asks one question at a time.
const ORDERS_MAX: usize = 64;
/// What brokers allow by default, and what a sink asks for that is not told otherwise.
const TIMEOUT_MS: u64 = 900_000;
/// What a transaction needs beside two intervals of checkpoints: a restart.
const RESTART_MS: u64 = 10_000;
/// Between two tries of what may pass.
const AGAIN: Duration = Duration::from_millis(200);
/// Longest wait for a broker's limits.
const LIMITS_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts of another job that are looked at for transactions it has left.
const FOREIGN_ATTEMPTS_MAX: u64 = 64;

/// A transaction that was prepared: what ends it, from whatever process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prepared {
    pub(super) id: String,
    pub(super) producer: i64,
    pub(super) epoch: i16,
    /// When it began, on the broker's calendar: a later one of the same producer has another.
    pub(super) start_ms: i64,
}

/// What is to be done.
pub(super) enum Order {
    /// Open the lane of this number.
    Open(u32),
    /// Say what the coordinator knows of this id.
    Describe(String),
    /// Commit, with the lane where it is of this process.
    Commit(Prepared, Option<Box<Lane>>),
    /// End what these have left, up to this attempt of this job.
    Sweep(Vec<Owner>),
    /// Give up what is open, and close.
    Close(Box<Lane>),
}

/// What was done.
#[derive(Default)]
pub(super) struct Done {
    /// Ready for a transaction.
    pub(super) free: Vec<Lane>,
    /// Lanes that are being opened.
    pub(super) opening: usize,
    /// Lanes that are open, being opened, prepared or at rest.
    pub(super) live: usize,
    /// The number of the next lane.
    pub(super) next: u32,
    pub(super) described: Option<(String, Result<Option<Described>>)>,
    /// Their transactions wait for a checkpoint to be durable.
    pub(super) prepared: BTreeMap<String, Lane>,
    /// Their transactions are committed; a checkpoint up to this epoch may not know that.
    pub(super) resting: Vec<(Lane, Option<u64>)>,
    /// With the lane, where it is of this process.
    pub(super) committed: BTreeMap<String, Result<Option<Lane>>>,
}

/// Between a writer, its committer and the steward.
pub(super) struct Desk {
    orders: mpsc::Sender<Order>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) done: Arc<Mutex<Done>>,
    pause: Arc<Pause>,
    pub(super) owner: Owner,
}

impl Desk {
    pub(super) fn send(&self, order: Order) -> Result<()> {
        let sent = self.orders.try_send(order);
        sent.map_err(|_| Status::internal("a sink of Kafka has more to be done beside it than can wait"))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // What waits for a broker ends; what is in the queue is still carried out.
        self.pause.end();
    }
}

/// What a steward is made of.
pub(super) struct Terms<'a> {
    pub(super) kafka: &'a Kafka,
    pub(super) topic: &'a str,
    pub(super) prefix: &'a str,
    pub(super) timeout: Option<Duration>,
    pub(super) lost: Lost,
    pub(super) unsent_max: usize,
}

pub(super) struct Steward {
    kafka: Kafka,
    prefix: String,
    timeout: Option<Duration>,
    lost: Lost,
    interval_ms: u64,
    config: ClientConfig,
    wire: Wire,
    owner: Owner,
    outbox: Arc<Outbox>,
    done: Arc<Mutex<Done>>,
    pause: Arc<Pause>,
}

impl Steward {
    /// Starts one for a task.
    pub(super) fn start(terms: &Terms<'_>, cx: &IoContext) -> Result<Arc<Desk>> {
        let owner = Owner::of(cx);
        let name = format!("{}/{}/{}", cx.pipeline, cx.operator, cx.subtask);
        let outbox = Outbox::new(Health::new(name), terms.kafka.shown(), terms.topic, terms.unsent_max);
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let steward = Self {
            kafka: terms.kafka.clone(),
            prefix: terms.prefix.to_owned(),
            timeout: terms.timeout,
            lost: terms.lost,
            interval_ms: cx.checkpoint_interval_ms,
            config: write::config(terms.kafka, cx, &cx.subtask.to_string(), terms.kafka.how_long())?,
            wire: Wire::new(terms.kafka)?,
            owner: owner.clone(),
            outbox: Arc::clone(&outbox),
            done: Arc::default(),
            pause: Arc::default(),
        };
        let (done, pause) = (Arc::clone(&steward.done), Arc::clone(&steward.pause));
        apart("steward", move || steward.run(waiting));
        Ok(Arc::new(Desk { orders, outbox, done, pause, owner }))
    }

    fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        match self.limits() {
            Ok(timeout_ms) => {
                let message_ms = timeout_ms.min(self.kafka.how_long().as_millis() as u64).max(1_000);
                self.config
                    .set("transaction.timeout.ms", timeout_ms.to_string())
                    .set("message.timeout.ms", message_ms.to_string());
            }
            Err(status) => self.outbox.fail(status),
        }
        while let Some(order) = orders.blocking_recv() {
            self.carry_out(order);
            self.outbox.waker.wake();
        }
        // Prepared transactions stay open: who is restored commits them.
        *self.done.lock() = Done::default();
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Open(number) => self.open(number),
            Order::Describe(id) => {
                let described = self.again(|this| this.wire.describe(&id));
                self.done.lock().described = Some((id, described));
            }
            Order::Commit(prepared, lane) => {
                let committed = self.commit(&prepared, lane.map(|lane| *lane));
                self.done.lock().committed.insert(prepared.id, committed);
            }
            Order::Sweep(owners) => {
                for owner in owners {
                    if let Err(error) = self.sweep(&owner) {
                        // Readers of committed records wait behind them until their time is over.
                        tracing::warn!(
                            ?owner, %error, "transactions of an earlier attempt were not ended: their time-out does it"
                        );
                    }
                }
            }
            Order::Close(mut lane) => lane.abort(),
        }
    }

    /// Tries again what may pass, while somebody waits for it and brokers may be away.
    fn again<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let mut left = self.kafka.how_long();
        loop {
            match work(self) {
                Err(error) if error.code == Code::Unavailable => {
                    if left.is_zero() || self.outbox.check().is_err() || !self.pause.wait(AGAIN) {
                        return Err(error);
                    }
                    left = left.saturating_sub(AGAIN);
                }
                result => return result,
            }
        }
    }

    /// How long a transaction may be open, in milliseconds: what the broker allows is enough for two
    /// checkpoints and a restart.
    fn limits(&mut self) -> Result<u64> {
        let found = self.again(Self::broker_max_ms);
        let at = self.kafka.shown();
        let broker_ms = match found {
            Ok(ms) => ms,
            Err(error) if error.code == Code::Unavailable => return Err(error),
            Err(error) => {
                tracing::warn!(at, %error, "the broker does not say its limit of transactions");
                None
            }
        };
        let wanted = self.timeout.map(|timeout| timeout.as_millis() as u64);
        let most = broker_ms.unwrap_or(TIMEOUT_MS);
        if let (Some(wanted), Some(most)) = (wanted, broker_ms)
            && wanted > most
        {
            return Err(Status::precondition(format!(
                "Kafka at {at} allows transactions of {most} ms (`transaction.max.timeout.ms` of the broker), and \
                 `.transaction_timeout(…)` asks for {wanted} ms: raise the broker's, or lower the sink's"
            )));
        }
        let timeout_ms = wanted.unwrap_or(TIMEOUT_MS.min(most));
        let needed = 2 * self.interval_ms + RESTART_MS;
        if self.interval_ms > 0 && timeout_ms < needed {
            return Err(Status::precondition(format!(
                "a transaction of Kafka at {at} is open from one checkpoint until the next is durable, over a \
                 restart, too: with `checkpoint.interval_ms={}` that may be {needed} ms, and it is given up after \
                 {timeout_ms} ms ({}); make checkpoints more often, or raise it",
                self.interval_ms,
                if wanted.is_some() {
                    "`.transaction_timeout(…)`"
                } else {
                    "`transaction.max.timeout.ms` of the broker"
                }
            )));
        }
        tracing::info!(
            at,
            timeout_ms,
            "what was written behind the last checkpoint is lost when a job is away for longer than that"
        );
        Ok(timeout_ms)
    }

    fn broker_max_ms(&mut self) -> Result<Option<u64>> {
        let at = self.kafka.shown().to_owned();
        let refused = |error: &KafkaError| explain(error, &at, "tell its limits").into_status();
        let admin: AdminClient<DefaultClientContext> = self.config.create().map_err(|e| refused(&e))?;
        let metadata = admin.inner().fetch_metadata(None, LIMITS_TIMEOUT).map_err(|e| refused(&e))?;
        let Some(broker) = metadata.brokers().first().map(|broker| broker.id()) else { return Ok(None) };
        let options = AdminOptions::new().request_timeout(Some(LIMITS_TIMEOUT));
        let broker = ResourceSpecifier::Broker(broker);
        let mut asked = pin!(admin.describe_configs([&broker], &options));
        let waker = futures_util::task::noop_waker();
        let answer = loop {
            if let Poll::Ready(answer) = asked.as_mut().poll(&mut Context::from_waker(&waker)) {
                break answer.map_err(|e| refused(&e))?;
            }
            if !self.pause.wait(Duration::from_millis(5)) {
                return Err(Status::unavailable("nobody waits for it"));
            }
        };
        let Some(answer) = answer.into_iter().next() else { return Ok(None) };
        let resource = answer.map_err(|code| refused(&KafkaError::AdminOp(code)))?;
        let most = resource.get("transaction.max.timeout.ms").and_then(|entry| entry.value.as_ref());
        Ok(most.and_then(|text| text.parse().ok()))
    }

    fn open(&mut self, number: u32) {
        let id = lane::id(&self.prefix, &self.owner, number);
        let opened = self.again(|this| {
            let lane = Lane::open(id.clone(), &this.config, &this.outbox);
            lane.map_err(|error| match explain(&error, this.kafka.shown(), &format!("let `{id}` write")) {
                Trouble::Final(status) => status,
                Trouble::Passing(text) => {
                    Status::unavailable(format!("{text}{}", this.outbox.health.reason()))
                }
            })
        });
        let mut done = self.done.lock();
        done.opening -= 1;
        match opened {
            Ok(lane) => done.free.push(lane),
            Err(status) => {
                done.live -= 1;
                drop(done);
                self.outbox.fail(status);
            }
        }
    }

    fn commit(&mut self, prepared: &Prepared, lane: Option<Lane>) -> Result<Option<Lane>> {
        if let Some(mut lane) = lane {
            match lane.commit() {
                Ok(()) => return Ok(Some(lane)),
                Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                    self.done.lock().prepared.insert(prepared.id.clone(), lane);
                    return Err(Status::unavailable(format!(
                        "Kafka at {} does not commit `{}` now: {}{}",
                        self.kafka.shown(),
                        prepared.id,
                        error.string(),
                        self.outbox.health.reason()
                    )));
                }
                Err(error) => {
                    tracing::warn!(id = %prepared.id, %error, "a commit is asked of the coordinator itself");
                    self.done.lock().live -= 1;
                }
            }
        }
        self.commit_of_another(prepared).map(|()| None)
    }

    /// Commits what a process has prepared that is gone.
    fn commit_of_another(&mut self, prepared: &Prepared) -> Result<()> {
        let Prepared { id, producer, epoch, start_ms } = prepared;
        let known = self.wire.describe(id)?;
        let verdict = verdict(prepared, known.as_ref());
        match verdict {
            Verdict::Committed => return Ok(()),
            Verdict::Open => {
                if self.wire.end(id, *producer, *epoch, true)? == Ended::Done {
                    tracing::info!(%id, start_ms, "a transaction of a process that is gone was committed");
                    return Ok(());
                }
                return Err(Status::unavailable(format!(
                    "transaction `{id}` has changed while it was looked at"
                )));
            }
            Verdict::Lost => {}
        }
        let is =
            known.map_or_else(|| "is not known any more".to_owned(), |known| format!("is {}", known.state));
        let text = format!(
            "transaction `{id}` of Kafka at {}, which a checkpoint counts on, {is}: the broker has given it up, \
             since it was open for longer than `transaction.timeout.ms`, or it belongs to a checkpoint before the \
             last one. Its records are not in topic",
            self.kafka.shown(),
        );
        match self.lost {
            Lost::Fail => Err(Status::new(
                Code::DataLoss,
                format!(
                    "{text}; start the job from an older source position to write them again, or go on without them \
                     with `.when_lost(Lost::GoOn)`"
                ),
            )),
            Lost::GoOn => {
                tracing::error!(error = text, "records are lost, as `Lost::GoOn` allows");
                Ok(())
            }
        }
    }

    /// Gives up the transactions that earlier attempts have left open. Those that a checkpoint counts on
    /// are committed by now.
    fn sweep(&mut self, owner: &Owner) -> Result<()> {
        let same = owner.job == self.owner.job;
        let behind =
            if same { self.owner.attempt } else { owner.attempt.saturating_add(FOREIGN_ATTEMPTS_MAX) };
        for attempt in owner.attempt..behind {
            let of = Owner { attempt, ..owner.clone() };
            for number in 0.. {
                let id = lane::id(&self.prefix, &of, number);
                // Lanes are opened in their order: behind one that is not known there are none.
                let Some(known) = self.wire.describe(&id)? else {
                    if number == 0 && !same {
                        return Ok(());
                    }
                    break;
                };
                if known.state == "Ongoing" {
                    self.wire.end(&id, known.producer, known.epoch, false)?;
                    tracing::info!(%id, "a transaction that an earlier attempt had left open was given up");
                }
            }
        }
        Ok(())
    }
}

/// What has become of a transaction that was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Committed,
    Open,
    Lost,
}

/// A lane is used again when a checkpoint is durable that knows its last transaction to be committed. So
/// another transaction of the same producer and epoch means that ours was committed; a higher epoch
/// means that the broker has given it up, since nobody else takes the id.
fn verdict(prepared: &Prepared, known: Option<&Described>) -> Verdict {
    let Some(known) = known else { return Verdict::Lost };
    if (known.producer, known.epoch) != (prepared.producer, prepared.epoch) {
        return Verdict::Lost;
    }
    let same = known.start_ms == prepared.start_ms;
    match known.state.as_str() {
        "Ongoing" if same => Verdict::Open,
        "PrepareCommit" | "CompleteCommit" => Verdict::Committed,
        _ if !same => Verdict::Committed,
        _ => Verdict::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_transaction_is_committed_once_and_its_loss_is_seen() {
        let prepared = Prepared { id: "a".into(), producer: 4, epoch: 2, start_ms: 100 };
        let known =
            |state: &str, epoch, start_ms| Described { state: state.into(), producer: 4, epoch, start_ms };
        for (state, epoch, start_ms, expected) in [
            ("Ongoing", 2, 100, Verdict::Open),
            // The lane's next one.
            ("Ongoing", 2, 200, Verdict::Committed),
            ("CompleteAbort", 2, 200, Verdict::Committed),
            ("PrepareCommit", 2, 100, Verdict::Committed),
            ("CompleteCommit", 2, 100, Verdict::Committed),
            ("CompleteAbort", 2, 100, Verdict::Lost),
            // The broker's time was over.
            ("CompleteAbort", 3, 100, Verdict::Lost),
            ("Ongoing", 3, 200, Verdict::Lost),
        ] {
            let known = known(state, epoch, start_ms);
            assert_eq!(verdict(&prepared, Some(&known)), expected, "{known:?}");
        }
        assert_eq!(verdict(&prepared, None), Verdict::Lost);
    }
}
