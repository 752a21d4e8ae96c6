//! Gives files their names, and marks partitions that are complete.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use afflux_stream::{Committer, Result, Transaction};
use afflux_wire::{Code, Status};

use super::place::{Place, Span};
use super::writer::Pending;
use super::{EMPTY_PARTITIONS_MAX, SUCCESS_MARKER};
use crate::file::{refused, shown, sync_directory};

pub(super) struct FileCommitter {
    place: Place,
    /// Of partitions of event time: their length, and how late a row may be.
    marks: Option<(Span, Duration)>,
    fill: bool,
    may_be_moved: bool,
}

impl FileCommitter {
    pub(super) fn new(place: Place, marks: Option<(Span, Duration)>, fill: bool, may_be_moved: bool) -> Self {
        Self { place, marks, fill, may_be_moved }
    }

    /// Gives a file its name; what is done already stays so.
    fn name(&self, partition: &str, file: &str) -> Result<()> {
        let (part, committed) = (self.place.part(partition, file), self.place.committed(partition, file));
        if committed.exists() {
            return Ok(());
        }
        match fs::rename(&part, &committed) {
            Ok(()) => Ok(()),
            // Another attempt may have been here in between.
            Err(error)
                if error.kind() == ErrorKind::NotFound && (self.may_be_moved || committed.exists()) =>
            {
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Status::new(
                Code::DataLoss,
                format!(
                    "{} is gone, and so is {}, which would become it: somebody has moved or removed one of them. \
                     Bring it back; where readers take files away, say `.may_be_moved()`",
                    shown(&committed),
                    shown(&part)
                ),
            )),
            Err(error) => Err(refused("rename", &part, &error)),
        }
    }

    fn commit(&self, due: &[Transaction<Pending>]) -> Result<()> {
        let mut directories = BTreeSet::new();
        for transaction in due {
            match &transaction.committable {
                Pending::File { partition, file } => {
                    self.name(partition, file)?;
                    directories.insert(self.place.partition(partition));
                }
                Pending::Obsolete { partition, file } => {
                    let part = self.place.part(partition, file);
                    match fs::remove_file(&part) {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            return Err(refused("remove", &part, &error));
                        }
                        _ => {}
                    }
                }
                Pending::Reached { .. } => {}
            }
        }
        for directory in &directories {
            sync_directory(directory)?;
        }
        // The files come first, so that a marker never stands beside one that is missing.
        let mut marked = BTreeSet::new();
        for transaction in due {
            if let Pending::Reached { watermark, subtask, parallelism } = transaction.committable {
                self.tell(watermark, subtask, parallelism)?;
                marked.insert(parallelism);
            }
        }
        for parallelism in marked {
            if let Some(least) = self.least(parallelism)? {
                self.mark(least)?;
            }
        }
        Ok(())
    }

    /// Writes down how far a task's committed files go.
    fn tell(&self, watermark: i64, subtask: u32, parallelism: u32) -> Result<()> {
        let path = self.place.progress(subtask, parallelism);
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(|e| refused("make the directory", directory, &e))?;
        let fresh = path.with_extension(format!("new-{}", self.place.attempt));
        let written = fs::write(&fresh, watermark.to_string()).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|e| refused("write", &path, &e))
    }

    /// How far the committed files of all tasks go, once each has told.
    fn least(&self, parallelism: u32) -> Result<Option<i64>> {
        let mut least = i64::MAX;
        for subtask in 0..parallelism {
            let path = self.place.progress(subtask, parallelism);
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(refused("read", &path, &error)),
            };
            let Ok(watermark) = text.trim().parse::<i64>() else { return Ok(None) };
            least = least.min(watermark);
        }
        Ok(Some(least))
    }

    /// Marks the partitions that are complete.
    fn mark(&self, watermark: i64) -> Result<()> {
        let Some((span, lateness)) = self.marks else {
            if watermark == i64::MAX {
                for directory in self.with_files()? {
                    put_marker(&directory)?;
                }
            }
            return Ok(());
        };
        let mut starts: BTreeSet<i64> = BTreeSet::new();
        for directory in directories(&self.place.root, span.depth())? {
            let below = directory.strip_prefix(&self.place.root).ok().and_then(Path::to_str);
            starts.extend(below.and_then(|below| span.start(below)));
        }
        if self.fill
            && let (Some(&first), Some(&last)) = (starts.first(), starts.last())
        {
            // Those that are not over yet are empty for now, and not for good.
            let missing =
                (last.saturating_sub(first) / span.0).unsigned_abs().saturating_sub(starts.len() as u64);
            if missing > EMPTY_PARTITIONS_MAX {
                tracing::warn!(
                    directory = %self.place.root.display(), missing,
                    "partitions without rows are not made: there are more than {EMPTY_PARTITIONS_MAX}"
                );
            } else {
                let all = std::iter::successors(Some(first), |start| start.checked_add(span.0));
                starts.extend(all.take_while(|start| *start <= last));
            }
        }
        for start in starts {
            if span.complete_at(start, lateness) <= watermark {
                put_marker(&self.place.partition(&span.directory(start)))?;
            }
        }
        Ok(())
    }

    /// The directories with files of this sink.
    fn with_files(&self) -> Result<Vec<PathBuf>> {
        let (mut open, mut found) = (vec![self.place.root.clone()], Vec::new());
        while let Some(directory) = open.pop() {
            let mut files = false;
            for entry in fs::read_dir(&directory).map_err(|e| refused("list", &directory, &e))? {
                let entry = entry.map_err(|e| refused("list", &directory, &e))?;
                let hidden = entry.file_name().to_string_lossy().starts_with(['.', '_']);
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if !hidden {
                        open.push(entry.path());
                    }
                } else {
                    files |= !hidden;
                }
            }
            if files && directory != self.place.root {
                found.push(directory);
            }
        }
        Ok(found)
    }
}

/// The directories so many levels below one.
fn directories(root: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let mut level = vec![root.to_owned()];
    for _ in 0..depth {
        let mut next = Vec::new();
        for directory in level {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(refused("list", &directory, &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| refused("list", &directory, &e))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    next.push(entry.path());
                }
            }
        }
        level = next;
    }
    Ok(level)
}

fn put_marker(directory: &Path) -> Result<()> {
    let marker = directory.join(SUCCESS_MARKER);
    if marker.exists() {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(|e| refused("make the directory", directory, &e))?;
    let made = File::create(&marker).and_then(|file| file.sync_all());
    made.map_err(|e| refused("write", &marker, &e))?;
    sync_directory(directory)
}

impl Committer<Pending> for FileCommitter {
    fn poll_commit(&mut self, due: &mut Vec<Transaction<Pending>>, _: &mut Context<'_>) -> Poll<Result<()>> {
        let committed = self.commit(due);
        if committed.is_ok() {
            due.clear();
        }
        Poll::Ready(committed)
    }
}
