//! What the store knows of a job's past, for those who look at it: a coordinator remembers its own time alone.

use object_store::path::Path;

use super::{Storage, failed};
use crate::Result;

/// A job's past, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Checkpoints and savepoints, by their epochs, rising.
    pub checkpoints: Vec<PastCheckpoint>,
    /// Attempts and when they were begun, in milliseconds since 1970 on the store's clock, rising.
    pub attempts: Vec<(u64, i64)>,
}

/// A checkpoint or a savepoint of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PastCheckpoint {
    /// Its epoch.
    pub epoch: u64,
    /// The attempt that took it.
    pub attempt: u64,
    /// Whether it is kept until somebody deletes it.
    pub savepoint: bool,
    /// When it was completed, in milliseconds since 1970 on the store's clock.
    pub completed_ms: i64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Tasks that have stored a part.
    pub tasks: u32,
}

/// An object whose name is a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::job) struct Numbered {
    pub(in crate::job) number: u64,
    /// When, in milliseconds since 1970 on the store's clock.
    written_ms: i64,
    /// It has no content: that of a manifest was retired.
    pub(in crate::job) is_empty: bool,
}

impl Storage {
    /// The latest `checkpoints_max` checkpoints and savepoints of a job that are kept, and its attempts. What is deleted
    /// or damaged meanwhile is left out.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn past(&self, job: &str, checkpoints_max: usize) -> Result<Past> {
        let mut epochs = self.by_number(&Path::from(format!("{job}/manifests"))).await?;
        let savepoints = self.by_number(&Path::from(format!("{job}/savepoints"))).await?;
        let are_kept: Vec<u64> = savepoints.iter().map(|savepoint| savepoint.number).collect();
        epochs.extend(savepoints);
        epochs.retain(|epoch| !epoch.is_empty);
        epochs.sort_unstable();
        // Of one that is both, what came first is the checkpoint.
        epochs.dedup_by_key(|epoch| epoch.number);
        let latest = epochs.len().saturating_sub(checkpoints_max);
        let mut checkpoints = Vec::new();
        for Numbered { number: epoch, written_ms: completed_ms, .. } in epochs.split_off(latest) {
            let Ok(manifest) = self.manifest(job, epoch).await else { continue };
            checkpoints.push(PastCheckpoint {
                epoch,
                attempt: manifest.attempt,
                savepoint: are_kept.contains(&epoch),
                completed_ms,
                bytes: manifest.files.iter().map(|file| file.bytes).sum(),
                tasks: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
            });
        }
        let attempts = self.by_number(&Path::from(format!("{job}/attempts"))).await?;
        let attempts = attempts.iter().map(|attempt| (attempt.number, attempt.written_ms)).collect();
        Ok(Past { checkpoints, attempts })
    }

    /// The objects below a prefix that are named by numbers, rising.
    pub(in crate::job) async fn by_number(&self, prefix: &Path) -> Result<Vec<Numbered>> {
        let listed = self.store.list_with_delimiter(Some(prefix)).await;
        let listed = listed.map_err(|e| failed(&self.place, prefix, &e))?;
        let numbered = listed.objects.iter().filter_map(|object| {
            let number = object.location.filename()?.strip_suffix(".json")?.parse().ok()?;
            let written_ms = object.last_modified.timestamp_millis();
            Some(Numbered { number, written_ms, is_empty: object.size == 0 })
        });
        let mut numbered: Vec<Numbered> = numbered.collect();
        numbered.sort_unstable();
        Ok(numbered)
    }
}
