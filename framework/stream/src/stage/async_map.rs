//! Asking about every record, with a bounded number of questions on their way.
//!
//! Records, and the watermarks between them, have positions. A result leaves when all watermarks in
//! front of it have, and, if ordered, all results; a watermark leaves when everything in front of it
//! has. A checkpoint's barrier waits for nothing: what has not left is in the snapshot, and is asked
//! again after a restore unless its answer was there. That of a round of confirmations, which saves
//! nothing, waits until all has left.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use afflux_actor::Clock;
use afflux_wire::contract::Caller;
use afflux_wire::{Code, Status};

use super::faults::{Fault, Faults};
use super::{Next, Stage, Turn};
use crate::Result;
use crate::asking::{AsyncCx, Terms};
use crate::batch::{BATCH_ROWS_MAX, Batch, Mark};
use crate::errors::DeadReason;
use crate::key::KeyGroup;
use crate::meter::Meter;
use crate::poison::{Doing, at_work_on_any, while_doing};
use crate::snapshot::{Restore, is_round};

/// State name of what had not left at the barrier.
const UNANSWERED: &str = "unanswered";

/// Why there is no answer.
struct Failure {
    status: Status,
    reason: DeadReason,
    attempt: u32,
}

type Answer<U> = std::result::Result<U, Failure>;
/// A question on its way, with the position of its record.
type Question<U> = Pin<Box<dyn Future<Output = (u64, Answer<U>)>>>;

/// A record that has not left.
struct Entry<T, U> {
    /// Gone once there is a result, unless its key is still asked for.
    record: Option<T>,
    time: Option<i64>,
    /// Both make the idempotency key.
    prefix: Arc<str>,
    sequence: u64,
    answer: Option<Answer<U>>,
}

/// An entry as a snapshot holds it: the beginning of its key where it is not the task's own, its
/// number, its time, and the record or the result.
type Saved<T, U> = (Option<String>, u64, Option<i64>, Option<T>, Option<U>);
/// What a task saves: the beginning of its keys, its next number, what has not left.
type SavedTask<T, U> = (String, u64, Vec<Saved<T, U>>);

/// Hashes the key of a record.
pub(crate) type KeyHash<T> = Arc<dyn Fn(&T) -> u64 + Send + Sync>;

/// What an [`Asking`] stage is made of.
pub(crate) struct AskingParts<T, U, F> {
    pub(crate) operator: String,
    pub(crate) subtask: u32,
    pub(crate) parallelism: u32,
    pub(crate) prefix: Arc<str>,
    pub(crate) caller: Option<Arc<dyn Caller>>,
    pub(crate) clock: Clock,
    pub(crate) terms: Terms,
    pub(crate) f: Arc<F>,
    /// The hash of a record's key, where questions about one key go one after the other.
    pub(crate) key: Option<KeyHash<T>>,
    pub(crate) faults: Faults<T>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) next: Next<U>,
}

/// The stage that asks.
pub(crate) struct Asking<T, U, F> {
    parts: AskingParts<T, U, F>,
    /// By position: at most `in_flight` and one batch.
    entries: BTreeMap<u64, Entry<T, U>>,
    /// Positions of entries with an answer.
    answered: BTreeSet<u64>,
    questions: FuturesUnordered<Question<U>>,
    /// Each with the first position behind it: at most a watermark and an idle mark a position.
    marks: VecDeque<(u64, Mark)>,
    next_position: u64,
    /// The first position that was not looked at yet.
    next_question: u64,
    /// Keys with a question on its way, by hash, and the positions that wait for its answer.
    busy: BTreeMap<u64, VecDeque<u64>>,
    /// Positions whose turn it is now that the question in front of them has its answer.
    freed: VecDeque<u64>,
    sequence: u64,
    out: Batch<U>,
    ending: bool,
    /// A round of confirmations waits for all to leave.
    round: Option<u64>,
}

/// Tries until there is an answer or nothing left to try.
async fn ask<T, U, F, Fut>(
    f: Arc<F>,
    mut cx: AsyncCx,
    record: T,
    terms: Terms,
    (clock, meter): (Clock, Arc<Meter>),
) -> Answer<U>
where
    T: Clone + Serialize,
    F: Fn(AsyncCx, T) -> Fut,
    Fut: Future<Output = Result<U>>,
{
    // It is dropped with what is in flight, so that the future that panicked tells of its own record.
    let _doing = while_doing(|| Doing::of("the question about the record", &record));
    loop {
        let limit = clock.sleep(terms.timeout);
        let answer = match select(pin!(f(cx.clone(), record.clone())), pin!(limit)).await {
            Either::Left((answer, _)) => answer.map_err(|status| (status, DeadReason::Error)),
            Either::Right(_) => {
                meter.timed_out();
                let text = format!("no answer within {} ms", terms.timeout.as_millis());
                Err((Status::new(Code::DeadlineExceeded, text), DeadReason::Timeout))
            }
        };
        let (status, reason) = match answer {
            Ok(result) => return Ok(result),
            Err(failed) => failed,
        };
        let Some(pause) = terms.again(&status, cx.attempt, cx.sequence) else {
            return Err(Failure { status, reason, attempt: cx.attempt });
        };
        clock.sleep(pause).await;
        meter.asked_again();
        cx.attempt += 1;
    }
}

impl<T, U, F, Fut> Asking<T, U, F>
where
    T: Clone + Serialize + DeserializeOwned + 'static,
    U: DeserializeOwned + 'static,
    F: Fn(AsyncCx, T) -> Fut + 'static,
    Fut: Future<Output = Result<U>> + 'static,
{
    pub(crate) fn new(parts: AskingParts<T, U, F>, restore: Option<&Restore>) -> Result<Self> {
        let mut stage = Self {
            parts,
            entries: BTreeMap::new(),
            answered: BTreeSet::new(),
            questions: FuturesUnordered::new(),
            marks: VecDeque::new(),
            next_position: 0,
            next_question: 0,
            busy: BTreeMap::new(),
            freed: VecDeque::new(),
            sequence: 0,
            out: Batch::default(),
            ending: false,
            round: None,
        };
        if let Some(restore) = restore {
            stage.restore(restore)?;
        }
        Ok(stage)
    }

    /// Each task takes what belongs to its keys; without keys, what the task of the same number had,
    /// and, where there are fewer now, what those beyond had.
    fn restore(&mut self, restore: &Restore) -> Result<()> {
        let mut saved = restore.get::<SavedTask<T, U>>(&self.parts.operator, UNANSWERED)?;
        saved.sort_by_key(|(subtask, _)| *subtask);
        for (subtask, (prefix, next, entries)) in saved {
            if prefix == *self.parts.prefix {
                self.sequence = self.sequence.max(next);
            }
            let parallelism = self.parts.parallelism.max(1);
            let prefix: Arc<str> = prefix.into();
            for (other, sequence, time, record, result) in entries {
                let owner = match (&self.parts.key, &record) {
                    (Some(key), Some(record)) => KeyGroup::of(key(record)).owner(parallelism),
                    _ => subtask % parallelism,
                };
                if owner != self.parts.subtask {
                    continue;
                }
                let prefix = other.map_or_else(|| Arc::clone(&prefix), Arc::from);
                let answer = result.map(Ok);
                self.admit(Entry { record, time, prefix, sequence, answer });
            }
        }
        Ok(())
    }

    fn admit(&mut self, entry: Entry<T, U>) {
        let position = self.next_position;
        self.next_position += 1;
        if entry.answer.is_some() {
            self.answered.insert(position);
        }
        self.entries.insert(position, entry);
    }

    /// The next position to ask about. Where the question in front of it about the same key has no
    /// answer, it waits for that.
    fn next_to_ask(&mut self) -> Option<u64> {
        if let Some(position) = self.freed.pop_front() {
            return Some(position);
        }
        while self.next_question < self.next_position {
            let position = self.next_question;
            self.next_question += 1;
            let Some(entry) = self.entries.get(&position).filter(|e| e.answer.is_none()) else { continue };
            if let (Some(key), Some(record)) = (&self.parts.key, &entry.record) {
                match self.busy.entry(key(record)) {
                    btree_map::Entry::Occupied(mut waiting) => {
                        waiting.get_mut().push_back(position);
                        continue;
                    }
                    btree_map::Entry::Vacant(free) => free.insert(VecDeque::new()),
                };
            }
            return Some(position);
        }
        None
    }

    /// Asks as many questions as may be on their way, and takes in the answers that have come.
    fn progress(&mut self, turn: &mut Turn<'_, '_>) {
        let _at = self.parts.meter.enter();
        // Many records are asked about at once.
        at_work_on_any();
        loop {
            while self.questions.len() < self.parts.terms.in_flight
                && let Some(position) = self.next_to_ask()
            {
                let Some(entry) = self.entries.get(&position) else { continue };
                let Some(record) = entry.record.clone() else { continue };
                let cx = AsyncCx {
                    caller: self.parts.caller.clone(),
                    prefix: Arc::clone(&entry.prefix),
                    sequence: entry.sequence,
                    attempt: 1,
                };
                let around = (self.parts.clock.clone(), Arc::clone(&self.parts.meter));
                let question = ask(Arc::clone(&self.parts.f), cx, record, self.parts.terms, around);
                self.questions.push(Box::pin(async move { (position, question.await) }));
            }
            match self.questions.poll_next_unpin(turn.task) {
                Poll::Ready(Some((position, answer))) => self.take(position, answer),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        self.parts.meter.asking(self.questions.len());
    }

    fn take(&mut self, position: u64, answer: Answer<U>) {
        let Some(entry) = self.entries.get_mut(&position) else { return };
        match (&self.parts.key, &entry.record) {
            (Some(key), Some(record)) => {
                let hash = key(record);
                match self.busy.get_mut(&hash).and_then(VecDeque::pop_front) {
                    Some(next) => self.freed.push_back(next),
                    None => drop(self.busy.remove(&hash)),
                }
            }
            _ if answer.is_ok() => entry.record = None,
            _ => {}
        }
        entry.answer = Some(answer);
        self.answered.insert(position);
    }

    /// Lets one batch, or one mark, leave; `false` when nothing may.
    fn leave(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool> {
        let limit = self.marks.front().map_or(u64::MAX, |(position, _)| *position);
        let mut left = false;
        while self.out.len() < BATCH_ROWS_MAX {
            let Some(&position) = self.answered.first() else { break };
            let blocked = self.parts.terms.ordered
                && self.entries.first_key_value().is_some_and(|(first, _)| *first != position);
            if position >= limit || blocked {
                break;
            }
            self.answered.pop_first();
            let Some(entry) = self.entries.remove(&position) else { continue };
            left = true;
            match (entry.answer, entry.record) {
                (Some(Ok(row)), _) => self.out.push(row, entry.time),
                (Some(Err(Failure { status, reason, attempt })), Some(record)) => {
                    let fault = Fault { record, time: entry.time, status, reason, attempt };
                    self.parts.faults.take(fault)?;
                }
                _ => {}
            }
        }
        if left {
            self.parts.faults.push(turn)?;
            if !self.out.is_empty() {
                self.parts.meter.records_out(self.out.len());
                self.parts.next.batch(&mut self.out, turn)?;
            }
            return Ok(true);
        }
        if self.entries.first_key_value().is_none_or(|(first, _)| *first >= limit)
            && let Some((_, mark)) = self.marks.pop_front()
        {
            self.pass(mark, turn)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn pass(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.parts.faults.mark(mark, turn)?;
        self.parts.next.mark(mark, turn)
    }

    /// Keeps a watermark or an idle mark in its place; of those in one place the last of each counts.
    fn keep(&mut self, mark: Mark) {
        let here = self.next_position;
        while let Some((position, last)) = self.marks.back()
            && *position == here
            && (*last == Mark::Idle || matches!((last, mark), (Mark::Watermark(_), Mark::Watermark(_))))
        {
            self.marks.pop_back();
        }
        self.marks.push_back((here, mark));
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.parts.terms.in_flight
    }
}

impl<T, U, F, Fut> Stage<T> for Asking<T, U, F>
where
    T: Clone + Serialize + DeserializeOwned + 'static,
    U: Serialize + DeserializeOwned + 'static,
    F: Fn(AsyncCx, T) -> Fut + 'static,
    Fut: Future<Output = Result<U>> + 'static,
{
    fn batch(&mut self, batch: &mut Batch<T>, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.parts.meter.records_in(batch.len());
        let mut times = batch.times.drain(..);
        for record in batch.rows.drain(..) {
            let entry = Entry {
                record: Some(record),
                time: times.next(),
                prefix: Arc::clone(&self.parts.prefix),
                sequence: self.sequence,
                answer: None,
            };
            self.sequence += 1;
            self.admit(entry);
        }
        turn.full |= self.is_full();
        Ok(())
    }

    fn mark(&mut self, mark: Mark, turn: &mut Turn<'_, '_>) -> Result<()> {
        match mark {
            Mark::Barrier(epoch) if is_round(epoch) => {
                self.round = Some(epoch);
                Ok(())
            }
            Mark::Barrier(_) => {
                if let Some(snapshot) = &mut turn.snapshot {
                    let own = &self.parts.prefix;
                    let entries: Vec<Saved<&T, &U>> = self
                        .entries
                        .values()
                        .map(|e| {
                            let other = (e.prefix != *own).then(|| e.prefix.to_string());
                            let result = e.answer.as_ref().and_then(|answer| answer.as_ref().ok());
                            (other, e.sequence, e.time, e.record.as_ref(), result)
                        })
                        .collect();
                    let rows = entries.len() as u64;
                    let value: SavedTask<&T, &U> = (own.to_string(), self.sequence, entries);
                    snapshot.put(&self.parts.operator, UNANSWERED, self.parts.subtask, rows, &value)?;
                }
                self.pass(mark, turn)
            }
            // Passed on by `resume` when everything has left.
            Mark::End => {
                self.ending = true;
                Ok(())
            }
            Mark::Watermark(_) | Mark::Idle if self.entries.is_empty() && self.marks.is_empty() => {
                self.pass(mark, turn)
            }
            Mark::Watermark(_) | Mark::Idle => {
                self.keep(mark);
                Ok(())
            }
        }
    }

    fn poll_ready(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<()>> {
        // Questions go on while the output has no room for answers.
        self.progress(turn);
        if self.parts.faults.poll_ready(turn)?.is_pending() {
            return Poll::Pending;
        }
        self.parts.next.poll_ready(turn)
    }

    fn resume(&mut self, turn: &mut Turn<'_, '_>) -> Poll<Result<bool>> {
        self.progress(turn);
        match self.parts.next.resume(turn) {
            Poll::Ready(Ok(false)) => {}
            other => return other,
        }
        let room =
            self.parts.faults.poll_ready(turn)?.is_ready() && self.parts.next.poll_ready(turn)?.is_ready();
        // At most one batch or mark: the next stage may keep some of it, and is resumed first.
        if room && self.leave(turn)? {
            return Poll::Ready(Ok(true));
        }
        if self.entries.is_empty() && self.marks.is_empty() {
            if let Some(epoch) = self.round.take() {
                self.pass(Mark::Barrier(epoch), turn)?;
                return Poll::Ready(Ok(true));
            }
            if std::mem::take(&mut self.ending) {
                self.pass(Mark::End, turn)?;
                return Poll::Ready(Ok(true));
            }
        }
        if self.ending || self.round.is_some() || self.is_full() {
            // Nothing else will come by that hands on what is buffered.
            self.flush(turn)?;
            return Poll::Pending;
        }
        Poll::Ready(Ok(false))
    }

    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.parts.faults.flush(turn)?;
        self.parts.next.flush(turn)
    }

    fn poll_snapshot(&mut self, turn: &mut Turn<'_, '_>, budget: &mut usize) -> Result<bool> {
        let faults = self.parts.faults.poll_snapshot(turn, budget)?;
        Ok(faults && self.parts.next.poll_snapshot(turn, budget)?)
    }
    fn completed(&mut self, epoch: u64, turn: &mut Turn<'_, '_>) -> Result<()> {
        self.parts.faults.completed(epoch, turn)?;
        self.parts.next.completed(epoch, turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asking::AsyncMap;
    use crate::errors::ErrorAction;
    use crate::stage::count::Count;
    use crate::time::Timestamp;
    use std::task::Context;
    use std::time::SystemTime;

    /// Answers to odd numbers come at once, those to even ones never.
    async fn odd(_: AsyncCx, i: u64) -> Result<u64> {
        if i % 2 == 1 { Ok(i) } else { std::future::pending().await }
    }

    fn stage(how: AsyncMap) -> Asking<u64, u64, impl Fn(AsyncCx, u64) -> OddAnswer> {
        let meter = Arc::new(Meter::default());
        let parts = AskingParts {
            operator: "ask".into(),
            subtask: 0,
            parallelism: 1,
            prefix: AsyncCx::prefix("job", 1, "ask", 0),
            caller: None,
            clock: Clock::starting_at(SystemTime::UNIX_EPOCH),
            terms: how.terms,
            f: Arc::new(|cx, i| Box::pin(odd(cx, i)) as OddAnswer),
            key: None,
            faults: Faults::new("ask".into(), ErrorAction::Skip, None, Arc::clone(&meter)),
            next: Box::new(Count::new(Arc::clone(&meter))),
            meter,
        };
        Asking::new(parts, None).unwrap()
    }

    type OddAnswer = Pin<Box<dyn Future<Output = Result<u64>>>>;

    #[test]
    fn a_result_does_not_overtake_a_watermark_that_waits() {
        for how in [AsyncMap::ordered(), AsyncMap::unordered()] {
            run(|turn| {
                let mut stage = stage(how);
                stage.batch(&mut Batch { rows: vec![2, 3], times: vec![2, 3] }, turn).unwrap();
                stage.mark(Mark::Watermark(Timestamp::from_millis(4)), turn).unwrap();
                stage.batch(&mut Batch { rows: vec![5], times: vec![5] }, turn).unwrap();
                while stage.resume(turn).map(Result::unwrap) == Poll::Ready(true) {}
                // 3 may leave in front of 2 where order does not count; 5 is behind the watermark.
                let left = !how.terms.ordered;
                assert_eq!(stage.entries.contains_key(&1), !left);
                assert!(stage.answered.contains(&2));
                assert_eq!(stage.marks.len(), 1);
            });
        }
    }

    #[test]
    fn watermarks_do_not_pile_up_behind_a_question_without_an_answer() {
        run(|turn| {
            let mut stage = stage(AsyncMap::ordered().in_flight(8));
            stage.batch(&mut Batch { rows: vec![2, 4], times: vec![2, 4] }, turn).unwrap();
            assert!(!turn.full);
            for t in 0..10_000 {
                stage.mark(Mark::Watermark(Timestamp::from_millis(t)), turn).unwrap();
                stage.mark(Mark::Idle, turn).unwrap();
                assert!(stage.poll_ready(turn).is_ready());
                assert!(matches!(stage.resume(turn), Poll::Ready(Ok(false))));
            }
            let last = Mark::Watermark(Timestamp::from_millis(9_999));
            assert_eq!(stage.marks, [(2, last), (2, Mark::Idle)]);
        });
    }

    #[test]
    fn a_full_set_says_so_and_waits() {
        run(|turn| {
            let mut stage = stage(AsyncMap::ordered().in_flight(8));
            stage.batch(&mut Batch::untimed((0..8).map(|i| i * 2).collect()), turn).unwrap();
            assert!(turn.full);
            assert!(stage.poll_ready(turn).is_ready());
            assert!(stage.resume(turn).is_pending());
            assert_eq!(stage.questions.len(), 8);
        });
    }

    fn run(test: impl FnOnce(&mut Turn<'_, '_>)) {
        afflux_actor::test::paused(|| async {
            let waker = futures_util::task::noop_waker();
            let mut task = Context::from_waker(&waker);
            test(&mut Turn { task: &mut task, full: false, snapshot: None, now: afflux_actor::clock::now() });
        });
    }
}
