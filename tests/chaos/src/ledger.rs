//! The check: every record is there once, and each key counts one by one.

use std::collections::{BTreeMap, BTreeSet};

use crate::pipeline::{Row, SPLITS};

/// Violations that are told one by one; the first says it all.
const EXAMPLES_MAX: usize = 10;

/// Records of a split that have been seen.
#[derive(Debug, Default)]
struct Seen {
    /// All before this.
    next: u64,
    /// And these, which are later.
    ahead: BTreeSet<u64>,
}

impl Seen {
    /// Whether it had not been seen before.
    fn take(&mut self, index: u64) -> bool {
        if index < self.next || !self.ahead.insert(index) {
            return false;
        }
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
        true
    }
}

/// What the committed files come to.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    counts: BTreeMap<u64, u64>,
    splits: BTreeMap<u32, Seen>,
    last: BTreeMap<(u64, u32), u64>,
    /// Rows so far.
    pub(crate) rows: u64,
    /// Records that are missing in the end.
    pub(crate) lost: u64,
    /// Records that came again.
    pub(crate) duplicated: u64,
    /// Rows whose count is not their key's last one plus 1, or that stand in front of an earlier one.
    pub(crate) out_of_order: u64,
    /// Some of these, for people.
    pub(crate) examples: Vec<String>,
}

impl Ledger {
    /// Takes in a row, in the order of its task's files.
    pub(crate) fn take(&mut self, file: &str, row: &Row) {
        self.rows += 1;
        let Row { key, count, split, index, .. } = *row;
        let before = self.counts.insert(key, count).unwrap_or(0);
        let last = self.last.insert((key, split), index);
        if !self.splits.entry(split).or_default().take(index) {
            self.duplicated += 1;
            self.example(format!(
                "{file}: record {index} of split {split} came again (key {key}, count {count})"
            ));
        } else if count != before + 1 || last.is_some_and(|last| last > index) {
            self.out_of_order += 1;
            self.example(format!(
                "{file}: key {key} counts {count} behind {before} (record {index} of split {split}, behind {last:?})"
            ));
        }
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }

    /// The most records of any split so far.
    pub(crate) fn longest(&self) -> u64 {
        let end = |seen: &Seen| seen.ahead.last().map_or(seen.next, |last| last + 1);
        self.splits.values().map(end).max().unwrap_or(0)
    }

    /// All has been committed, and each split has at least so many records.
    pub(crate) fn finish(&mut self, records: u64) {
        for split in 0..SPLITS {
            let seen = self.splits.entry(split).or_default();
            let end = seen.ahead.last().map_or(seen.next, |last| last + 1).max(records);
            let lost = end - seen.next - seen.ahead.len() as u64;
            let first = seen.next;
            if lost > 0 {
                self.lost += lost;
                self.example(format!(
                    "split {split}: {lost} of {end} records are missing, the first is {first}"
                ));
            }
        }
    }

    /// Whether the promise was kept.
    pub(crate) fn is_right(&self) -> bool {
        (self.lost, self.duplicated, self.out_of_order) == (0, 0, 0) && self.examples.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: u64, count: u64, index: u64) -> Row {
        Row { key, count, split: 0, index, made_ms: 0 }
    }

    fn of(rows: &[(u64, u64, u64)]) -> (u64, u64, u64) {
        let mut ledger = Ledger::default();
        for (key, count, index) in rows {
            ledger.take("file", &row(*key, *count, *index));
        }
        for split in 1..SPLITS {
            for index in 0..4 {
                let key = 1_000 + u64::from(split);
                ledger.take("file", &Row { key, count: index + 1, split, index, made_ms: 0 });
            }
        }
        ledger.finish(4);
        assert_eq!(ledger.is_right(), (ledger.lost, ledger.duplicated, ledger.out_of_order) == (0, 0, 0));
        (ledger.lost, ledger.duplicated, ledger.out_of_order)
    }

    #[test]
    fn records_of_several_keys_in_any_order_of_keys_are_right() {
        assert_eq!(of(&[(7, 1, 0), (8, 1, 2), (8, 2, 3), (7, 2, 1)]), (0, 0, 0));
    }

    #[test]
    fn what_is_missing_comes_again_or_comes_too_early_is_counted() {
        assert_eq!(of(&[(7, 1, 0), (7, 2, 1), (7, 3, 2)]), (1, 0, 0), "the last one is missing");
        assert_eq!(of(&[(7, 1, 0), (7, 2, 1), (7, 3, 3)]), (1, 0, 0), "the state forgot it, too");
        assert_eq!(of(&[(7, 1, 0), (7, 2, 1), (7, 3, 2), (7, 3, 2), (7, 4, 3)]), (0, 1, 0));
        assert_eq!(of(&[(7, 1, 0), (7, 2, 1), (7, 4, 3), (7, 3, 2)]), (0, 0, 2));
        assert_eq!(of(&[(7, 1, 0), (7, 2, 1), (7, 2, 2), (7, 3, 3)]), (0, 0, 1), "the state went back");
    }
}
