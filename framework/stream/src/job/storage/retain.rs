//! What is kept and what is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use afflux_wire::{Code, Status};

use super::{Manifest, Storage, failed};
use crate::Result;

/// Checkpoints of a job that are kept unless a setting says otherwise.
pub const RETAIN_DEFAULT: usize = 3;
/// The newest two are always kept: a checkpoint under way may refer to files of both.
const RETAIN_MIN: usize = 2;
/// Names of manifests of a job that stay at least, the newest, whether they are empty or not. Far more than
/// epochs that are under way at a time: a manifest that comes behind so many is one of long ago.
pub const MANIFEST_NAMES_KEPT: usize = 128;
/// Names that one retirement deletes at most; the next goes on.
const NAMES_DELETED_MAX: usize = 1_024;

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

    /// The same with another number of names of manifests that stay than [`MANIFEST_NAMES_KEPT`]: for tests, which
    /// have few epochs.
    #[doc(hidden)]
    #[must_use]
    pub fn naming(mut self, names: usize) -> Self {
        self.names_kept = names;
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

    /// Deletes what no kept checkpoint of a job needs: manifests but for the newest become empty, the names of
    /// empty ones go when [`MANIFEST_NAMES_KEPT`] newer ones are there, and files that are older than the newest
    /// checkpoint and that no kept manifest names are deleted. Savepoints are left alone. Returns how many
    /// objects were deleted.
    ///
    /// # Errors
    /// When the store cannot be listed or written; what is left is deleted the next time.
    pub async fn retire(&self, job: &str) -> Result<usize> {
        let names = self.manifests(job).await?;
        let complete: Vec<u64> =
            names.iter().filter(|(_, bytes)| *bytes > 0).map(|(epoch, _)| *epoch).collect();
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
            self.delete(&path).await?;
            deleted += 1;
        }
        let (forgotten, _) = names.split_at(names.len().saturating_sub(self.names_kept));
        let empty = forgotten.iter().filter(|(_, bytes)| *bytes == 0).take(NAMES_DELETED_MAX);
        for (epoch, _) in empty {
            self.delete(&Self::manifest_path(job, *epoch)).await?;
            deleted += 1;
        }
        Ok(deleted)
    }

    async fn delete(&self, path: &Path) -> Result<()> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&self.place, path, &error)),
        }
    }

    /// The names of a job's manifests, rising, with their bytes: 0 of those that were retired.
    async fn manifests(&self, job: &str) -> Result<Vec<(u64, u64)>> {
        let prefix = Path::from(format!("{job}/manifests"));
        let listed: Vec<_> = self
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(|e| failed(&self.place, &prefix, &e))?;
        let name = |path: &Path| path.filename()?.strip_suffix(".json")?.parse().ok();
        let mut names: Vec<(u64, u64)> =
            listed.iter().filter_map(|object| Some((name(&object.location)?, object.size))).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Looks whether a manifest that was just created is one of long ago, whose name was deleted meanwhile.
    ///
    /// A name is deleted only where [`MANIFEST_NAMES_KEPT`] greater ones are there, and then as many always are,
    /// since the greatest of all are never deleted. So whoever can create it again finds them here, while whoever
    /// is in time finds those of a few epochs that were under way beside. Half as many decide: others come and go
    /// while they are listed.
    pub(super) async fn refuse_of_long_ago(&self, manifest: &Manifest) -> Result<()> {
        let (job, epoch) = (&manifest.job, manifest.epoch);
        let newer = self.manifests(job).await?.iter().filter(|(other, _)| *other > epoch).count();
        if newer < (self.names_kept / 2).max(1) {
            return Ok(());
        }
        let path = Self::manifest_path(job, epoch);
        if let Err(error) = self.delete(&path).await {
            // The next retirement does it.
            tracing::warn!(job, epoch, %error, "a manifest that was refused stays for now");
        }
        Err(Status::new(
            Code::AlreadyExists,
            format!(
                "checkpoint storage {}/{path}: {newer} later epochs have manifests: another coordinator has gone on \
                 since, and this one commits nothing",
                self.place
            ),
        ))
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
