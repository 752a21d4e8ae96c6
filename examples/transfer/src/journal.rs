//! An append-only file of JSON lines: what is in it has happened, also after a crash.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use afflux::prelude::*;
use serde::de::DeserializeOwned;

/// Entries of one kind, oldest first.
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// Opens a journal, and reads what it holds.
    pub(crate) fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>)> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut entries = Vec::new();
        for line in BufReader::new(&file).lines() {
            // A line that was cut by a crash was never relied upon.
            let Ok(entry) = serde_json::from_str(&line?) else { break };
            entries.push(entry);
        }
        Ok((Self { file }, entries))
    }

    /// Returns once the entry is on the disk.
    pub(crate) fn append<T: Serialize>(&mut self, entry: &T) -> Result<(), Status> {
        let line = serde_json::to_string(entry).map_err(|error| Status::internal(error.to_string()))? + "\n";
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|error| Status::unavailable(format!("the journal takes nothing: {error}")))
    }
}
