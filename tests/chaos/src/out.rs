//! The committed files, read as they come and taken away.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ledger::Ledger;
use crate::pipeline::{OUT, Row};

/// A file of a task: the order of these is that in which a task commits them, and nothing of an attempt is
/// committed behind something of a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    attempt: u64,
    subtask: u32,
    number: u64,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    /// The last attempt that has written anything, committed or not; 0: none.
    pub(crate) attempt: u64,
    /// When the source gave the newest record that was committed since the last look; 0: none was.
    pub(crate) made_ms: i64,
}

/// The directory of the files.
pub(crate) struct Out {
    directory: PathBuf,
    attempt: u64,
}

impl Out {
    /// That of nodes with this working directory.
    pub(crate) fn of(directory: &Path) -> Self {
        Self { directory: directory.join(OUT), attempt: 0 }
    }

    /// Hands all that was committed since the last look to the ledger.
    ///
    /// # Errors
    /// A file that cannot be listed, read or removed.
    pub(crate) fn look(&mut self, ledger: &mut Ledger) -> io::Result<Look> {
        let first = self.list()?;
        let mut look = Look { attempt: self.attempt, made_ms: 0 };
        if first.is_empty() {
            return Ok(look);
        }
        // A listing may miss a file that was named meanwhile and have a later one of the same task. All in front
        // of what the first has were there before the second began, and all of earlier attempts.
        let mut last: BTreeMap<u32, Place> = BTreeMap::new();
        let mut attempt = 0;
        for place in first.keys() {
            last.insert(place.subtask, *place);
            attempt = place.attempt;
        }
        for (place, path) in self.list()? {
            let in_front = last.get(&place.subtask).is_some_and(|last| place <= *last);
            if !in_front && place.attempt >= attempt {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for line in fs::read_to_string(&path)?.lines() {
                match serde_json::from_str::<Row>(line) {
                    Ok(row) => {
                        look.made_ms = look.made_ms.max(row.made_ms);
                        ledger.take(&name, &row);
                    }
                    Err(error) => ledger.examples.push(format!("{name}: `{line}` is no row: {error}")),
                }
            }
            fs::remove_file(&path)?;
        }
        look.attempt = self.attempt;
        Ok(look)
    }

    /// The files that are committed; notes the attempts of the others, too.
    fn list(&mut self) -> io::Result<BTreeMap<Place, PathBuf>> {
        let mut files = BTreeMap::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(place) = place_of(name.trim_start_matches('.')) {
                self.attempt = self.attempt.max(place.attempt);
                if !name.starts_with('.') {
                    files.insert(place, path);
                }
            }
        }
        Ok(files)
    }
}

/// Reads `rows-5f1c09aa-ATTEMPT-TASK-NUMBER.ndjson`.
fn place_of(name: &str) -> Option<Place> {
    let mut parts = name.split_once('.')?.0.split('-').skip(2);
    let attempt = parts.next()?.parse().ok()?;
    let subtask = parts.next()?.parse().ok()?;
    let number = parts.next()?.parse().ok()?;
    Some(Place { attempt, subtask, number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_the_order_of_their_task_and_unfinished_ones_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join(OUT);
        fs::create_dir_all(&out).unwrap();
        let row = |index: u64| {
            let row = Row { key: 1, count: index + 1, split: 0, index, made_ms: 5 + index as i64 };
            serde_json::to_string(&row).unwrap() + "\n"
        };
        // The key has moved to another task with the second attempt.
        fs::write(out.join("rows-0a-2-3-000001.ndjson"), row(2)).unwrap();
        fs::write(out.join("rows-0a-1-4-000010.ndjson"), row(1)).unwrap();
        fs::write(out.join("rows-0a-1-4-000009.ndjson"), row(0)).unwrap();
        fs::write(out.join(".rows-0a-3-0-000001.ndjson.part"), "").unwrap();
        let (mut ledger, mut reader) = (Ledger::default(), Out::of(dir.path()));
        let look = reader.look(&mut ledger).unwrap();
        assert_eq!((ledger.rows, look.attempt, look.made_ms), (3, 3, 7));
        assert!(ledger.is_right(), "{:?}", ledger.examples);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "what was read is gone");
        assert_eq!(reader.look(&mut ledger).unwrap().made_ms, 0);
    }
}
