//! How two answers are compared: the number of rows, and sums over them, so that order does not matter.

use std::fmt::{self, Display};
use std::sync::Arc;

use afflux::prelude::*;
use afflux_stream::{Batch, IoContext, Sink, SinkWriter};
use parking_lot::Mutex;

/// What a digest makes of a column.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The sum of a whole number.
    Sum,
    /// The sum of a number given in thousandths, as a decimal with three places.
    Thousandths,
    /// The greatest.
    Max,
    /// The number itself; of rows with one such number the last counts. Stands first, `Whole` behind it.
    Key,
    /// The number itself: an answer with such columns has few rows, which are written whole.
    Whole,
}

/// A row of an answer.
pub trait Answer: Serialize + for<'de> Deserialize<'de> + Send + 'static {
    /// The columns of its digest, the number of rows left out.
    const COLUMNS: &'static [Column];
    /// Their values in this row, as many as [`Answer::COLUMNS`].
    fn cells(&self) -> impl AsRef<[i64]>;
}

/// A digest of rows, in part or whole.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    columns: Vec<Column>,
    rows: u64,
    cells: Vec<i128>,
    whole: Vec<Vec<i64>>,
}

impl Digest {
    /// The digest of no rows.
    pub fn of<A: Answer>() -> Self {
        let cells = A::COLUMNS.iter().map(|c| if *c == Column::Max { i128::MIN } else { 0 }).collect();
        Self { columns: A::COLUMNS.to_vec(), rows: 0, cells, whole: Vec::new() }
    }

    /// Rows taken in.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes in a row.
    pub fn add<A: Answer>(&mut self, row: &A) {
        self.rows += 1;
        let cells = row.cells();
        if A::COLUMNS.contains(&Column::Whole) {
            let row = cells.as_ref().to_vec();
            let same = |kept: &&mut Vec<i64>| kept.first() == row.first();
            match self.whole.iter_mut().find(same).filter(|_| A::COLUMNS.first() == Some(&Column::Key)) {
                Some(kept) => *kept = row,
                None => self.whole.push(row),
            }
            return;
        }
        for ((cell, value), column) in self.cells.iter_mut().zip(cells.as_ref()).zip(A::COLUMNS) {
            *cell = column.with(*cell, i128::from(*value));
        }
    }

    /// Takes in the digest of other rows of the same answer.
    pub fn merge(&mut self, other: &Digest) {
        if self.columns.is_empty() {
            self.columns.clone_from(&other.columns);
            self.cells.clone_from(&other.cells);
        } else {
            for ((cell, value), column) in self.cells.iter_mut().zip(&other.cells).zip(&self.columns) {
                *cell = column.with(*cell, *value);
            }
        }
        self.rows += other.rows;
        self.whole.extend_from_slice(&other.whole);
        self.whole.sort_unstable();
    }
}

impl Column {
    fn with(self, cell: i128, value: i128) -> i128 {
        match self {
            Column::Max => cell.max(value),
            Column::Sum | Column::Thousandths | Column::Key | Column::Whole => cell.saturating_add(value),
        }
    }
}

/// As JSON: `[rows, cell, …]`, a decimal as a text; rows written whole as a list of them, or as the row
/// itself where there is one.
impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |cells: Vec<String>| format!("[{}]", cells.join(", "));
        let row = |row: &Vec<i64>| list(row.iter().map(i64::to_string).collect());
        if self.columns.contains(&Column::Whole) {
            return match self.whole.as_slice() {
                [only] => f.write_str(&row(only)),
                rows => f.write_str(&list(rows.iter().map(row).collect())),
            };
        }
        let mut cells = vec![self.rows.to_string()];
        for (cell, column) in self.cells.iter().zip(&self.columns) {
            cells.push(match column {
                _ if self.rows == 0 => "null".to_owned(),
                Column::Thousandths => format!("\"{}.{:03}\"", cell / 1000, cell % 1000),
                _ => cell.to_string(),
            });
        }
        f.write_str(&list(cells))
    }
}

/// Adds up the digest of what reaches it in this process. A clone adds to the same.
#[derive(Clone, Default)]
pub struct Tally {
    all: Arc<Mutex<Digest>>,
    rows_only: bool,
}

impl Tally {
    /// Counts rows and looks at none: what a benchmark without a digest ends in.
    pub fn of_rows_only() -> Self {
        Self { rows_only: true, ..Self::default() }
    }

    /// What has been added up so far: complete when the pipeline has ended.
    pub fn digest(&self) -> Digest {
        self.all.lock().clone()
    }
}

impl<A: Answer> Sink<A> for Tally {
    fn open(&self, state: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<A>>, Status> {
        let mine = match state {
            None => Digest::of::<A>(),
            Some(state) => serde_json::from_slice(state).map_err(|error| {
                Status::new(Code::DataLoss, format!("the saved digest cannot be read: {error}"))
            })?,
        };
        Ok(Box::new(Writer { all: self.clone(), mine }))
    }

    fn kind(&self) -> &'static str {
        "digest"
    }
}

struct Writer {
    all: Tally,
    mine: Digest,
}

impl<A: Answer> SinkWriter<A> for Writer {
    fn write(&mut self, batch: &mut Batch<A>) -> Result<(), Status> {
        if self.all.rows_only {
            self.mine.rows += batch.len() as u64;
            batch.clear();
            return Ok(());
        }
        for row in batch.rows.drain(..) {
            self.mine.add(&row);
        }
        Ok(())
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>, Status> {
        serde_json::to_vec(&self.mine)
            .map_err(|error| Status::internal(format!("the digest cannot be saved: {error}")))
    }

    fn end(&mut self) -> Result<(), Status> {
        self.all.all.lock().merge(&self.mine);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Price(i64);

    impl Answer for Price {
        const COLUMNS: &'static [Column] = &[Column::Sum, Column::Thousandths, Column::Max];
        fn cells(&self) -> impl AsRef<[i64]> {
            [self.0, self.0 * 7, self.0]
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Pair(i64, i64);

    impl Answer for Pair {
        const COLUMNS: &'static [Column] = &[Column::Whole, Column::Whole];
        fn cells(&self) -> impl AsRef<[i64]> {
            [self.0, self.1]
        }
    }

    #[test]
    fn a_digest_in_parts_is_the_digest_of_the_whole() {
        let (mut left, mut right) = (Digest::of::<Price>(), Digest::of::<Price>());
        left.add(&Price(5));
        right.add(&Price(1000));
        right.add(&Price(3));
        let mut all = Digest::default();
        all.merge(&left);
        all.merge(&right);
        assert_eq!(all.to_string(), r#"[3, 1008, "7.056", 1000]"#);
        assert_eq!(Digest::of::<Price>().to_string(), "[0, null, null, null]");
    }

    #[test]
    fn few_rows_are_written_whole_and_sorted() {
        let (mut one, mut two) = (Digest::of::<Pair>(), Digest::of::<Pair>());
        one.add(&Pair(2, 1));
        two.add(&Pair(1, 9));
        let mut all = Digest::default();
        all.merge(&one);
        assert_eq!(all.to_string(), "[2, 1]");
        all.merge(&two);
        assert_eq!(all.to_string(), "[[1, 9], [2, 1]]");
    }
}
