//! A queue as a source.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use afflux_stream::{Batch, IoContext, OnError, Reaching, ReadState, Result, Source, Split, SplitReader};
use afflux_wire::Status;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::broker::RabbitRead;
use super::link::{Link, STOP_GRACE, short};
use super::message::Message;
use super::reach::reaching;
use super::trouble::Trouble;
use crate::codec::beginning;

/// Makes a record of a message, or says why that cannot be.
pub(super) type Decode<T> = Arc<dyn Fn(&Message) -> std::result::Result<T, String> + Send + Sync>;

/// Messages that a consumer holds unacknowledged at most, unless `prefetch` says otherwise.
pub const PREFETCH: u16 = 5_000;
/// Barriers that a reader remembers; a later one covers those before it.
const BARRIERS_MAX: usize = 64;

/// A queue as a source; made by [`Rabbit::read`](super::Rabbit::read).
///
/// A message is acknowledged when the sinks have confirmed what came of it. One that cannot be read stops
/// the pipeline, and stays in the queue; with `source.on_error=skip` it is counted and rejected, which
/// makes it a dead letter where the queue has a place for these, and drops it where not.
pub struct RabbitSource<T> {
    pub(super) read: RabbitRead,
    pub(super) decode: Decode<T>,
    pub(super) item: PhantomData<fn() -> T>,
}

impl<T: Send + 'static> Source for RabbitSource<T> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        self.read.rabbit.uri()?;
        let queue = self.read.queue.name();
        let split = |i| Split { id: format!("{queue}#{i}"), payload: Vec::new(), size: None };
        Ok((0..self.read.consumers).map(split).collect())
    }

    fn open(&self, split: &Split, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SplitReader<T>>> {
        let link = Link::new(&self.read.rabbit, cx, &split.id)?;
        let at = link.at.clone();
        let shared = Arc::new(Shared::default());
        let worker = Worker { link, read: self.read.clone(), shared: Arc::clone(&shared) };
        Link::spawn(worker.run())?;
        Ok(Box::new(Reader {
            shared,
            decode: Arc::clone(&self.decode),
            on_error: cx.on_error,
            place: format!("queue `{}` of {at}", self.read.queue.name()),
            read: None,
            acknowledged: None,
            barriers: VecDeque::new(),
            skipped: 0,
            caught_up: false,
        }))
    }

    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        Some(reaching(&self.read.rabbit, Some(&self.read.queue), None, cx))
    }

    fn kind(&self) -> &'static str {
        "rabbitmq"
    }

    fn acknowledges(&self) -> bool {
        true
    }
}

/// A message of one connection: its tag means nothing on the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    session: u64,
    tag: u64,
}

/// What the broker is to be told.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// This message and all before it are done with.
    Ack(Tag),
    /// This one is nothing to be read.
    Reject(Tag),
}

/// Between the task and its connection.
#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// There are words for the broker, or the reader is gone.
    work: Notify,
    /// The reader is gone.
    gone: Notify,
}

#[derive(Default)]
struct Inbox {
    session: u64,
    /// At most the prefetch.
    arrived: VecDeque<(Tag, Message)>,
    /// At most one for each message of the prefetch, and one an epoch.
    words: VecDeque<Word>,
    waker: Option<Waker>,
    failed: Option<Status>,
    stopped: bool,
}

impl Shared {
    fn tell(&self, word: Word) {
        self.inbox.lock().words.push_back(word);
        self.work.notify_one();
    }

    fn wake(inbox: &mut Inbox) {
        if let Some(waker) = inbox.waker.take() {
            waker.wake();
        }
    }

    /// The next word for the broker of this connection; `Err(true)`: the reader is gone.
    fn next_word(&self, session: u64) -> std::result::Result<Word, bool> {
        let mut inbox = self.inbox.lock();
        while let Some(word) = inbox.words.pop_front() {
            let (Word::Ack(tag) | Word::Reject(tag)) = word;
            // What an earlier connection gave out has gone back to the queue with it.
            if tag.session == session {
                return Ok(word);
            }
        }
        Err(inbox.stopped)
    }
}

/// Keeps the connection.
struct Worker {
    link: Link,
    read: RabbitRead,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(self) {
        let gone = async {
            self.shared.gone.notified().await;
            self.link.cx.clock.sleep(STOP_GRACE).await;
        };
        let ended = tokio::select! {
            biased;
            ended = self.link.keep(async |channel| self.session(channel).await) => ended,
            () = gone => Ok(()),
        };
        let mut inbox = self.shared.inbox.lock();
        if let Err(status) = ended {
            inbox.failed = Some(status);
        }
        Shared::wake(&mut inbox);
    }

    async fn session(&self, channel: &Channel) -> std::result::Result<(), Trouble> {
        let queue = &self.read.queue;
        let trouble = |error: lapin::Error, doing: &str| self.link.trouble(&error, doing);
        self.link.declare(channel, queue).await?;
        channel
            .basic_qos(self.read.prefetch, BasicQosOptions::default())
            .await
            .map_err(|e| trouble(e, "take the prefetch"))?;
        let session = {
            let mut inbox = self.shared.inbox.lock();
            inbox.session += 1;
            inbox.arrived.clear();
            inbox.session
        };
        let reading = format!("let queue `{}` be read", queue.name());
        let mut consumer = channel
            .basic_consume(
                short(queue.name())?,
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|e| trouble(e, &reading))?;
        self.link.well();
        // The reader may say now that the queue is empty.
        Shared::wake(&mut self.shared.inbox.lock());
        loop {
            match self.shared.next_word(session) {
                Ok(Word::Ack(tag)) => channel
                    .basic_ack(tag.tag, BasicAckOptions { multiple: true })
                    .await
                    .map_err(|e| trouble(e, "take acknowledgements"))?,
                Ok(Word::Reject(tag)) => channel
                    .basic_reject(tag.tag, BasicRejectOptions { requeue: false })
                    .await
                    .map_err(|e| trouble(e, "take rejections"))?,
                Err(true) => return Ok(()),
                Err(false) => {
                    let delivery = tokio::select! {
                        biased;
                        () = self.shared.work.notified() => continue,
                        delivery = consumer.next() => delivery,
                    };
                    match delivery {
                        Some(Ok(delivery)) => {
                            let tag = Tag { session, tag: delivery.delivery_tag };
                            let mut inbox = self.shared.inbox.lock();
                            inbox.arrived.push_back((tag, Message(delivery)));
                            Shared::wake(&mut inbox);
                        }
                        Some(Err(error)) => return Err(trouble(error, &reading)),
                        None => {
                            return Err(Trouble::Passing(Status::unavailable(format!(
                                "RabbitMQ at {} has ended the reading of queue `{}`: was it deleted?",
                                self.link.at,
                                queue.name()
                            ))));
                        }
                    }
                }
            }
        }
    }
}

struct Reader<T> {
    shared: Arc<Shared>,
    decode: Decode<T>,
    on_error: OnError,
    /// For messages: the queue and the URL.
    place: String,
    /// The last message handed out.
    read: Option<Tag>,
    /// The last message acknowledged.
    acknowledged: Option<Tag>,
    /// The last message before each barrier.
    barriers: VecDeque<(u64, Option<Tag>)>,
    skipped: u64,
    /// There was nothing more, and that was said.
    caught_up: bool,
}

impl<T> Reader<T> {
    /// The row of a message; `None` where it is skipped.
    fn row(&mut self, tag: Tag, message: &Message) -> Result<Option<T>> {
        let wrong = match (self.decode)(message) {
            Ok(row) => return Ok(Some(row)),
            Err(wrong) => wrong,
        };
        let id = message.id().map(|id| format!(", id `{id}`")).unwrap_or_default();
        let text = format!(
            "{}, message {} ({} bytes{id}, routing key `{}`): {wrong}: {}",
            self.place,
            tag.tag,
            message.body().len(),
            message.routing_key(),
            beginning(message.body())
        );
        match self.on_error {
            OnError::Fail => Err(Status::invalid(format!(
                "{text}; it stays in the queue: take it out, or count and reject such messages with \
                 `source.on_error=skip`"
            ))),
            OnError::Skip => {
                tracing::warn!(error = text, "a message was rejected");
                self.skipped += 1;
                self.shared.tell(Word::Reject(tag));
                Ok(None)
            }
        }
    }
}

impl<T: Send> SplitReader<T> for Reader<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let mut rows = 0;
        while rows < rows_max {
            let next = {
                let mut inbox = self.shared.inbox.lock();
                let next = inbox.arrived.pop_front();
                if next.is_none() && rows == 0 {
                    if let Some(status) = &inbox.failed {
                        return Poll::Ready(Err(status.clone()));
                    }
                    inbox.waker = Some(cx.waker().clone());
                    // An empty queue is said once, so that it can be taken for idle; never one that
                    // was not reached yet.
                    if inbox.session > 0 && !std::mem::replace(&mut self.caught_up, true) {
                        return Poll::Ready(Ok(ReadState::CaughtUp));
                    }
                    return Poll::Pending;
                }
                next
            };
            let Some((tag, message)) = next else {
                self.caught_up = true;
                return Poll::Ready(Ok(ReadState::CaughtUp));
            };
            self.caught_up = false;
            if let Some(row) = self.row(tag, &message)? {
                batch.rows.push(row);
                self.read = Some(tag);
                rows += 1;
            }
        }
        Poll::Ready(Ok(ReadState::More))
    }

    /// Nothing: the broker knows what was not acknowledged.
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }

    fn skipped(&self) -> u64 {
        self.skipped
    }

    fn barrier(&mut self, epoch: u64) {
        if self.barriers.len() == BARRIERS_MAX {
            self.barriers.pop_front();
        }
        self.barriers.push_back((epoch, self.read));
    }

    fn completed(&mut self, epoch: u64) {
        let Some(at) = self.barriers.iter().position(|(known, _)| *known == epoch) else { return };
        // A tag that is acknowledged twice closes the channel.
        if let Some((_, Some(tag))) = self.barriers.drain(..=at).next_back()
            && self.acknowledged != Some(tag)
        {
            self.acknowledged = Some(tag);
            self.shared.tell(Word::Ack(tag));
        }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.inbox.lock().stopped = true;
        self.shared.work.notify_one();
        self.shared.gone.notify_one();
    }
}
