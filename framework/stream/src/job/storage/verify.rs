//! Whether what is kept can be read.

use serde::Serialize;

use afflux_wire::Code;

use super::{CheckpointFile, Storage};
use crate::Result;
use crate::snapshot::{Content, TaskSnapshot, walk};

/// What is wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The epoch.
    pub epoch: u64,
    /// What is missing or damaged, with its name.
    pub what: String,
}

impl Storage {
    /// Reads a checkpoint or a savepoint whole, to its last row: everything that is wrong with it.
    ///
    /// # Errors
    /// `NOT_FOUND` without a manifest; `UNAVAILABLE` when the storage does not answer.
    pub async fn verify(&self, job: &str, epoch: u64) -> Result<Vec<Damage>> {
        let manifest = match self.manifest(job, epoch).await {
            Ok(manifest) => manifest,
            Err(status) if status.code == Code::DataLoss => {
                return Ok(vec![Damage { epoch, what: status.message }]);
            }
            Err(status) => return Err(status),
        };
        let mut damages = Vec::new();
        for file in &manifest.files {
            let wrong = match self.read_file(job, file).await {
                Ok(snapshot) => self.wrong_rows(job, file, &snapshot),
                Err(status) if status.code == Code::DataLoss => Some(status.message),
                Err(status) => return Err(status),
            };
            damages.extend(wrong.map(|what| Damage { epoch, what }));
        }
        Ok(damages)
    }

    fn wrong_rows(&self, job: &str, file: &CheckpointFile, snapshot: &TaskSnapshot) -> Option<String> {
        for part in &snapshot.parts {
            for block in &part.blocks {
                let Content::Rows { schema, bytes } = &block.content else { continue };
                if let Err(why) = walk(schema, bytes) {
                    return Some(format!(
                        "checkpoint file {}/{job}/{}: state `{}` of operator `{}`: {why}",
                        self.place, file.name, part.state, part.operator
                    ));
                }
            }
        }
        None
    }

    /// The newest checkpoint of a job that can be read whole, and those after it that cannot.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the storage does not answer.
    pub async fn latest_readable(&self, job: &str) -> Result<(Option<u64>, Vec<Damage>)> {
        let mut damages = Vec::new();
        for epoch in self.epochs(job).await?.into_iter().rev() {
            match self.verify(job, epoch).await {
                Ok(wrong) if wrong.is_empty() => return Ok((Some(epoch), damages)),
                Ok(wrong) => damages.extend(wrong),
                // Retired meanwhile.
                Err(status) if status.code == Code::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        Ok((None, damages))
    }
}
