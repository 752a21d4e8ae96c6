//! The outside world, as sources and sinks of a pipeline: files of CSV, JSON lines and text, a watched
//! directory, stdin and stdout, lines over TCP; HTTP, RabbitMQ and Kafka each behind a feature.
//!
//! Reading order: [`Csv`], [`JsonLines`] and [`TextLines`] (what a user writes), `csv::read` and
//! `csv::write`, `lines::read` and `lines::write` (what a task runs), `file` (paths, patterns,
//! compression, the file that a restore goes on with), `partitioned` (files in directories by event time, committed
//! with the epoch), `position` (what a checkpoint keeps of a reader);
//! `watch`; `lines::splitter` (bytes to lines), `stdio`, `listen` (an address to listen on), `tcp`, `http`.
//! The book's chapter "Connectors" says what each promises and how to write another.
//!
//! Not here: when something is read, written or saved (`afflux-stream`); another connector, since
//! none of them knows the others.

#[cfg(any(feature = "rabbitmq", feature = "kafka"))]
mod codec;
mod csv;
mod file;
#[cfg(all(feature = "http", unix))]
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod lines;
#[cfg(unix)]
mod listen;
mod partitioned;
mod position;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(unix)]
mod stdio;
#[cfg(unix)]
mod tcp;
#[cfg(unix)]
mod waiting;
mod watch;

pub use self::csv::{Csv, HELD_ROWS_MAX, OrderedCsv, ROW_BYTES_MAX};
#[cfg(all(feature = "http", unix))]
pub use self::http::{
    EVENT_SUBSCRIBERS_MAX, EventSink, HttpIngest, HttpSource, SUBSCRIBER_EVENTS_MAX, ServerSentEvents,
};
#[cfg(feature = "kafka")]
pub use self::kafka::{
    Gone, Kafka, KafkaMessage, KafkaRead, KafkaSink, KafkaSource, KafkaTransactions, Lost, Start,
    UNSENT_MESSAGES_MAX,
};
pub use self::lines::{JsonLines, LINE_BYTES_MAX, TextLines};
#[cfg(unix)]
pub use self::listen::BoundAddress;
pub use self::partitioned::{
    EMPTY_PARTITIONS_MAX, OPEN_FILES_MAX, PARTITION_BYTES_MAX, PartitionedFiles, Pending as PendingFile,
    SUCCESS_MARKER, SavedFile, SavedWriter,
};
#[cfg(feature = "rabbitmq")]
pub use self::rabbitmq::{
    Message, PREFETCH, Queue, Rabbit, RabbitRead, RabbitSink, RabbitSource, UNCONFIRMED_MESSAGES_MAX,
};
#[cfg(unix)]
pub use self::stdio::{STDOUT_BYTES_MAX, Stdin, Stdout};
#[cfg(unix)]
pub use self::tcp::{
    TCP_CONNECTIONS_MAX, TCP_LINE_BYTES_MAX, TCP_OUT_BYTES_MAX, TcpConnect, TcpLines, TcpListen, TcpSink,
    TcpSource,
};
pub use self::watch::{Files, WATCHED_FILES_MAX, WatchedFiles};

/// The book's chapter, whose programs are compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/book/connectors.md")]
struct Book;
