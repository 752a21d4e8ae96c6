//! Whether a process has the place that it is meant to have.

use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};

use afflux_wire::{Attempt, Code, Status};

use super::{Storage, failed, is_transient};
use crate::Result;

/// Tries to write what is read back.
const REACH_TRIES_MAX: u32 = 8;

impl Storage {
    /// Writes a nonce, reads it back and deletes it: a process that has no access to the place learns it
    /// here, and not from the first checkpoint. `who` and `nonce` together are an object's name.
    ///
    /// # Errors
    /// Why it could not be written or read; `FAILED_PRECONDITION` when something else was read.
    pub async fn reach(&self, who: &str, nonce: &str) -> Result<()> {
        let path = Path::from(format!(".afflux/reach/{who}-{nonce}"));
        let written = format!("{who} {nonce}");
        let said = |error| failed(&self.place, &path, &error);
        let options = PutOptions::from(PutMode::Overwrite);
        // Not flushed to the disk: it is a question, and nobody keeps the answer. It is tried again since another
        // process that has asked just now takes the directory away with its own question, if that is the last.
        let mut tries = 1;
        while let Err(error) =
            self.store.put_opts(&path, PutPayload::from(written.clone()), options.clone()).await
        {
            if tries == REACH_TRIES_MAX || !is_transient(&error) {
                return Err(said(error));
            }
            tries += 1;
        }
        let read = self.get(&path).await?;
        if let Err(error) = self.store.delete(&path).await {
            tracing::warn!(place = %self.place, %path, %error, "what was written to try the storage stays");
        }
        if read != written.as_bytes() {
            return Err(Status::precondition(format!(
                "checkpoint storage {}/{path} gave {} bytes that nobody wrote there, and not what was written: \
                 it has to give what it was given last",
                self.place,
                read.len()
            )));
        }
        Ok(())
    }

    /// Sees whether this process has the same place as the coordinator, which has written there what the
    /// job is, and whether it can write there itself.
    ///
    /// # Errors
    /// Those of [`Storage::reach`]. Where the job is not to be seen: `FAILED_PRECONDITION` of a job's
    /// first attempt, which nothing will mend; `UNAVAILABLE` of a later one, which other nodes may run.
    pub async fn reach_job(&self, node: &str, job: &str, attempt: Attempt) -> Result<()> {
        if !self.exists(&Self::spec_path(job)).await? {
            let code = if attempt.0 > 1 { Code::Unavailable } else { Code::FailedPrecondition };
            return Err(Status::new(
                code,
                format!(
                    "node {node} does not see {job}/JOB.json in {}, which the coordinator has written: all nodes \
                     need one checkpoint storage, a bucket or a directory that they share (`checkpoint.url`)",
                    self.place
                ),
            ));
        }
        self.reach(node, &format!("{job}-{}", attempt.0)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;

    #[tokio::test]
    async fn a_place_that_can_be_written_and_read_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::directory(dir.path()).unwrap();
        storage.reach("node-1", "7").await.unwrap();
        assert!(storage.jobs().await.unwrap().is_empty());
        assert!(!dir.path().join(".afflux/reach/node-1-7").exists());
    }

    #[tokio::test]
    async fn processes_that_ask_at_once_do_not_take_the_place_from_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::directory(dir.path()).unwrap();
        let asking = (0..4).map(|node| {
            let storage = storage.clone();
            tokio::spawn(async move {
                for nonce in 0..200 {
                    storage.reach(&format!("node-{node}"), &nonce.to_string()).await.unwrap();
                }
            })
        });
        for asked in futures_util::future::join_all(asking).await {
            asked.unwrap();
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::directory(dir.path()).unwrap();
        // A file where the directory of the question would be: root may write everywhere else.
        std::fs::write(dir.path().join(".afflux"), "in the way").unwrap();
        let error = storage.reach("node-1", "7").await.unwrap_err();
        assert!(error.message.contains(&dir.path().display().to_string()), "{error}");
    }

    #[tokio::test]
    async fn who_has_another_place_than_the_coordinator_does_not_see_the_job() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) =
            (Storage::directory(ours.path()).unwrap(), Storage::directory(theirs.path()).unwrap());
        let spec = JobSpec { job: "p-1".into(), pipeline: "p".into(), ..JobSpec::default() };
        ours.create_job(&spec).await.unwrap();
        ours.reach_job("node-1", "p-1", Attempt(1)).await.unwrap();
        let first = theirs.reach_job("node-2", "p-1", Attempt(1)).await.unwrap_err();
        assert_eq!(first.code, Code::FailedPrecondition);
        for part in ["node-2", "p-1/JOB.json", "checkpoint.url"] {
            assert!(first.message.contains(part), "{first}");
        }
        let later = theirs.reach_job("node-2", "p-1", Attempt(2)).await.unwrap_err();
        assert_eq!(later.code, Code::Unavailable, "other nodes may run it");
    }
}
