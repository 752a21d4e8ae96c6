//! The end of a stream in a sink.

use std::sync::Arc;
use std::task::{Poll, ready};

use super::{Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;
use crate::poison::{Doing, Show, batch_text, while_doing};
use crate::sink::{LAST_EPOCH, SinkWriter};
use crate::snapshot::is_round;

/// State name of a sink's writer.
pub(crate) const WRITER: &str = "writer";

/// Where the end of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not reached.
    Ahead,
    /// All is saved under [`LAST_EPOCH`]; it is committed when an epoch is durable that has it.
    Saved,
    /// That epoch is durable.
    Durable,
    /// All is committed.
    Done,
}

/// Hands rows to a [`SinkWriter`].
pub(crate) struct Write<T> {
    operator: String,
    subtask: u32,
    writer: Box<dyn SinkWriter<T>>,
    meter: Arc<Meter>,
    /// Records of the last batch.
    taken: usize,
    /// Those, as they are shown where something in the chain has panicked before.
    shown: Option<String>,
    /// How that is done, and for how many records more.
    shows: Option<(Show<T>, u64)>,
    /// A barrier or the end, until the output has confirmed what came before it.
    held: Option<Mark>,
    /// The last epoch whose barrier has passed.
    passed: u64,
    end: End,
}

impl<T> Write<T> {
    pub(crate) fn new(
        operator: String,
        subtask: u32,
        writer: Box<dyn SinkWriter<T>>,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            operator,
            subtask,
            writer,
            meter,
            taken: 0,
            shown: None,
            shows: None,
            held: None,
            passed: 0,
            end: End::Ahead,
        }
    }

    /// The same where something in the chain has panicked: so many records are noted before they are written.
    pub(crate) fn noting(mut self, show: Show<T>, rows: u64) -> Self {
        self.shows = (rows > 0).then_some((show, rows));
        self
    }

    #[cold]
    fn note(&mut self, rows: &[T]) {
        let Some((show, left)) = &mut self.shows else { return };
        self.shown = Some(batch_text(rows, *show));
        *left = left.saturating_sub(rows.len() as u64);
        if *left == 0 {
            self.shows = None;
        }
    }

    fn poll_flush(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        let _at = self.meter.enter();
        let (taken, shown) = (self.taken, &self.shown);
        let _doing =
            while_doing(|| Doing::shown_batch("the flush behind a batch of", taken, shown.as_deref()));
        let polled = self.writer.poll_flush(turn.task);
        self.meter.set_errors(self.writer.refused());
        polled
    }

    fn poll_commit(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        let _at = self.meter.enter();
        let _doing = while_doing(|| Doing::what("the commit of epochs that are complete"));
        self.writer.poll_commit(turn.task)
    }

    fn poll_end(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        let _at = self.meter.enter();
        let _doing = while_doing(|| Doing::what("the end of its output"));
        self.writer.poll_end(turn.task)
    }

    fn save(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        let Some(snapshot) = &mut turn.snapshot else { return Ok(()) };
        let _at = self.meter.enter();
        let _doing = while_doing(|| {
            Doing::what(match epoch {
                LAST_EPOCH => "what it saves behind the end of its input".to_owned(),
                _ => format!("what it saves of epoch {epoch}"),
            })
        });
        let state = self.writer.snapshot(epoch)?;
        snapshot.put(&self.operator, WRITER, self.subtask, 1, &state)
    }
}

impl<T> Stage<T> for Write<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        self.meter.records_out(batch.len());
        self.taken = batch.len();
        self.shown = None;
        if self.shows.is_some() {
            self.note(&batch.rows);
        }
        let _at = self.meter.enter();
        let (taken, shown) = (self.taken, &self.shown);
        let _doing = while_doing(|| Doing::shown_batch("a batch of", taken, shown.as_deref()));
        self.writer.write(batch)?;
        batch.clear();
        if self.writer.poll_ready(turn.task)?.is_pending() {
            turn.full = true;
        }
        Ok(())
    }

    fn mark(&mut self, mark: Mark, _: &mut Turn<'_, '_>) -> Result<()> {
        let _at = self.meter.enter();
        match mark {
            Mark::Watermark(t) => self.writer.watermark(t),
            Mark::Idle => Ok(()),
            // Taken up by `resume`, which the task calls before anything else.
            Mark::Barrier(_) | Mark::End => {
                self.held = Some(mark);
                Ok(())
            }
        }
    }
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.writer.poll_ready(turn.task)
    }
    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.held {
            Some(Mark::Barrier(epoch)) if is_round(epoch) => {
                let _at = self.meter.enter();
                ready!(self.writer.poll_confirm(turn.task))?;
                self.meter.set_errors(self.writer.refused());
            }
            Some(Mark::Barrier(epoch)) => {
                ready!(self.poll_flush(turn))?;
                self.save(epoch, turn)?;
                self.passed = epoch;
            }
            Some(_) => {
                ready!(self.poll_flush(turn))?;
                // Where a later epoch will have it, the rest is committed by that epoch.
                if turn.snapshot.is_some() {
                    self.save(LAST_EPOCH, turn)?;
                    self.end = End::Saved;
                } else {
                    ready!(self.poll_end(turn))?;
                    self.end = End::Done;
                }
            }
            None => {
                // What is not yet committed holds nothing back but the end.
                let committed = self.poll_commit(turn)?;
                if self.end == End::Durable {
                    ready!(committed);
                    ready!(self.poll_end(turn))?;
                    self.end = End::Done;
                }
            }
        }
        self.held = None;
        Poll::Ready(Ok(false))
    }
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.poll_flush(turn)?.is_ready();
        Ok(())
    }
    fn poll_snapshot(&mut self, _: &mut Turn<'_, '_>, _: &mut usize) -> Result<bool> {
        Ok(true)
    }
    fn completed(&mut self, epoch: u64, _: &mut Turn<'_, '_>) -> Result<()> {
        let _at = self.meter.enter();
        // An epoch that began behind the end: no barrier of it has come by.
        if self.end == End::Saved && !is_round(epoch) && epoch > self.passed {
            self.end = End::Durable;
            return self.writer.completed(LAST_EPOCH);
        }
        self.writer.completed(epoch)
    }
}
