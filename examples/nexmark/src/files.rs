//! Files in partitions by minute, rolled over when they are full, with a marker in each finished partition.
//!
//! ```text
//! DIR/day=2015-07-15/minute=00-03/part-0-1.jsonl        committed: it never changes again
//! DIR/day=2015-07-15/minute=00-03/.part-0-2.jsonl.open  being written, or not yet durable
//! DIR/day=2015-07-15/minute=00-02/_SUCCESS              no row comes into this partition any more
//! ```
//!
//! A file gets its name when the epoch in which it was closed is durable, or at the end; a restore cuts the
//! open files to what the checkpoint knows of. So each row stands in exactly one committed file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use afflux::prelude::*;
use afflux_stream::{Batch, IoContext, Sink, SinkWriter};
use serde::de::DeserializeOwned;

/// The name of the marker.
pub const MARKER: &str = "_SUCCESS";
/// How names of files that may still change end.
const OPEN: &str = ".open";

type Done<T = ()> = std::result::Result<T, Status>;

/// The partition that holds a moment: one minute.
pub fn partition_of(moment: Timestamp) -> Timestamp {
    Tumbling::of(minutes(1)).window_of(moment).start
}

/// A sink of rows in files. All rows of a partition must reach one task, which alone knows when the
/// partition is finished: deal them out by [`partition_of`].
pub struct PartitionedFiles {
    directory: PathBuf,
    rows_max: u64,
}

impl PartitionedFiles {
    /// Files below a directory, of this many rows at most.
    pub fn below(directory: impl Into<PathBuf>, rows_max: u64) -> Self {
        Self { directory: directory.into(), rows_max: rows_max.max(1) }
    }
}

impl<T: Event + Serialize + DeserializeOwned + Send + 'static> Sink<T> for PartitionedFiles {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Done<Box<dyn SinkWriter<T>>> {
        let place = Place { directory: self.directory.clone(), subtask: cx.subtask };
        let saved = match state {
            None => Saved::default(),
            Some(state) => serde_json::from_slice(state).map_err(|error| {
                Status::new(Code::DataLoss, format!("the saved state of the files cannot be read: {error}"))
            })?,
        };
        Ok(Box::new(Writer::open(place, self.rows_max, saved)?))
    }

    fn kind(&self) -> &'static str {
        "partitioned-files"
    }

    fn target(&self) -> Option<String> {
        Some(self.directory.display().to_string())
    }
}

/// A file of a task: its partition (ms) and its number there.
type FileId = (i64, u64);

/// Where a task writes.
struct Place {
    directory: PathBuf,
    subtask: u32,
}

impl Place {
    fn partition(&self, partition: i64) -> PathBuf {
        let name = Timestamp::from_millis(partition).to_string();
        let (day, time) = name.split_once('T').unwrap_or((&name, ""));
        let minute = time.get(..5).unwrap_or("").replace(':', "-");
        self.directory.join(format!("day={day}")).join(format!("minute={minute}"))
    }

    fn committed(&self, (partition, number): FileId) -> PathBuf {
        self.partition(partition).join(format!("part-{}-{number}.jsonl", self.subtask))
    }

    fn open(&self, (partition, number): FileId) -> PathBuf {
        self.partition(partition).join(format!(".part-{}-{number}.jsonl{OPEN}", self.subtask))
    }
}

fn failed(path: &Path, what: &str, error: impl std::fmt::Display) -> Status {
    Status::internal(format!("{}: cannot be {what}: {error}", path.display()))
}

/// What is finished: files to be given their names, partitions to be marked.
#[derive(Serialize, Deserialize, Clone, Default)]
struct Finished {
    files: Vec<FileId>,
    partitions: BTreeSet<i64>,
}

impl Finished {
    fn append(&mut self, later: &mut Finished) {
        self.files.append(&mut later.files);
        self.partitions.append(&mut later.partitions);
    }

    /// Does it; what is done already stays so.
    fn commit(&self, place: &Place) -> Done {
        for id in &self.files {
            let (open, committed) = (place.open(*id), place.committed(*id));
            if open.exists() {
                fs::rename(&open, &committed).map_err(|e| failed(&open, "given its name", e))?;
            } else if !committed.exists() {
                return Err(Status::new(Code::DataLoss, format!("{}: is gone", committed.display())));
            }
        }
        for partition in &self.partitions {
            let marker = place.partition(*partition).join(MARKER);
            File::create(&marker).map_err(|e| failed(&marker, "made", e))?;
        }
        Ok(())
    }
}

/// What a checkpoint keeps.
#[derive(Serialize, Deserialize, Default)]
struct Saved {
    /// Each open file with its rows and bytes.
    open: Vec<(FileId, u64, u64)>,
    /// Done by whoever restores: the checkpoint is durable then.
    finished: Finished,
    /// The last number in each partition that is not finished.
    numbers: BTreeMap<i64, u64>,
}

struct OpenFile {
    id: FileId,
    rows: u64,
    bytes: u64,
    file: BufWriter<File>,
}

struct Writer {
    place: Place,
    rows_max: u64,
    open: BTreeMap<i64, OpenFile>,
    numbers: BTreeMap<i64, u64>,
    /// Since the last snapshot.
    finished: Finished,
    /// By epochs that are not durable yet.
    waiting: BTreeMap<u64, Finished>,
    line: Vec<u8>,
}

impl Writer {
    fn open(place: Place, rows_max: u64, saved: Saved) -> Done<Self> {
        saved.finished.commit(&place)?;
        let known: BTreeSet<PathBuf> = saved.open.iter().map(|(id, ..)| place.open(*id)).collect();
        remove_unknown(&place, &known)?;
        let mut open = BTreeMap::new();
        for (id, rows, bytes) in saved.open {
            let path = place.open(id);
            let file =
                OpenOptions::new().append(true).open(&path).map_err(|e| failed(&path, "opened again", e))?;
            file.set_len(bytes).map_err(|e| failed(&path, "cut", e))?;
            open.insert(id.0, OpenFile { id, rows, bytes, file: BufWriter::new(file) });
        }
        Ok(Self {
            place,
            rows_max,
            open,
            numbers: saved.numbers,
            finished: Finished::default(),
            waiting: BTreeMap::new(),
            line: Vec::new(),
        })
    }

    /// The open file of a partition.
    fn file(&mut self, partition: i64) -> Done<&mut OpenFile> {
        let vacant = match self.open.entry(partition) {
            std::collections::btree_map::Entry::Occupied(entry) => return Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => entry,
        };
        let number = self.numbers.entry(partition).and_modify(|n| *n += 1).or_insert(1);
        let id = (partition, *number);
        let path = self.place.open(id);
        let directory = self.place.partition(partition);
        fs::create_dir_all(&directory).map_err(|e| failed(&directory, "made", e))?;
        let file = File::create(&path).map_err(|e| failed(&path, "made", e))?;
        Ok(vacant.insert(OpenFile { id, rows: 0, bytes: 0, file: BufWriter::new(file) }))
    }

    fn close(&mut self, partition: i64) -> Done {
        if let Some(mut open) = self.open.remove(&partition) {
            open.file.flush().map_err(|e| failed(&self.place.open(open.id), "written", e))?;
            self.finished.files.push(open.id);
        }
        Ok(())
    }

    /// Closes the partitions that end at or before this moment.
    fn finish_until(&mut self, end: Timestamp) -> Done {
        let over = |partition: &i64| Timestamp::from_millis(*partition) + minutes(1) <= end;
        let partitions: Vec<i64> = self.numbers.keys().copied().filter(over).collect();
        for partition in partitions {
            self.close(partition)?;
            self.numbers.remove(&partition);
            self.finished.partitions.insert(partition);
        }
        Ok(())
    }
}

/// Removes what an attempt before this one has left unfinished.
fn remove_unknown(place: &Place, known: &BTreeSet<PathBuf>) -> Done {
    let mine = format!(".part-{}-", place.subtask);
    for path in files_below(&place.directory)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        if name.starts_with(&mine) && name.ends_with(OPEN) && !known.contains(&path) {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(&path, "removed", e));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The files of all partitions below a directory, in order.
///
/// # Errors
/// When a directory cannot be read. One that is not there holds nothing.
pub fn files_below(directory: &Path) -> Done<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = match directory.read_dir() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|e| failed(&directory, "read", e))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| failed(&directory, "read", e))?.path();
            if path.is_dir() { &mut left } else { &mut files }.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

impl<T: Event + Serialize + Send> SinkWriter<T> for Writer {
    fn write(&mut self, batch: &mut Batch<T>) -> Done {
        for row in batch.rows.drain(..) {
            let partition = partition_of(row.event_time()).millis();
            let mut line = std::mem::take(&mut self.line);
            line.clear();
            serde_json::to_writer(&mut line, &row)
                .map_err(|error| Status::internal(format!("a row cannot be written as JSON: {error}")))?;
            line.push(b'\n');
            let open = self.file(partition)?;
            open.rows += 1;
            open.bytes += line.len() as u64;
            let (id, rows) = (open.id, open.rows);
            open.file.write_all(&line).map_err(|e| failed(&self.place.open(id), "written", e))?;
            self.line = line;
            if rows >= self.rows_max {
                self.close(partition)?;
            }
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Timestamp) -> Done {
        self.finish_until(watermark)
    }

    fn snapshot(&mut self, epoch: u64) -> Done<Vec<u8>> {
        for open in self.open.values_mut() {
            open.file.flush().map_err(|e| failed(&self.place.open(open.id), "written", e))?;
            open.file.get_ref().sync_data().map_err(|e| failed(&self.place.open(open.id), "written", e))?;
        }
        self.waiting.insert(epoch, std::mem::take(&mut self.finished));
        let mut finished = Finished::default();
        for waiting in self.waiting.values() {
            finished.append(&mut waiting.clone());
        }
        let open = self.open.values().map(|open| (open.id, open.rows, open.bytes)).collect();
        serde_json::to_vec(&Saved { open, finished, numbers: self.numbers.clone() })
            .map_err(|error| Status::internal(format!("the state of the files cannot be saved: {error}")))
    }

    fn completed(&mut self, epoch: u64) -> Done {
        let later = self.waiting.split_off(&(epoch + 1));
        for finished in std::mem::replace(&mut self.waiting, later).values() {
            finished.commit(&self.place)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Done {
        self.finish_until(Timestamp::MAX)?;
        for mut waiting in std::mem::take(&mut self.waiting).into_values() {
            waiting.append(&mut self.finished);
            self.finished = waiting;
        }
        self.finished.commit(&self.place)
    }
}
