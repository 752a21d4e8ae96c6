//! What a client of the library says about itself, once a second: how far the partitions go, and whether a
//! broker is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use serde::Deserialize;

/// Between two words of a client, in milliseconds.
pub(super) const STATISTICS_MS: &str = "1000";

/// What is known of one client, told by the library's threads.
#[derive(Debug)]
pub(super) struct Health {
    /// Pipeline, operator and part, for the log.
    name: String,
    /// Since the last word a connection to some broker was open.
    up: AtomicBool,
    /// The offset behind the last record that may be read; -1 when unknown.
    end: AtomicI64,
    last_error: Mutex<Option<String>>,
    pub(super) waker: AtomicWaker,
}

impl Health {
    pub(super) fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            up: AtomicBool::new(true),
            end: AtomicI64::new(-1),
            last_error: Mutex::new(None),
            waker: AtomicWaker::new(),
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    pub(super) fn end(&self) -> Option<i64> {
        Some(self.end.load(Relaxed)).filter(|end| *end >= 0)
    }

    /// The reason of the last error, in brackets.
    pub(super) fn reason(&self) -> String {
        self.last_error.lock().as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
    }

    fn take_statistics(&self, bytes: &[u8]) {
        let statistics: Statistics = match serde_json::from_slice(bytes) {
            Ok(statistics) => statistics,
            Err(error) => {
                tracing::debug!(name = %self.name, %error, "statistics of a client of Kafka cannot be read");
                return;
            }
        };
        // A bootstrap address is a broker without a number until it has said who it is.
        self.up.store(statistics.brokers.values().any(|b| b.state == "UP"), Relaxed);
        let partitions = statistics.topics.values().flat_map(|t| &t.partitions);
        // -1 stands for messages that have no partition yet.
        for (_, partition) in partitions.filter(|(number, _)| *number != "-1") {
            let end = match partition.ls_offset {
                stable if stable >= 0 => stable,
                _ => partition.hi_offset,
            };
            if end >= 0 {
                self.end.store(end, Relaxed);
            }
        }
    }
}

#[derive(Deserialize)]
struct Statistics {
    brokers: BTreeMap<String, Broker>,
    topics: BTreeMap<String, Topic>,
}

#[derive(Deserialize)]
struct Broker {
    state: String,
}

#[derive(Deserialize)]
struct Topic {
    partitions: BTreeMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    hi_offset: i64,
    ls_offset: i64,
}

/// The ear of a client.
pub(super) struct Ear(pub(super) Arc<Health>);

impl ClientContext for Ear {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let name = &self.0.name;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(%name, facility, text, "librdkafka");
            }
            // A broker that is away is said as an error of the library, too; the reader or the writer
            // says it once.
            _ => tracing::debug!(%name, facility, text, "librdkafka"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.0.take_statistics(statistics);
        self.0.waker.wake();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(name = %self.0.name, %error, reason, "librdkafka");
        let mut last = self.0.last_error.lock();
        // That all are down says less than why the last one is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) || last.is_none() {
            *last = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Ear {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // For people who look at the group only: the positions are in the checkpoint.
            tracing::warn!(name = %self.0.name, %error, "an offset was not committed for the group's monitors");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_partition_is_that_of_what_is_committed_where_that_is_known() {
        let health = Health::new("p/in".into());
        assert_eq!((health.end(), health.is_up()), (None, true));
        let told = |state: &str, stable: i64| {
            format!(
                r#"{{"brokers":{{"b/1":{{"state":"{state}","nodeid":1}}}},
                    "topics":{{"t":{{"partitions":{{
                        "-1":{{"hi_offset":-1001,"ls_offset":-1001}},
                        "3":{{"hi_offset":90,"ls_offset":{stable}}}}}}}}}}}"#
            )
        };
        health.take_statistics(told("UP", 70).as_bytes());
        assert_eq!((health.end(), health.is_up()), (Some(70), true));
        health.take_statistics(told("DOWN", -1).as_bytes());
        assert_eq!((health.end(), health.is_up()), (Some(90), false));
        health.take_statistics(b"nonsense");
        assert_eq!(health.end(), Some(90));
    }
}
