//! The head of a chain in which something has panicked: records pass one by one, and those that the job
//! goes on without go to its dead letters.
//!
//! It stands in front of a chain only where there is something to look at, or where the pipeline has dead
//! letters; behind the records that are looked at it hands whole batches on.

use std::sync::Arc;
use std::task::Poll;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::context::TaskContext;
use crate::errors::{DeadLetter, DeadReason, error_text};
use crate::gate::partition::{RoundRobin, Routing};
use crate::meter::TaskMeter;
use crate::poison::{Aside, Looked, Show, Watch, at_work_on, at_work_on_any};
use crate::time::Timestamp;

/// A dead letter of a pipeline: the record is JSON.
pub(crate) type Letter = DeadLetter<String>;

/// Looks at records one by one.
struct Sieve<T> {
    watch: Arc<Watch>,
    show: Option<Show<T>>,
    /// Records that are still looked at.
    left: u64,
    rows: std::vec::IntoIter<T>,
    times: std::vec::IntoIter<i64>,
    one: Batch<T>,
    /// The record that the stages behind have kept some of.
    kept: Option<Looked>,
    letters: Option<Next<Letter>>,
    dead: Batch<Letter>,
    /// Why nothing can be set aside here.
    bound: Option<Arc<str>>,
    meter: Arc<TaskMeter>,
    next: Next<T>,
}

/// The stages of a chain, behind a sieve where they need one. `show`: how their records are shown.
pub(crate) fn sieved<T: 'static>(next: Next<T>, cx: &TaskContext, show: Option<Show<T>>) -> Result<Next<T>> {
    if cx.letters.is_none() && cx.watch.rows == 0 {
        return Ok(next);
    }
    let letters = match cx.letters {
        Some(edge) => {
            let routing = Routing::Split(Box::new(RoundRobin::default()));
            Some(Box::new(cx.output::<Letter>(edge, routing)?) as Next<Letter>)
        }
        None => None,
    };
    let bound = match (&letters, show) {
        (Some(_), Some(_)) => None,
        (Some(_), None) => {
            Some("the records of its source cannot be written down: say `.shown()` behind `flow.source(…)`")
        }
        (None, _) => Some(
            "no dead letters can come from here: give the pipeline a stream for them with \
             `flow.dead_letters(\"dead-letters\")`, or mend what works on that stream",
        ),
    };
    Ok(Box::new(Sieve {
        watch: Arc::clone(&cx.watch),
        show,
        left: cx.watch.rows,
        rows: Vec::new().into_iter(),
        times: Vec::new().into_iter(),
        one: Batch::default(),
        kept: None,
        letters,
        dead: Batch::default(),
        bound: bound.map(Arc::from),
        meter: Arc::clone(&cx.meter),
        next,
    }))
}

impl<T> Sieve<T> {
    /// Goes on with the kept rows until none is left (`false`) or an output is full (`true`).
    fn run(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        for row in self.rows.by_ref() {
            let time = self.times.next();
            self.left = self.left.saturating_sub(1);
            let origin = self.meter.origin.lock().clone();
            let mut looked = Looked::new(origin, self.show.map(|show| show(&row)), &self.watch);
            looked.bound.clone_from(&self.bound);
            if self.bound.is_none()
                && let Some(aside) = self.watch.aside.get(&looked.id)
            {
                let letter = letter(aside, looked, time);
                self.meter.poisoned(&letter.operator);
                // Chains with event time and chains without it meet there.
                self.dead.push(letter, None);
                continue;
            }
            self.one.push(row, time);
            at_work_on(Some(looked));
            let passed = self.next.batch(&mut self.one, turn);
            let looked = at_work_on(None);
            passed?;
            self.one.clear();
            if turn.full {
                self.kept = looked;
                break;
            }
        }
        if let Some(letters) = &mut self.letters
            && !self.dead.is_empty()
        {
            letters.batch(&mut self.dead, turn)?;
            self.dead.clear();
        }
        Ok(turn.full)
    }
}

fn letter(aside: &Aside, looked: Looked, time: Option<i64>) -> Letter {
    DeadLetter {
        record: looked.json.unwrap_or_default(),
        operator: aside.operator.clone(),
        error: error_text(&aside.error),
        reason: DeadReason::Poison,
        at: time.map(Timestamp::from_millis),
        attempt: u32::try_from(aside.times).unwrap_or(u32::MAX),
    }
}

impl<T> Stage<T> for Sieve<T> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        if self.left == 0 {
            return self.next.batch(batch, turn);
        }
        self.rows = std::mem::take(&mut batch.rows).into_iter();
        self.times = std::mem::take(&mut batch.times).into_iter();
        self.run(turn).map(|_| ())
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        // What a watermark fires may be of any record.
        self.kept = None;
        if let Some(letters) = &mut self.letters {
            letters.mark(mark, turn)?;
        }
        self.next.mark(mark, turn)
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        if let Some(letters) = &mut self.letters
            && letters.poll_ready(turn)?.is_pending()
        {
            return Poll::Pending;
        }
        self.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        let kept = self.kept.take();
        if kept.is_some() {
            at_work_on(kept);
        }
        let resumed = self.next.resume(turn);
        self.kept = at_work_on(None);
        match resumed {
            Poll::Ready(Ok(false)) => self.kept = None,
            other => return other,
        }
        if self.rows.len() == 0 {
            return Poll::Ready(Ok(false));
        }
        if turn.full {
            return Poll::Ready(Ok(true));
        }
        Poll::Ready(self.run(turn).map(|_| true))
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let Some(letters) = &mut self.letters {
            letters.flush(turn)?;
        }
        self.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        if let Some(letters) = &mut self.letters
            && !letters.poll_snapshot(turn, budget)?
        {
            return Ok(false);
        }
        self.next.poll_snapshot(turn, budget)
    }

    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        at_work_on_any();
        if let Some(letters) = &mut self.letters {
            letters.completed(epoch, turn)?;
        }
        self.next.completed(epoch, turn)
    }
}
