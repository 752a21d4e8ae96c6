//! What is kept and what is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use super::{Storage, failed};
use crate::Result;

/// Checkpoints of a job that are kept unless a setting says otherwise.
pub const RETAIN_DEFAULT: usize = 3;
/// The newest two are always kept: a checkpoint under way may refer to files of both.
const RETAIN_MIN: usize = 2;

/// What this process knows of the kept checkpoints of jobs.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The files that each complete epoch needs, by job.
    files: BTreeMap<String, BTreeMap<u64, BTreeSet<String>>>,
}

impl Storage {
    /// The same with another number of checkpoints that are kept, at least 2.
    #[must_use]
    pub fn retaining(mut self, checkpoints: usize) -> Self {
        self.retain = checkpoints.max(RETAIN_MIN);
        self
    }

    /// The same, but that old checkpoints are deleted after each new one, while others go on.
    #[must_use]
    pub fn retiring(mut self) -> Self {
        self.retires = true;
        self
    }

    /// Deletes old checkpoints of a job while others go on; what fails is tried after the next one.
    pub(super) fn retire_later(&self, job: &str) {
        if !self.retires || self.retiring.swap(true, Relaxed) {
            return;
        }
        let (storage, job) = (self.clone(), job.to_owned());
        tokio::spawn(async move {
            if let Err(error) = storage.retire(&job).await {
                tracing::warn!(%job, %error, "old checkpoints were not deleted");
            }
            storage.retiring.store(false, Relaxed);
        });
    }

    /// Deletes what no kept checkpoint of a job needs: manifests but for the newest become empty (their
    /// names stay), and files that are older than the newest checkpoint and that no kept manifest
    /// names are deleted. Savepoints are left alone. Returns how many objects were deleted.
    ///
    /// # Errors
    /// When the store cannot be listed or written; what is left is deleted the next time.
    pub async fn retire(&self, job: &str) -> Result<usize> {
        let complete = self.complete(job).await?;
        let Some(newest) = complete.last().copied() else { return Ok(0) };
        let split = complete.len().saturating_sub(self.retain);
        let (old, new) = complete.split_at(split);
        let mut needed = BTreeSet::new();
        for epoch in new {
            needed.extend(self.needed(job, *epoch).await?);
        }
        for epoch in old {
            // Empty before its files go: whoever reads it meanwhile finds that it is retired.
            let path = Self::manifest_path(job, *epoch);
            let options = PutOptions::from(PutMode::Overwrite);
            self.write(&path, PutPayload::default(), options).await?;
            if let Some(files) = self.kept.lock().files.get_mut(job) {
                files.remove(epoch);
            }
        }
        let mut deleted = 0;
        for path in self.older_files(job, newest).await? {
            let name = path.as_ref().strip_prefix(job).map(|name| name.trim_start_matches('/'));
            if name.is_some_and(|name| needed.contains(name)) {
                continue;
            }
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => deleted += 1,
                Err(error) => return Err(failed(&self.place, &path, &error)),
            }
        }
        Ok(deleted)
    }

    /// The files that a checkpoint needs, below the job's directory.
    async fn needed(&self, job: &str, epoch: u64) -> Result<BTreeSet<String>> {
        let known = self.kept.lock().files.get(job).and_then(|files| files.get(&epoch)).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let manifest = self.manifest(job, epoch).await?;
        let mut files = BTreeSet::new();
        for file in manifest.files {
            files.insert(file.name);
            files.extend(file.refers);
        }
        self.kept.lock().files.entry(job.to_owned()).or_default().insert(epoch, files.clone());
        Ok(files)
    }

    /// Files of epochs before one.
    async fn older_files(&self, job: &str, before: u64) -> Result<Vec<Path>> {
        let prefix = Path::from(job);
        let listed = self.store.list_with_delimiter(Some(&prefix)).await;
        let listed = listed.map_err(|e| failed(&self.place, &prefix, &e))?;
        let mut files = Vec::new();
        for directory in listed.common_prefixes {
            let epoch = directory.filename().and_then(|name| name.strip_prefix("epoch-"));
            let epoch: Option<u64> = epoch.and_then(|epoch| epoch.parse().ok());
            if epoch.is_none_or(|epoch| epoch >= before) {
                continue;
            }
            let mut below = self.store.list(Some(&directory));
            while let Some(object) = below.next().await {
                files.push(object.map_err(|e| failed(&self.place, &directory, &e))?.location);
            }
        }
        Ok(files)
    }
}
