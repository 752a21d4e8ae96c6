//! The outside world, as sources and sinks of a pipeline: CSV files now; object stores, Kafka,
//! RabbitMQ and HTTP later, each behind a feature.
//!
//! Reading order: [`Csv`] (what a user writes), `csv::read` and `csv::write` (what a task runs),
//! `file` (paths, globs, compression), `position` (what a checkpoint keeps of a reader).
//!
//! Not here: when something is read, written or saved (`afflux-stream`); another connector, since
//! none of them knows the others.

mod csv;
mod file;
mod position;

pub use self::csv::{Csv, HELD_ROWS_MAX, OrderedCsv, ROW_BYTES_MAX};
