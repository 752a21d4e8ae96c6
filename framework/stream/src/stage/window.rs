//! Keyed aggregation in windows: panes of tables, fired in order as the watermark passes.

use std::sync::Arc;
use std::task::Poll;

use super::{Next, Stage, Turn};
use crate::Result;
use crate::aggregate::Aggregate;
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::key::{Key, KeyGroup};
use crate::keyed::KeyOf;
use crate::meter::Meter;
use crate::snapshot::Restore;
use crate::table::Table;
use crate::time::Timestamp;
use crate::window::{Tumbling, Window};

/// State name of the panes.
pub(crate) const PANES: &str = "panes";
/// State name of the watermark that has purged them.
pub(crate) const PURGED: &str = "purged";

struct Pane<K, Acc> {
    window: Window,
    table: Table<K, Acc>,
}

/// A window being emitted: what is left of it.
struct Firing<K, Acc> {
    window: Window,
    rows: hashbrown::hash_table::IntoIter<(K, Acc)>,
}

/// Aggregates records per key and window.
pub(crate) struct WindowStage<T, F: KeyOf<T>, A: Aggregate<F::Key, T>> {
    operator: String,
    subtask: u32,
    key: Arc<F>,
    aggregate: Arc<A>,
    /// Absent: one window over all of time.
    tumbling: Option<Tumbling>,
    /// Ordered by start; few.
    panes: Vec<Pane<F::Key, A::Acc>>,
    /// The pane of the last record.
    current: usize,
    purged: Timestamp,
    firing: Option<Firing<F::Key, A::Acc>>,
    /// The watermark to pass on when everything it fires is out.
    passing: Option<Timestamp>,
    timed: bool,
    out: Batch<A::Output>,
    late_rows: Batch<T>,
    late: Option<Next<T>>,
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
    pub(crate) tumbling: Option<Tumbling>,
    pub(crate) late: Option<Next<T>>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) next: Next<A::Output>,
}

impl<T, F: KeyOf<T>, A: Aggregate<F::Key, T>> WindowStage<T, F, A> {
    pub(crate) fn new(parts: WindowParts<T, F, A>, restore: Option<&Restore>) -> Result<Self> {
        let mut stage = Self {
            operator: parts.operator,
            subtask: parts.subtask,
            key: parts.key,
            aggregate: parts.aggregate,
            timed: parts.tumbling.is_some(),
            tumbling: parts.tumbling,
            panes: Vec::new(),
            current: 0,
            purged: Timestamp::MIN,
            firing: None,
            passing: None,
            out: Batch::default(),
            late_rows: Batch::default(),
            late: parts.late,
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
        type Rows<K, Acc> = Vec<(i64, Vec<(K, Acc)>)>;
        for (_, panes) in restore.get::<Rows<F::Key, A::Acc>>(&self.operator, PANES)? {
            for (start, rows) in panes {
                for (key, acc) in rows {
                    if groups.contains(&u32::from(KeyGroup::of(key.key_hash()).0)) {
                        let pane = self.pane_at(start);
                        if let Some(pane) = self.panes.get_mut(pane) {
                            pane.table.insert(key, acc);
                        }
                    }
                }
            }
        }
        // The slowest of the old tasks decides, so that nothing is called late that was not.
        for (_, purged) in restore.get::<i64>(&self.operator, PURGED)? {
            let purged = Timestamp::from_millis(purged);
            self.purged = if self.purged == Timestamp::MIN { purged } else { self.purged.min(purged) };
        }
        Ok(())
    }

    fn window_starting(&self, start_ms: i64) -> Window {
        self.tumbling.map_or(Window::GLOBAL, |t| t.starting(start_ms))
    }

    /// The index of the pane that starts here, made when it is absent.
    fn pane_at(&mut self, start_ms: i64) -> usize {
        let start = Timestamp::from_millis(start_ms);
        match self.panes.binary_search_by_key(&start, |p| p.window.start) {
            Ok(index) => index,
            Err(index) => {
                let window = self.window_starting(start_ms);
                self.panes.insert(index, Pane { window, table: Table::new() });
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

    fn add_by_time(&mut self, batch: &mut Batch<T>, tumbling: Tumbling) {
        let size = tumbling.size_ms() as u64;
        // Mostly all rows of a batch fall into one window, that of the batch before.
        if let Some(pane) = self.panes.get_mut(self.current) {
            let start = pane.window.start.millis();
            let outside = batch.times.iter().filter(|t| t.wrapping_sub(start) as u64 >= size).count();
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
            let in_current = self
                .panes
                .get(self.current)
                .is_some_and(|p| (time.wrapping_sub(p.window.start.millis()) as u64) < size);
            if !in_current {
                let window = tumbling.window_of(Timestamp::from_millis(time));
                if window.end <= self.purged {
                    self.late_rows.times.push(index as i64);
                    late += 1;
                    continue;
                }
                self.current = self.pane_at(window.start.millis());
            }
            let key = self.key.key(row);
            let hash = key.key_hash();
            if let Some(pane) = self.panes.get_mut(self.current) {
                self.aggregate.add(pane.table.upsert(hash, key, || self.aggregate.create()), row);
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

    /// Emits fired windows until none is left (`false`) or the output is full (`true`).
    fn fire(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        let Some(watermark) = self.passing else { return Ok(false) };
        let _at = self.meter.enter();
        loop {
            if self.firing.is_none() {
                // The global window fires at the end of time only.
                match self.panes.first() {
                    Some(pane) if pane.window.end <= watermark => {
                        let pane = self.panes.remove(0);
                        self.current = 0;
                        self.firing = Some(Firing { window: pane.window, rows: pane.table.into_entries() });
                    }
                    _ => break,
                }
            }
            if let Some(firing) = &mut self.firing {
                let window = firing.window;
                let time = self.timed.then(|| window.last().millis());
                while self.out.len() < BATCH_ROWS_MAX {
                    match firing.rows.next() {
                        Some((key, acc)) => {
                            self.out.push(self.aggregate.finish(key, window, acc), time);
                        }
                        None => {
                            self.firing = None;
                            break;
                        }
                    }
                }
            }
            if self.out.len() >= BATCH_ROWS_MAX {
                self.push(turn)?;
                if turn.full {
                    return Ok(true);
                }
            }
        }
        self.push(turn)?;
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

    fn save(&self, turn: &mut Turn<'_, '_>) -> Result<()> {
        let Some(snapshot) = &mut turn.snapshot else { return Ok(()) };
        let rows: u64 = self.panes.iter().map(|p| p.table.len() as u64).sum();
        type Rows<'a, K, Acc> = Vec<(i64, Vec<&'a (K, Acc)>)>;
        let panes: Rows<'_, F::Key, A::Acc> =
            self.panes.iter().map(|p| (p.window.start.millis(), p.table.iter().collect())).collect();
        snapshot.put(&self.operator, PANES, self.subtask, rows, &panes)?;
        snapshot.put(&self.operator, PURGED, self.subtask, 1, &self.purged.millis())
    }
}

impl<T, F: KeyOf<T>, A: Aggregate<F::Key, T>> Stage<T> for WindowStage<T, F, A> {
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.meter.records_in(batch.len());
        let _at = self.meter.enter();
        match self.tumbling {
            None => self.add_all(batch),
            Some(tumbling) => self.add_by_time(batch, tumbling),
        }
        if !self.late_rows.is_empty() {
            match &mut self.late {
                Some(late) => late.batch(&mut self.late_rows, turn)?,
                None => self.late_rows.clear(),
            }
        }
        Ok(())
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

    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        if let Some(late) = &mut self.late {
            late.completed(epoch, turn)?;
        }
        self.next.completed(epoch, turn)
    }
}
