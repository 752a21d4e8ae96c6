//! A topic as a source.

use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::time::Duration;

use afflux_stream::{IoContext, Reaching, Result, Source, Split, SplitReader, Timestamp};
use afflux_wire::{Code, Status};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cluster::Kafka;
use super::message::KafkaMessage;
use super::partitions::{Partitions, Watch};
use super::reach::reaching;
use super::reader::Reader;
use crate::codec;

/// Between two looks for new partitions.
const DISCOVERY: Duration = Duration::from_secs(30);

/// Makes a record of a message, or says why that cannot be.
pub(super) type Decode<T> = Arc<dyn Fn(&KafkaMessage<'_>) -> std::result::Result<T, String> + Send + Sync>;

/// Where a job that does not go on from a checkpoint begins to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is there.
    #[default]
    Earliest,
    /// Behind the last record that is there when the job is submitted.
    Latest,
    /// At the first record that is not older, by the time of the record; behind the last where all are.
    At(Timestamp),
}

/// What to do when the records at a checkpoint's position are not there any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gone {
    /// Stop the pipeline with an error that says so.
    #[default]
    Fail,
    /// Go on at the first record that is there. Those in between are lost.
    Earliest,
    /// Go on behind the last record that is there. All in between are lost.
    Latest,
}

/// A topic to read, and how; one of `json`, `message_pack`, `text`, `bytes` and `with` makes it a source.
#[derive(Clone, Debug)]
#[must_use = "say how a message becomes a record: `.json()`, `.text()`, `.with(…)`"]
pub struct KafkaRead {
    pub(super) kafka: Kafka,
    pub(super) topic: String,
    pub(super) group: Option<String>,
    pub(super) start: Start,
    pub(super) gone: Gone,
    pub(super) bounded: bool,
    pub(super) committed: bool,
    pub(super) discovery: Option<Duration>,
}

impl KafkaRead {
    pub(super) fn new(kafka: Kafka, topic: String) -> Self {
        Self {
            kafka,
            topic,
            group: None,
            start: Start::Earliest,
            gone: Gone::Fail,
            bounded: false,
            committed: true,
            discovery: Some(DISCOVERY),
        }
    }

    /// Commits positions for this consumer group when a checkpoint is complete, so that its lag can be
    /// seen by the cluster's tools. They are for people: a job goes on where its own checkpoint says,
    /// and nothing is dealt out by the group.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Where a job begins that does not go on from a checkpoint: [`Start::Earliest`] unless this says
    /// otherwise.
    pub const fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// What to do when the records at a checkpoint's position are gone: [`Gone::Fail`] unless this says
    /// otherwise.
    pub const fn when_gone(mut self, gone: Gone) -> Self {
        self.gone = gone;
        self
    }

    /// Ends where the topic ends when the job is submitted.
    pub const fn bounded(mut self) -> Self {
        self.bounded = true;
        self
    }

    /// Reads also records of transactions that are open or were given up.
    pub const fn uncommitted(mut self) -> Self {
        self.committed = false;
        self
    }

    /// Looks for new partitions so often: every 30 s unless this says otherwise; never with zero.
    /// A new one is read from its first record, whatever the start of the others is.
    pub fn discovery(mut self, every: Duration) -> Self {
        self.discovery = Some(every).filter(|every| !every.is_zero());
        self
    }

    /// The body of each message is a JSON value.
    pub fn json<T: DeserializeOwned + Send + 'static>(self) -> KafkaSource<T> {
        self.with(|message| codec::from_json(body(message)?))
    }

    /// The body of each message is a MessagePack value.
    pub fn message_pack<T: DeserializeOwned + Send + 'static>(self) -> KafkaSource<T> {
        self.with(|message| codec::from_message_pack(body(message)?))
    }

    /// The body of each message is UTF-8.
    pub fn text(self) -> KafkaSource<String> {
        self.with(|message| codec::from_text(body(message)?))
    }

    /// The body of each message as it is.
    pub fn bytes(self) -> KafkaSource<Vec<u8>> {
        self.with(|message| Ok(body(message)?.to_vec()))
    }

    /// A closure makes a record of each message, with its key, its headers, its time and its place; or
    /// says why it cannot. It sees tombstones, too, which the other ways refuse.
    pub fn with<T: Send + 'static>(
        self,
        decode: impl Fn(&KafkaMessage<'_>) -> std::result::Result<T, String> + Send + Sync + 'static,
    ) -> KafkaSource<T> {
        KafkaSource { read: self, decode: Arc::new(decode), watch: Mutex::default(), item: PhantomData }
    }
}

fn body<'a>(message: &'a KafkaMessage<'_>) -> std::result::Result<&'a [u8], String> {
    message.body().ok_or_else(|| "no body (a tombstone); `.with(…)` can read those".to_owned())
}

/// A topic as a source; made by [`Kafka::read`]. Each partition is a split, read in its order.
///
/// Exactly once where the job has checkpoints: the positions are in them, and what was read behind the last
/// one is read again after a failure. A message that cannot be read stops the pipeline; with
/// `source.on_error=skip` it is counted and left out.
pub struct KafkaSource<T> {
    read: KafkaRead,
    decode: Decode<T>,
    /// One for all readers of this process.
    watch: Mutex<Weak<Watch>>,
    item: PhantomData<fn() -> T>,
}

/// What a split's payload says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) partition: i32,
    /// Partitions when the job was submitted.
    pub(super) of: i32,
    /// Where to begin without a position; `None` at the first record that is there.
    pub(super) start: Option<i64>,
    /// Where to end; `None` never.
    pub(super) end: Option<i64>,
}

impl Part {
    pub(super) fn split(&self, topic: &str) -> Result<Split> {
        let payload = rmp_serde::to_vec_named(self).map_err(|e| {
            Status::internal(format!("a partition of topic `{topic}` cannot be encoded: {e}"))
        })?;
        let size = self.end.map(|end| end.saturating_sub(self.start.unwrap_or(0)).max(0).cast_unsigned());
        Ok(Split { id: format!("{topic}-{}", self.partition), payload, size })
    }

    fn of(split: &Split) -> Result<Self> {
        rmp_serde::from_slice(&split.payload)
            .map_err(|e| Status::internal(format!("split {} is none of Kafka: {e}", split.id)))
    }
}

impl<T: Send + 'static> Source for KafkaSource<T> {
    type Item = T;

    fn splits(&self, cx: &IoContext) -> Result<Vec<Split>> {
        let KafkaRead { kafka, topic, start, bounded, committed, .. } = &self.read;
        let partitions = Partitions::of(kafka, topic, *committed, cx)?;
        let of = partitions.count()?;
        let at = match start {
            Start::At(time) => partitions.at(*time, of)?,
            _ => Vec::new(),
        };
        (0..of)
            .map(|partition| {
                let end = if *bounded || *start != Start::Earliest {
                    Some(partitions.end(partition)?)
                } else {
                    None
                };
                let start = match start {
                    Start::Earliest => None,
                    Start::Latest => end,
                    Start::At(_) => at.get(partition as usize).copied().flatten().or(end),
                };
                Part { partition, of, start, end: end.filter(|_| *bounded) }.split(topic)
            })
            .collect()
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        let mut part = Part::of(split)?;
        if position.is_none() && cx.restored && part.end.is_none() {
            // New since the checkpoint: all of it was written after the job began.
            part.start = None;
        }
        let position = position.map(|bytes| Position::decode(bytes, &split.id)).transpose()?;
        let watch = match self.read.discovery {
            // Only those that were there at the beginning look for others, and each for its share.
            Some(every) if part.end.is_none() && part.partition < part.of => Some(self.watch(every, cx)?),
            _ => None,
        };
        Ok(Box::new(Reader::open(&self.read, Arc::clone(&self.decode), part, position, watch, cx)?))
    }

    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        Some(reaching(&self.read.kafka, &self.read.topic, false, cx))
    }

    fn kind(&self) -> &'static str {
        "kafka"
    }
}

impl<T> KafkaSource<T> {
    fn watch(&self, every: Duration, cx: &IoContext) -> Result<Arc<Watch>> {
        let mut watch = self.watch.lock();
        if let Some(watch) = watch.upgrade() {
            return Ok(watch);
        }
        let started = Arc::new(Watch::start(&self.read.kafka, &self.read.topic, every, cx)?);
        *watch = Arc::downgrade(&started);
        Ok(started)
    }
}

/// Where a reader stands, as a checkpoint keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The offset of the next record; `None` at the first that is there.
    pub(super) next: Option<i64>,
    /// Messages that were skipped, so that the count survives a restore.
    pub(super) skipped: u64,
}

impl Position {
    /// An `i64`, -1 for none, and a `u64`, little-endian.
    pub(super) fn encode(self) -> Vec<u8> {
        [self.next.unwrap_or(-1).to_le_bytes(), self.skipped.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8], split: &str) -> Result<Self> {
        let number = |at: usize| -> Option<[u8; 8]> { bytes.get(at..at + 8)?.try_into().ok() };
        match (number(0).map(i64::from_le_bytes), number(8).map(u64::from_le_bytes), bytes.len()) {
            (Some(next), Some(skipped), 16) if next >= -1 => {
                Ok(Self { next: Some(next).filter(|next| *next >= 0), skipped })
            }
            _ => Err(Status::new(
                Code::DataLoss,
                format!(
                    "the checkpoint's position in {split} is not one of a reader of Kafka (16 bytes, got {}); \
                     start without it or from an older checkpoint",
                    bytes.len()
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_a_checkpoint_and_foreign_bytes_are_refused() {
        for next in [None, Some(0), Some(336_776)] {
            let position = Position { next, skipped: 3 };
            assert_eq!(Position::decode(&position.encode(), "t-0").unwrap(), position);
        }
        for bytes in [&b""[..], &[0; 8], &[0; 17], &[0xff; 16][..8]] {
            let status = Position::decode(bytes, "t-0").unwrap_err();
            assert_eq!(status.code, Code::DataLoss);
            assert!(status.message.contains("t-0"), "{status}");
        }
        assert!(Position::decode(&(-7_i64).to_le_bytes().repeat(2), "t-0").is_err());
    }

    #[test]
    fn a_split_says_all_that_a_reader_needs() {
        let part = Part { partition: 3, of: 12, start: Some(40), end: Some(100) };
        let split = part.split("orders").unwrap();
        assert_eq!((split.id.as_str(), split.size), ("orders-3", Some(60)));
        assert_eq!(Part::of(&split).unwrap(), part);
        let error = Part::of(&Split { payload: vec![1], ..split }).unwrap_err();
        assert!(error.message.contains("orders-3"), "{error}");
    }
}
