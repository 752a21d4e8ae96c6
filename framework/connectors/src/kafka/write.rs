//! A topic as a sink.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use afflux_stream::{Batch, IoContext, Reaching, Result, Sink, SinkWriter, Timestamp, TwoPhase, two_phase};
use afflux_wire::Status;
use rdkafka::ClientConfig;
use rdkafka::producer::ThreadedProducer;
use serde::Serialize;

use super::cluster::Kafka;
use super::exactly::KafkaTransactions;
use super::health::Health;
use super::outbox::{Backlog, Outbox, Outgoing, QUEUED_KIB_MAX, Reports, UNSENT_MESSAGES_MAX};
use super::reach::reaching;
use super::thread::apart;
use super::trouble::explain;
use crate::codec::{self, Encode};

/// What transactional ids begin with.
const PREFIX: &str = "afflux";

type BytesOf<T> = Arc<dyn Fn(&T) -> Option<Vec<u8>> + Send + Sync>;
type Holds<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;
type TimeOf<T> = Arc<dyn Fn(&T) -> Timestamp + Send + Sync>;
type HeadersOf<T> = Arc<dyn Fn(&T) -> Vec<(String, Vec<u8>)> + Send + Sync>;

/// A topic as a sink; made by [`Kafka::write`].
///
/// Records are sent by an idempotent producer, in order, and are there when all replicas in sync have
/// them. At least once: what was sent behind the last checkpoint is sent again after a failure. See
/// [`KafkaSink::exactly_once`].
pub struct KafkaSink<T> {
    pub(super) kafka: Kafka,
    pub(super) topic: String,
    form: Form<T>,
    pub(super) unsent_max: usize,
    pub(super) prefix: String,
    pub(super) timeout: Option<Duration>,
    pub(super) lost: Lost,
}

/// What to do when the brokers have given up a transaction that a checkpoint counts on: it was open for longer
/// than they allow, since the job was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lost {
    /// Stop the pipeline with an error that names it.
    #[default]
    Fail,
    /// Say so in the log and go on without its records.
    GoOn,
}

/// How a record becomes a message.
pub(super) struct Form<T> {
    encode: Option<Encode<T>>,
    key: Option<BytesOf<T>>,
    tombstone: Option<Holds<T>>,
    headers: Option<HeadersOf<T>>,
    time: Option<TimeOf<T>>,
}

impl<T> Clone for Form<T> {
    fn clone(&self) -> Self {
        Self {
            encode: self.encode.clone(),
            key: self.key.clone(),
            tombstone: self.tombstone.clone(),
            headers: self.headers.clone(),
            time: self.time.clone(),
        }
    }
}

impl<T> Form<T> {
    /// The message of a record, or why there is none.
    pub(super) fn message(&self, row: &T) -> std::result::Result<Outgoing, String> {
        let deleted = self.tombstone.as_ref().is_some_and(|deleted| deleted(row));
        let body = match &self.encode {
            Some(encode) if !deleted => Some(encode(row)?),
            _ => None,
        };
        Ok(Outgoing {
            key: self.key.as_ref().and_then(|key| key(row)),
            body,
            headers: self.headers.as_ref().map(|headers| headers(row)).unwrap_or_default(),
            time_ms: self.time.as_ref().map(|time| time(row).millis()),
        })
    }
}

impl<T: 'static> KafkaSink<T> {
    pub(super) fn new(kafka: Kafka, topic: String) -> Self {
        let form = Form { encode: None, key: None, tombstone: None, headers: None, time: None };
        Self {
            kafka,
            topic,
            form,
            unsent_max: UNSENT_MESSAGES_MAX,
            prefix: PREFIX.to_owned(),
            timeout: None,
            lost: Lost::Fail,
        }
    }

    /// Writes each record exactly once, for readers of committed records (`isolation.level=read_committed`):
    /// what is written between two checkpoints is one transaction of each task, which is committed when the
    /// checkpoint behind it is durable, over a restart, too. Readers see records that much later.
    ///
    /// How long a transaction may be open is looked up at the broker when a task starts; where that is too
    /// short for the interval of the checkpoints the pipeline does not start.
    pub fn exactly_once(self) -> TwoPhase<KafkaTransactions<T>> {
        two_phase(KafkaTransactions::new(self))
    }

    /// What transactional ids begin with: `afflux` unless this says otherwise. Behind it stand job, step,
    /// task, attempt and a number.
    #[must_use]
    pub fn transactional_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a transaction may be open: 15 minutes, or less where the broker allows less, unless this
    /// says otherwise. A job that is away for longer loses what it wrote behind its last checkpoint but
    /// one; one that crashed and does not come back holds readers back for so long.
    #[must_use]
    pub const fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// What to do when a transaction has been lost: [`Lost::Fail`] unless this says otherwise.
    #[must_use]
    pub const fn when_lost(mut self, lost: Lost) -> Self {
        self.lost = lost;
        self
    }

    /// Each record is a JSON value.
    #[must_use]
    pub fn json(self) -> Self
    where
        T: Serialize,
    {
        self.with(codec::to_json)
    }

    /// Each record is a MessagePack value, its fields by name.
    #[must_use]
    pub fn message_pack(self) -> Self
    where
        T: Serialize,
    {
        self.with(codec::to_message_pack)
    }

    /// Each record is text.
    #[must_use]
    pub fn text(self) -> Self
    where
        T: AsRef<str>,
    {
        self.with(|row| Ok(row.as_ref().as_bytes().to_vec()))
    }

    /// Each record as it is.
    #[must_use]
    pub fn bytes(self) -> Self
    where
        T: AsRef<[u8]>,
    {
        self.with(|row| Ok(row.as_ref().to_vec()))
    }

    /// A closure makes the body of each record, or says why it cannot, which stops the pipeline.
    #[must_use]
    pub fn with(
        mut self,
        encode: impl Fn(&T) -> std::result::Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        self.form.encode = Some(Arc::new(encode));
        self
    }

    /// The key of each message. Messages of one key go to one partition, and stay in their order; which
    /// one is what Java's producer would choose. Without keys they are spread.
    #[must_use]
    pub fn key<K: Into<Vec<u8>>>(mut self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> Self {
        self.form.key = Some(Arc::new(move |row| Some(key(row).into())));
        self
    }

    /// Records for which this holds become tombstones: a key without a body, which a compacted topic
    /// takes for a deletion.
    #[must_use]
    pub fn tombstone(mut self, deleted: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.form.tombstone = Some(Arc::new(deleted));
        self
    }

    /// Headers of each message.
    #[must_use]
    pub fn headers(mut self, headers: impl Fn(&T) -> Vec<(String, Vec<u8>)> + Send + Sync + 'static) -> Self {
        self.form.headers = Some(Arc::new(headers));
        self
    }

    /// The time of each message. Without it: when it is sent.
    #[must_use]
    pub fn time(mut self, time: impl Fn(&T) -> Timestamp + Send + Sync + 'static) -> Self {
        self.form.time = Some(Arc::new(time));
        self
    }

    /// Messages that may be unconfirmed, at least 1: [`UNSENT_MESSAGES_MAX`] unless this says
    /// otherwise.
    #[must_use]
    pub fn unsent_max(mut self, messages: usize) -> Self {
        self.unsent_max = messages.max(1);
        self
    }

    /// What becomes of each record, once it is known how.
    pub(super) fn form(&self, cx: &IoContext) -> Result<Form<T>> {
        if self.form.encode.is_none() {
            return Err(Status::invalid(format!(
                "sink {}: how is a record written? Say `.json()`, `.message_pack()`, `.text()`, `.bytes()` or \
                 `.with(…)`",
                cx.operator
            )));
        }
        Ok(self.form.clone())
    }

    pub(super) fn shown(&self) -> String {
        format!("{} of {}", self.topic, self.kafka.shown())
    }
}

/// What a producer is made with.
pub(super) fn config(kafka: &Kafka, cx: &IoContext, part: &str, patience: Duration) -> Result<ClientConfig> {
    let mut config = kafka.config(cx, part)?;
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", patience.as_millis().max(1_000).to_string());
    for (name, value) in [
        // The library keeps more than we hand it.
        ("queue.buffering.max.kbytes", QUEUED_KIB_MAX),
        // As Java's producer does.
        ("partitioner", "murmur2_random"),
    ] {
        if kafka.property(name).is_none() {
            config.set(name, value);
        }
    }
    Ok(config)
}

impl<T: Send + 'static> Sink<T> for KafkaSink<T> {
    fn open(&self, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let form = self.form(cx)?;
        let name = format!("{}/{}/{}", cx.pipeline, cx.operator, cx.subtask);
        let at = self.kafka.shown();
        let outbox = Outbox::new(Health::new(name), at, &self.topic, self.unsent_max);
        let producer = config(&self.kafka, cx, &cx.subtask.to_string(), self.kafka.how_long())?
            .create_with_context(Reports(Arc::clone(&outbox)))
            .map_err(|e| explain(&e, at, &outbox.doing()).into_status())?;
        let (backlog, operator) = (Backlog::default(), cx.operator.clone());
        Ok(Box::new(Writer { outbox, producer: Some(producer), backlog, form, operator }))
    }

    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        Some(reaching(&self.kafka, &self.topic, true, cx))
    }

    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn target(&self) -> Option<String> {
        Some(self.shown())
    }
}

struct Writer<T> {
    outbox: Arc<Outbox>,
    /// `None` when it is being closed.
    producer: Option<ThreadedProducer<Reports>>,
    /// At most one batch.
    backlog: Backlog,
    form: Form<T>,
    operator: String,
}

impl<T> Writer<T> {
    /// Sends what the library had no room for; ready where `enough` holds and nothing is left.
    fn poll(&mut self, cx: &mut Context<'_>, enough: fn(&Outbox) -> bool) -> Poll<Result<()>> {
        self.outbox.waker.register(cx.waker());
        self.outbox.check()?;
        if let Some(producer) = &self.producer {
            self.backlog.send(&self.outbox, producer)?;
        }
        if self.backlog.is_empty() && enough(&self.outbox) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<T: Send> SinkWriter<T> for Writer<T> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(cx, Outbox::has_room)
    }

    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        for row in &batch.rows {
            let message = self.form.message(row);
            let message =
                message.map_err(|what| Status::invalid(format!("sink {}: {what}", self.operator)))?;
            self.backlog.push(message);
        }
        batch.clear();
        match &self.producer {
            Some(producer) => self.backlog.send(&self.outbox, producer),
            None => Ok(()),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(cx, Outbox::is_empty)
    }

    /// Nothing: what was written is confirmed.
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        // Closing waits for the library's threads.
        if let Some(producer) = self.producer.take() {
            apart("close", move || drop(producer));
        }
    }
}
