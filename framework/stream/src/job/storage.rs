//! Where checkpoints are kept: one object a task and epoch, and a manifest that makes them one.
//!
//! Layout below the place: `JOB/JOB.json` (what was submitted), `JOB/manifests/00000007.json`,
//! `JOB/epoch-00000007/CHAIN-SUBTASK-aATTEMPT.state`, `JOB/END.json`. A manifest is created, never
//! written again but to be emptied: an epoch whose manifest has content is complete, an empty one has
//! been retired, and its name stays, until many newer ones are there, so that nobody can take that epoch a
//! second time. Every file's CRC-32 stands in the manifest, every block's in the file, and both are verified
//! when they are read.

mod compare;
mod file;
mod manifest;
mod past;
mod place;
mod reach;
mod retain;
mod savepoint;
mod streamed;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use afflux_wire::{Code, Status};

use super::coordinator::JobState;
use super::deployment::TaskId;
use crate::Result;
use crate::snapshot::{Restore, TaskSnapshot};

pub use compare::{StateChange, StateLook};
use file::{Index, Places};
pub use manifest::{CheckpointFile, JobEnd, JobSpec, MANIFEST_VERSION, Manifest, StateInfo, StoredJob};
pub use past::{Past, PastCheckpoint};
pub use retain::{MANIFEST_NAMES_KEPT, RETAIN_DEFAULT};
pub use streamed::{UPLOAD_PART_BYTES, UPLOAD_PARTS_MAX};
pub use verify::Damage;

/// Tries to write one object.
const WRITE_TRIES_MAX: u32 = 4;
/// Wait before the second try; doubled for each one after.
const WRITE_BACKOFF: Duration = Duration::from_millis(100);
/// Epochs of a task whose blocks later ones may refer to.
const EPOCHS_KNOWN_MAX: usize = 8;
/// Tasks whose last files are remembered, so that what has not changed is not written again.
const TASKS_KNOWN_MAX: usize = 16_384;

/// What a task has written lately.
#[derive(Default)]
struct Known {
    attempt: u64,
    epochs: BTreeMap<u64, Places>,
}

/// Keeps checkpoints below one place: a directory, a bucket, or memory.
#[derive(Clone)]
pub struct Storage {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) place: Arc<str>,
    /// The directory, where it is one: what is written there is flushed to the disk.
    directory: Option<Arc<std::path::Path>>,
    known: Arc<Mutex<BTreeMap<(String, TaskId), Known>>>,
    kept: Arc<Mutex<retain::Kept>>,
    retain: usize,
    /// Names of manifests that stay.
    names_kept: usize,
    /// Whether it has been seen that an object is created only once; known of directories and memory.
    probed: Arc<AtomicBool>,
    /// Whether old checkpoints are deleted after each new one, and whether that is under way.
    retires: bool,
    retiring: Arc<AtomicBool>,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("place", &self.place).field("retain", &self.retain).finish()
    }
}

pub(super) fn failed(place: &str, name: &Path, error: &object_store::Error) -> Status {
    let code = match error {
        object_store::Error::NotFound { .. } => Code::NotFound,
        object_store::Error::AlreadyExists { .. } => Code::AlreadyExists,
        _ if is_full(error) => Code::ResourceExhausted,
        _ => Code::Unavailable,
    };
    let cure = match code {
        Code::ResourceExhausted => "; make room there: the next checkpoint tries again",
        _ => "",
    };
    Status::new(code, format!("checkpoint storage {place}/{name}: {error}{cure}"))
}

/// Whether there is no room left.
fn is_full(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn damaged(place: &str, path: &Path, why: &str) -> Status {
    Status::new(Code::DataLoss, format!("checkpoint file {place}/{path} is damaged: {why}"))
}

impl Storage {
    /// On any store; `place` is its name in messages.
    pub fn on(store: Arc<dyn ObjectStore>, place: &str) -> Self {
        Self {
            store,
            place: Arc::from(place),
            directory: None,
            known: Arc::default(),
            kept: Arc::default(),
            retain: RETAIN_DEFAULT,
            names_kept: MANIFEST_NAMES_KEPT,
            probed: Arc::new(true.into()),
            retires: false,
            retiring: Arc::default(),
        }
    }

    /// Where it keeps them, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn manifest_path(job: &str, epoch: u64) -> Path {
        Path::from(format!("{job}/manifests/{epoch:08}.json"))
    }

    fn savepoint_path(job: &str, epoch: u64) -> Path {
        Path::from(format!("{job}/savepoints/{epoch:08}.json"))
    }

    fn spec_path(job: &str) -> Path {
        Path::from(format!("{job}/JOB.json"))
    }

    fn end_path(job: &str) -> Path {
        Path::from(format!("{job}/END.json"))
    }

    /// Says what was submitted, before the first task of it starts.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when a job of this id was submitted before.
    pub async fn create_job(&self, spec: &JobSpec) -> Result<()> {
        self.probe_once().await?;
        self.create(&Self::spec_path(&spec.job), spec).await
    }

    /// The jobs that have left something here, by id.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn jobs(&self) -> Result<Vec<StoredJob>> {
        let root = Path::default();
        let listed =
            self.store.list_with_delimiter(None).await.map_err(|e| failed(&self.place, &root, &e))?;
        let mut jobs = Vec::new();
        for job in listed.common_prefixes.iter().filter_map(|prefix| prefix.filename()) {
            if job.starts_with('.') {
                continue;
            }
            jobs.push(StoredJob {
                job: job.to_owned(),
                specified: self.exists(&Self::spec_path(job)).await?,
                ended: self.exists(&Self::end_path(job)).await?,
            });
        }
        jobs.sort_by(|a, b| a.job.cmp(&b.job));
        Ok(jobs)
    }

    /// What a job was submitted as.
    ///
    /// # Errors
    /// `NOT_FOUND` when it never was; `DATA_LOSS` when the specification is damaged.
    pub async fn job_spec(&self, job: &str) -> Result<JobSpec> {
        self.json(&Self::spec_path(job)).await
    }

    /// Notes how a job ended, for ever. `false`: that was noted before, and stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn end_job(&self, job: &str, state: &JobState) -> Result<bool> {
        let end = JobEnd { job: job.to_owned(), state: state.clone() };
        match self.create(&Self::end_path(job), &end).await {
            Ok(()) => Ok(true),
            Err(status) if status.code == Code::AlreadyExists => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// How a job ended, if it has.
    ///
    /// # Errors
    /// `DATA_LOSS` when the note is damaged.
    pub async fn job_end(&self, job: &str) -> Result<Option<JobEnd>> {
        match self.json(&Self::end_path(job)).await {
            Ok(end) => Ok(Some(end)),
            Err(status) if status.code == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Writes one task's part of an epoch. Blocks that have not changed since an earlier epoch of the
    /// same attempt are referred to, not written again. Rows that are still on disk are read and written
    /// some at a time, at most [`UPLOAD_PARTS_MAX`] times [`UPLOAD_PART_BYTES`] in memory.
    ///
    /// # Errors
    /// Names the object and what failed; `RESOURCE_EXHAUSTED` when there is no room.
    pub async fn put(
        &self,
        job: &str,
        attempt: u64,
        task: TaskId,
        snapshot: &TaskSnapshot,
    ) -> Result<CheckpointFile> {
        let epoch = snapshot.epoch;
        let name = format!("epoch-{epoch:08}/{}-{}-a{attempt}.state", task.chain, task.subtask);
        let who = (job.to_owned(), task);
        let path = Path::from(format!("{job}/{name}"));
        let refused = |why: String| {
            Status::internal(format!("the state of task {task} of job {job} in epoch {epoch}: {why}"))
        };
        let on_disk = snapshot.parts.iter().any(|part| part.later.is_some());
        let sums = self.sums(snapshot).await?;
        let mut layout = file::Layout::new(epoch, &name);
        let known = {
            let known = self.known.lock();
            let known = known.get(&who).filter(|known| known.attempt == attempt);
            let last = known.and_then(|known| known.epochs.last_key_value());
            let last = last.filter(|(before, _)| **before < epoch).map(|(_, places)| places);
            let earlier = |earlier: u64| known.and_then(|k| k.epochs.get(&earlier));
            for (part, sums) in snapshot.parts.iter().zip(sums) {
                layout.part(part, sums, last, &earlier).map_err(refused)?;
            }
            last.filter(|_| on_disk).map(|last| last.of_later(snapshot))
        };
        let written = if on_disk {
            self.put_later(&path, snapshot, layout, known).await?
        } else {
            let mut written = layout.finish(snapshot).map_err(refused)?;
            let payload = PutPayload::from_iter(std::mem::take(&mut written.chunks));
            self.write(&path, payload, PutOptions::from(PutMode::Overwrite)).await?;
            written
        };
        let mut all = self.known.lock();
        if all.len() >= TASKS_KNOWN_MAX && !all.contains_key(&who) {
            // Whoever that was writes everything once more.
            all.pop_first();
        }
        let known = all.entry(who).or_default();
        if known.attempt != attempt {
            *known = Known { attempt, epochs: BTreeMap::new() };
        }
        known.epochs.insert(epoch, written.places);
        while known.epochs.len() > EPOCHS_KNOWN_MAX {
            known.epochs.pop_first();
        }
        Ok(CheckpointFile {
            task,
            name,
            bytes: written.bytes,
            crc32: written.crc32,
            refers: written.refers.into_iter().collect(),
            states: written.states,
        })
    }

    /// Makes an epoch complete.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when somebody else has, or had so long ago that its name is gone: this one is fenced.
    pub async fn commit(&self, manifest: &Manifest) -> Result<()> {
        self.probe_once().await?;
        self.create(&Self::manifest_path(&manifest.job, manifest.epoch), manifest).await?;
        self.refuse_of_long_ago(manifest).await?;
        self.retire_later(&manifest.job);
        Ok(())
    }

    /// The epochs of a job that a new attempt may start from, rising: complete checkpoints that are
    /// kept, and savepoints.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn epochs(&self, job: &str) -> Result<Vec<u64>> {
        let mut epochs = self.complete(job).await?;
        epochs.extend(self.savepoints(job).await?);
        epochs.sort_unstable();
        epochs.dedup();
        Ok(epochs)
    }

    /// The epochs whose checkpoints are kept, rising.
    async fn complete(&self, job: &str) -> Result<Vec<u64>> {
        self.numbered(&Path::from(format!("{job}/manifests"))).await
    }

    /// The epochs of a job that are savepoints, rising.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn savepoints(&self, job: &str) -> Result<Vec<u64>> {
        self.numbered(&Path::from(format!("{job}/savepoints"))).await
    }

    /// The numbers of objects named so, rising; those without content left out.
    async fn numbered(&self, prefix: &Path) -> Result<Vec<u64>> {
        let objects = self.by_number(prefix).await?.into_iter();
        Ok(objects.filter(|object| !object.is_empty).map(|object| object.number).collect())
    }

    /// The manifest of a checkpoint or a savepoint.
    ///
    /// # Errors
    /// `NOT_FOUND` without one; `DATA_LOSS` when it is damaged.
    pub async fn manifest(&self, job: &str, epoch: u64) -> Result<Manifest> {
        let path = Self::manifest_path(job, epoch);
        let retired = match self.get(&path).await {
            Ok(bytes) if bytes.is_empty() => true,
            Ok(bytes) => return self.parsed(&path, &bytes),
            Err(status) if status.code == Code::NotFound => false,
            Err(status) => return Err(status),
        };
        match self.json(&Self::savepoint_path(job, epoch)).await {
            Err(status) if status.code == Code::NotFound => {
                let why = if retired {
                    "has been deleted: newer ones are kept (`checkpoint.retain`)"
                } else {
                    "does not exist, was never complete, or was deleted long ago"
                };
                let text = format!("checkpoint {job}/{epoch} in {} {why}", self.place);
                Err(Status::not_found(text))
            }
            found => found,
        }
    }

    /// Reads a checkpoint or a savepoint back, every file and block against its checksum.
    ///
    /// # Errors
    /// `NOT_FOUND` without a manifest; `DATA_LOSS` when a file is missing or damaged: names it.
    pub async fn read(&self, job: &str, epoch: u64) -> Result<(Manifest, Restore)> {
        let manifest = self.manifest(job, epoch).await?;
        let mut snapshots = Vec::with_capacity(manifest.files.len() + manifest.finished.len());
        for file in &manifest.files {
            snapshots.push(self.read_file(job, file).await?);
        }
        snapshots.extend(manifest.finished.iter().cloned());
        Ok((manifest, Restore::new(snapshots)))
    }

    /// Reads what one task saved.
    async fn read_file(&self, job: &str, file: &CheckpointFile) -> Result<TaskSnapshot> {
        let path = Path::from(format!("{job}/{}", file.name));
        let bytes = self.get(&path).await.map_err(lost)?;
        let crc32 = crc32fast::hash(&bytes);
        if crc32 != file.crc32 || bytes.len() as u64 != file.bytes {
            let why = format!(
                "{} bytes with CRC-32 {crc32:08x}, expected {} with {:08x}",
                bytes.len(),
                file.bytes,
                file.crc32
            );
            return Err(damaged(&self.place, &path, &why));
        }
        let index = Index::of(&bytes).map_err(|why| damaged(&self.place, &path, &why))?;
        let mut elsewhere: BTreeMap<(String, u64), Bytes> = BTreeMap::new();
        for (name, blocks) in index.elsewhere() {
            let from = Path::from(format!("{job}/{name}"));
            let ranges: Vec<_> = blocks.iter().map(|block| block.range()).collect();
            let read = self.store.get_ranges(&from, &ranges).await;
            let read = read.map_err(|e| match failed(&self.place, &from, &e) {
                // A range beyond the end of a file that was cut off.
                status if !matches!(e, object_store::Error::NotFound { .. }) && !is_transient(&e) => {
                    damaged(&self.place, &from, &status.message)
                }
                status => lost(status),
            })?;
            for (block, bytes) in blocks.iter().zip(read) {
                if bytes.len() as u64 != block.bytes || crc32fast::hash(&bytes) != block.crc32 {
                    let why =
                        format!("the {} bytes from {} do not have their CRC-32", block.bytes, block.offset);
                    return Err(damaged(&self.place, &from, &why));
                }
                elsewhere.insert((name.to_owned(), block.offset), bytes);
            }
        }
        let parts = index.parts(|block| {
            let found = match &block.file {
                Some(file) => elsewhere.get(&(file.clone(), block.offset)).cloned(),
                None => {
                    let range = block.range();
                    let end = usize::try_from(range.end).ok().filter(|end| *end <= bytes.len());
                    end.map(|end| bytes.slice(range.start.min(end as u64) as usize..end))
                }
            };
            found.ok_or_else(|| format!("block {} lies outside of it", block.id))
        });
        let parts = parts.map_err(|why| damaged(&self.place, &path, &why))?;
        Ok(TaskSnapshot { parts, ..TaskSnapshot::new(index.epoch) })
    }

    pub(super) async fn create<V: Serialize>(&self, path: &Path, value: &V) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| Status::internal(format!("{path} cannot be encoded: {e}")))?;
        self.write(path, PutPayload::from(bytes), PutOptions::from(PutMode::Create)).await
    }

    /// Writes an object; what may pass is tried again.
    async fn write(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<()> {
        let mut wait = WRITE_BACKOFF;
        let mut tries = 1;
        loop {
            let put = self.store.put_opts(path, payload.clone(), options.clone()).await;
            let error = match put {
                Ok(_) => return self.sync(path).await,
                Err(error) => error,
            };
            // A create that was answered with an error may have come through: only a reader can tell,
            // and to be told that it exists already is the safe answer.
            let again = is_transient(&error) && !is_full(&error) && tries < WRITE_TRIES_MAX;
            if !again {
                return Err(failed(&self.place, path, &error));
            }
            tracing::warn!(place = %self.place, %path, %error, tries, "a write to the checkpoint storage is tried again");
            tokio::time::sleep(wait).await;
            wait *= 2;
            tries += 1;
        }
    }

    async fn exists(&self, path: &Path) -> Result<bool> {
        match self.store.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed(&self.place, path, &error)),
        }
    }

    pub(super) async fn json<V: DeserializeOwned>(&self, path: &Path) -> Result<V> {
        let bytes = self.get(path).await?;
        self.parsed(path, &bytes)
    }

    fn parsed<V: DeserializeOwned>(&self, path: &Path, bytes: &[u8]) -> Result<V> {
        serde_json::from_slice(bytes).map_err(|e| damaged(&self.place, path, &e.to_string()))
    }

    async fn get(&self, path: &Path) -> Result<Bytes> {
        let got = self.store.get(path).await.map_err(|e| failed(&self.place, path, &e))?;
        got.bytes().await.map_err(|e| failed(&self.place, path, &e))
    }
}

/// Whether the same request may do better later.
fn is_transient(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::JoinError { .. })
}

/// What is not there although a manifest says so.
fn lost(status: Status) -> Status {
    if status.code == Code::NotFound { Status::new(Code::DataLoss, status.message) } else { status }
}
