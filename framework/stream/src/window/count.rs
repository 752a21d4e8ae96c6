//! Windows of so many records.

/// Windows of `n` records of a key, in the order in which they come: no event time is needed.
///
/// ```
/// use afflux_stream::{AtEnd, CountWindow};
/// // Records 1 and 2, records 2 and 3, …; the one that is left at the end gives no result.
/// let pairs = CountWindow::of(2).every(1).at_end(AtEnd::Drop);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountWindow<E = Undeclared> {
    pub(crate) size: u64,
    pub(crate) every: u64,
    pub(crate) at_end: E,
}

/// A count window that does not say yet what becomes of the records that are left at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undeclared;

/// What becomes of windows that are not full when the input ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// They give a result of the records that they have.
    Emit,
    /// They give none. Records that were in no result are counted, as `unread` in the readings of
    /// the operator.
    Drop,
}

impl CountWindow {
    /// Windows of this many records (at least one), side by side.
    pub fn of(records: u64) -> Self {
        let size = records.max(1);
        Self { size, every: size, at_end: Undeclared }
    }
}

impl<E> CountWindow<E> {
    /// A window begins with every `records`-th record (at least one, at most the size), from the
    /// first one on.
    #[must_use]
    pub fn every(self, records: u64) -> Self {
        Self { every: records.max(1), ..self }
    }

    /// Says what becomes of windows that are not full when the input ends.
    pub fn at_end(self, at_end: AtEnd) -> CountWindow<AtEnd> {
        CountWindow { size: self.size, every: self.every, at_end }
    }

    /// Why these windows cannot be used, if they cannot.
    pub(crate) fn wrong(&self) -> Option<String> {
        (self.every > self.size).then(|| {
            format!(
                "begins a window of {} records every {}: records between two windows would be in none; begin \
                 one at most every {0}",
                self.size, self.every
            )
        })
    }
}
