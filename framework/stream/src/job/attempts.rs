//! Records of attempts, beside the checkpoints of a job: what survives the node that coordinates it.
//!
//! `JOB/attempts/00000001.json` is the job as it was submitted, written before any task begins; each
//! further attempt adds one. A record is created, never overwritten, so of two coordinators that begin
//! the same attempt one is refused. Records also say which checkpoints count: an epoch belongs to the
//! attempt that took it, and one that an attempt took after a later attempt had gone back behind it is
//! nobody's (a coordinator that was cut off wrote it).

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use afflux_wire::{Code, Status};

use super::deployment::Deployment;
use super::storage::Storage;
use crate::Result;

/// Layout version of a record.
const VERSION: u32 = 1;

/// What an attempt was begun with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Layout version.
    pub version: u32,
    /// Fencing token of the coordinator that began it.
    pub fencing_token: u64,
    /// Pipeline, settings, widths, splits, placement, and the checkpoint it began from.
    pub deployment: Deployment,
}

impl AttemptRecord {
    /// The record of an attempt.
    pub fn new(deployment: Deployment, fencing_token: u64) -> Self {
        Self { version: VERSION, fencing_token, deployment }
    }
}

/// Where an attempt goes back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewindPoint {
    /// The epoch; none: the beginning.
    pub epoch: Option<u64>,
    /// The job whose checkpoint it is, when that is another.
    pub job: Option<String>,
    /// The greatest epoch of the job that has a manifest, of whatever attempt; 0: none.
    pub epoch_max: u64,
}

impl Storage {
    fn attempt_path(job: &str, attempt: u64) -> Path {
        Path::from(format!("{job}/attempts/{attempt:08}.json"))
    }

    /// Notes that an attempt begins; to be called before any task of it does.
    ///
    /// # Errors
    /// `ALREADY_EXISTS`: another coordinator has begun it.
    pub async fn begin_attempt(&self, record: &AttemptRecord) -> Result<()> {
        let path = Self::attempt_path(&record.deployment.job, record.deployment.attempt.0);
        self.create(&path, record).await
    }

    /// The attempts of a job that were begun, rising.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn attempts(&self, job: &str) -> Result<Vec<u64>> {
        let records = self.by_number(&Path::from(format!("{job}/attempts"))).await?;
        Ok(records.into_iter().map(|record| record.number).collect())
    }

    /// What an attempt was begun with.
    ///
    /// # Errors
    /// `NOT_FOUND`; `DATA_LOSS` when it cannot be read.
    pub async fn attempt(&self, job: &str, attempt: u64) -> Result<AttemptRecord> {
        self.json(&Self::attempt_path(job, attempt)).await
    }

    /// The parallelism that the splits which a checkpoint has positions in were listed for; 0: unknown.
    ///
    /// # Errors
    /// As [`Storage::manifest`]; `DATA_LOSS` when the record of its attempt cannot be read.
    pub async fn listed_parallelism(&self, job: &str, epoch: u64) -> Result<u32> {
        let attempt = self.manifest(job, epoch).await?.attempt;
        match self.attempt(job, attempt).await {
            Ok(record) => Ok(record.deployment.listed_for()),
            Err(status) if status.code == Code::NotFound => Ok(0),
            Err(status) => Err(status),
        }
    }

    /// Jobs that were begun and have not ended.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn unended(&self) -> Result<Vec<String>> {
        let mut jobs = Vec::new();
        for stored in self.jobs().await? {
            if !stored.ended && !self.attempts(&stored.job).await?.is_empty() {
                jobs.push(stored.job);
            }
        }
        Ok(jobs)
    }

    /// The checkpoint that the next attempt of a job begins from: the newest that counts, below `below`.
    ///
    /// # Errors
    /// `DATA_LOSS` when the job has taken checkpoints, and none is left: from its beginning it would
    /// repeat output.
    pub async fn rewind_point(&self, job: &str, below: Option<u64>) -> Result<RewindPoint> {
        let attempts = self.attempts(job).await?;
        // Where attempts began, the last first: read as far back as is needed, since a job may have had thousands.
        let mut lives: Vec<(u64, u64)> = Vec::new();
        let epochs = self.epochs(job).await?;
        let epoch_max = epochs.last().copied().unwrap_or(0);
        let mut counted = false;
        for epoch in epochs.into_iter().rev() {
            let manifest = match self.manifest(job, epoch).await {
                Ok(manifest) => manifest,
                // Retired since it was listed.
                Err(status) if status.code == Code::NotFound => continue,
                Err(status) if status.code == Code::DataLoss => {
                    tracing::warn!(job, epoch, %status, "a checkpoint is damaged: the one before it is used");
                    counted = true;
                    continue;
                }
                Err(status) => return Err(status),
            };
            // The last attempt that did not go back behind this epoch has to be the one that took it.
            let owner = self.owner(job, &attempts, &mut lives, epoch).await?;
            if owner.is_some_and(|attempt| attempt != manifest.attempt) {
                tracing::warn!(
                    job,
                    epoch,
                    attempt = manifest.attempt,
                    "a checkpoint of an attempt that was cut off is left aside"
                );
                continue;
            }
            counted = true;
            if below.is_none_or(|below| epoch < below) {
                return Ok(RewindPoint { epoch: Some(epoch), job: None, epoch_max });
            }
        }
        if counted {
            return Err(Status::new(
                Code::DataLoss,
                format!(
                    "no checkpoint of job {job} in {} can be read any more, and from its beginning it would \
                     repeat output; start it anew with `run`, or restore a savepoint with `run --restore`",
                    self.place
                ),
            ));
        }
        // What it was submitted with.
        let first = match attempts.first() {
            Some(first) => self.attempt(job, *first).await?.deployment,
            None => Deployment::default(),
        };
        let from = first.restore_from;
        Ok(RewindPoint { epoch: first.restore.filter(|_| from.is_some()), job: from, epoch_max })
    }

    /// The last attempt that began before an epoch. `lives` are the attempts that have been read, the last
    /// first, and the epochs of the job that they began from.
    async fn owner(
        &self,
        job: &str,
        attempts: &[u64],
        lives: &mut Vec<(u64, u64)>,
        epoch: u64,
    ) -> Result<Option<u64>> {
        for (index, attempt) in attempts.iter().rev().enumerate() {
            if index == lives.len() {
                let deployment = self.attempt(job, *attempt).await?.deployment;
                let own = deployment.restore_from.is_none();
                lives.push((*attempt, deployment.restore.filter(|_| own).unwrap_or(0)));
            }
            if lives.get(index).is_some_and(|(_, restore)| epoch > *restore) {
                return Ok(Some(*attempt));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobState, Manifest};
    use afflux_wire::Attempt;

    fn storage(dir: &tempfile::TempDir) -> Storage {
        Storage::directory(dir.path()).unwrap()
    }

    fn record(attempt: u64, restore: Option<u64>) -> AttemptRecord {
        let job = "p-1".to_owned();
        let deployment = Deployment { job, attempt: Attempt(attempt), restore, ..Deployment::default() };
        AttemptRecord::new(deployment, 9)
    }

    fn manifest(attempt: u64, epoch: u64) -> Manifest {
        Manifest {
            job: "p-1".into(),
            pipeline: "p".into(),
            attempt,
            fencing_token: 9,
            epoch,
            ..Manifest::default()
        }
    }

    #[tokio::test]
    async fn an_attempt_begins_once_and_a_job_that_has_ended_is_not_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(&dir);
        assert_eq!(storage.unended().await.unwrap(), Vec::<String>::new());
        storage.begin_attempt(&record(1, None)).await.unwrap();
        assert_eq!(storage.begin_attempt(&record(1, None)).await.unwrap_err().code, Code::AlreadyExists);
        assert_eq!(storage.unended().await.unwrap(), ["p-1"]);
        assert_eq!(storage.attempt("p-1", 1).await.unwrap(), record(1, None));
        storage.end_job("p-1", &JobState::Finished).await.unwrap();
        assert_eq!(storage.unended().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_newest_epoch_of_the_line_of_attempts_is_gone_back_to() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(&dir);
        let point = async |below| storage.rewind_point("p-1", below).await.map(|point| point.epoch);
        storage.begin_attempt(&record(1, None)).await.unwrap();
        assert_eq!(point(None).await.unwrap(), None, "the beginning");
        storage.commit(&manifest(1, 1)).await.unwrap();
        storage.commit(&manifest(1, 2)).await.unwrap();
        assert_eq!(point(None).await.unwrap(), Some(2));
        storage.begin_attempt(&record(2, Some(2))).await.unwrap();
        // The first attempt's coordinator was cut off, and wakes.
        storage.commit(&manifest(1, 3)).await.unwrap();
        assert_eq!(point(None).await.unwrap(), Some(2), "epoch 3 is nobody's");
        storage.commit(&manifest(2, 4)).await.unwrap();
        assert_eq!(point(None).await.unwrap(), Some(4));
        assert_eq!(point(Some(4)).await.unwrap(), Some(2), "the one before a damaged one");
        assert_eq!(point(Some(1)).await.unwrap_err().code, Code::DataLoss);
        assert_eq!(storage.rewind_point("p-1", None).await.unwrap().epoch_max, 4);
    }

    #[tokio::test]
    async fn a_damaged_manifest_is_followed_by_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(&dir);
        storage.begin_attempt(&record(1, None)).await.unwrap();
        storage.commit(&manifest(1, 1)).await.unwrap();
        storage.commit(&manifest(1, 2)).await.unwrap();
        std::fs::write(dir.path().join("p-1/manifests/00000002.json"), "{").unwrap();
        assert_eq!(storage.rewind_point("p-1", None).await.unwrap().epoch, Some(1));
    }

    #[tokio::test]
    async fn a_job_that_began_from_anothers_checkpoint_goes_back_to_it_until_it_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(&dir);
        let mut first = record(1, Some(7));
        first.deployment.restore_from = Some("p-0".into());
        storage.begin_attempt(&first).await.unwrap();
        let point = storage.rewind_point("p-1", None).await.unwrap();
        assert_eq!((point.epoch, point.job.as_deref()), (Some(7), Some("p-0")));
        storage.commit(&manifest(1, 8)).await.unwrap();
        let point = storage.rewind_point("p-1", None).await.unwrap();
        assert_eq!((point.epoch, point.job), (Some(8), None));
    }
}
