//! A broker by its URL: where every source and sink of it begins.

use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use afflux_stream::Result;
use afflux_wire::Status;
use lapin::uri::AMQPUri;
use serde::de::DeserializeOwned;

use super::message::Message;
use super::queue::Queue;
use super::read::{Decode, PREFETCH, RabbitSource};
use super::write::RabbitSink;
use crate::codec;

/// How long a broker that has been reached before may be away.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two heartbeats, in seconds, where the URL has no `?heartbeat=`. A peer that is silent for
/// twice this long is gone.
const HEARTBEAT_S: u16 = 10;

/// A broker, by its URL.
///
/// ```
/// use afflux_connectors::{Queue, Rabbit};
/// use afflux_stream::{Flow, JobSettings};
///
/// let rabbit = Rabbit::at("amqp://guest:guest@127.0.0.1:5672");
/// let flow = Flow::new("shout", JobSettings::default());
/// flow.source("hello", rabbit.read("hello").text())
///     .untimed()
///     .map(|line: String| line.to_uppercase())
///     .sink("loud", rabbit.write("loud").text());
/// assert_eq!(flow.finish().unwrap().graph().chains.len(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct Rabbit {
    url: String,
    patience: Duration,
}

impl Rabbit {
    /// The broker of this URL: `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps:` for TLS, whose
    /// certificate has to come from an authority that this machine trusts. Without a virtual host,
    /// or with `/` alone, the broker's default one. `?heartbeat=SECONDS` and `?channel_max=` as the
    /// [specification of these URLs](https://www.rabbitmq.com/docs/uri-query-parameters) says.
    ///
    /// A wrong URL is an error when the pipeline starts.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), patience: PATIENCE }
    }

    /// How long the broker may be away, once it has been reached, before the pipeline fails: 5
    /// minutes unless this says otherwise. A broker that was never reached fails it after 10 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A queue to read. A name alone is [`Queue::durable`].
    pub fn read(&self, queue: impl Into<Queue>) -> RabbitRead {
        RabbitRead { rabbit: self.clone(), queue: queue.into(), prefetch: PREFETCH, consumers: 1 }
    }

    /// A queue to write to, by the default exchange. A name alone is [`Queue::durable`].
    pub fn write<T: 'static>(&self, queue: impl Into<Queue>) -> RabbitSink<T> {
        let queue = queue.into();
        let key = queue.name().to_owned();
        RabbitSink::new(self.clone(), String::new(), Some(queue), Arc::new(move |_| key.clone()))
    }

    /// An exchange to write to, which must be there; the routing key is made of each record.
    pub fn publish<T: 'static>(
        &self,
        exchange: impl Into<String>,
        key: impl Fn(&T) -> String + Send + Sync + 'static,
    ) -> RabbitSink<T> {
        RabbitSink::new(self.clone(), exchange.into(), None, Arc::new(key))
    }

    pub(super) const fn how_long(&self) -> Duration {
        self.patience
    }

    /// Its URL, read.
    pub(super) fn uri(&self) -> Result<AMQPUri> {
        let mut uri = AMQPUri::from_str(&self.url).map_err(|error| {
            // Neither the text nor the parser's message: both may hold the password.
            let what = if error.contains("scheme") { "its scheme is neither" } else { "it is no URL of" };
            Status::invalid(format!(
                "the URL of a RabbitMQ broker cannot be read: {what} `amqp` nor `amqps`; expected \
                 amqp://USER:PASSWORD@HOST:PORT/VHOST, with %XX for other characters than letters and digits"
            ))
        })?;
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        Ok(uri)
    }
}

/// A URL as messages write it: without the password.
pub(super) fn shown(uri: &AMQPUri) -> String {
    let AMQPUri { scheme, authority, vhost, .. } = uri;
    let vhost = if vhost == "/" { String::new() } else { format!("/{vhost}") };
    format!("{scheme}://{}@{}:{}{vhost}", authority.userinfo.username, authority.host, authority.port)
}

/// A queue to read, and how; one of `json`, `message_pack`, `text`, `bytes` and `with` makes it a source.
#[derive(Clone, Debug)]
#[must_use = "say how a message becomes a record: `.json()`, `.text()`, `.with(…)`"]
pub struct RabbitRead {
    pub(super) rabbit: Rabbit,
    pub(super) queue: Queue,
    pub(super) prefetch: u16,
    pub(super) consumers: u32,
}

impl RabbitRead {
    /// Messages that a consumer may hold unacknowledged: [`PREFETCH`] unless this says otherwise, at
    /// least 1. What is read in the time between two rounds of confirmations cannot be more, nor what
    /// the source holds in memory.
    pub fn prefetch(mut self, messages: u16) -> Self {
        self.prefetch = messages.max(1);
        self
    }

    /// Consumers, each with a connection, dealt out over the tasks of the source. One unless this says
    /// otherwise, which keeps the order of the queue.
    pub fn consumers(mut self, consumers: u32) -> Self {
        self.consumers = consumers.max(1);
        self
    }

    /// The body of each message is a JSON value.
    pub fn json<T: DeserializeOwned + Send + 'static>(self) -> RabbitSource<T> {
        self.with(|message| codec::from_json(message.body()))
    }

    /// The body of each message is a MessagePack value.
    pub fn message_pack<T: DeserializeOwned + Send + 'static>(self) -> RabbitSource<T> {
        self.with(|message| codec::from_message_pack(message.body()))
    }

    /// The body of each message is UTF-8.
    pub fn text(self) -> RabbitSource<String> {
        self.with(|message| codec::from_text(message.body()))
    }

    /// The body of each message as it is.
    pub fn bytes(self) -> RabbitSource<Vec<u8>> {
        self.with(|message| Ok(message.body().to_vec()))
    }

    /// A closure makes a record of each message, with its headers, its routing key and whether it was
    /// given out before; or says why it cannot.
    pub fn with<T: Send + 'static>(
        self,
        decode: impl Fn(&Message) -> std::result::Result<T, String> + Send + Sync + 'static,
    ) -> RabbitSource<T> {
        let decode: Decode<T> = Arc::new(decode);
        RabbitSource { read: self, decode, item: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(url: &str) -> AMQPUri {
        Rabbit::at(url).uri().unwrap()
    }

    #[test]
    fn a_url_without_a_virtual_host_means_the_default_one() {
        for url in ["amqp://h", "amqp://h/", "amqp://h/%2f", "amqp://h:5672/"] {
            assert_eq!(uri(url).vhost, "/", "{url}");
        }
        assert_eq!(uri("amqp://h/shop").vhost, "shop");
        assert_eq!(uri("amqp://h").query.heartbeat, Some(HEARTBEAT_S));
        assert_eq!(uri("amqp://h?heartbeat=3").query.heartbeat, Some(3));
    }

    #[test]
    fn neither_a_shown_url_nor_an_error_has_the_password() {
        assert_eq!(shown(&uri("amqps://ada:s3cret@mq:5671/shop")), "amqps://ada@mq:5671/shop");
        assert_eq!(shown(&uri("amqp://ada:s3cret@mq")), "amqp://ada@mq:5672");
        for wrong in ["http://ada:s3cret@mq", "ada:s3cret@mq:5672", "amqp://ada:s3cret@mq:port", ""] {
            let error = Rabbit::at(wrong).uri().unwrap_err().message;
            assert!(!error.contains("s3cret"), "{error}");
            assert!(error.contains("amqp://USER:PASSWORD@HOST:PORT/VHOST"), "{error}");
        }
    }
}
