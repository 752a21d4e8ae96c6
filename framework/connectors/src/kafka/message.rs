//! A message as a closure of the user sees it.

use afflux_stream::Timestamp;
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp as Stamp};

/// A message that was read.
#[derive(Debug)]
pub struct KafkaMessage<'a>(pub(super) &'a BorrowedMessage<'a>);

impl KafkaMessage<'_> {
    /// Its body; `None` for a tombstone, which says that its key was deleted.
    pub fn body(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    /// Its key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// The topic it was read from.
    pub fn topic(&self) -> &str {
        self.0.topic()
    }

    /// The partition it was read from.
    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    /// Its place in the partition.
    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// When it was made, or appended, as the topic says (`message.timestamp.type`).
    pub fn time(&self) -> Option<Timestamp> {
        match self.0.timestamp() {
            Stamp::NotAvailable => None,
            Stamp::CreateTime(ms) | Stamp::LogAppendTime(ms) => Some(Timestamp::from_millis(ms)),
        }
    }

    /// The last header of this name, if it has a value.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let headers = self.0.headers()?;
        let last = headers.iter().filter(|header| header.key == name).last()?;
        last.value
    }
}
