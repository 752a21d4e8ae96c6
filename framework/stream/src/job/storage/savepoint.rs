//! Checkpoints that are kept until somebody deletes them, with all their files.

use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use afflux_wire::{Code, Status};

use super::{CheckpointFile, Manifest, Storage, file};
use crate::Result;

impl Storage {
    /// Makes a savepoint of a complete checkpoint: a copy that refers to no other file and that no
    /// retention deletes. Each file is verified on the way. A savepoint that is there already stays.
    ///
    /// # Errors
    /// `NOT_FOUND` without that checkpoint; `DATA_LOSS` when it is damaged; else what cannot be written.
    pub async fn savepoint(&self, job: &str, epoch: u64) -> Result<Manifest> {
        let manifest = self.manifest(job, epoch).await?;
        let mut files = Vec::with_capacity(manifest.files.len());
        for old in &manifest.files {
            let snapshot = self.read_file(job, old).await?;
            let name = format!("savepoint-{epoch:08}/{}-{}.state", old.task.chain, old.task.subtask);
            let written = file::lay_out(&snapshot, &name, None, |_| None).map_err(Status::internal)?;
            let path = Path::from(format!("{job}/{name}"));
            let options = PutOptions::from(PutMode::Overwrite);
            self.write(&path, PutPayload::from_iter(written.chunks), options).await?;
            let (bytes, crc32, states) = (written.bytes, written.crc32, written.states);
            files.push(CheckpointFile { task: old.task, name, bytes, crc32, refers: Vec::new(), states });
        }
        let savepoint = Manifest { files, ..manifest };
        match self.create(&Self::savepoint_path(job, epoch), &savepoint).await {
            Err(status) if status.code != Code::AlreadyExists => Err(status),
            _ => Ok(savepoint),
        }
    }
}
