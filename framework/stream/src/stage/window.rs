//! Keyed aggregation in windows: panes of tables, fired in order as the watermark passes. Windows
//! that overlap share panes, which are merged when a window fires.

mod counted;
mod keyed;

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Poll, ready};

use super::{Next, SNAPSHOT_BUDGET, Stage, Turn};
use crate::Result;
use crate::aggregate::{Aggregate, MergeAggregate};
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::block::Blocks;
use crate::key::{Key, KeyGroup};
use crate::keyed::KeyOf;
use crate::meter::Meter;
use crate::poison::{Doing, while_doing};
use crate::snapshot::Restore;
use crate::state::{Backend, Kept, KeptRows};
use crate::table::{Table, WriteRow};
use crate::time::Timestamp;
use crate::window::{Panes, Window};

pub(crate) use counted::CountOperator;
pub(crate) use keyed::{Assign, Merge, WindowOperator, WindowRules, late_tag};

/// State name of the panes.
pub(crate) const PANES: &str = "panes";
/// State name of the watermark that has purged them.
pub(crate) const PURGED: &str = "purged";

struct Pane<K, Acc> {
    start: i64,
    table: Kept<K, Acc>,
}

/// A window being emitted: what is left of it.
struct Firing<K, Acc> {
    window: Window,
    rows: Left<K, Acc>,
}

enum Left<K, Acc> {
    /// Panes from this start on are not merged yet.
    Panes(i64, Kept<K, Acc>),
    Rows(KeptRows<K, Acc>),
}

/// Takes all of one pane into a table.
pub(crate) type MergeTables<K, A, Acc> = fn(&A, &mut Table<K, Acc>, &Table<K, Acc>);

/// A window, for people.
fn in_words(window: Window) -> String {
    format!("the window [{}, {})", window.start, window.end)
}

/// The [`MergeTables`] of an aggregate.
pub(crate) fn merge_tables<K: Key, T, A: MergeAggregate<K, T>>(
    aggregate: &A,
    into: &mut Table<K, A::Acc>,
    from: &Table<K, A::Acc>,
) {
    for (key, acc) in from.iter() {
        let merged = into.upsert(key.key_hash(), Cow::Borrowed(key), || aggregate.create());
        aggregate.merge(merged, acc);
    }
}

/// Aggregates records per key and window.
pub(crate) struct WindowStage<T, F: KeyOf<T>, A: Aggregate<F::Key, T>> {
    operator: String,
    subtask: u32,
    key: Arc<F>,
    aggregate: Arc<A>,
    /// Absent: one window over all of time.
    windows: Option<Panes>,
    /// Present where windows overlap.
    merge: Option<MergeTables<F::Key, A, A::Acc>>,
    /// Ordered by start; few.
    panes: Vec<Pane<F::Key, A::Acc>>,
    /// The pane of the last record.
    current: usize,
    purged: Timestamp,
    /// What the snapshot under way has of the panes; none: there is none.
    saving: Option<Blocks>,
    firing: Option<Firing<F::Key, A::Acc>>,
    /// The watermark to pass on when everything it fires is out.
    passing: Option<Timestamp>,
    timed: bool,
    out: Batch<A::Output>,
    late_rows: Batch<T>,
    late: Option<Next<T>>,
    /// A batch whose values are being fetched.
    held: Batch<T>,
    /// Something in this chain has panicked: keys are kept until their results are made, so that the next
    /// panic can name one.
    watched: bool,
    backend: Backend,
    meter: Arc<Meter>,
    next: Next<A::Output>,
}

/// What a [`WindowStage`] is made of.
pub(crate) struct WindowParts<T, F, A: Aggregate<F::Key, T>>
where
    F: KeyOf<T>,
{
    pub(crate) operator: String,
    pub(crate) subtask: u32,
    pub(crate) parallelism: u32,
    pub(crate) key: Arc<F>,
    pub(crate) aggregate: Arc<A>,
    pub(crate) windows: Option<Panes>,
    pub(crate) merge: Option<MergeTables<F::Key, A, A::Acc>>,
    pub(crate) late: Option<Next<T>>,
    pub(crate) watched: bool,
    pub(crate) meter: Arc<Meter>,
    pub(crate) backend: Backend,
    pub(crate) next: Next<A::Output>,
}

impl<T, F: KeyOf<T>, A: Aggregate<F::Key, T>> WindowStage<T, F, A> {
    pub(crate) fn new(parts: WindowParts<T, F, A>, restore: Option<&Restore>) -> Result<Self> {
        let mut stage = Self {
            operator: parts.operator,
            subtask: parts.subtask,
            key: parts.key,
            aggregate: parts.aggregate,
            timed: parts.windows.is_some(),
            windows: parts.windows,
            merge: parts.merge,
            panes: Vec::new(),
            current: 0,
            purged: Timestamp::MIN,
            saving: None,
            firing: None,
            passing: None,
            out: Batch::default(),
            late_rows: Batch::default(),
            late: parts.late,
            held: Batch::default(),
            watched: parts.watched,
            // Panes that are merged are looked at whole: those stay in memory.
            backend: if parts.merge.is_some() { Backend::Memory } else { parts.backend },
            meter: parts.meter,
            next: parts.next,
        };
        if let Some(restore) = restore {
            stage.restore(restore, parts.parallelism)?;
        }
        Ok(stage)
    }

    fn restore(&mut self, restore: &Restore, parallelism: u32) -> Result<()> {
        let groups = KeyGroup::range_of(self.subtask, parallelism);
        let operator = self.operator.clone();
        let mut failed = None;
        restore.rows(&operator, PANES, Some(&groups), |_, (start, key, acc): (i64, F::Key, A::Acc)| {
            if failed.is_none() && groups.contains(&u32::from(KeyGroup::of(key.key_hash()).0)) {
                let pane = self.pane_at(start);
                if let Some(pane) = self.panes.get_mut(pane) {
                    failed = pane.table.restore(key, acc).err();
                }
            }
        })?;
        if let Some(status) = failed {
            return Err(status);
        }
        // The slowest of the old tasks decides, so that nothing is called late that was not.
        for (_, purged) in restore.get::<i64>(&self.operator, PURGED)? {
            let purged = Timestamp::from_millis(purged);
            self.purged = if self.purged == Timestamp::MIN { purged } else { self.purged.min(purged) };
        }
        Ok(())
    }

    /// The index of the pane that starts here, made when it is absent.
    fn pane_at(&mut self, start: i64) -> usize {
        match self.panes.binary_search_by_key(&start, |p| p.start) {
            Ok(index) => index,
            Err(index) => {
                self.panes.insert(index, Pane { start, table: Kept::new(&self.backend, PANES) });
                index
            }
        }
    }

    fn add_all(&mut self, batch: &mut Batch<T>) {
        let pane = self.pane_at(i64::MIN);
        let Some(pane) = self.panes.get_mut(pane) else { return };
        let aggregate = &*self.aggregate;
        let (make, add) = (|| aggregate.create(), |acc: &mut A::Acc, row: &T| aggregate.add(acc, row));
        pane.table.upsert_all(&batch.rows, &*self.key, make, add);
        batch.clear();
    }

    fn add_by_time(&mut self, batch: &mut Batch<T>, windows: Panes) {
        let length = windows.pane() as u64;
        // Mostly all rows of a batch fall into one pane, that of the batch before.
        if let Some(pane) = self.panes.get_mut(self.current) {
            let start = pane.start;
            let outside = batch.times.iter().filter(|t| t.wrapping_sub(start) as u64 >= length).count();
            if outside == 0 {
                let aggregate = &*self.aggregate;
                let (make, add) =
                    (|| aggregate.create(), |acc: &mut A::Acc, row: &T| aggregate.add(acc, row));
                pane.table.upsert_all(&batch.rows, &*self.key, make, add);
                batch.clear();
                return;
            }
        }
        let mut late = 0;
        for (index, (row, &time)) in batch.rows.iter().zip(&batch.times).enumerate() {
            let in_current =
                self.panes.get(self.current).is_some_and(|p| (time.wrapping_sub(p.start) as u64) < length);
            if !in_current {
                if windows.window(windows.last_window_of(time)).end <= self.purged {
                    self.late_rows.times.push(index as i64);
                    late += 1;
                    continue;
                }
                self.current = self.pane_at(windows.pane_of(time));
            }
            let key = self.key.key(row);
            let hash = key.key_hash();
            if let Some(pane) = self.panes.get_mut(self.current) {
                let mut entry = pane.table.entry(hash, key, || self.aggregate.create());
                self.aggregate.add(entry.parts().1, row);
            }
        }
        if late > 0 {
            self.gather_late(batch);
        }
        batch.clear();
    }

    /// Moves the late rows, whose indices `late_rows.times` holds, out of the batch.
    fn gather_late(&mut self, batch: &mut Batch<T>) {
        let indices = std::mem::take(&mut self.late_rows.times);
        self.meter.late(indices.len());
        let mut wanted = indices.into_iter().peekable();
        for (index, (row, time)) in batch.rows.drain(..).zip(batch.times.drain(..)).enumerate() {
            if wanted.peek() == Some(&(index as i64)) {
                wanted.next();
                self.late_rows.push(row, Some(time));
            }
        }
    }

    /// The next window to fire and whether the watermark has reached its end.
    fn next_window(&self, watermark: Timestamp) -> Option<Window> {
        let first = self.panes.first()?;
        let window = self.windows.map_or(Window::GLOBAL, |windows| {
            windows.window(windows.first_window_ending_after(first.start.max(self.purged.millis())))
        });
        (window.end <= watermark).then_some(window)
    }

    /// Takes one more pane into the window that is being fired; `false`: there is none.
    fn gather(&mut self, window: Window, from: i64, table: &mut Kept<F::Key, A::Acc>) -> Option<i64> {
        let index = self.panes.partition_point(|p| p.start < from);
        let start = self.panes.get(index)?.start;
        if start >= window.end.millis() {
            return None;
        }
        // No later window needs it: its accumulators move.
        let last = self.is_last(window, start);
        let pane = if last { Some(self.panes.remove(index)) } else { None };
        let theirs = match &pane {
            Some(pane) => &pane.table,
            None => &self.panes.get(index)?.table,
        };
        match (&mut *table, theirs, self.merge) {
            (Kept::Memory(into), Kept::Memory(theirs), Some(merge)) if pane.is_none() || !into.is_empty() => {
                merge(&self.aggregate, into, theirs);
            }
            _ => *table = pane.map(|p| p.table)?,
        }
        Some(start.saturating_add(1))
    }

    /// Whether no later window needs the pane that starts here.
    fn is_last(&self, window: Window, start: i64) -> bool {
        self.windows.is_none_or(|w| w.last_window_of(start) <= window.start.millis())
    }

    /// Whether the snapshot under way has all of the next pane that this window would take away; else does
    /// some of it.
    fn is_saved(&mut self, window: Window, from: i64, budget: &mut usize) -> Result<bool> {
        let index = self.panes.partition_point(|p| p.start < from);
        let Some(start) = self.panes.get(index).map(|p| p.start) else { return Ok(true) };
        if start >= window.end.millis() || !self.is_last(window, start) {
            return Ok(true);
        }
        let Some(pane) = self.panes.get_mut(index) else { return Ok(true) };
        if let Some(blocks) = pane.table.write(budget)?
            && let Some(saving) = &mut self.saving
        {
            saving.append(blocks);
        }
        Ok(!pane.table.is_writing())
    }

    /// Emits fired windows until none is left (`false`) or the output is full (`true`).
    fn fire(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        let Some(watermark) = self.passing else { return Ok(false) };
        let _at = self.meter.enter();
        let mut budget = SNAPSHOT_BUDGET;
        loop {
            let Some(mut firing) = self.firing.take() else {
                let Some(window) = self.next_window(watermark) else { break };
                self.current = 0;
                self.firing = Some(Firing { window, rows: Left::Panes(i64::MIN, Kept::memory()) });
                continue;
            };
            let window = firing.window;
            let _doing = while_doing(|| Doing::what(in_words(window)));
            if let Left::Panes(from, _) = &firing.rows
                && !self.is_saved(window, *from, &mut budget)?
            {
                self.firing = Some(firing);
                self.push(turn)?;
                return Ok(true);
            }
            match &mut firing.rows {
                Left::Panes(from, table) => match self.gather(window, *from, table) {
                    Some(next) => {
                        *from = next;
                        self.firing = Some(firing);
                        if self.merge.is_some() {
                            // A pane may be large: one a turn.
                            return Ok(true);
                        }
                    }
                    None => {
                        let rows = std::mem::replace(table, Kept::memory()).into_rows();
                        self.firing = Some(Firing { window, rows: Left::Rows(rows) });
                        self.purged = self.purged.max(window.end);
                    }
                },
                Left::Rows(rows) => {
                    let time = self.timed.then(|| window.last().millis());
                    let room = BATCH_ROWS_MAX - self.out.len().min(BATCH_ROWS_MAX);
                    let (aggregate, out, watched) = (&self.aggregate, &mut self.out, self.watched);
                    let finish = |key: F::Key, acc| {
                        let named = watched.then(|| key.clone());
                        let _doing = while_doing(|| match &named {
                            Some(key) => Doing::of(format!("{} of key", in_words(window)), key),
                            None => Doing::what(in_words(window)),
                        });
                        out.push(aggregate.finish(key, window, acc), time);
                    };
                    if rows.next(room, finish)? {
                        self.firing = Some(firing);
                    }
                }
            }
            if self.out.len() >= BATCH_ROWS_MAX {
                // A window may have as many rows as there are keys: control comes between batches.
                self.push(turn)?;
                return Ok(true);
            }
        }
        self.push(turn)?;
        if turn.full {
            // Somebody downstream may have kept rows: the watermark must not overtake them.
            return Ok(true);
        }
        self.purged = self.purged.max(watermark);
        self.passing = None;
        self.next.mark(Mark::Watermark(watermark), turn)?;
        if let Some(late) = &mut self.late {
            late.mark(Mark::Watermark(watermark), turn)?;
        }
        Ok(false)
    }

    fn push(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.meter.records_out(self.out.len());
        self.next.batch(&mut self.out, turn)
    }

    /// A barrier passes: the panes are written from now on, as they are now.
    fn save(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        let Some(snapshot) = &mut turn.snapshot else { return Ok(()) };
        for pane in &mut self.panes {
            pane.table.begin(WriteRow::tagged(), pane.start)?;
        }
        self.saving = Some(Blocks::default());
        snapshot.put(&self.operator, PURGED, self.subtask, 1, &self.purged.millis())
    }

    /// Brings the values of a batch's keys to where they can be used, pane by pane.
    fn poll_prepare(&mut self, batch: &Batch<T>, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        if matches!(self.backend, Backend::Memory) {
            return Poll::Ready(Ok(()));
        }
        let Some(windows) = self.windows else {
            let pane = self.pane_at(i64::MIN);
            let Some(pane) = self.panes.get_mut(pane) else { return Poll::Ready(Ok(())) };
            return pane.table.poll_prepare_rows(turn.task, &batch.rows, &*self.key);
        };
        let mut starts: Vec<i64> = batch.times.iter().map(|time| windows.pane_of(*time)).collect();
        starts.sort_unstable();
        starts.dedup();
        // Those of late records are gone, and stay so.
        starts.retain(|start| windows.window(windows.last_window_of(*start)).end > self.purged);
        for start in starts {
            let pane = self.pane_at(start);
            let Some(pane) = self.panes.get_mut(pane) else { continue };
            let rows = batch.rows.iter().zip(&batch.times).filter(|r| windows.pane_of(*r.1) == start);
            let keys = rows.map(|(row, _)| {
                let key = self.key.key(row);
                (key.key_hash(), key)
            });
            ready!(pane.table.poll_prepare(turn.task, keys))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes in rows whose values are at hand.
    fn take_in(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        let _at = self.meter.enter();
        match self.windows {
            None => self.add_all(batch),
            Some(windows) => self.add_by_time(batch, windows),
        }
        if !self.late_rows.is_empty() {
            match &mut self.late {
                Some(late) => late.batch(&mut self.late_rows, turn)?,
                None => self.late_rows.clear(),
            }
        }
        Ok(())
    }
}

impl<T, F: KeyOf<T>, A: Aggregate<F::Key, T>> Stage<T> for WindowStage<T, F, A> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        if self.poll_prepare(batch, turn)?.is_pending() {
            std::mem::swap(&mut self.held, batch);
            turn.full = true;
            return Ok(());
        }
        self.take_in(batch, turn)
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        match mark {
            Mark::Watermark(t) => {
                self.passing = Some(t);
                return self.fire(turn).map(|_| ());
            }
            Mark::Barrier(_) => self.save(turn)?,
            Mark::Idle | Mark::End => {}
        }
        self.next.mark(mark, turn)?;
        match &mut self.late {
            Some(late) => late.mark(mark, turn),
            None => Ok(()),
        }
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        if let Some(late) = &mut self.late
            && late.poll_ready(turn)?.is_pending()
        {
            return Poll::Pending;
        }
        self.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        match self.next.resume(turn) {
            Poll::Ready(Ok(false)) => {}
            other => return other,
        }
        if !self.held.is_empty() {
            let mut held = std::mem::take(&mut self.held);
            if self.poll_prepare(&held, turn)?.is_pending() {
                self.held = held;
                return Poll::Pending;
            }
            return Poll::Ready(self.take_in(&mut held, turn).map(|()| true));
        }
        if self.passing.is_none() {
            return Poll::Ready(Ok(false));
        }
        Poll::Ready(self.fire(turn).map(|_| true))
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let Some(late) = &mut self.late {
            late.flush(turn)?;
        }
        self.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        if let Some(snapshot) = &mut turn.snapshot
            && let Some(saving) = &mut self.saving
        {
            let _at = self.meter.enter();
            for pane in &mut self.panes {
                if let Some(blocks) = pane.table.write(budget)? {
                    saving.append(blocks);
                }
            }
            let through = self.panes.iter().all(|p| !p.table.is_writing());
            saving.hand_over(through, snapshot, (&self.operator, PANES, self.subtask))?;
            if !through {
                return Ok(false);
            }
            self.saving = None;
        }
        if let Some(late) = &mut self.late
            && !late.poll_snapshot(turn, budget)?
        {
            return Ok(false);
        }
        self.next.poll_snapshot(turn, budget)
    }

    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let Some(late) = &mut self.late {
            late.completed(epoch, turn)?;
        }
        self.next.completed(epoch, turn)
    }
}
