//! Kafka: a topic as a source and as a sink.
//!
//! What is read counts exactly once where the job has checkpoints: the positions are in them. What is
//! written is at least once, or exactly once with [`KafkaSink::exactly_once`]: a transaction lasts from one
//! checkpoint to the next, is part of the checkpoint, and is committed when that is durable, by this process or
//! by another.
//!
//! Reading order: [`Kafka`] (what a user writes), `read` and `reader` (a topic and one of its partitions),
//! `partitions` (listing, and finding new ones), `write` (a sink and its messages), `outbox` (messages
//! on their way), `exactly` (a writer with transactions), `steward` (what it has done beside it), `lane` (a
//! transactional id), `wire` (what librdkafka cannot say: ending a transaction of a process that is
//! gone) over a `line` of its own; `trouble` (what an error means and what helps), `health`, `thread`.
//!
//! Not here: the protocol and its sockets (librdkafka, behind the crate `rdkafka`, with threads of
//! its own), but for `wire`; Kafka's consumer groups, which deal out partitions by their own rules; a
//! schema registry.

mod cluster;
mod exactly;
mod health;
mod lane;
mod line;
mod message;
mod outbox;
mod partitions;
mod reach;
mod read;
mod reader;
mod steward;
mod thread;
mod trouble;
mod wire;
mod write;

pub use cluster::Kafka;
pub use exactly::KafkaTransactions;
pub use message::KafkaMessage;
pub use outbox::UNSENT_MESSAGES_MAX;
pub use read::{Gone, KafkaRead, KafkaSource, Start};
pub use write::{KafkaSink, Lost};
