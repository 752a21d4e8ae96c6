//! A cluster by the addresses of its brokers: where every source and sink of it begins.

use std::collections::BTreeMap;
use std::time::Duration;

use afflux_stream::{IoContext, Result};
use afflux_wire::Status;
use rdkafka::ClientConfig;

use super::health::STATISTICS_MS;
use super::read::KafkaRead;
use super::write::KafkaSink;

/// How long the brokers may be away, once one has been reached.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest wait between two tries to reach a broker.
const RECONNECT_MS_MAX: &str = "1000";

/// Properties that decide what is promised, and what says it here.
const OURS: [(&str, &str); 13] = [
    ("bootstrap.servers", "`Kafka::at(…)`"),
    ("metadata.broker.list", "`Kafka::at(…)`"),
    ("group.id", "`.group(…)` of what is read"),
    ("auto.offset.reset", "`.start(…)` and `.when_gone(…)` of what is read"),
    ("isolation.level", "`.uncommitted()` of what is read"),
    ("enable.auto.commit", "the checkpoint, which keeps the positions"),
    ("enable.auto.offset.store", "the checkpoint, which keeps the positions"),
    ("enable.partition.eof", "the source, which has to know when it is caught up"),
    ("statistics.interval.ms", "the connector, which has to know whether a broker is there"),
    ("transactional.id", "`.exactly_once()` of what is written"),
    ("transaction.timeout.ms", "`.transaction_timeout(…)` of what is written"),
    ("enable.idempotence", "the sink, which is always idempotent"),
    ("acks", "the sink, which waits for all replicas that are in sync"),
];

/// A cluster, by the addresses of some of its brokers.
///
/// ```
/// use afflux_connectors::Kafka;
/// use afflux_stream::{Flow, JobSettings};
///
/// let kafka = Kafka::at("127.0.0.1:9092");
/// let flow = Flow::new("shout", JobSettings::default());
/// flow.source("hello", kafka.read("hello").text())
///     .untimed()
///     .map(|line: String| line.to_uppercase())
///     .sink("loud", kafka.write("loud").text());
/// assert_eq!(flow.finish().unwrap().graph().chains.len(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct Kafka {
    brokers: String,
    properties: BTreeMap<String, String>,
    patience: Duration,
}

impl Kafka {
    /// The cluster of these brokers: `HOST:PORT,HOST:PORT`. One that answers tells of the others.
    pub fn at(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), properties: BTreeMap::new(), patience: PATIENCE }
    }

    /// Sets a property of [librdkafka](https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md)
    /// for all clients of this cluster, such as `security.protocol`. Those on which the guarantees
    /// rest have words of their own here, and are refused.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// How long the brokers may be away, once one has been reached, before the pipeline fails: 5
    /// minutes unless this says otherwise.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A topic to read.
    pub fn read(&self, topic: impl Into<String>) -> KafkaRead {
        KafkaRead::new(self.clone(), topic.into())
    }

    /// A topic to write to.
    pub fn write<T: 'static>(&self, topic: impl Into<String>) -> KafkaSink<T> {
        KafkaSink::new(self.clone(), topic.into())
    }

    pub(super) const fn how_long(&self) -> Duration {
        self.patience
    }

    /// As messages write it.
    pub(super) fn shown(&self) -> &str {
        &self.brokers
    }

    pub(super) fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// What a client is made with; `part` is what it is for, such as a partition.
    pub(super) fn config(&self, cx: &IoContext, part: &str) -> Result<ClientConfig> {
        if self.brokers.trim().is_empty() {
            return Err(Status::invalid("no address of a broker of Kafka: `Kafka::at(\"HOST:PORT\")`"));
        }
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", format!("{}/{}/{part}", cx.pipeline, cx.operator))
            .set("statistics.interval.ms", STATISTICS_MS)
            .set("reconnect.backoff.max.ms", RECONNECT_MS_MAX);
        for (name, value) in &self.properties {
            if let Some((_, instead)) = OURS.iter().find(|(ours, _)| ours == name) {
                return Err(Status::invalid(format!(
                    "property `{name}` of Kafka at {} cannot be set: it belongs to {instead}",
                    self.brokers
                )));
            }
            config.set(name, value);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_a_promise_rests_on_is_refused_with_what_says_it() {
        let cx = IoContext::new("shop", "orders");
        for (name, instead) in OURS {
            let error = Kafka::at("b:9092").set(name, "x").config(&cx, "0").unwrap_err().message;
            assert!(error.contains(name) && error.contains(instead), "{error}");
        }
        let config = Kafka::at("b:9092").set("security.protocol", "ssl").config(&cx, "0").unwrap();
        assert_eq!(config.get("security.protocol"), Some("ssl"));
        assert_eq!(config.get("client.id"), Some("shop/orders/0"));
        let error = Kafka::at(" ").config(&cx, "0").unwrap_err().message;
        assert!(error.contains("Kafka::at"), "{error}");
    }
}
