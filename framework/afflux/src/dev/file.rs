//! `.afflux/dev.json`: how other commands in the same directory find the cluster that `dev` runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where `dev` keeps what it writes, below the directory it was started in.
pub const DIRECTORY: &str = ".afflux";

/// A cluster on this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DevFile {
    /// Process of the launcher.
    pub pid: u32,
    /// Address of the launcher, which holds the registry.
    pub launcher: String,
    /// The cluster's name.
    pub cluster: String,
    /// The secret that its members know.
    pub token: String,
    /// The pipeline it was started for; empty when there is none.
    pub pipeline: String,
    /// Its node processes.
    pub nodes: Vec<DevNode>,
}

/// A node process of a [`DevFile`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DevNode {
    /// Its name.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Its node port.
    pub address: String,
    /// Its admin HTTP port; empty when it has none.
    pub admin: String,
}

impl DevFile {
    /// The file of a directory.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join("dev.json")
    }

    /// Writes the file whole or not at all, readable by its owner only: it holds the token.
    ///
    /// # Errors
    /// A directory that cannot be written to.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = Self::path(directory);
        let fresh = directory.join(format!("dev.json.{}", self.pid));
        let failed =
            |error: std::io::Error| Error::failed(format!("cannot write {}: {error}", path.display()));
        std::fs::create_dir_all(directory).map_err(failed)?;
        let text = serde_json::to_vec_pretty(self)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&fresh).and_then(|mut file| file.write_all(&text)).map_err(failed)?;
        std::fs::rename(&fresh, &path).map_err(failed)
    }

    /// The cluster of a directory, or nothing when none was started there.
    ///
    /// # Errors
    /// A file that cannot be read, or whose launcher is gone.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = Self::path(directory);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::failed(format!("cannot read {}: {error}", path.display()))),
        };
        let file: Self = serde_json::from_slice(&text)
            .map_err(|error| Error::failed(format!("{} is damaged: {error}", path.display())))?;
        if !is_alive(file.pid) {
            return Err(Error::failed(format!(
                "the cluster of {} is gone: its launcher, process {}, has ended",
                path.display(),
                file.pid
            ))
            .hint("start one with `dev --hold`, or name a node with `--address HOST:PORT`"));
        }
        Ok(Some(file))
    }

    /// Removes the file if it is still that of launcher `pid`.
    pub fn remove(directory: &Path, pid: u32) {
        let path = Self::path(directory);
        let ours = std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice::<Self>(&text).ok())
            .is_some_and(|file| file.pid == pid);
        if ours && let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove the file of this cluster");
        }
    }
}

/// Whether a process exists; where there is no `/proc`, it is believed to.
fn is_alive(pid: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_this_process() -> DevFile {
        DevFile { pid: std::process::id(), launcher: "127.0.0.1:1".into(), ..DevFile::default() }
    }

    #[test]
    fn what_was_written_is_read_again_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join(DIRECTORY);
        assert_eq!(DevFile::read(&directory).unwrap(), None);
        of_this_process().write(&directory).unwrap();
        assert_eq!(DevFile::read(&directory).unwrap(), Some(of_this_process()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(DevFile::path(&directory)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_file_of_a_launcher_that_is_gone_is_an_error_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        // Process ids end at 4,194,304 on Linux.
        DevFile { pid: 4_194_305, ..of_this_process() }.write(dir.path()).unwrap();
        let error = DevFile::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("process 4194305, has ended") && error.contains("dev --hold"), "{error}");
    }

    #[test]
    fn only_the_launcher_that_wrote_the_file_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        of_this_process().write(dir.path()).unwrap();
        DevFile::remove(dir.path(), 1);
        assert!(DevFile::path(dir.path()).exists());
        DevFile::remove(dir.path(), std::process::id());
        assert!(!DevFile::path(dir.path()).exists());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(DevFile::path(dir.path()), "{").unwrap();
        assert!(DevFile::read(dir.path()).unwrap_err().to_string().contains("dev.json is damaged"));
    }
}
