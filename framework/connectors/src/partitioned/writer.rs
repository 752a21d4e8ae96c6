//! Writes the files of one task.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use afflux_actor::Clock;
use afflux_stream::{Batch, IoContext, LAST_EPOCH, Result, Timestamp, TwoPhaseWriter};
use afflux_wire::Status;
use serde::{Deserialize, Serialize};

use super::PartitionedFiles;
use super::place::{By, Place, Span, check_partition};
use super::rows::Rows;
use crate::file::{Output, refused, sync_directory};

/// Files that a task has open; with more, the one that was longest not written to is closed.
pub const OPEN_FILES_MAX: usize = 128;

/// What a transaction of files does when its epoch is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pending {
    /// Gives a file its name.
    File {
        /// Its directory below the sink's.
        partition: String,
        /// Its name.
        file: String,
    },
    /// Removes an unfinished file whose rows stand in another.
    Obsolete {
        /// Its directory below the sink's.
        partition: String,
        /// The name it would have had.
        file: String,
    },
    /// All rows of the task before this moment are in files of this epoch or earlier ones.
    Reached {
        /// In milliseconds since 1970.
        watermark: i64,
        /// The task.
        subtask: u32,
        /// Of how many.
        parallelism: u32,
    },
}

/// A file that stays open over a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// Its directory below the sink's.
    pub partition: String,
    /// The name it will have.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32 of it.
    pub crc: u32,
    /// Its rows.
    pub rows: u64,
}

/// What a checkpoint keeps of a writer of files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedWriter {
    /// The files that are open.
    pub files: Vec<SavedFile>,
}

struct Open<T> {
    file: String,
    rows: Rows<T>,
    count: u64,
    since: Instant,
    /// The number of the last batch that came here.
    used: u64,
}

pub(super) struct Writer<T> {
    sink: PartitionedFiles<T>,
    place: Place,
    clock: Clock,
    open: BTreeMap<String, Open<T>>,
    /// What the next barrier makes durable.
    closed: Vec<Pending>,
    /// Directories with new names.
    touched: BTreeSet<String>,
    /// The partition of the last row.
    last: Option<(i64, String)>,
    number: u64,
    batches: u64,
    watermark: i64,
    /// What the last transaction said of it.
    told: i64,
    late: u64,
}

impl<T> Writer<T> {
    pub(super) fn open(
        sink: PartitionedFiles<T>,
        place: Place,
        states: Vec<SavedWriter>,
        cx: &IoContext,
    ) -> Result<Self> {
        let mut writer = Self {
            sink,
            place,
            clock: cx.clock.clone(),
            open: BTreeMap::new(),
            closed: Vec::new(),
            touched: BTreeSet::new(),
            last: None,
            number: 0,
            batches: 0,
            watermark: i64::MIN,
            told: i64::MIN,
            late: 0,
        };
        let kept: BTreeSet<String> =
            states.iter().flat_map(|state| state.files.iter().map(|file| file.file.clone())).collect();
        writer.remove_leftovers(&kept)?;
        for saved in states.into_iter().flat_map(|state| state.files) {
            let old = writer.place.part(&saved.partition, &saved.file);
            // Two old tasks may have had the same partition open.
            writer.close(&saved.partition.clone())?;
            writer.begin(&saved.partition, Some((&old, (saved.bytes, saved.crc), saved.rows)))?;
            // Needed until an epoch is durable that has the copy.
            writer.closed.push(Pending::Obsolete { partition: saved.partition, file: saved.file });
        }
        Ok(writer)
    }

    /// Removes what earlier attempts wrote for this task behind the checkpoint.
    fn remove_leftovers(&self, kept: &BTreeSet<String>) -> Result<()> {
        let mut open = vec![self.place.root.clone()];
        while let Some(directory) = open.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries {
                let entry = entry.map_err(|e| refused("list", &directory, &e))?;
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(path);
                    continue;
                }
                let name = entry.file_name();
                let Some(writing) = name.to_str().and_then(|name| self.place.writing(name)) else { continue };
                let mine = writing.subtask % self.place.parallelism == self.place.subtask;
                if mine && writing.attempt < self.place.attempt && !kept.contains(&writing.file) {
                    fs::remove_file(&path).map_err(|e| refused("remove", &path, &e))?;
                }
            }
        }
        Ok(())
    }

    /// Begins a file, with what a checkpoint had seen written to another one.
    fn begin(&mut self, partition: &str, from: Option<(&Path, (u64, u32), u64)>) -> Result<()> {
        let directory = self.place.partition(partition);
        fs::create_dir_all(&directory).map_err(|e| refused("make the directory", &directory, &e))?;
        self.number += 1;
        let file = self.place.file(self.number);
        let part = self.place.part(partition, &file);
        let written = from.map(|(old, written, _)| (old, written));
        let output = Output::create(self.place.committed(partition, &file), part, written)?;
        let opened = Open {
            file,
            rows: Rows::new(output, self.sink.format),
            count: from.map_or(0, |(.., rows)| rows),
            since: self.clock.now(),
            used: self.batches,
        };
        self.touched.insert(partition.to_owned());
        self.open.insert(partition.to_owned(), opened);
        Ok(())
    }

    /// Closes the file of a partition, if there is one: the next barrier makes it durable.
    fn close(&mut self, partition: &str) -> Result<()> {
        if let Some(mut open) = self.open.remove(partition) {
            open.rows.persist()?;
            self.closed.push(Pending::File { partition: partition.to_owned(), file: open.file.clone() });
        }
        Ok(())
    }

    fn close_idlest(&mut self) -> Result<()> {
        let idlest =
            self.open.iter().min_by_key(|(_, open)| open.used).map(|(partition, _)| partition.clone());
        idlest.map_or(Ok(()), |partition| self.close(&partition))
    }

    /// The partition of a row goes into `last`.
    fn find(&mut self, row: &T, time: Option<i64>) -> Result<()> {
        let Some(span) = self.sink.by.length() else {
            if let By::Row(partition_of) = &self.sink.by {
                let partition = partition_of(row);
                if self.last.as_ref().is_none_or(|(_, last)| *last != partition) {
                    check_partition(&partition)?;
                    self.last = Some((0, partition));
                }
            }
            return Ok(());
        };
        let time = time.ok_or_else(|| {
            Status::precondition(
                "records without event time have no partition of it: give the source `.watermarks(…)`, or the sink \
                 `.partition_by(…)`",
            )
        })?;
        let start = span.start_of(time);
        if self.last.as_ref().is_none_or(|(last, _)| *last != start) {
            self.last = Some((start, span.directory(start)));
        }
        if self.sink.lateness.is_some() && self.is_complete(span, start) {
            if self.late == 0 {
                tracing::warn!(
                    directory = %self.place.root.display(), partition = %span.directory(start),
                    "a row came behind the completion of its partition; it is written, and further ones are \
                     counted at the end"
                );
            }
            self.late += 1;
        }
        Ok(())
    }

    fn is_complete(&self, span: Span, start: i64) -> bool {
        span.complete_at(start, self.sink.lateness.unwrap_or_default()) <= self.watermark
    }

    fn put(&mut self, row: &T) -> Result<()> {
        let Some((start, partition)) = self.last.take() else { return Ok(()) };
        if !self.open.contains_key(&partition) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.close_idlest()?;
            }
            self.begin(&partition, None)?;
        }
        let mut full = false;
        if let Some(open) = self.open.get_mut(&partition) {
            open.rows.put(row)?;
            open.count += 1;
            open.used = self.batches;
            full = open.count >= self.sink.roll_rows || open.rows.output().bytes() >= self.sink.roll_bytes;
        }
        if full {
            self.close(&partition)?;
        }
        self.last = Some((start, partition));
        Ok(())
    }
}

impl<T: Send> TwoPhaseWriter<T, Pending, SavedWriter> for Writer<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.batches += 1;
        for (index, row) in batch.rows.iter().enumerate() {
            self.find(row, batch.times.get(index).copied())?;
            self.put(row)?;
        }
        batch.clear();
        Ok(())
    }

    fn watermark(&mut self, watermark: Timestamp) -> Result<()> {
        self.watermark = self.watermark.max(watermark.millis());
        Ok(())
    }

    fn prepare(&mut self, epoch: u64) -> Result<Vec<Pending>> {
        let (now, last) = (self.clock.now(), epoch == LAST_EPOCH);
        if last {
            self.watermark = i64::MAX;
            if self.late > 0 {
                tracing::warn!(
                    directory = %self.place.root.display(), rows = self.late,
                    "rows came behind the completion of their partitions"
                );
            }
        }
        let span = self.sink.by.length();
        let over: Vec<String> = self
            .open
            .iter()
            .filter(|(partition, open)| {
                let start = span.and_then(|span| Some((span, span.start(partition)?)));
                last || now.duration_since(open.since) >= self.sink.roll_after
                    || start.is_some_and(|(span, start)| self.is_complete(span, start))
            })
            .map(|(partition, _)| partition.clone())
            .collect();
        for partition in over {
            self.close(&partition)?;
        }
        // The names are durable with their directories, and those with the ones above them.
        let mut directories = BTreeSet::new();
        for partition in std::mem::take(&mut self.touched) {
            let mut directory = self.place.partition(&partition);
            while directories.insert(directory.clone()) && directory != self.place.root {
                match directory.parent() {
                    Some(parent) => directory = parent.to_owned(),
                    None => break,
                }
            }
        }
        if !directories.is_empty() {
            directories.extend(self.place.root.parent().map(Path::to_owned));
        }
        for directory in &directories {
            sync_directory(directory)?;
        }
        if self.sink.lateness.is_some() && self.watermark > self.told {
            self.told = self.watermark;
            self.closed.push(Pending::Reached {
                watermark: self.watermark,
                subtask: self.place.subtask,
                parallelism: self.place.parallelism,
            });
        }
        Ok(std::mem::take(&mut self.closed))
    }

    fn state(&mut self) -> Result<SavedWriter> {
        let files = self.open.iter_mut().map(|(partition, open)| {
            let (bytes, crc) = open.rows.persist()?;
            Ok(SavedFile {
                partition: partition.clone(),
                file: open.file.clone(),
                bytes,
                crc,
                rows: open.count,
            })
        });
        Ok(SavedWriter { files: files.collect::<Result<_>>()? })
    }
}
