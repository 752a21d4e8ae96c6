//! A queue or an exchange as a sink.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use afflux_stream::{Batch, IoContext, Reaching, Result, Sink, SinkWriter};
use afflux_wire::{Code, Status};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use super::broker::Rabbit;
use super::link::{Link, STOP_GRACE, short};
use super::queue::Queue;
use super::reach::reaching;
use super::trouble::Trouble;
use crate::codec::{self, Encode};

/// Messages of one writer that the broker has not confirmed, at most; one batch more may wait behind them.
pub const UNCONFIRMED_MESSAGES_MAX: usize = 1_024;
/// Wait before a message is sent again that the broker has refused, each time so much longer.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// The longest of these waits.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Delivery mode of messages that a restart of the broker does not take away.
const PERSISTENT: u8 = 2;
/// Delivery mode of the others.
const TRANSIENT: u8 = 1;

type TextOf<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;
type HeadersOf<T> = Arc<dyn Fn(&T) -> Vec<(String, String)> + Send + Sync>;

/// A queue or an exchange as a sink; made by [`Rabbit::write`] and [`Rabbit::publish`].
///
/// Each message is persistent and mandatory, and is kept until the broker has confirmed it. After a lost
/// connection those that were not confirmed are sent again: some may come twice, with the same id. One that
/// the broker refuses for want of room is sent again until it is taken, which holds the pipeline back;
/// order is kept but for these. One that no queue takes stops the pipeline, unless
/// [`RabbitSink::count_unroutable`] says that it is only to be counted.
pub struct RabbitSink<T> {
    rabbit: Rabbit,
    exchange: String,
    declare: Option<ExchangeKind>,
    queue: Option<Queue>,
    form: Form<T>,
    count_unroutable: bool,
    unconfirmed_max: usize,
}

/// How a record becomes a message.
struct Form<T> {
    encode: Option<Encode<T>>,
    content_type: &'static str,
    key: TextOf<T>,
    id: Option<TextOf<T>>,
    headers: Option<HeadersOf<T>>,
    mode: u8,
}

impl<T> Clone for Form<T> {
    fn clone(&self) -> Self {
        Self {
            encode: self.encode.clone(),
            content_type: self.content_type,
            key: Arc::clone(&self.key),
            id: self.id.clone(),
            headers: self.headers.clone(),
            mode: self.mode,
        }
    }
}

impl<T: 'static> RabbitSink<T> {
    pub(super) fn new(rabbit: Rabbit, exchange: String, queue: Option<Queue>, key: TextOf<T>) -> Self {
        let form = Form { encode: None, content_type: "", key, id: None, headers: None, mode: PERSISTENT };
        Self {
            rabbit,
            exchange,
            declare: None,
            queue,
            form,
            count_unroutable: false,
            unconfirmed_max: UNCONFIRMED_MESSAGES_MAX,
        }
    }

    /// Each record is a JSON value.
    #[must_use]
    pub fn json(self) -> Self
    where
        T: Serialize,
    {
        self.with("application/json", codec::to_json)
    }

    /// Each record is a MessagePack value, its fields by name.
    #[must_use]
    pub fn message_pack(self) -> Self
    where
        T: Serialize,
    {
        self.with("application/msgpack", codec::to_message_pack)
    }

    /// Each record is text.
    #[must_use]
    pub fn text(self) -> Self
    where
        T: AsRef<str>,
    {
        self.with("text/plain", |row| Ok(row.as_ref().as_bytes().to_vec()))
    }

    /// Each record as it is.
    #[must_use]
    pub fn bytes(self) -> Self
    where
        T: AsRef<[u8]>,
    {
        self.with("application/octet-stream", |row| Ok(row.as_ref().to_vec()))
    }

    /// A closure makes the body of each record, or says why it cannot, which stops the pipeline.
    #[must_use]
    pub fn with(
        mut self,
        content_type: &'static str,
        encode: impl Fn(&T) -> std::result::Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        self.form.content_type = content_type;
        self.form.encode = Some(Arc::new(encode));
        self
    }

    /// The routing key of each record, in place of the queue's name.
    #[must_use]
    pub fn key(mut self, key: impl Fn(&T) -> String + Send + Sync + 'static) -> Self {
        self.form.key = Arc::new(key);
        self
    }

    /// The id of each message, by which a reader can tell a repetition, also after a restart of the
    /// pipeline. Without it: pipeline, operator and task, the time at which it began, and a number.
    #[must_use]
    pub fn id(mut self, id: impl Fn(&T) -> String + Send + Sync + 'static) -> Self {
        self.form.id = Some(Arc::new(id));
        self
    }

    /// Headers of each message.
    #[must_use]
    pub fn headers(mut self, headers: impl Fn(&T) -> Vec<(String, String)> + Send + Sync + 'static) -> Self {
        self.form.headers = Some(Arc::new(headers));
        self
    }

    /// Messages that a restart of the broker may take away.
    #[must_use]
    pub const fn transient(mut self) -> Self {
        self.form.mode = TRANSIENT;
        self
    }

    /// Declares the exchange, durable: `direct`, `fanout`, `topic` or `headers`.
    #[must_use]
    pub fn declare(mut self, kind: &str) -> Self {
        self.declare = Some(match kind {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "topic" => ExchangeKind::Topic,
            "headers" => ExchangeKind::Headers,
            other => ExchangeKind::Custom(other.to_owned()),
        });
        self
    }

    /// Declares a queue that is to be there before the first message is written.
    #[must_use]
    pub fn declare_queue(mut self, queue: impl Into<Queue>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// A message that no queue takes is dropped, and counted as an error of the operator.
    #[must_use]
    pub const fn count_unroutable(mut self) -> Self {
        self.count_unroutable = true;
        self
    }

    /// Messages that may be unconfirmed, at least 1: [`UNCONFIRMED_MESSAGES_MAX`] unless this says
    /// otherwise.
    #[must_use]
    pub fn unconfirmed_max(mut self, messages: usize) -> Self {
        self.unconfirmed_max = messages.max(1);
        self
    }
}

impl<T: Send + 'static> Sink<T> for RabbitSink<T> {
    fn open(&self, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let Some(encode) = self.form.encode.clone() else {
            return Err(Status::invalid(format!(
                "sink {}: how is a record written? Say `.json()`, `.message_pack()`, `.text()`, `.bytes()` or \
                 `.with(…)`",
                cx.operator
            )));
        };
        let link = Link::new(&self.rabbit, cx, &cx.subtask.to_string())?;
        let began = cx.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let ids = format!("{}/{}/{}-{began:x}", cx.pipeline, cx.operator, cx.subtask);
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            link,
            exchange: self.exchange.clone(),
            declare: self.declare.clone(),
            queue: self.queue.clone(),
            count_unroutable: self.count_unroutable,
            unconfirmed_max: self.unconfirmed_max,
            shared: Arc::clone(&shared),
        };
        Link::spawn(worker.run())?;
        let form = self.form.clone();
        let (unconfirmed_max, operator) = (self.unconfirmed_max, cx.operator.clone());
        Ok(Box::new(Writer { shared, form, encode, unconfirmed_max, operator, ids, next: 0 }))
    }

    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        // One that is declared with the first message need not be there yet.
        let exchange = self.declare.is_none().then_some(self.exchange.as_str());
        Some(reaching(&self.rabbit, self.queue.as_ref(), exchange, cx))
    }

    fn kind(&self) -> &'static str {
        "rabbitmq"
    }

    fn target(&self) -> Option<String> {
        let name = self.queue.as_ref().map_or(self.exchange.as_str(), Queue::name);
        Some(format!("{} of {}", name, super::broker::shown(&self.rabbit.uri().ok()?)))
    }
}

/// A message on its way.
struct Outgoing {
    number: u64,
    key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
    /// How often the broker has had no room for it.
    refused: AtomicU64,
}

/// Between the task and its connection.
#[derive(Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    /// Something waits, or the writer is gone.
    work: Notify,
    /// The writer is gone.
    gone: Notify,
}

#[derive(Default)]
struct Outbox {
    /// At most the unconfirmed ones and one batch.
    waiting: VecDeque<Arc<Outgoing>>,
    /// Written and neither confirmed nor returned.
    unconfirmed: usize,
    /// Connected and declared, once.
    opened: bool,
    returned: u64,
    waker: Option<Waker>,
    failed: Option<Status>,
    stopped: bool,
}

/// Keeps the connection.
struct Worker {
    link: Link,
    exchange: String,
    declare: Option<ExchangeKind>,
    queue: Option<Queue>,
    count_unroutable: bool,
    unconfirmed_max: usize,
    shared: Arc<Shared>,
}

type Answer = (u64, std::result::Result<Confirmation, lapin::Error>);

impl Worker {
    async fn run(self) {
        let gone = async {
            self.shared.gone.notified().await;
            self.link.cx.clock.sleep(STOP_GRACE).await;
        };
        // By number: what is sent again goes in the order in which it was written.
        let mut sent = BTreeMap::new();
        let ended = tokio::select! {
            biased;
            ended = self.link.keep(async |channel| self.session(channel, &mut sent).await) => ended,
            () = gone => Ok(()),
        };
        let mut outbox = self.shared.outbox.lock();
        if let Err(status) = ended {
            outbox.failed = Some(status);
        }
        if let Some(waker) = outbox.waker.take() {
            waker.wake();
        }
    }

    async fn session(
        &self,
        channel: &Channel,
        sent: &mut BTreeMap<u64, Arc<Outgoing>>,
    ) -> std::result::Result<(), Trouble> {
        if let Some(kind) = &self.declare {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel
                .exchange_declare(short(&self.exchange)?, kind.clone(), options, FieldTable::default())
                .await
                .map_err(|e| self.link.trouble(&e, &format!("declare exchange `{}`", self.exchange)))?;
        }
        if let Some(queue) = &self.queue {
            self.link.declare(channel, queue).await?;
        }
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(|e| self.link.trouble(&e, "confirm messages"))?;
        self.link.well();
        self.opened();
        let exchange = short(&self.exchange)?;
        let mut answers: FuturesUnordered<LocalBoxFuture<'_, Answer>> =
            sent.values().map(|message| publish(channel, &exchange, Arc::clone(message), None)).collect();
        loop {
            while sent.len() < self.unconfirmed_max
                && let Some(message) = self.shared.outbox.lock().waiting.pop_front()
            {
                sent.insert(message.number, Arc::clone(&message));
                answers.push(publish(channel, &exchange, message, None));
            }
            if answers.is_empty() && self.shared.outbox.lock().stopped {
                return Ok(());
            }
            let (number, answer) = tokio::select! {
                biased;
                Some(answer) = answers.next(), if !answers.is_empty() => answer,
                () = self.shared.work.notified() => continue,
            };
            let to = || match self.exchange.as_str() {
                "" => "take messages".to_owned(),
                exchange => format!("take messages for exchange `{exchange}`"),
            };
            match answer.map_err(|e| self.link.trouble(&e, &to()))? {
                Confirmation::Ack(None) | Confirmation::NotRequested => {}
                Confirmation::Ack(Some(back)) | Confirmation::Nack(Some(back)) => {
                    self.returned(back.reply_text.as_str(), back.delivery.routing_key.as_str())?;
                }
                Confirmation::Nack(None) => {
                    if let Some(message) = sent.get(&number) {
                        let times = message.refused.fetch_add(1, Relaxed).saturating_add(1);
                        tracing::debug!(broker = %self.link.at, key = %message.key, times, "no room for a message");
                        let times = u32::try_from(times).unwrap_or(u32::MAX);
                        let pause = REFUSED_PAUSE.saturating_mul(times).min(REFUSED_PAUSE_MAX);
                        let pause = self.link.cx.clock.sleep(pause);
                        answers.push(publish(channel, &exchange, Arc::clone(message), Some(Box::pin(pause))));
                    }
                    continue;
                }
            }
            sent.remove(&number);
            self.settled();
        }
    }

    /// A message that no queue takes.
    fn returned(&self, text: &str, key: &str) -> std::result::Result<(), Trouble> {
        self.shared.outbox.lock().returned += 1;
        let exchange = match self.exchange.as_str() {
            "" => "the default exchange",
            exchange => exchange,
        };
        let what = format!(
            "no queue of RabbitMQ at {} takes a message for {exchange} with routing key `{key}` ({text})",
            self.link.at
        );
        if self.count_unroutable {
            tracing::warn!(error = what, "a message was dropped");
            return Ok(());
        }
        Err(Trouble::Final(Status::new(
            Code::FailedPrecondition,
            format!("{what}; bind a queue, or count such messages with `.count_unroutable()`"),
        )))
    }

    fn opened(&self) {
        let mut outbox = self.shared.outbox.lock();
        outbox.opened = true;
        if let Some(waker) = outbox.waker.take() {
            waker.wake();
        }
    }

    fn settled(&self) {
        let mut outbox = self.shared.outbox.lock();
        outbox.unconfirmed = outbox.unconfirmed.saturating_sub(1);
        // Not at every confirmation: the task wakes to a batch, or to the last one.
        if outbox.unconfirmed <= self.unconfirmed_max / 2
            && let Some(waker) = outbox.waker.take()
        {
            waker.wake();
        }
    }
}

/// Sends a message, after a pause if there is one, and waits for its confirmation.
fn publish<'a>(
    channel: &'a Channel,
    exchange: &ShortString,
    message: Arc<Outgoing>,
    pause: Option<LocalBoxFuture<'a, ()>>,
) -> LocalBoxFuture<'a, Answer> {
    let exchange = exchange.clone();
    Box::pin(async move {
        if let Some(pause) = pause {
            pause.await;
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (key, properties) = (message.key.clone(), message.properties.clone());
        let answer = match channel.basic_publish(exchange, key, options, &message.body, properties).await {
            Ok(confirmation) => confirmation.await,
            Err(error) => Err(error),
        };
        (message.number, answer)
    })
}

struct Writer<T> {
    shared: Arc<Shared>,
    form: Form<T>,
    encode: Encode<T>,
    unconfirmed_max: usize,
    operator: String,
    /// What ids of messages begin with.
    ids: String,
    next: u64,
}

impl<T> Writer<T> {
    fn message(&mut self, row: &T) -> Result<Outgoing> {
        let wrong = |what: String| Status::invalid(format!("sink {}: {what}", self.operator));
        let text = |text: &str| {
            short(text).map_err(|trouble| match trouble {
                Trouble::Final(status) | Trouble::Passing(status) => wrong(status.message),
            })
        };
        let body = (self.encode)(row).map_err(wrong)?;
        let id = match &self.form.id {
            Some(id) => id(row),
            None => format!("{}-{}", self.ids, self.next),
        };
        let mut properties = BasicProperties::default()
            .with_delivery_mode(self.form.mode)
            .with_content_type(self.form.content_type.into())
            .with_message_id(text(&id)?);
        if let Some(headers) = &self.form.headers {
            let mut table = FieldTable::default();
            for (name, value) in headers(row) {
                table.insert(text(&name)?, AMQPValue::LongString(value.into()));
            }
            properties = properties.with_headers(table);
        }
        let key = text(&(self.form.key)(row))?;
        let number = self.next;
        self.next += 1;
        Ok(Outgoing { number, key, properties, body, refused: AtomicU64::new(0) })
    }

    fn poll(&self, cx: &mut Context<'_>, unconfirmed: usize, opened: bool) -> Poll<Result<()>> {
        let mut outbox = self.shared.outbox.lock();
        if let Some(status) = &outbox.failed {
            return Poll::Ready(Err(status.clone()));
        }
        if outbox.unconfirmed <= unconfirmed && outbox.opened >= opened {
            return Poll::Ready(Ok(()));
        }
        outbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T: Send> SinkWriter<T> for Writer<T> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(cx, self.unconfirmed_max - 1, false)
    }

    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let messages =
            batch.rows.iter().map(|row| self.message(row).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        batch.clear();
        let mut outbox = self.shared.outbox.lock();
        outbox.unconfirmed += messages.len();
        outbox.waiting.extend(messages);
        drop(outbox);
        self.shared.work.notify_one();
        Ok(())
    }

    /// With nothing written, too, the broker has to have been reached: else a wrong URL would go unseen.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(cx, 0, true)
    }

    /// Nothing: what was written is confirmed.
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn refused(&self) -> u64 {
        self.shared.outbox.lock().returned
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        self.shared.outbox.lock().stopped = true;
        self.shared.work.notify_one();
        self.shared.gone.notify_one();
    }
}
