//! Comma-separated files: a source of records and a sink for them.

mod error;
mod header;
mod read;
mod row;
mod write;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use afflux_stream::{Delivery, IoContext, Result, Sink, SinkWriter, Source, Split, SplitReader};
use afflux_wire::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::read::CsvReader;
use self::write::CsvWriter;
use crate::file;
use crate::watch::{Files, WatchedFiles};

pub use self::read::ROW_BYTES_MAX;
pub use self::write::HELD_ROWS_MAX;

/// Names of the files that a directory stands for.
const EXTENSIONS: &[&str] = &[".csv"];

/// CSV files with a header row (RFC 4180, UTF-8) of records `T`: a [`Source`] and a [`Sink`].
///
/// **As a source**, the path is a file, a directory (its `.csv`, `.csv.gz` and `.csv.zst` files) or a
/// pattern with `*` in its last part, or a list of these ([`Csv::paths`]); each file is a split. A name
/// that ends in `.gz` or `.zst` is decompressed.
/// Columns are found by their names in the header, fields of `T` by theirs; columns that `T` does
/// not have are passed over, and so is the order. An empty field is `None` for an `Option`. A row
/// that is no `T` stops the pipeline, or is counted and skipped under
/// [`OnError::Skip`](afflux_stream::OnError::Skip).
///
/// **As a sink**, the header is the names of `T`'s fields. Rows go to `PATH.part`, which becomes
/// `PATH` when the input has ended: whoever sees `PATH` sees all of it. `.gz` and `.zst` are compressed. With several tasks each
/// writes a file of its own, `NAME-0-of-4.csv` and so on; [`Csv::ordered_by_window`] writes one.
///
/// ```
/// use afflux_connectors::Csv;
/// use afflux_stream::{Flow, JobSettings};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Flight { origin: String, departure_delay_min: Option<i64> }
///
/// let flow = Flow::new("late", JobSettings::default());
/// flow.source("flights", Csv::<Flight>::path("data/flights.csv.gz"))
///     .untimed()
///     .filter(|f| f.departure_delay_min.is_some_and(|min| min >= 15))
///     .sink("out", Csv::path("out/late.csv"));
/// assert!(flow.finish().is_ok());
/// ```
pub struct Csv<T> {
    paths: Vec<PathBuf>,
    rows: PhantomData<fn(T) -> T>,
}

/// A CSV file whose rows stand in the order of their windows: see [`Csv::ordered_by_window`].
pub struct OrderedCsv<T> {
    csv: Csv<T>,
}

impl<T> Csv<T> {
    /// The file, directory or pattern to read, or the file to write.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()], rows: PhantomData }
    }

    /// Several files, directories or patterns to read, in this order; each file is a split. As a
    /// sink, the first is written.
    pub fn paths<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect(), rows: PhantomData }
    }

    /// The file to write.
    fn target_path(&self) -> Result<&Path> {
        let first = self.paths.first().map(PathBuf::as_path);
        first.ok_or_else(|| Status::invalid("the list of paths is empty; name the file to write"))
    }

    /// One task writes all rows, by event time, and rows of one event time sorted.
    ///
    /// Rows are held until the watermark has passed their event time. Results of a window carry the
    /// window's last millisecond, so each window is written whole, sorted, once.
    pub fn ordered_by_window(self) -> OrderedCsv<T>
    where
        T: Ord,
    {
        OrderedCsv { csv: self }
    }
}

impl<T: DeserializeOwned + Send + 'static> Source for Csv<T> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        file::splits(&self.paths, EXTENSIONS)
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        Ok(Box::new(CsvReader::open(Path::new(&split.id), position, cx.on_error)?))
    }

    fn kind(&self) -> &'static str {
        "csv"
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Sink<T> for Csv<T> {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let path = file::path_of_task(self.target_path()?, cx.subtask, cx.parallelism);
        Ok(Box::new(CsvWriter::open(path, None, state)?))
    }

    fn kind(&self) -> &'static str {
        "csv"
    }

    fn delivery(&self) -> Delivery {
        Delivery::Whole
    }

    fn target(&self) -> Option<String> {
        self.paths.first().map(|path| path.display().to_string())
    }
}

impl<T: Serialize + DeserializeOwned + Ord + Send + 'static> Sink<T> for OrderedCsv<T> {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let sort: fn(&mut [T]) = <[T]>::sort;
        Ok(Box::new(CsvWriter::open(self.csv.target_path()?.to_owned(), Some(sort), state)?))
    }

    fn kind(&self) -> &'static str {
        "ordered csv"
    }

    fn delivery(&self) -> Delivery {
        Delivery::Whole
    }

    fn target(&self) -> Option<String> {
        Sink::target(&self.csv)
    }

    fn single(&self) -> bool {
        true
    }
}

impl Files {
    /// CSV files, each with its header, as [`Csv`] reads them.
    pub fn csv<T: DeserializeOwned + Send + 'static>(self) -> WatchedFiles<T> {
        self.read_by(EXTENSIONS, "watched csv", |path, position, on_error| {
            Ok(Box::new(CsvReader::open(path, position, on_error)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ordered_file_wants_all_rows_in_one_task() {
        assert!(!Sink::<u8>::single(&Csv::<u8>::path("x")));
        assert!(Sink::<u8>::single(&Csv::<u8>::path("x").ordered_by_window()));
    }
}
