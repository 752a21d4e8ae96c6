//! Adjacent stateless closures in one pass over a batch.
//!
//! A [`Step`] is a nest of closures that the compiler flattens into one loop. A filter over rows
//! that own nothing compacts without a branch: every row is written, and the end of the output
//! moves on by 0 or 1 (a mispredicted branch a row would cost more than the write).
#![allow(unsafe_code)] // one `set_len`, proven at its place

use std::marker::PhantomData;
use std::mem::needs_drop;
use std::sync::Arc;
use std::task::Poll;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::batch::{Batch, Mark};
use crate::meter::Meter;

/// Stateless work on one record: at most one record comes out.
pub trait Step: Send + Sync + 'static {
    /// What comes in.
    type In: 'static;
    /// What goes out.
    type Out: 'static;
    /// Whether a record always comes out, so that the closures behind it may run unconditionally.
    const TOTAL: bool;
    /// Whether nothing is done at all.
    const NOTHING: bool = false;
    /// Does the work.
    fn apply(&self, row: Self::In) -> Option<Self::Out>;
    /// Does the work where a record is always made, and says whether it stays.
    fn keep(&self, row: Self::In) -> Option<(Self::Out, bool)> {
        self.apply(row).map(|out| (out, true))
    }
}

/// No step yet: the rows as they come.
pub struct Whole<T>(PhantomData<fn() -> T>);

impl<T> Default for Whole<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: 'static> Step for Whole<T> {
    type In = T;
    type Out = T;
    const TOTAL: bool = true;
    const NOTHING: bool = true;
    #[inline(always)]
    fn apply(&self, row: T) -> Option<T> {
        Some(row)
    }
}

/// A step, then a closure on each record.
pub struct Map<P, F, U> {
    pub(crate) before: P,
    pub(crate) f: F,
    pub(crate) out: PhantomData<fn() -> U>,
}

impl<P: Step, U: 'static, F: Fn(P::Out) -> U + Send + Sync + 'static> Step for Map<P, F, U> {
    type In = P::In;
    type Out = U;
    const TOTAL: bool = P::TOTAL;
    #[inline(always)]
    fn apply(&self, row: P::In) -> Option<U> {
        self.before.apply(row).map(&self.f)
    }
}

/// A step, then a predicate that each record must meet.
pub struct Filter<P, F> {
    pub(crate) before: P,
    pub(crate) f: F,
}

impl<P: Step, F: Fn(&P::Out) -> bool + Send + Sync + 'static> Step for Filter<P, F> {
    type In = P::In;
    type Out = P::Out;
    const TOTAL: bool = false;
    #[inline(always)]
    fn apply(&self, row: P::In) -> Option<P::Out> {
        match self.before.apply(row) {
            Some(row) if (self.f)(&row) => Some(row),
            _ => None,
        }
    }
    #[inline(always)]
    fn keep(&self, row: P::In) -> Option<(P::Out, bool)> {
        match self.before.keep(row) {
            // Short-circuit: a predicate must not see what an earlier one refused.
            Some((row, kept)) => {
                let kept = kept && (self.f)(&row);
                Some((row, kept))
            }
            None => None,
        }
    }
}

/// The stage that runs a [`Step`].
pub(crate) struct Fused<P: Step> {
    step: Arc<P>,
    out: Batch<P::Out>,
    meter: Arc<Meter>,
    next: Next<P::Out>,
}

impl<P: Step> Fused<P> {
    pub(crate) fn new(step: Arc<P>, meter: Arc<Meter>, next: Next<P::Out>) -> Self {
        Self { step, out: Batch::default(), meter, next }
    }

    fn untimed(&mut self, batch: &mut Batch<P::In>) {
        let out = &mut self.out.rows;
        out.clear();
        if needs_drop::<P::Out>() || P::TOTAL {
            out.extend(batch.rows.drain(..).filter_map(|row| self.step.apply(row)));
            return;
        }
        out.reserve(batch.rows.len());
        let room = out.spare_capacity_mut();
        let mut kept = 0;
        for (row, _) in batch.rows.drain(..).zip(0..room.len()) {
            if let Some((row, keep)) = self.step.keep(row)
                && let Some(place) = room.get_mut(kept)
            {
                place.write(row);
                kept += usize::from(keep);
            }
        }
        // SAFETY: `kept` rises by at most one a row and only after the place it names was written;
        // a place is written again only while `kept` still names it; `P::Out` has no destructor.
        unsafe { out.set_len(kept) };
    }

    fn timed(&mut self, batch: &mut Batch<P::In>) {
        self.out.clear();
        self.out.rows.reserve(batch.rows.len());
        self.out.times.reserve(batch.rows.len());
        if P::TOTAL {
            self.out.rows.extend(batch.rows.drain(..).filter_map(|row| self.step.apply(row)));
            std::mem::swap(&mut self.out.times, &mut batch.times);
            return;
        }
        for (row, time) in batch.rows.drain(..).zip(batch.times.drain(..)) {
            if let Some(row) = self.step.apply(row) {
                self.out.rows.push(row);
                self.out.times.push(time);
            }
        }
    }
}

impl<P: Step> Stage<P::In> for Fused<P> {
    fn batch(&mut self, batch: &mut Batch<P::In>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        {
            let _at = self.meter.enter();
            if batch.is_timed() { self.timed(batch) } else { self.untimed(batch) }
        }
        batch.clear();
        self.meter.records_out(self.out.len());
        if self.out.is_empty() {
            return Ok(());
        }
        self.next.batch(&mut self.out, turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.mark(mark, turn)
    }
    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        self.next.poll_ready(turn)
    }
    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        self.next.resume(turn)
    }
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.flush(turn)
    }
    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        self.next.poll_snapshot(turn, budget)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.next.completed(epoch, turn)
    }
}
