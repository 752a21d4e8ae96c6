//! The outside world of the pipeline: where its rows are committed, and where the promise is checked.
//!
//! It is a database with transactions: rows are written, made to last (`prepared`), and shown
//! (`committed`). What was written and not made to last is lost with the machine that wrote it. Every
//! row is a key's running count, so that a committed row is right when it is its key's last one plus 1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::trace::note;

/// Violations that are kept; the first says it all.
const VIOLATIONS_MAX: usize = 20;

/// A key's running count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The key.
    pub key: u32,
    /// How many records of the key there have been, this one included.
    pub count: u64,
}

/// Records of one window of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summed {
    /// The key.
    pub key: u32,
    /// Start of the window, in milliseconds of event time.
    pub start: i64,
    /// Records in it.
    pub count: u64,
}

/// What is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Row {
    /// Of the counters.
    Counted(Counted),
    /// Of the windows.
    Summed(Summed),
}

/// Names a transaction. A task that is restored names those again that it has to finish.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Txn {
    /// The writer that wrote it; no two have the same number.
    pub writer: u64,
    /// The sink.
    pub sink: String,
    /// Which of its tasks.
    pub subtask: u32,
    /// The epoch whose rows these are.
    pub epoch: u64,
}

impl std::fmt::Display for Txn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { writer, sink, subtask, epoch } = self;
        write!(f, "{sink}/{subtask} epoch {epoch} of writer {writer}")
    }
}

struct Prepared {
    rows: Vec<Row>,
    machine: String,
    lasting: bool,
}

#[derive(Default)]
struct Books {
    writers: u64,
    prepared: BTreeMap<Txn, Prepared>,
    committed: BTreeSet<Txn>,
    counts: BTreeMap<u32, u64>,
    windows: BTreeMap<(u32, i64), u64>,
    rows: u64,
    violations: Vec<String>,
}

/// The database outside. Clones are the same.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Books>>);

impl Ledger {
    /// A number for a new writer.
    pub fn writer(&self) -> u64 {
        let mut books = self.0.lock();
        books.writers += 1;
        books.writers
    }

    /// Writes a transaction's rows. They last when [`Ledger::sync`] has been called.
    pub fn write(&self, txn: &Txn, machine: &str, rows: Vec<Row>) {
        note(format_args!("ledger: {txn} written, {} rows", rows.len()));
        let prepared = Prepared { rows, machine: machine.to_owned(), lasting: false };
        self.0.lock().prepared.insert(txn.clone(), prepared);
    }

    /// Makes a transaction's rows last.
    pub fn sync(&self, txn: &Txn) {
        if let Some(prepared) = self.0.lock().prepared.get_mut(txn) {
            prepared.lasting = true;
        }
    }

    /// Shows a transaction's rows; a second time does nothing.
    pub fn commit(&self, txn: &Txn) {
        let mut books = self.0.lock();
        if books.committed.contains(txn) {
            return;
        }
        let Some(prepared) = books.prepared.remove(txn) else {
            return books.violation(format!("{txn} was committed and its rows are gone"));
        };
        note(format_args!("ledger: {txn} committed, {} rows", prepared.rows.len()));
        books.committed.insert(txn.clone());
        for row in prepared.rows {
            books.row(txn, row);
        }
    }

    /// A machine has lost its power: what did not last is gone.
    pub fn lose(&self, machine: &str) {
        self.0.lock().prepared.retain(|_, prepared| prepared.lasting || prepared.machine != machine);
    }

    /// Rows that are committed.
    pub fn rows(&self) -> u64 {
        self.0.lock().rows
    }

    /// What is wrong so far.
    pub fn violations(&self) -> Vec<String> {
        self.0.lock().violations.clone()
    }

    /// The last count of each key.
    pub fn counts(&self) -> BTreeMap<u32, u64> {
        self.0.lock().counts.clone()
    }

    /// The records of each window that was committed.
    pub fn windows(&self) -> BTreeMap<(u32, i64), u64> {
        self.0.lock().windows.clone()
    }
}

impl Books {
    fn violation(&mut self, text: String) {
        note(format_args!("ledger: VIOLATION: {text}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        }
    }

    fn row(&mut self, txn: &Txn, row: Row) {
        self.rows += 1;
        match row {
            Row::Counted(Counted { key, count }) => {
                let last = self.counts.insert(key, count).unwrap_or(0);
                if count != last + 1 {
                    let what = if count > last { "lost" } else { "duplicated or out of order" };
                    self.violation(format!("{what}: {txn}: key {key} counts {count} behind {last}"));
                }
            }
            Row::Summed(Summed { key, start, count }) => {
                if let Some(before) = self.windows.insert((key, start), count) {
                    self.violation(format!(
                        "duplicated: {txn}: key {key}, window {start} has {count} records, and had {before}"
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(epoch: u64) -> Txn {
        Txn { writer: 1, sink: "s".into(), subtask: 0, epoch }
    }

    fn counted(counts: &[u64]) -> Vec<Row> {
        counts.iter().map(|count| Row::Counted(Counted { key: 7, count: *count })).collect()
    }

    #[test]
    fn a_gap_and_a_repetition_are_violations_and_a_second_commit_is_none() {
        let ledger = Ledger::default();
        ledger.write(&txn(1), "a", counted(&[1, 2]));
        ledger.commit(&txn(1));
        ledger.commit(&txn(1));
        assert_eq!((ledger.rows(), ledger.violations().len()), (2, 0));
        ledger.write(&txn(2), "a", counted(&[2]));
        ledger.commit(&txn(2));
        ledger.write(&txn(3), "a", counted(&[4]));
        ledger.commit(&txn(3));
        let violations = ledger.violations();
        assert!(
            violations[0].starts_with("duplicated") && violations[1].starts_with("lost"),
            "{violations:?}"
        );
    }

    #[test]
    fn what_was_not_made_to_last_is_lost_with_its_machine() {
        let ledger = Ledger::default();
        ledger.write(&txn(1), "a", counted(&[1]));
        ledger.write(&txn(2), "a", counted(&[2]));
        ledger.sync(&txn(1));
        ledger.lose("b");
        ledger.lose("a");
        ledger.commit(&txn(1));
        assert!(ledger.violations().is_empty());
        ledger.commit(&txn(2));
        assert!(ledger.violations()[0].contains("its rows are gone"));
    }
}
