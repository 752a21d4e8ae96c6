//! Rows of one key in order of time.

use std::collections::VecDeque;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Rows in order of their times (milliseconds); rows of one time in the order in which they came.
///
/// Two queues side by side, so that the rows of a stretch of time are one slice.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
pub(crate) struct ByTime<T> {
    times: VecDeque<i64>,
    rows: VecDeque<T>,
}

impl<T> Default for ByTime<T> {
    fn default() -> Self {
        Self { times: VecDeque::new(), rows: VecDeque::new() }
    }
}

impl<T> ByTime<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds a row behind those of its time. Mostly that is the end.
    pub(crate) fn insert(&mut self, time: i64, row: T) {
        if self.times.back().is_none_or(|last| *last <= time) {
            self.times.push_back(time);
            self.rows.push_back(row);
            return;
        }
        let index = self.times.partition_point(|t| *t <= time);
        self.times.insert(index, time);
        self.rows.insert(index, row);
    }

    /// Where the rows from one moment to another lie, both included.
    pub(crate) fn within(&self, from: i64, to: i64) -> Range<usize> {
        let begin = self.times.partition_point(|t| *t < from);
        begin..self.times.partition_point(|t| *t <= to).max(begin)
    }

    pub(crate) fn time(&self, index: usize) -> Option<i64> {
        self.times.get(index).copied()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.rows.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.rows.get_mut(index)
    }

    /// Rows with their times, to change.
    pub(crate) fn range_mut(&mut self, range: Range<usize>) -> impl Iterator<Item = (i64, &mut T)> {
        self.times.range(range.clone()).copied().zip(self.rows.range_mut(range))
    }

    /// Rows with their times.
    pub(crate) fn range(&self, range: Range<usize>) -> impl Iterator<Item = (i64, &T)> {
        self.times.range(range.clone()).copied().zip(self.rows.range(range))
    }

    /// The rows of a stretch as a slice.
    pub(crate) fn slice(&mut self, range: Range<usize>) -> &[T] {
        self.rows.make_contiguous().get(range).unwrap_or_default()
    }

    pub(crate) fn first_time(&self) -> Option<i64> {
        self.times.front().copied()
    }

    /// Takes the first row out if its time is before `end`.
    pub(crate) fn pop_before(&mut self, end: i64) -> Option<(i64, T)> {
        if *self.times.front()? >= end {
            return None;
        }
        Some((self.times.pop_front()?, self.rows.pop_front()?))
    }

    /// Drops the first rows.
    pub(crate) fn drop_first(&mut self, count: usize) {
        self.times.drain(..count.min(self.times.len()));
        self.rows.drain(..count.min(self.rows.len()));
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, index: usize) -> Option<T> {
        self.times.remove(index)?;
        self.rows.remove(index)
    }

    /// Puts a row in place of another of the same time.
    pub(crate) fn replace(&mut self, index: usize, row: T) {
        if let Some(place) = self.rows.get_mut(index) {
            *place = row;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_stand_in_order_of_time_and_a_stretch_is_a_slice(
            times in proptest::collection::vec(-20_i64..20, 0..60), from in -25_i64..25, length in -2_i64..20,
        ) {
            let mut rows = ByTime::default();
            let mut plain: Vec<(i64, usize)> = Vec::new();
            for (index, time) in times.into_iter().enumerate() {
                rows.insert(time, index);
                plain.push((time, index));
            }
            plain.sort();
            let all = 0..rows.len();
            prop_assert_eq!(rows.range(all).map(|(t, i)| (t, *i)).collect::<Vec<_>>(), plain.clone());
            let to = from + length;
            let within = rows.within(from, to);
            let expected: Vec<usize> =
                plain.iter().filter(|(t, _)| (from..=to).contains(t)).map(|p| p.1).collect();
            prop_assert_eq!(rows.slice(within), &expected[..]);
            let mut popped = Vec::new();
            while let Some(row) = rows.pop_before(from) {
                popped.push(row);
            }
            prop_assert_eq!(popped, plain.into_iter().filter(|p| p.0 < from).collect::<Vec<_>>());
        }
    }
}
