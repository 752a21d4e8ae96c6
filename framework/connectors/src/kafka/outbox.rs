//! Messages on their way to the brokers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use afflux_stream::Result;
use afflux_wire::Status;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};

use super::health::{Ear, Health};
use super::trouble::explain;

/// Messages of one writer that the brokers have not confirmed, at most; one batch more may wait behind them.
pub const UNSENT_MESSAGES_MAX: usize = 10_000;
/// KiB of them that the library keeps, at most.
pub(super) const QUEUED_KIB_MAX: &str = "65536";

/// A message to be sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) key: Option<Vec<u8>>,
    pub(super) body: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) time_ms: Option<i64>,
}

/// What a writer and the library's threads tell each other.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) health: Arc<Health>,
    at: String,
    topic: String,
    unsent_max: usize,
    unsent: AtomicUsize,
    /// The library had no room: whoever waits is to be woken by the next confirmation.
    crowded: AtomicBool,
    failed: Mutex<Option<Status>>,
    pub(super) waker: AtomicWaker,
}

impl Outbox {
    pub(super) fn new(health: Arc<Health>, at: &str, topic: &str, unsent_max: usize) -> Arc<Self> {
        Arc::new(Self {
            health,
            at: at.to_owned(),
            topic: topic.to_owned(),
            unsent_max,
            unsent: AtomicUsize::new(0),
            crowded: AtomicBool::new(false),
            failed: Mutex::new(None),
            waker: AtomicWaker::new(),
        })
    }

    pub(super) fn doing(&self) -> String {
        format!("take records for topic `{}`", self.topic)
    }

    pub(super) fn status(&self, error: &KafkaError) -> Status {
        let mut status = explain(error, &self.at, &self.doing()).into_status();
        status.message.push_str(&self.health.reason());
        status
    }

    /// The first failure; later ones follow from it.
    pub(super) fn fail(&self, status: Status) {
        self.failed.lock().get_or_insert(status);
        self.waker.wake();
    }

    pub(super) fn check(&self) -> Result<()> {
        match &*self.failed.lock() {
            Some(status) => Err(status.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unsent.load(SeqCst) == 0
    }

    pub(super) fn has_room(&self) -> bool {
        self.unsent.load(SeqCst) < self.unsent_max
    }

    fn settled(&self) {
        let left = self.unsent.fetch_sub(1, SeqCst) - 1;
        // Not at every confirmation: the task wakes to a batch, or to the last one.
        if left == 0 || left == self.unsent_max / 2 || self.crowded.swap(false, SeqCst) {
            self.waker.wake();
        }
    }
}

/// The ear of a producer.
pub(super) struct Reports(pub(super) Arc<Outbox>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        Ear(Arc::clone(&self.0.health)).log(level, facility, text);
    }
    fn stats_raw(&self, statistics: &[u8]) {
        Ear(Arc::clone(&self.0.health)).stats_raw(statistics);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        let fatal = matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::Fatal));
        let text = error.to_string();
        Ear(Arc::clone(&self.0.health)).error(error, reason);
        if fatal {
            let text = format!("a producer of Kafka at {} cannot go on: {text} ({reason})", self.0.at);
            self.0.fail(Status::new(afflux_wire::Code::Aborted, text));
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            // Dropped with its writer.
            if !matches!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
            ) {
                let mut status = self.0.status(error);
                let bytes = message.payload().map_or(0, <[u8]>::len);
                status.message = format!("{} (a record of {bytes} bytes)", status.message);
                self.0.fail(status);
            }
        }
        self.0.settled();
    }
}

/// Hands messages to a producer; keeps those for which the library has no room.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<Outgoing>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, message: Outgoing) {
        self.0.push_back(message);
    }

    /// Sends what there is, in its order, until there is no room.
    pub(super) fn send(&mut self, outbox: &Outbox, producer: &ThreadedProducer<Reports>) -> Result<()> {
        while let Some(message) = self.0.front() {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&outbox.topic);
            record.key = message.key.as_deref();
            record.payload = message.body.as_deref();
            record.timestamp = message.time_ms;
            if !message.headers.is_empty() {
                let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
                for (key, value) in &message.headers {
                    headers = headers.insert(Header { key, value: Some(value) });
                }
                record.headers = Some(headers);
            }
            outbox.crowded.store(true, SeqCst);
            outbox.unsent.fetch_add(1, SeqCst);
            match producer.send(record) {
                Ok(()) => {
                    outbox.crowded.store(false, SeqCst);
                    self.0.pop_front();
                }
                Err((error, _)) => {
                    outbox.unsent.fetch_sub(1, SeqCst);
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
                        // The confirmations of what fills it wake the task.
                        return Ok(());
                    }
                    outbox.crowded.store(false, SeqCst);
                    return Err(outbox.status(&error));
                }
            }
        }
        Ok(())
    }
}
