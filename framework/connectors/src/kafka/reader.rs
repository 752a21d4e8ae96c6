//! One partition being read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use afflux_actor::Clock;
use afflux_stream::{Batch, IoContext, OnError, ReadState, Result, Split, SplitReader};
use afflux_wire::Status;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::health::{Ear, Health};
use super::message::KafkaMessage;
use super::partitions::Watch;
use super::read::{Decode, Gone, KafkaRead, Part, Position};
use super::thread::apart;
use super::trouble::{Trouble, explain};
use crate::codec::beginning;

/// KiB that the library fetches ahead for a partition, at most: its queue is full then, and the broker is not
/// asked. One fetch more may be on its way.
const AHEAD_KIB_MAX: &str = "8192";
/// Words of the library without a message, one after another, that mean that its queue is empty.
const QUIET: u32 = 16;
/// Barriers that a reader remembers; a later one covers those before it.
const BARRIERS_MAX: usize = 64;

/// Reads one partition.
pub(super) struct Reader<T> {
    /// `None` when it is being closed.
    consumer: Option<BaseConsumer<Ear>>,
    health: Arc<Health>,
    clock: Clock,
    patience: Duration,
    topic: String,
    at: String,
    part: Part,
    rows: Rows<T>,
    /// The offset of the next record; `None` before the first.
    next: Option<i64>,
    /// All there is was read.
    at_end: bool,
    ended: bool,
    /// Since when no broker is there.
    down: Option<Instant>,
    said: bool,
    watch: Option<Arc<Watch>>,
    /// Partitions that are known.
    seen: i32,
    /// Positions are committed for the group's monitors.
    monitored: bool,
    /// The position at each barrier.
    barriers: VecDeque<(u64, Option<i64>)>,
}

/// Messages to rows.
struct Rows<T> {
    decode: Decode<T>,
    on_error: OnError,
    at: String,
    skipped: u64,
}

impl<T> Rows<T> {
    /// The row of a message; `None` where it is skipped.
    fn row(&mut self, message: &BorrowedMessage<'_>) -> Result<Option<T>> {
        let wrong = match (self.decode)(&KafkaMessage(message)) {
            Ok(row) => return Ok(Some(row)),
            Err(wrong) => wrong,
        };
        let body = message.payload().unwrap_or_default();
        let text = format!(
            "topic `{}` of Kafka at {}, partition {}, offset {} ({} bytes): {wrong}: {}",
            message.topic(),
            self.at,
            message.partition(),
            message.offset(),
            body.len(),
            beginning(body)
        );
        match self.on_error {
            OnError::Fail => Err(Status::invalid(format!(
                "{text}; count and leave out such messages with `source.on_error=skip`"
            ))),
            OnError::Skip => {
                tracing::warn!(error = text, "a message was left out");
                self.skipped += 1;
                Ok(None)
            }
        }
    }
}

impl<T> Reader<T> {
    pub(super) fn open(
        read: &KafkaRead,
        decode: Decode<T>,
        part: Part,
        position: Option<Position>,
        watch: Option<Arc<Watch>>,
        cx: &IoContext,
    ) -> Result<Self> {
        let (topic, at) = (read.topic.clone(), read.kafka.shown().to_owned());
        let health = Health::new(format!("{}/{}/{topic}-{}", cx.pipeline, cx.operator, part.partition));
        let reset = match read.gone {
            Gone::Fail => "error",
            Gone::Earliest => "earliest",
            Gone::Latest => "latest",
        };
        // The library reads for a group only. Nothing is dealt out by it: the job does that.
        let group = read.group.clone().unwrap_or_else(|| format!("afflux-{}-{}", cx.pipeline, cx.operator));
        let mut config = read.kafka.config(cx, &format!("{topic}-{}", part.partition))?;
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", reset)
            .set("isolation.level", if read.committed { "read_committed" } else { "read_uncommitted" });
        if read.kafka.property("queued.max.messages.kbytes").is_none() {
            config.set("queued.max.messages.kbytes", AHEAD_KIB_MAX);
        }
        let doing = format!("let partition {} of topic `{topic}` be read", part.partition);
        let refused = |error: KafkaError| explain(&error, &at, &doing).into_status();
        let mut consumer: BaseConsumer<Ear> =
            config.create_with_context(Ear(Arc::clone(&health))).map_err(refused)?;
        let waking = Arc::clone(&health);
        consumer.set_nonempty_callback(move || waking.waker.wake());
        let next = position.map_or(part.start, |position| position.next);
        let mut assigned = TopicPartitionList::new();
        assigned
            .add_partition_offset(&topic, part.partition, next.map_or(Offset::Beginning, Offset::Offset))
            .map_err(refused)?;
        consumer.assign(&assigned).map_err(refused)?;
        let skipped = position.map_or(0, |position| position.skipped);
        Ok(Self {
            consumer: Some(consumer),
            health,
            clock: cx.clock.clone(),
            patience: read.kafka.how_long(),
            rows: Rows { decode, on_error: cx.on_error, at: at.clone(), skipped },
            ended: part.end.is_some_and(|end| next.unwrap_or(0) >= end),
            seen: part.of,
            topic,
            at,
            part,
            next,
            at_end: false,
            down: None,
            said: false,
            watch,
            monitored: read.group.is_some(),
            barriers: VecDeque::new(),
        })
    }

    fn doing(&self) -> String {
        let next = self.next.map_or_else(|| "the beginning".to_owned(), |next| format!("offset {next}"));
        format!("let partition {} of topic `{}` be read from {next}", self.part.partition, self.topic)
    }

    /// An error of the library: it tries again by itself where that helps.
    fn trouble(&mut self, error: &KafkaError) -> Result<()> {
        match explain(error, &self.at, &self.doing()) {
            Trouble::Final(status) => Err(status),
            Trouble::Passing(text) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::warn!(error = text, reason = self.health.reason(), "Kafka is tried again");
                }
                Ok(())
            }
        }
    }

    /// Fails when no broker has been there for too long.
    fn wait_for_broker(&mut self) -> Result<()> {
        if self.health.is_up() {
            self.down = None;
            return Ok(());
        }
        let now = self.clock.now();
        let lasted = now.duration_since(*self.down.get_or_insert(now));
        if lasted < self.patience {
            return Ok(());
        }
        Err(Status::unavailable(format!(
            "Kafka at {} does not {}: no broker has answered for {:.0} s{}; start one, or mend the address",
            self.at,
            self.doing(),
            lasted.as_secs_f64(),
            self.health.reason()
        )))
    }
}

impl<T: Send> SplitReader<T> for Reader<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let (mut rows, mut quiet) = (0, 0);
        self.health.waker.register(cx.waker());
        while rows < rows_max && !self.ended {
            let Some(consumer) = &self.consumer else { break };
            match consumer.poll(Duration::ZERO) {
                None => {
                    quiet += 1;
                    if quiet == QUIET {
                        break;
                    }
                }
                Some(Ok(message)) => {
                    (quiet, self.at_end, self.said) = (0, false, false);
                    let behind = message.offset() + 1;
                    // Records of an open transaction, and others that end behind the end, are not of it.
                    if self.part.end.is_some_and(|end| message.offset() >= end) {
                        self.ended = true;
                        break;
                    }
                    if let Some(row) = self.rows.row(&message)? {
                        batch.rows.push(row);
                        rows += 1;
                    }
                    self.next = Some(behind);
                    self.ended = self.part.end.is_some_and(|end| behind >= end);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    (quiet, self.at_end, self.said) = (0, true, false);
                    self.ended = self.part.end.is_some();
                }
                Some(Err(error)) => {
                    quiet = 0;
                    self.trouble(&error)?;
                }
            }
        }
        if self.ended {
            return Poll::Ready(Ok(ReadState::End));
        }
        if rows == rows_max || rows > 0 && !self.at_end {
            return Poll::Ready(Ok(ReadState::More));
        }
        if self.at_end {
            return Poll::Ready(Ok(ReadState::CaughtUp));
        }
        self.wait_for_broker()?;
        Poll::Pending
    }

    fn position(&self) -> Vec<u8> {
        Position { next: self.next, skipped: self.rows.skipped }.encode()
    }

    fn progress(&self) -> u64 {
        let begin = self.part.start.unwrap_or(0);
        self.next.map_or(0, |next| next.saturating_sub(begin).max(0).cast_unsigned())
    }

    fn skipped(&self) -> u64 {
        self.rows.skipped
    }

    fn found(&mut self) -> Vec<Split> {
        let count = self.watch.as_ref().map_or(0, |watch| watch.count());
        if count <= self.seen {
            return Vec::new();
        }
        let new = std::mem::replace(&mut self.seen, count)..count;
        new.filter(|partition| partition % self.part.of == self.part.partition)
            .filter_map(|partition| {
                Part { partition, of: self.part.of, start: None, end: None }.split(&self.topic).ok()
            })
            .collect()
    }

    fn lag(&self) -> Option<u64> {
        let end = self.health.end()?;
        Some(end.saturating_sub(self.next.unwrap_or(0)).max(0).cast_unsigned())
    }

    fn barrier(&mut self, epoch: u64) {
        if self.monitored {
            if self.barriers.len() == BARRIERS_MAX {
                self.barriers.pop_front();
            }
            self.barriers.push_back((epoch, self.next));
        }
    }

    fn completed(&mut self, epoch: u64) {
        let Some(at) = self.barriers.iter().position(|(known, _)| *known == epoch) else { return };
        let Some((_, Some(next))) = self.barriers.drain(..=at).next_back() else { return };
        let mut offsets = TopicPartitionList::new();
        let added = offsets.add_partition_offset(&self.topic, self.part.partition, Offset::Offset(next));
        let committed = match &self.consumer {
            Some(consumer) => added.and_then(|()| consumer.commit(&offsets, CommitMode::Async)),
            None => added,
        };
        if let Err(error) = committed {
            tracing::warn!(at = %self.at, topic = %self.topic, %error, "an offset was not committed for monitors");
        }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        // Closing waits for the library's threads.
        if let Some(consumer) = self.consumer.take() {
            apart("close", move || drop(consumer));
        }
    }
}
