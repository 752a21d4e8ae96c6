//! Where checkpoints are kept: one object a task and epoch, and a manifest that makes them one.
//!
//! Layout below the checkpoint directory: `JOB/epoch-00000007/CHAIN-SUBTASK.state` and
//! `JOB/epoch-00000007/MANIFEST.json`. A manifest is created, never overwritten: an epoch whose
//! manifest is there is complete, any other is not. Every file's CRC-32 stands in the manifest and
//! is verified when it is read.

use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use afflux_wire::{Code, Status};

use super::deployment::TaskId;
use crate::Result;
use crate::context::JobSettings;
use crate::snapshot::{Restore, TaskSnapshot};

/// One task's file of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFile {
    /// The task that wrote it.
    pub task: TaskId,
    /// Its name below the epoch's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// CRC-32 (IEEE) of its content.
    pub crc32: u32,
}

/// What makes the files of an epoch a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version of this manifest.
    pub version: u32,
    /// The job.
    pub job: String,
    /// The pipeline.
    pub pipeline: String,
    /// The attempt that took it.
    pub attempt: u64,
    /// The epoch.
    pub epoch: u64,
    /// Fingerprint of the graph.
    pub fingerprint: u64,
    /// Settings of the job.
    pub settings: JobSettings,
    /// The files.
    pub files: Vec<CheckpointFile>,
    /// What tasks that had finished before left: where their splits ended.
    #[serde(default)]
    pub finished: Vec<TaskSnapshot>,
}

/// Keeps checkpoints below one directory.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    place: String,
}

fn failed(place: &str, name: &Path, error: &object_store::Error) -> Status {
    let code = match error {
        object_store::Error::NotFound { .. } => Code::NotFound,
        object_store::Error::AlreadyExists { .. } => Code::AlreadyExists,
        _ => Code::Unavailable,
    };
    Status::new(code, format!("checkpoint storage {place}/{name}: {error}"))
}

impl Storage {
    /// Below a directory of this machine, which is made when it is absent.
    ///
    /// # Errors
    /// When the directory cannot be made: names it.
    pub fn directory(path: &std::path::Path) -> Result<Self> {
        let place = path.display().to_string();
        std::fs::create_dir_all(path).map_err(|e| {
            Status::unavailable(format!(
                "checkpoint directory {place} cannot be made: {e}; set `checkpoint.dir`"
            ))
        })?;
        let store = LocalFileSystem::new_with_prefix(path)
            .map_err(|e| Status::unavailable(format!("checkpoint directory {place}: {e}")))?;
        Ok(Self { store: Arc::new(store), place })
    }

    fn dir(job: &str, epoch: u64) -> String {
        format!("{job}/epoch-{epoch:08}")
    }

    /// Writes one task's part of an epoch.
    ///
    /// # Errors
    /// Names the object and what failed.
    pub async fn put(
        &self,
        job: &str,
        attempt: u64,
        task: TaskId,
        snapshot: &TaskSnapshot,
    ) -> Result<CheckpointFile> {
        let bytes = rmp_serde::to_vec_named(snapshot)
            .map_err(|e| Status::internal(format!("a snapshot cannot be encoded: {e}")))?;
        let name = format!("{}-{}-a{attempt}.state", task.chain, task.subtask);
        let path = Path::from(format!("{}/{name}", Self::dir(job, snapshot.epoch)));
        let file = CheckpointFile { task, name, bytes: bytes.len() as u64, crc32: crc32fast::hash(&bytes) };
        self.store.put(&path, PutPayload::from(bytes)).await.map_err(|e| failed(&self.place, &path, &e))?;
        Ok(file)
    }

    /// Makes an epoch complete.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when somebody else has: this one is fenced.
    pub async fn commit(&self, manifest: &Manifest) -> Result<()> {
        let path = Path::from(format!("{}/MANIFEST.json", Self::dir(&manifest.job, manifest.epoch)));
        let bytes = serde_json::to_vec_pretty(manifest)
            .map_err(|e| Status::internal(format!("a manifest cannot be encoded: {e}")))?;
        let options = PutOptions::from(PutMode::Create);
        self.store
            .put_opts(&path, PutPayload::from(bytes), options)
            .await
            .map(|_| ())
            .map_err(|e| failed(&self.place, &path, &e))
    }

    /// The epochs of a job that are complete, rising.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn epochs(&self, job: &str) -> Result<Vec<u64>> {
        let prefix = Path::from(job);
        let listed = self
            .store
            .list_with_delimiter(Some(&prefix))
            .await
            .map_err(|e| failed(&self.place, &prefix, &e))?;
        let mut epochs = Vec::new();
        for dir in listed.common_prefixes {
            let epoch = dir.filename().and_then(|n| n.strip_prefix("epoch-")).and_then(|n| n.parse().ok());
            let Some(epoch) = epoch else { continue };
            if self.store.head(&dir.child("MANIFEST.json")).await.is_ok() {
                epochs.push(epoch);
            }
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Reads a checkpoint back, every file against its checksum.
    ///
    /// # Errors
    /// `NOT_FOUND` without a manifest; `DATA_LOSS` when a file is missing or damaged: names it.
    pub async fn read(&self, job: &str, epoch: u64) -> Result<(Manifest, Restore)> {
        let dir = Self::dir(job, epoch);
        let path = Path::from(format!("{dir}/MANIFEST.json"));
        let manifest = self.get(&path).await?;
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| {
            Status::new(Code::DataLoss, format!("manifest {}/{path} is damaged: {e}", self.place))
        })?;
        let mut snapshots = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let path = Path::from(format!("{dir}/{}", file.name));
            let bytes =
                self.get(&path).await.map_err(|status| Status::new(Code::DataLoss, status.message))?;
            let crc32 = crc32fast::hash(&bytes);
            if crc32 != file.crc32 || bytes.len() as u64 != file.bytes {
                return Err(Status::new(
                    Code::DataLoss,
                    format!(
                        "checkpoint file {}/{path} is damaged: {} bytes with CRC-32 {crc32:08x}, expected {} with {:08x}",
                        self.place,
                        bytes.len(),
                        file.bytes,
                        file.crc32
                    ),
                ));
            }
            snapshots.push(rmp_serde::from_slice::<TaskSnapshot>(&bytes).map_err(|e| {
                Status::new(Code::DataLoss, format!("checkpoint file {}/{path}: {e}", self.place))
            })?);
        }
        snapshots.extend(manifest.finished.iter().cloned());
        Ok((manifest, Restore::new(snapshots)))
    }

    async fn get(&self, path: &Path) -> Result<Vec<u8>> {
        let got = self.store.get(path).await.map_err(|e| failed(&self.place, path, &e))?;
        let bytes = got.bytes().await.map_err(|e| failed(&self.place, path, &e))?;
        Ok(bytes.to_vec())
    }
}
