//! A directory watched for new files: each is read once, when it is complete.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use afflux_actor::Clock;
use afflux_stream::{Batch, IoContext, OnError, ReadState, Result, Source, Split, SplitReader};
use afflux_wire::{Code, Status};
use xxhash_rust::xxh3::xxh3_64;

use crate::file::{has_extension, refused, shown};

/// Names of files that a watched directory may hold, those that were read included.
pub const WATCHED_FILES_MAX: usize = 1_000_000;

/// Readers of one watched directory, at most.
const SPLITS_MAX: u32 = 1024;
/// Time between two looks at the directory.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Opens one file.
pub(crate) type OpenFile<T> = fn(&Path, Option<&[u8]>, OnError) -> Result<Box<dyn SplitReader<T>>>;

/// A directory that is watched for new files: ends in what they are, such as `.json::<T>()`.
///
/// The stream never ends. Each file is read once, in the order of names among those that wait, when it
/// is **complete: its size and time of change were the same at two looks in a row**, and it is not
/// empty. Names that begin with `.` or end in another way than the format says (such as `.part` or
/// `.tmp`) are never read, so the safest way to hand in a file is to write it under such a name and
/// rename it. Below directories are not looked into.
///
/// What was read is remembered by name in the position, so a restart goes on in the middle of a file
/// and reads none twice. A name is forgotten when its file is gone: remove or move away what is done
/// with, so that the directory stays below [`WATCHED_FILES_MAX`] names. A file that changes after it
/// was read is not read again, which is logged.
///
/// Under [`OnError::Skip`] a file that is damaged, cut off or gone is logged, counted as one skipped
/// input, and passed over where it was damaged.
///
/// ```
/// use std::time::Duration;
/// use afflux_connectors::Files;
/// use afflux_stream::{Flow, JobSettings};
///
/// let flow = Flow::new("inbox", JobSettings::default());
/// flow.source("orders", Files::watch("data/inbox").poll_every(Duration::from_secs(5)).text())
///     .untimed()
///     .count("lines");
/// assert!(flow.finish().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
    poll_every: Duration,
    splits: u32,
}

/// The files of a watched directory as a [`Source`]: see [`Files`].
pub struct WatchedFiles<T> {
    files: Files,
    extensions: &'static [&'static str],
    kind: &'static str,
    open: OpenFile<T>,
}

impl Files {
    /// The directory. It must be there.
    pub fn watch(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), poll_every: POLL_EVERY, splits: 1 }
    }

    /// Time between two looks at the directory; one second when nothing is said. A file is read
    /// between one and two of these after its last change.
    #[must_use]
    pub fn poll_every(mut self, span: Duration) -> Self {
        self.poll_every = span.max(Duration::from_millis(1));
        self
    }

    /// Readers side by side, 1 when nothing is said and 1,024 at most: each file belongs to one by the
    /// hash of its name. Part of the identity of the positions: with another number a restored job
    /// reads all files again. A reader that has had no file yet holds the watermark back until it
    /// counts as idle.
    #[must_use]
    pub fn splits(mut self, count: u32) -> Self {
        self.splits = count.clamp(1, SPLITS_MAX);
        self
    }

    /// The source, for what reads one file.
    pub(crate) fn read_by<T>(
        self,
        extensions: &'static [&'static str],
        kind: &'static str,
        open: OpenFile<T>,
    ) -> WatchedFiles<T> {
        WatchedFiles { files: self, extensions, kind, open }
    }
}

impl<T: Send + 'static> Source for WatchedFiles<T> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let directory = &self.files.directory;
        let meta = directory.metadata().map_err(|e| refused("watch", directory, &e))?;
        if !meta.is_dir() {
            return Err(Status::invalid(format!(
                "{} is a file; name the directory to watch, or read the file by its path",
                shown(directory)
            )));
        }
        let count = self.files.splits;
        let split = |i: u32| Split {
            id: format!("{}#{i}/{count}", directory.display()),
            payload: [i.to_le_bytes(), count.to_le_bytes()].concat(),
            size: None,
        };
        Ok((0..count).map(split).collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        let number = |at: usize| split.payload.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let share = number(0).zip(number(4)).filter(|(i, n)| i < n);
        let share = share.ok_or_else(|| {
            Status::internal(format!("split `{}` of a watched directory has no share", split.id))
        })?;
        let position = match position {
            Some(bytes) => rmp_serde::from_slice(bytes).map_err(|e| {
                Status::new(
                    Code::DataLoss,
                    format!(
                        "the checkpoint's position in {} is not one of a watched directory ({e}); \
                         start without it or from an older checkpoint",
                        split.id
                    ),
                )
            })?,
            None => Position::default(),
        };
        let mut reader = WatchReader {
            directory: self.files.directory.clone(),
            poll_every: self.files.poll_every,
            extensions: self.extensions,
            share,
            open: self.open,
            on_error: cx.on_error,
            clock: cx.clock.clone(),
            taken: position.taken.into_iter().collect(),
            skipped: position.skipped,
            seen: BTreeMap::new(),
            waiting: VecDeque::new(),
            reading: None,
            timer: None,
            told: false,
        };
        if let Some((name, size, at)) = position.reading {
            reader.begin(name, size, Some(&at))?;
        }
        Ok(Box::new(reader))
    }

    fn kind(&self) -> &'static str {
        self.kind
    }
}

/// What a checkpoint keeps, as MessagePack.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Position {
    /// Files that were read, with their sizes.
    taken: Vec<(String, u64)>,
    /// The file that is being read, its size and the position in it.
    reading: Option<(String, u64, Vec<u8>)>,
    /// Inputs that were skipped in the files of `taken`.
    skipped: u64,
}

/// A file that is being read.
struct Reading<T> {
    name: String,
    size: u64,
    reader: Box<dyn SplitReader<T>>,
}

struct WatchReader<T> {
    directory: PathBuf,
    poll_every: Duration,
    extensions: &'static [&'static str],
    /// Which of how many.
    share: (u32, u32),
    open: OpenFile<T>,
    on_error: OnError,
    clock: Clock,
    /// Names that were read, with their sizes then.
    taken: BTreeMap<String, u64>,
    skipped: u64,
    /// Names that were there at the last look, not yet complete.
    seen: BTreeMap<String, (u64, Option<SystemTime>)>,
    /// Complete files, with their sizes.
    waiting: VecDeque<(String, u64)>,
    reading: Option<Reading<T>>,
    /// Until the next look.
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// That all was read has been said since the last record.
    told: bool,
}

impl<T> WatchReader<T> {
    fn begin(&mut self, name: String, size: u64, position: Option<&[u8]>) -> Result<()> {
        let reader = (self.open)(&self.directory.join(&name), position, self.on_error)?;
        self.reading = Some(Reading { name, size, reader });
        Ok(())
    }

    fn is_mine(&self, name: &str) -> bool {
        let (share, of) = self.share;
        of == 1 || xxh3_64(name.as_bytes()) % u64::from(of) == u64::from(share)
    }

    /// Looks at the directory.
    fn look(&mut self) -> Result<()> {
        let directory = &self.directory;
        let mut before = std::mem::take(&mut self.seen);
        let mut gone = std::mem::take(&mut self.taken);
        let mut complete = Vec::new();
        for entry in directory.read_dir().map_err(|e| refused("list", directory, &e))? {
            let entry = entry.map_err(|e| refused("list", directory, &e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with('.') || !has_extension(name, self.extensions) || !self.is_mine(name) {
                continue;
            }
            // Gone since it was listed, or not to be read: another look will tell.
            let Ok(meta) = directory.join(name).metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            let size = meta.len();
            if let Some(read) = gone.remove(name) {
                if read != size {
                    tracing::warn!(
                        file = name, directory = %directory.display(), read, size,
                        "a file was changed after it was read, and is not read again: hand in new names"
                    );
                }
                self.taken.insert(name.to_owned(), size);
                continue;
            }
            let state = (size, meta.modified().ok());
            if size > 0 && before.remove(name) == Some(state) {
                complete.push((name.to_owned(), size));
            } else {
                self.seen.insert(name.to_owned(), state);
            }
            let names = self.taken.len() + self.seen.len() + complete.len();
            if names > WATCHED_FILES_MAX {
                return Err(Status::new(
                    Code::ResourceExhausted,
                    format!(
                        "{} has more than {WATCHED_FILES_MAX} files; remove or move away those that were read",
                        shown(directory)
                    ),
                ));
            }
        }
        complete.sort_unstable();
        self.waiting.extend(complete);
        Ok(())
    }

    /// A file is behind us.
    fn done(&mut self, name: String, size: u64, skipped: u64) {
        self.skipped += skipped;
        self.taken.insert(name, size);
    }

    /// A file that cannot be read on: passed over, or the end of the pipeline.
    #[cold]
    fn damaged(&mut self, name: String, size: u64, skipped: u64, status: Status) -> Result<()> {
        if self.on_error == OnError::Fail {
            return Err(status);
        }
        tracing::warn!(%status, "a file of a watched directory was given up and counted as skipped");
        self.done(name, size, skipped + 1);
        Ok(())
    }
}

impl<T: Send> SplitReader<T> for WatchReader<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let before = batch.rows.len();
        loop {
            if let Some(reading) = &mut self.reading {
                let polled = reading.reader.poll_read(cx, batch, rows_max);
                self.told &= batch.rows.len() == before;
                match polled {
                    Poll::Ready(Ok(ReadState::End)) | Poll::Ready(Err(_)) => {}
                    going => return going,
                }
                let Some(Reading { name, size, reader }) = self.reading.take() else { continue };
                match polled {
                    Poll::Ready(Err(status)) => self.damaged(name, size, reader.skipped(), status)?,
                    _ => self.done(name, size, reader.skipped()),
                }
                if batch.rows.len() > before {
                    return Poll::Ready(Ok(ReadState::More));
                }
            } else if let Some((name, size)) = self.waiting.pop_front() {
                if let Err(status) = self.begin(name.clone(), size, None) {
                    self.damaged(name, size, 0, status)?;
                }
            } else {
                if let Some(timer) = &mut self.timer
                    && timer.as_mut().poll(cx).is_pending()
                {
                    if self.told {
                        return Poll::Pending;
                    }
                    self.told = true;
                    return Poll::Ready(Ok(ReadState::CaughtUp));
                }
                self.look()?;
                self.timer = Some(Box::pin(self.clock.sleep(self.poll_every)));
            }
        }
    }

    fn position(&self) -> Vec<u8> {
        let position = Position {
            taken: self.taken.iter().map(|(name, size)| (name.clone(), *size)).collect(),
            reading: self.reading.as_ref().map(|r| (r.name.clone(), r.size, r.reader.position())),
            skipped: self.skipped,
        };
        // Nothing of it can fail to be MessagePack; and empty bytes are refused at a restore.
        rmp_serde::to_vec(&position).unwrap_or_default()
    }

    fn skipped(&self) -> u64 {
        self.skipped + self.reading.as_ref().map_or(0, |r| r.reader.skipped())
    }
}
