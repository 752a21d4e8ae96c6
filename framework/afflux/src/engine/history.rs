//! What a desk remembers of a job's checkpoints and states, for those who look at it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use afflux_stream::job::{Coordinator, Event, JobState, Past};
use afflux_stream::{Doing, is_round};
use afflux_wire::{Code, Status};

use super::desk::Desk;
use super::table::Entry;
use super::worker::TaskShare;
use crate::job_detail::{CheckpointInfo, JobDetail, JobEvent, OperatorCounts, TaskDetail};

/// Checkpoints of a job that are remembered.
const CHECKPOINTS_MAX: usize = 50;
/// Changes of a job's state that are remembered.
const EVENTS_MAX: usize = 100;
/// Longest wait for the checkpoint that becomes a savepoint.
const SAVEPOINT_WAIT: Duration = Duration::from_secs(45);
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 500;

/// The latest checkpoints and states of a job.
#[derive(Default)]
pub(super) struct History {
    checkpoints: VecDeque<CheckpointInfo>,
    events: VecDeque<JobEvent>,
}

impl History {
    /// An epoch has begun at the sources of a node; the first of them counts. Rounds of confirmations are none.
    pub(super) fn begun(&mut self, epoch: u64, attempt: u64, now_ms: i64) {
        if is_round(epoch) || self.checkpoints.iter().any(|c| c.epoch == epoch && c.attempt == attempt) {
            return;
        }
        self.checkpoints.push_back(CheckpointInfo {
            epoch,
            attempt,
            state: IN_PROGRESS.to_owned(),
            started_ms: now_ms,
            ..CheckpointInfo::default()
        });
        if self.checkpoints.len() > CHECKPOINTS_MAX {
            self.checkpoints.pop_front();
        }
    }

    /// So many of these tasks have stored their part of the first epoch under way.
    pub(super) fn stored(&mut self, stored: usize, tasks: usize) {
        if let Some(under_way) = self.checkpoints.iter_mut().find(|c| c.state == IN_PROGRESS) {
            under_way.tasks_stored = u32::try_from(stored).unwrap_or(u32::MAX);
            under_way.tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        }
    }

    /// An epoch has its manifest, or could not be given one.
    pub(super) fn committed(&mut self, epoch: u64, result: &Result<(), Status>, bytes: u64, now_ms: i64) {
        let Some(known) = self.checkpoints.iter_mut().rev().find(|c| c.epoch == epoch) else { return };
        match result {
            Ok(()) => {
                known.tasks_stored = known.tasks;
                known.bytes = bytes;
                known.end("completed", now_ms);
            }
            Err(status) => known.fail(&status.message, now_ms),
        }
    }

    /// A task could not store its part of an epoch.
    pub(super) fn failed(&mut self, epoch: u64, why: &str, now_ms: i64) {
        let mut all = self.checkpoints.iter_mut().rev();
        if let Some(known) = all.find(|c| c.epoch == epoch && c.state == IN_PROGRESS) {
            known.fail(why, now_ms);
        }
    }

    /// A checkpoint is kept until somebody deletes it.
    fn kept(&mut self, epoch: u64) -> CheckpointInfo {
        match self.checkpoints.iter_mut().rev().find(|c| c.epoch == epoch) {
            Some(known) => {
                known.savepoint = true;
                known.clone()
            }
            None => CheckpointInfo {
                epoch,
                savepoint: true,
                state: "completed".to_owned(),
                ..CheckpointInfo::default()
            },
        }
    }

    /// The job was in the state `before` and is in that of its coordinator.
    pub(super) fn note(&mut self, before: &JobState, coordinator: &Coordinator, now_ms: i64) {
        let now = coordinator.state();
        if before == now {
            return;
        }
        let text = match now {
            JobState::Failed(status) | JobState::Restarting(status) => cut(&status.message),
            _ => String::new(),
        };
        if !matches!(now, JobState::Running | JobState::Deploying) {
            let why = format!("the attempt ended: {}", if text.is_empty() { now.as_str() } else { &text });
            for open in self.checkpoints.iter_mut().filter(|c| c.state == IN_PROGRESS) {
                open.fail(&why, now_ms);
            }
        }
        let attempt = coordinator.deployment().attempt.0;
        self.push(JobEvent { at_ms: now_ms, attempt, state: now.as_str().to_owned(), text });
    }

    /// What the storage knows of the time before this coordinator.
    pub(super) fn recall(&mut self, past: Past) {
        for past in past.checkpoints.into_iter().rev() {
            if self.checkpoints.iter().any(|known| known.epoch == past.epoch) {
                continue;
            }
            self.checkpoints.push_front(CheckpointInfo {
                epoch: past.epoch,
                attempt: past.attempt,
                state: "completed".to_owned(),
                savepoint: past.savepoint,
                started_ms: past.completed_ms,
                took_ms: None,
                bytes: past.bytes,
                tasks_stored: past.tasks,
                tasks: past.tasks,
                error: None,
            });
        }
        let over = self.checkpoints.len().saturating_sub(CHECKPOINTS_MAX);
        self.checkpoints.drain(..over);
        let room = EVENTS_MAX.saturating_sub(self.events.len());
        let begun = JobState::Deploying.as_str();
        for (attempt, at_ms) in past.attempts.into_iter().rev().take(room) {
            if !self.events.iter().any(|known| known.attempt == attempt && known.state == begun) {
                let text = "as the checkpoint storage has it".to_owned();
                self.events.push_front(JobEvent { at_ms, attempt, state: begun.to_owned(), text });
            }
        }
    }

    fn push(&mut self, event: JobEvent) {
        self.events.push_back(event);
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }
}

const IN_PROGRESS: &str = "in_progress";

impl CheckpointInfo {
    fn end(&mut self, state: &str, now_ms: i64) {
        self.state = state.to_owned();
        self.took_ms = Some(u64::try_from(now_ms - self.started_ms).unwrap_or(0));
    }

    fn fail(&mut self, why: &str, now_ms: i64) {
        self.error = Some(cut(why));
        self.end("failed", now_ms);
    }
}

/// A moment, unless it stands for none.
fn known(ms: i64) -> Option<i64> {
    (ms > i64::MIN && ms < i64::MAX).then_some(ms)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(REASON_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl TaskDetail {
    fn of(share: &TaskShare, node: String) -> Self {
        Self {
            chain: share.chain,
            subtask: share.subtask,
            node,
            operators: share
                .operators
                .iter()
                .map(|(name, records_in, records_out, late, errors)| OperatorCounts {
                    name: name.clone(),
                    records_in: *records_in,
                    records_out: *records_out,
                    late: *late,
                    errors: *errors,
                })
                .collect(),
            busy_s: share.busy_s,
            idle_s: share.idle_s,
            backpressured_s: share.backpressured_s,
            doing: match share.doing {
                Doing::Busy => "busy",
                Doing::Idle => "idle",
                Doing::Backpressured => "backpressured",
            }
            .to_owned(),
            watermark_ms: known(share.watermark_ms),
            watermark_out_ms: known(share.watermark_out_ms),
            input_done: share.input_done,
            input_total: share.input_total,
        }
    }
}

impl Entry {
    /// All that is known of it.
    pub(super) fn detail(&mut self, id: &str, now_ms: i64) -> JobDetail {
        if let Some((stored, tasks)) = self.coordinator.progress() {
            self.history.stored(stored, tasks);
        }
        let placement = &self.coordinator.deployment().placement;
        let node = |share: &TaskShare| {
            let tasks = placement.get(share.chain as usize);
            tasks.and_then(|t| t.get(share.subtask as usize)).map(ToString::to_string).unwrap_or_default()
        };
        JobDetail {
            info: self.info(id, now_ms),
            graph: serde_json::to_value(self.plan.graph()).unwrap_or_default(),
            at_ms: now_ms,
            tasks: self.shares().map(|share| TaskDetail::of(share, node(share))).collect(),
            checkpoints: self.history.checkpoints.iter().cloned().collect(),
            events: self.history.events.iter().cloned().collect(),
        }
    }

    fn recall(&mut self, past: Past) {
        self.history.recall(past);
    }

    /// Its last checkpoint is kept until somebody deletes it.
    pub(super) fn keep(&mut self, epoch: u64) -> CheckpointInfo {
        self.history.kept(epoch)
    }
}

impl Desk {
    /// Has the jobs show what the storage knows of their past; a storage that does not answer is not asked again.
    pub(super) fn recall(self: &Arc<Self>) {
        let Some(storage) = self.parts.storage.clone() else { return };
        let jobs: Vec<String> = self.table.lock().jobs.keys().cloned().collect();
        let desk = Arc::clone(self);
        self.parts.io.spawn_with(move || async move {
            for job in jobs {
                match storage.past(&job, CHECKPOINTS_MAX).await {
                    Ok(past) => {
                        if let Some(entry) = desk.table.lock().jobs.get_mut(&job) {
                            entry.recall(past);
                        }
                    }
                    Err(error) => tracing::debug!(job, %error, "the past of a job is not known"),
                }
            }
        });
    }

    /// A job in full, as its tasks tell it now.
    pub(super) async fn detail(&self, job: &str) -> Result<JobDetail, Status> {
        self.refresh(job).await;
        let now_ms = (self.parts.now_ms)();
        let mut table = self.table.lock();
        table.find(job)?;
        let detail = table.jobs.get_mut(job).map(|entry| entry.detail(job, now_ms));
        detail.ok_or_else(|| Status::internal("a job is there and is not"))
    }

    /// Keeps the checkpoint that is completed next, for as long as nobody deletes it.
    pub(super) async fn savepoint(self: &Arc<Self>, job: &str) -> Result<CheckpointInfo, Status> {
        let storage = self.parts.storage.clone();
        let storage =
            storage.ok_or_else(|| Status::precondition("no checkpoint storage: set `checkpoint.dir`"))?;
        let last = self.table.lock().find(job)?.coordinator.last_completed();
        let newer = |entry: &Entry| entry.coordinator.last_completed().filter(|epoch| Some(*epoch) > last);
        self.feed(job, Event::Checkpoint);
        self.until(job, SAVEPOINT_WAIT, |e| newer(e).is_some() || e.coordinator.state().is_terminal()).await;
        let epoch = newer(self.table.lock().find(job)?).ok_or_else(|| {
            let text = format!(
                "job {job} has completed no checkpoint within {} s: the checkpoints page says why",
                SAVEPOINT_WAIT.as_secs()
            );
            Status::new(Code::Aborted, text)
        })?;
        storage.savepoint(job, epoch).await?;
        let kept = self.table.lock().jobs.get_mut(job).map(|entry| entry.keep(epoch));
        kept.ok_or_else(|| Status::internal("a job is there and is not"))
    }
}

#[cfg(test)]
mod tests {
    use afflux_stream::job::PastCheckpoint;

    use super::*;

    #[test]
    fn a_checkpoint_ends_once_and_the_oldest_are_forgotten() {
        let mut history = History::default();
        for epoch in 1..=60 {
            history.begun(epoch, 1, 1_000);
            history.begun(epoch, 1, 9_000);
            history.stored(1, 2);
            history.committed(epoch, &Ok(()), 100, 1_250);
        }
        assert_eq!(history.checkpoints.len(), CHECKPOINTS_MAX);
        let last = history.checkpoints.back().unwrap();
        assert_eq!(
            (last.epoch, last.state.as_str(), last.took_ms, last.bytes),
            (60, "completed", Some(250), 100)
        );
        assert_eq!((last.tasks_stored, last.tasks), (2, 2));
        history.failed(60, "too late", 2_000);
        assert_eq!(history.checkpoints.back().unwrap().error, None, "it is complete");
        assert!(history.kept(60).savepoint && history.checkpoints.back().unwrap().savepoint);
    }

    #[test]
    fn a_failure_says_why_in_bounded_words() {
        let mut history = History::default();
        history.begun(1, 1, 0);
        history.failed(1, &"é".repeat(REASON_CHARS_MAX + 5), 10);
        let failed = history.checkpoints.back().unwrap();
        assert_eq!((failed.state.as_str(), failed.took_ms), ("failed", Some(10)));
        assert_eq!(failed.error.as_ref().unwrap().chars().count(), REASON_CHARS_MAX + 1);
        history.begun(2, 1, 20);
        history.committed(2, &Err(Status::unavailable("the store is gone")), 0, 30);
        assert_eq!(history.checkpoints.back().unwrap().error.as_deref(), Some("the store is gone"));
    }

    #[test]
    fn what_the_storage_knows_stands_before_what_this_coordinator_has_seen() {
        let mut history = History::default();
        history.begun(4, 2, 1_000);
        history.committed(4, &Ok(()), 9, 1_010);
        let event = |attempt, at_ms, state: &str| JobEvent {
            at_ms,
            attempt,
            state: state.into(),
            text: String::new(),
        };
        history.push(event(2, 900, "deploying"));
        let checkpoint =
            |epoch| PastCheckpoint { epoch, attempt: 1, completed_ms: 500, bytes: 7, ..Default::default() };
        let checkpoints = vec![checkpoint(3), checkpoint(4)];
        history.recall(Past { checkpoints, attempts: vec![(1, 100), (2, 890)] });
        let epochs: Vec<_> = history.checkpoints.iter().map(|c| (c.epoch, c.attempt, c.bytes)).collect();
        assert_eq!(epochs, [(3, 1, 7), (4, 2, 9)]);
        let events: Vec<_> = history.events.iter().map(|event| (event.attempt, event.at_ms)).collect();
        assert_eq!(events, [(1, 100), (2, 900)]);

        let checkpoints = (5..200).map(checkpoint).collect();
        history.recall(Past { checkpoints, attempts: (3..300).map(|attempt| (attempt, 0)).collect() });
        assert_eq!((history.checkpoints.len(), history.events.len()), (CHECKPOINTS_MAX, EVENTS_MAX));
        assert_eq!(history.checkpoints.back().map(|c| c.epoch), Some(4), "what was seen stands last");
    }
}
