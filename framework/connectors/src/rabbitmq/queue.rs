//! A queue, and how it is declared.

use std::collections::BTreeMap;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// A queue, and how it is declared before it is used. Declaring one that is there with the same
/// options does nothing; with others it is an error that says so.
///
/// ```
/// use afflux_connectors::Queue;
/// let orders = Queue::durable("orders").dead_letter_to("orders.dead").length_max(100_000);
/// assert_eq!(orders.name(), "orders");
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    name: String,
    declare: bool,
    options: QueueDeclareOptions,
    arguments: BTreeMap<&'static str, AMQPValue>,
    bindings: Vec<(String, String)>,
}

impl From<&str> for Queue {
    fn from(name: &str) -> Self {
        Self::durable(name)
    }
}

impl From<String> for Queue {
    fn from(name: String) -> Self {
        Self::durable(name)
    }
}

impl Queue {
    fn new(name: impl Into<String>, declare: bool, durable: bool) -> Self {
        let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
        Self { name: name.into(), declare, options, arguments: BTreeMap::new(), bindings: Vec::new() }
    }

    /// A queue that outlives a restart of the broker.
    pub fn durable(name: impl Into<String>) -> Self {
        Self::new(name, true, true)
    }

    /// A queue that a restart of the broker takes away, with its messages.
    pub fn transient(name: impl Into<String>) -> Self {
        Self::new(name, true, false)
    }

    /// A queue that somebody else has declared, whatever its options are.
    pub fn existing(name: impl Into<String>) -> Self {
        Self::new(name, false, true)
    }

    fn argument(mut self, name: &'static str, value: AMQPValue) -> Self {
        self.arguments.insert(name, value);
        self
    }

    fn text(self, name: &'static str, value: &str) -> Self {
        self.argument(name, AMQPValue::LongString(value.as_bytes().into()))
    }

    /// A replicated queue (`x-queue-type: quorum`).
    #[must_use]
    pub fn quorum(self) -> Self {
        self.text("x-queue-type", "quorum")
    }

    /// What cannot be read, and what has been given out too often, goes to this queue, which has
    /// to be there.
    #[must_use]
    pub fn dead_letter_to(self, queue: &str) -> Self {
        self.dead_letter("", queue)
    }

    /// The same by an exchange and a routing key.
    #[must_use]
    pub fn dead_letter(self, exchange: &str, key: &str) -> Self {
        self.text("x-dead-letter-exchange", exchange).text("x-dead-letter-routing-key", key)
    }

    /// At most so many messages. More are refused, which holds a sink back, until some are taken.
    #[must_use]
    pub fn length_max(self, messages: u32) -> Self {
        let most = AMQPValue::LongLongInt(i64::from(messages));
        self.argument("x-max-length", most).text("x-overflow", "reject-publish")
    }

    /// Messages vanish, or become dead letters, when nobody has taken them for so long.
    #[must_use]
    pub fn message_ttl_ms(self, ms: u32) -> Self {
        self.argument("x-message-ttl", AMQPValue::LongLongInt(i64::from(ms)))
    }

    /// Gets what an exchange, which must be there, takes with this routing key or pattern.
    #[must_use]
    pub fn bind(mut self, exchange: &str, key: &str) -> Self {
        self.bindings.push((exchange.to_owned(), key.to_owned()));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn bindings(&self) -> &[(String, String)] {
        &self.bindings
    }

    /// What it is declared with; `passive` where it has to be there.
    pub(super) fn options(&self) -> (QueueDeclareOptions, FieldTable) {
        if !self.declare {
            return (QueueDeclareOptions { passive: true, ..self.options }, FieldTable::default());
        }
        let mut table = FieldTable::default();
        for (name, value) in &self.arguments {
            table.insert(ShortString::from(*name), value.clone());
        }
        (self.options, table)
    }

    /// Its options in words, for the message that says that another has other ones.
    pub(super) fn described(&self) -> String {
        let mut words = vec![if self.options.durable { "durable" } else { "transient" }.to_owned()];
        for (name, value) in &self.arguments {
            let value = match value {
                AMQPValue::LongString(text) => text.to_string(),
                AMQPValue::LongLongInt(number) => number.to_string(),
                other => format!("{other:?}"),
            };
            words.push(format!("{name}={value}"));
        }
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_broker_and_can_be_read_by_people() {
        let queue = Queue::durable("orders").dead_letter_to("dead").length_max(5);
        let (options, table) = queue.options();
        assert!(options.durable && !options.passive);
        assert_eq!(table.inner().len(), 4);
        assert_eq!(
            queue.described(),
            "durable, x-dead-letter-exchange=, x-dead-letter-routing-key=dead, x-max-length=5, \
             x-overflow=reject-publish"
        );
        assert!(Queue::existing("orders").options().0.passive);
        assert!(!Queue::transient("orders").options().0.durable);
    }
}
