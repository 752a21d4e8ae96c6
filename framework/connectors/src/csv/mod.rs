//! Comma-separated files: a source of records and a sink for them.

mod error;
mod header;
mod read;
mod row;
mod write;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use afflux_stream::{IoContext, Result, Sink, SinkWriter, Source, Split, SplitReader};
use afflux_wire::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::read::CsvReader;
use self::write::CsvWriter;
use crate::file;

pub use self::read::ROW_BYTES_MAX;
pub use self::write::HELD_ROWS_MAX;

/// Names of the files that a directory stands for.
const EXTENSIONS: &[&str] = &[".csv", ".csv.gz"];

/// CSV files with a header row (RFC 4180, UTF-8) of records `T`: a [`Source`] and a [`Sink`].
///
/// **As a source**, the path is a file, a directory (its `.csv` and `.csv.gz` files) or a pattern
/// with `*` in its last part; each file is a split. A name that ends in `.gz` is decompressed.
/// Columns are found by their names in the header, fields of `T` by theirs; columns that `T` does
/// not have are passed over, and so is the order. An empty field is `None` for an `Option`. A row
/// that is no `T` stops the pipeline, or is counted and skipped under
/// [`OnError::Skip`](afflux_stream::OnError::Skip).
///
/// **As a sink**, the header is the names of `T`'s fields. Rows go to `PATH.part`, which becomes
/// `PATH` when the input has ended: whoever sees `PATH` sees all of it. With several tasks each
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
    path: PathBuf,
    rows: PhantomData<fn(T) -> T>,
}

/// A CSV file whose rows stand in the order of their windows: see [`Csv::ordered_by_window`].
pub struct OrderedCsv<T> {
    csv: Csv<T>,
}

impl<T> Csv<T> {
    /// The file, directory or pattern to read, or the file to write.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), rows: PhantomData }
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
        let found = file::find(&self.path, EXTENSIONS)?;
        found
            .into_iter()
            .map(|file| {
                let id = file.path.to_str().ok_or_else(|| {
                    Status::invalid(format!("the path {} is not UTF-8; rename it", file::shown(&file.path)))
                })?;
                Ok(Split { id: id.to_owned(), payload: Vec::new(), size: Some(file.bytes) })
            })
            .collect()
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
        let path = path_of_task(&self.path, cx.subtask, cx.parallelism);
        Ok(Box::new(CsvWriter::open(path, None, state)?))
    }

    fn kind(&self) -> &'static str {
        "csv"
    }

    fn target(&self) -> Option<String> {
        Some(self.path.display().to_string())
    }
}

impl<T: Serialize + DeserializeOwned + Ord + Send + 'static> Sink<T> for OrderedCsv<T> {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let sort: fn(&mut [T]) = <[T]>::sort;
        Ok(Box::new(CsvWriter::open(self.csv.path.clone(), Some(sort), state)?))
    }

    fn kind(&self) -> &'static str {
        "ordered csv"
    }

    fn target(&self) -> Option<String> {
        Some(self.csv.path.display().to_string())
    }

    fn single(&self) -> bool {
        true
    }
}

/// `out/x.csv` for the only task, `out/x-0-of-4.csv` for the first of four.
fn path_of_task(path: &Path, subtask: u32, parallelism: u32) -> PathBuf {
    if parallelism <= 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}-{subtask}-of-{parallelism}");
    match path.extension() {
        Some(extension) => path.with_file_name(format!("{name}.{}", extension.to_string_lossy())),
        None => path.with_file_name(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_write_beside_each_other_have_files_of_their_own() {
        let path = |path: &str, n| path_of_task(Path::new(path), 1, n).to_str().unwrap().to_owned();
        assert_eq!(path("out/x.csv", 1), "out/x.csv");
        assert_eq!(path("out/x.csv", 4), "out/x-1-of-4.csv");
        assert_eq!(path("x", 2), "x-1-of-2");
    }

    #[test]
    fn only_an_ordered_file_wants_all_rows_in_one_task() {
        assert!(!Sink::<u8>::single(&Csv::<u8>::path("x")));
        assert!(Sink::<u8>::single(&Csv::<u8>::path("x").ordered_by_window()));
    }
}
