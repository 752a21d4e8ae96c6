//! The partitions of a topic: how many there are, where they begin and end, and whether more have come.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use afflux_stream::{IoContext, Result, Timestamp};
use afflux_wire::{Code, Status};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::cluster::Kafka;
use super::health::{Ear, Health};
use super::thread::{Pause, apart};
use super::trouble::explain;

/// Longest wait for an answer about a topic.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Events of the client that are taken when it could not get an answer.
const EVENTS_MAX: u32 = 64;

/// A client that asks about a topic, and reads nothing.
pub(super) struct Partitions {
    client: BaseConsumer<Ear>,
    health: Arc<Health>,
    at: String,
    topic: String,
}

impl Partitions {
    pub(super) fn of(kafka: &Kafka, topic: &str, committed: bool, cx: &IoContext) -> Result<Self> {
        let health = Health::new(format!("{}/{}/partitions", cx.pipeline, cx.operator));
        let at = kafka.shown().to_owned();
        let client = kafka
            .config(cx, "partitions")?
            .set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" })
            .create_with_context(Ear(Arc::clone(&health)))
            .map_err(|e| explain(&e, &at, "take a connection").into_status())?;
        Ok(Self { client, health, at, topic: topic.to_owned() })
    }

    fn status(&self, error: &KafkaError) -> Status {
        // The reason is an event of the client, among lines of its log, which look like none.
        for _ in 0..EVENTS_MAX {
            let _ = self.client.poll(Duration::ZERO);
        }
        let doing = format!("tell of topic `{}` within {} s", self.topic, ASK_TIMEOUT.as_secs());
        let mut status = explain(error, &self.at, &doing).into_status();
        if status.code == Code::Unavailable {
            status.message =
                format!("{}{}: start the brokers, or mend the address", status.message, self.health.reason());
        }
        status
    }

    /// How many there are. They are numbered from 0.
    pub(super) fn count(&self) -> Result<i32> {
        let metadata =
            self.client.fetch_metadata(Some(&self.topic), ASK_TIMEOUT).map_err(|e| self.status(&e))?;
        let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        let Some(topic) = metadata.topics().iter().find(|t| t.name() == self.topic) else {
            return Err(self.status(&unknown));
        };
        if let Some(error) = topic.error() {
            return Err(self.status(&KafkaError::MetadataFetch(error.into())));
        }
        i32::try_from(topic.partitions().len())
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| self.status(&unknown))
    }

    /// The offset behind the last record of a partition.
    pub(super) fn end(&self, partition: i32) -> Result<i64> {
        let ends = self.client.fetch_watermarks(&self.topic, partition, ASK_TIMEOUT);
        ends.map(|(_, end)| end).map_err(|e| self.status(&e))
    }

    /// For each partition the offset of the first record that is not older; `None` where there is none.
    pub(super) fn at(&self, time: Timestamp, count: i32) -> Result<Vec<Option<i64>>> {
        let mut wanted = TopicPartitionList::new();
        for partition in 0..count {
            wanted
                .add_partition_offset(&self.topic, partition, Offset::Offset(time.millis()))
                .map_err(|e| self.status(&e))?;
        }
        let found = self.client.offsets_for_times(wanted, ASK_TIMEOUT).map_err(|e| self.status(&e))?;
        (0..count)
            .map(|partition| {
                let found = found.find_partition(&self.topic, partition);
                let Some(found) = found else { return Ok(None) };
                found.error().map_err(|e| self.status(&e))?;
                Ok(match found.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                })
            })
            .collect()
    }
}

/// Asks again and again how many partitions a topic has, while somebody reads it.
#[derive(Debug)]
pub(super) struct Watch {
    known: Arc<Known>,
}

#[derive(Debug, Default)]
struct Known {
    count: AtomicI32,
    pause: Pause,
}

impl Watch {
    pub(super) fn start(kafka: &Kafka, topic: &str, every: Duration, cx: &IoContext) -> Result<Self> {
        let partitions = Partitions::of(kafka, topic, false, cx)?;
        let known = Arc::new(Known::default());
        let watch = Self { known: Arc::clone(&known) };
        apart("partitions", move || {
            while known.pause.wait(every) {
                match partitions.count() {
                    // A topic never has fewer; one that was made anew is found by its offsets.
                    Ok(count) => {
                        known.count.fetch_max(count, Relaxed);
                    }
                    Err(error) => tracing::debug!(%error, "partitions are not known now"),
                }
            }
        });
        Ok(watch)
    }

    /// Partitions at the last look; 0 before the first.
    pub(super) fn count(&self) -> i32 {
        self.known.count.load(Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.known.pause.end();
    }
}
