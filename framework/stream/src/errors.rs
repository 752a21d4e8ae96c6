//! What becomes of a record that an operator cannot process: the policy, and the dead letter.

use std::fmt::{self, Debug, Display, Write as _};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::batch::Batch;
use crate::reach::Reaching;
use crate::source::{IoContext, ReadState, Source, Split, SplitReader};
use crate::stream::{Record, Stream};
use crate::time::Timestamp;

/// Bytes of a record's debug text in an error.
pub const RECORD_TEXT_BYTES_MAX: usize = 256;
/// Bytes of an error's text in a [`DeadLetter`].
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// What to do with a record for which the closure of `try_map` or `async_map` gives an error. There is
/// no default for `try_map`: a pipeline says it.
pub struct Errors;

#[allow(non_upper_case_globals)] // read as the variants of a choice, but each has a type of its own
impl Errors {
    /// Fails the job; the error names the operator and shows the record.
    pub const Fail: FailJob = FailJob;
    /// Counts it (`operator_errors_total`) and goes on; the first of a task is logged.
    pub const Skip: SkipRecord = SkipRecord;
    /// Gives it to a second stream, as a [`DeadLetter`].
    pub const DeadLetter: ToDeadLetters = ToDeadLetters;
}

/// See [`Errors::Fail`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FailJob;
/// See [`Errors::Skip`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SkipRecord;
/// See [`Errors::DeadLetter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ToDeadLetters;

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum ErrorAction {
    /// Ends the job.
    Fail,
    /// Counts.
    Skip,
    /// Gives it to a second stream.
    Letter,
}

mod sealed {
    /// Implemented by the three policies alone.
    pub trait Sealed {}
    impl Sealed for super::FailJob {}
    impl Sealed for super::SkipRecord {}
    impl Sealed for super::ToDeadLetters {}
}

/// A policy for errors: one of [`Errors::Fail`], [`Errors::Skip`] and [`Errors::DeadLetter`]. It says
/// what an operator gives: a stream of results, or that and a stream of [`DeadLetter`]s.
pub trait ErrorPolicy<T: Record>: sealed::Sealed {
    /// What the operator gives.
    type Streams<U: 'static>;
    #[doc(hidden)]
    const ACTION: ErrorAction;
    #[doc(hidden)]
    fn streams<U: 'static>(
        results: Stream<U>,
        letters: impl FnOnce() -> Stream<DeadLetter<T>>,
    ) -> Self::Streams<U>;
}

impl<T: Record> ErrorPolicy<T> for FailJob {
    type Streams<U: 'static> = Stream<U>;
    const ACTION: ErrorAction = ErrorAction::Fail;
    fn streams<U: 'static>(results: Stream<U>, _: impl FnOnce() -> Stream<DeadLetter<T>>) -> Stream<U> {
        results
    }
}

impl<T: Record> ErrorPolicy<T> for SkipRecord {
    type Streams<U: 'static> = Stream<U>;
    const ACTION: ErrorAction = ErrorAction::Skip;
    fn streams<U: 'static>(results: Stream<U>, _: impl FnOnce() -> Stream<DeadLetter<T>>) -> Stream<U> {
        results
    }
}

impl<T: Record> ErrorPolicy<T> for ToDeadLetters {
    type Streams<U: 'static> = (Stream<U>, Stream<DeadLetter<T>>);
    const ACTION: ErrorAction = ErrorAction::Letter;
    fn streams<U: 'static>(
        results: Stream<U>,
        letters: impl FnOnce() -> Stream<DeadLetter<T>>,
    ) -> Self::Streams<U> {
        (results, letters())
    }
}

/// Why a record became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The closure gave an error.
    Error,
    /// There was no answer in time.
    Timeout,
    /// It killed the operator again and again: see [`Flow::dead_letters`](crate::Flow::dead_letters).
    Poison,
}

/// A record that an operator could not process, with what is needed to find out why and to feed it to
/// the pipeline again: see [`replay`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter<T> {
    /// The record as it came in.
    pub record: T,
    /// The operator that gave up.
    pub operator: String,
    /// What it said, cut at [`ERROR_TEXT_BYTES_MAX`].
    pub error: String,
    /// Why, as metrics count it.
    pub reason: DeadReason,
    /// The record's event time, where the stream has any.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// How often it was tried: 1 where nothing is tried again.
    pub attempt: u32,
}

/// The records of dead letters as a source: what a pipeline reads once the cause is mended.
///
/// ```
/// use afflux_stream::{DeadLetter, DeadReason, Flow, JobSettings, replay, vec_source};
/// let letters = vec![DeadLetter {
///     record: "7".to_owned(),
///     operator: "parse".into(),
///     error: "expected a number".into(),
///     reason: DeadReason::Error,
///     at: None,
///     attempt: 1,
/// }];
/// let flow = Flow::new("again", JobSettings::default());
/// // In a program: replay(JsonLines::<DeadLetter<String>>::path("out/dead-letters.jsonl")).
/// flow.source("dead-letters", replay(vec_source(letters)).of("parse")).untimed().count("records");
/// flow.finish().unwrap();
/// ```
///
/// Its positions are those of the source it reads, so a replay that is interrupted goes on where it was.
pub fn replay<S: Source<Item = DeadLetter<T>>, T: Send + 'static>(letters: S) -> Replay<S> {
    Replay { letters, operator: None }
}

/// See [`replay`].
pub struct Replay<S> {
    letters: S,
    operator: Option<String>,
}

impl<S> Replay<S> {
    /// Only the letters of this operator; the others are left out.
    #[must_use]
    pub fn of(self, operator: &str) -> Self {
        Self { operator: Some(operator.to_owned()), ..self }
    }
}

impl<T: Send + 'static, S: Source<Item = DeadLetter<T>>> Source for Replay<S> {
    type Item = T;

    fn splits(&self, cx: &IoContext) -> Result<Vec<Split>> {
        self.letters.splits(cx)
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        let letters = self.letters.open(split, position, cx)?;
        Ok(Box::new(Records { letters, read: Batch::default(), operator: self.operator.clone() }))
    }

    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        self.letters.reach(cx)
    }

    fn kind(&self) -> &'static str {
        "dead letters"
    }
}

/// Reads letters and hands out their records.
struct Records<T> {
    letters: Box<dyn SplitReader<DeadLetter<T>>>,
    read: Batch<DeadLetter<T>>,
    operator: Option<String>,
}

impl<T: Send> SplitReader<T> for Records<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let before = batch.len();
        let state = match self.letters.poll_read(cx, &mut self.read, rows_max) {
            Poll::Ready(Ok(state)) => state,
            other => return other,
        };
        let wanted = |letter: &DeadLetter<T>| self.operator.as_ref().is_none_or(|o| *o == letter.operator);
        batch.rows.extend(self.read.rows.drain(..).filter(wanted).map(|letter| letter.record));
        self.read.clear();
        if batch.len() == before && state == ReadState::More {
            // None of these was wanted: others get their turn before the next are read.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(state))
    }

    fn position(&self) -> Vec<u8> {
        self.letters.position()
    }
    fn progress(&self) -> u64 {
        self.letters.progress()
    }
    fn skipped(&self) -> u64 {
        self.letters.skipped()
    }
    fn found(&mut self) -> Vec<Split> {
        self.letters.found()
    }
    fn lag(&self) -> Option<u64> {
        self.letters.lag()
    }
    fn barrier(&mut self, epoch: u64) {
        self.letters.barrier(epoch);
    }
    fn completed(&mut self, epoch: u64) {
        self.letters.completed(epoch);
    }
}

/// Takes text up to a number of bytes.
struct Bounded {
    text: String,
    bytes_max: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.bytes_max - self.text.len();
        if s.len() <= room {
            self.text.push_str(s);
            return Ok(());
        }
        let cut = (0..=room).rev().find(|cut| s.is_char_boundary(*cut)).unwrap_or(0);
        self.text.push_str(s.get(..cut).unwrap_or_default());
        Err(fmt::Error)
    }
}

pub(crate) fn bounded(text: fmt::Arguments<'_>, bytes_max: usize) -> String {
    let mut out = Bounded { text: String::new(), bytes_max };
    let whole = out.write_fmt(text).is_ok();
    if !whole {
        out.text.push('…');
    }
    out.text
}

/// A record for an error's text.
pub(crate) fn record_text<T: Debug>(record: &T) -> String {
    bounded(format_args!("{record:?}"), RECORD_TEXT_BYTES_MAX)
}

/// An error for a letter.
pub(crate) fn error_text(error: &dyn Display) -> String {
    bounded(format_args!("{error}"), ERROR_TEXT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_record_is_cut_at_a_character() {
        let text = record_text(&"é".repeat(1_000));
        assert!(text.len() <= RECORD_TEXT_BYTES_MAX + '…'.len_utf8(), "{}", text.len());
        assert!(text.starts_with("\"éé") && text.ends_with("é…"), "{text}");
        assert_eq!(record_text(&(1, "a")), "(1, \"a\")");
    }

    #[test]
    fn a_letter_reads_as_what_was_written() {
        let letter = DeadLetter {
            record: (1, "a".to_owned()),
            operator: "parse".into(),
            error: "no".into(),
            reason: DeadReason::Timeout,
            at: Some(Timestamp::from_millis(1_357_035_300_000)),
            attempt: 3,
        };
        let text = serde_json::to_string(&letter).unwrap();
        assert!(
            text.contains("\"reason\":\"timeout\",\"at\":\"2013-01-01T10:15:00Z\",\"attempt\":3"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<DeadLetter<(i32, String)>>(&text).unwrap(), letter);
    }
}
