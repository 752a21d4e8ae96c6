//! What moves between operators: rows with their event times, and the marks between them.

use crate::time::Timestamp;

/// Rows that a batch holds before it is handed on.
pub const BATCH_ROWS_MAX: usize = 1024;

/// Rows, and their event times once the stream has any.
///
/// Invariant: `times` is empty (a stream without event time) or as long as `rows`.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<T> {
    /// The records.
    pub rows: Vec<T>,
    /// Their event times in milliseconds, in the same order; empty where there is no event time.
    pub times: Vec<i64>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), times: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// A batch of these rows without event time.
    ///
    /// ```
    /// use afflux_stream::Batch;
    /// assert_eq!(Batch::untimed(vec![1, 2]).len(), 2);
    /// ```
    pub fn untimed(rows: Vec<T>) -> Self {
        Self { rows, times: Vec::new() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the rows have event times.
    pub fn is_timed(&self) -> bool {
        !self.times.is_empty()
    }

    /// Drops the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.times.clear();
    }

    /// Adds a row; `time` must be given for every row or for none.
    #[inline]
    pub fn push(&mut self, row: T, time: Option<i64>) {
        self.rows.push(row);
        if let Some(time) = time {
            self.times.push(time);
        }
    }
}

/// What stands between batches. Legal order on an edge: batches, watermarks, idles and barriers in
/// any order, watermarks never falling, barriers' epochs rising, and one `End` as the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// No later record has an event time before this.
    Watermark(Timestamp),
    /// Nothing comes until something comes: this input holds no watermark back.
    Idle,
    /// All records before belong to the epoch, all after to the next.
    Barrier(u64),
    /// Nothing comes any more.
    End,
}

/// What an edge carries: a [`Batch`] or a [`Mark`].
#[derive(Clone, Debug, PartialEq)]
pub enum Element<T> {
    /// Records.
    Batch(Batch<T>),
    /// A mark between records.
    Mark(Mark),
}
