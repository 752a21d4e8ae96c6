//! Files of lines: JSON values or text.

mod format;
mod read;
mod splitter;
mod write;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use afflux_stream::{Delivery, IoContext, Result, Sink, SinkWriter, Source, Split, SplitReader};
use afflux_wire::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::file;
use crate::watch::{Files, WatchedFiles};

pub(crate) use self::format::{CURE, Decode, Encode, decode_json, decode_text, encode_json, encode_text};
pub(crate) use self::read::{LineReader, too_long};
pub use self::splitter::LINE_BYTES_MAX;
pub(crate) use self::splitter::{Found, LineSplitter};
use self::write::LineWriter;

/// Names of the files of JSON lines that a directory stands for.
pub(crate) const JSON_EXTENSIONS: &[&str] = &[".jsonl", ".ndjson", ".json"];
/// Names of the text files that a directory stands for.
pub(crate) const TEXT_EXTENSIONS: &[&str] = &[".txt", ".text", ".log"];

/// Files of JSON lines (a value a line, UTF-8) of records `T`: a [`Source`] and a [`Sink`].
///
/// **As a source**, the path is a file, a directory (its `.jsonl`, `.ndjson` and `.json` files, also
/// with `.gz` or `.zst`), a pattern with `*` in its last part, or a list of these; each file is a
/// split. `.gz` and `.zst` are decompressed. Blank lines are passed over. A line that is no `T` stops
/// the pipeline with file, line, column and field, or is counted and skipped under
/// [`OnError::Skip`](afflux_stream::OnError::Skip).
///
/// **As a sink**, rows go to `PATH.part`, which becomes `PATH` when the input has ended: whoever sees
/// `PATH` sees all of it. `.gz` and `.zst` are compressed. With several tasks each writes a file of its
/// own, `NAME-0-of-4.jsonl` and so on.
///
/// ```
/// use afflux_connectors::JsonLines;
/// use afflux_stream::{Flow, JobSettings};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Click { page: String, ms: u64 }
///
/// let flow = Flow::new("slow", JobSettings::default());
/// flow.source("clicks", JsonLines::<Click>::path("data/clicks-*.jsonl.zst"))
///     .untimed()
///     .filter(|click| click.ms > 1000)
///     .sink("out", JsonLines::path("out/slow.jsonl.gz"));
/// assert!(flow.finish().is_ok());
/// ```
pub struct JsonLines<T> {
    paths: Vec<PathBuf>,
    rows: PhantomData<fn(T) -> T>,
}

impl<T> JsonLines<T> {
    /// The file, directory or pattern to read, or the file to write.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::paths([path])
    }

    /// Several files, directories or patterns to read, in this order. As a sink, the first is written.
    pub fn paths<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect(), rows: PhantomData }
    }
}

impl<T: DeserializeOwned + Send + 'static> Source for JsonLines<T> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        file::splits(&self.paths, JSON_EXTENSIONS)
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        Ok(Box::new(LineReader::open(Path::new(&split.id), position, cx.on_error, decode_json)?))
    }

    fn kind(&self) -> &'static str {
        "json lines"
    }
}

impl<T: Serialize + Send + 'static> Sink<T> for JsonLines<T> {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        Ok(Box::new(LineWriter::open(path_of(&self.paths, cx)?, encode_json, state)?))
    }

    fn kind(&self) -> &'static str {
        "json lines"
    }

    fn delivery(&self) -> Delivery {
        Delivery::Whole
    }

    fn target(&self) -> Option<String> {
        self.paths.first().map(|path| path.display().to_string())
    }
}

/// Text files, a `String` a line: a [`Source`] and a [`Sink`]. As [`JsonLines`], but for `.txt`,
/// `.text` and `.log`, and an empty line is an empty text.
///
/// ```
/// use afflux_connectors::TextLines;
/// use afflux_stream::{Flow, JobSettings};
///
/// let flow = Flow::new("words", JobSettings::default());
/// flow.source("book", TextLines::path("data/book.txt.gz"))
///     .untimed()
///     .flat_map(|line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
///     .sink("out", TextLines::path("out/words.txt"));
/// assert!(flow.finish().is_ok());
/// ```
pub struct TextLines {
    paths: Vec<PathBuf>,
}

impl TextLines {
    /// The file, directory or pattern to read, or the file to write.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::paths([path])
    }

    /// Several files, directories or patterns to read, in this order. As a sink, the first is written.
    pub fn paths<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect() }
    }
}

impl Source for TextLines {
    type Item = String;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        file::splits(&self.paths, TEXT_EXTENSIONS)
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<String>>> {
        Ok(Box::new(LineReader::open(Path::new(&split.id), position, cx.on_error, decode_text)?))
    }

    fn kind(&self) -> &'static str {
        "text lines"
    }
}

impl Sink<String> for TextLines {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<String>>> {
        Ok(Box::new(LineWriter::open(path_of(&self.paths, cx)?, encode_text, state)?))
    }

    fn kind(&self) -> &'static str {
        "text lines"
    }

    fn delivery(&self) -> Delivery {
        Delivery::Whole
    }

    fn target(&self) -> Option<String> {
        self.paths.first().map(|path| path.display().to_string())
    }
}

impl Files {
    /// Files of JSON lines, as [`JsonLines`] reads them.
    pub fn json<T: DeserializeOwned + Send + 'static>(self) -> WatchedFiles<T> {
        self.read_by(JSON_EXTENSIONS, "watched json lines", |path, position, on_error| {
            Ok(Box::new(LineReader::open(path, position, on_error, decode_json)?))
        })
    }

    /// Text files, as [`TextLines`] reads them.
    pub fn text(self) -> WatchedFiles<String> {
        self.read_by(TEXT_EXTENSIONS, "watched text lines", |path, position, on_error| {
            Ok(Box::new(LineReader::open(path, position, on_error, decode_text)?))
        })
    }
}

/// The file that a task writes.
fn path_of(paths: &[PathBuf], cx: &IoContext) -> Result<PathBuf> {
    let first = paths.first();
    let path = first.ok_or_else(|| Status::invalid("the list of paths is empty; name the file to write"))?;
    Ok(file::path_of_task(path, cx.subtask, cx.parallelism))
}
