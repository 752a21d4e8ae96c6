//! RabbitMQ: a queue as a source, a queue or an exchange as a sink, over AMQP 0-9-1.
//!
//! At least once, both ways. A message that was read is acknowledged when the sinks of the pipeline
//! have confirmed what came of it (see `Source::acknowledges`); until then the broker keeps it, and
//! gives it out again after a crash, a restart or a lost connection. A message that is written is
//! kept until the broker has confirmed it, and sent again after a lost connection; its message id
//! stays the same, so that a reader can tell the repetition.
//!
//! Reading order: [`Rabbit`] and [`Queue`] (what a user writes), `read` and `write` (what a task
//! runs), `link` (connecting, and again), `trouble` (what an error means and what helps).
//!
//! Not here: sockets and frames (the crate `lapin`, which runs the socket of each connection on a thread
//! of its own; one reader or writer has one connection); streams, transactions and priorities of
//! the broker.

mod broker;
mod link;
mod message;
mod queue;
mod reach;
mod read;
mod trouble;
mod write;

pub use broker::{Rabbit, RabbitRead};
pub use message::Message;
pub use queue::Queue;
pub use read::{PREFETCH, RabbitSource};
pub use write::{RabbitSink, UNCONFIRMED_MESSAGES_MAX};
