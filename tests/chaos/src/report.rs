//! What a run came to, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::beside::Note;

/// One thing that was done to the cluster.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Blow {
    /// From 1.
    pub(crate) number: u32,
    /// What was done.
    pub(crate) what: &'static str,
    /// The node that it was done to.
    pub(crate) node: String,
    /// Whether that node coordinated the job.
    pub(crate) coordinator: bool,
    /// The tasks that it was running, where the coordinator said so.
    pub(crate) tasks: Option<usize>,
    /// The job had not recovered from the one before.
    pub(crate) in_recovery: bool,
    /// The job had not recovered from it when the next came.
    pub(crate) overtaken: bool,
    /// Until a later attempt wrote a first record, or the first commit where no attempt was lost, in milliseconds.
    pub(crate) output_ms: Option<u64>,
    /// Until a record was committed that the source had given behind it, in milliseconds.
    pub(crate) committed_ms: Option<u64>,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| ms.to_string());
        write!(
            f,
            "{:>4} {:<5} {:<7} {:<11} {:>2} tasks  output {:>5} ms  committed {:>5} ms{}{}",
            self.number,
            self.what,
            self.node,
            if self.coordinator { "coordinator" } else { "" },
            self.tasks.map_or("?".to_owned(), |tasks| tasks.to_string()),
            ms(self.output_ms),
            ms(self.committed_ms),
            if self.in_recovery { "  in the recovery from the one before" } else { "" },
            if self.overtaken { "  overtaken by the next" } else { "" },
        )
    }
}

/// Median and worst of some times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Times {
    /// How many there are.
    pub(crate) count: usize,
    pub(crate) median_ms: u64,
    pub(crate) worst_ms: u64,
}

impl Times {
    pub(crate) fn of(times: impl Iterator<Item = u64>) -> Self {
        let mut times: Vec<u64> = times.collect();
        times.sort_unstable();
        let median_ms = times.get(times.len() / 2).copied().unwrap_or(0);
        Self { count: times.len(), median_ms, worst_ms: times.last().copied().unwrap_or(0) }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "median {} ms, worst {} ms (of {})", self.median_ms, self.worst_ms, self.count)
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// What decided it.
    pub(crate) seed: u64,
    /// What is wrong beside the figures; nothing: it is as promised.
    pub(crate) failure: Option<String>,
    /// What was done, in its order.
    pub(crate) blows: Vec<Blow>,
    /// Rows that were committed.
    pub(crate) rows: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    /// Some of what is lost, duplicated or out of order.
    pub(crate) examples: Vec<String>,
    /// What the pipeline beside has written down.
    pub(crate) beside: Option<Note>,
    /// The last attempt of the job.
    pub(crate) attempts: u64,
    /// Seconds from the start of the job to its end.
    pub(crate) took_s: f64,
    /// From a blow to the first output, of blows that neither followed nor were followed by another too soon.
    pub(crate) output: Times,
    /// The same to the first commit.
    pub(crate) committed: Times,
    /// The same of all blows.
    pub(crate) committed_all: Times,
}

impl Report {
    /// Fills in medians and worst cases.
    pub(crate) fn sum_up(&mut self) {
        let alone = |blow: &&Blow| !blow.in_recovery && !blow.overtaken;
        self.output = Times::of(self.blows.iter().filter(alone).filter_map(|blow| blow.output_ms));
        self.committed = Times::of(self.blows.iter().filter(alone).filter_map(|blow| blow.committed_ms));
        self.committed_all = Times::of(self.blows.iter().filter_map(|blow| blow.committed_ms));
    }

    /// Whether everything is as promised.
    pub(crate) fn is_right(&self) -> bool {
        self.failure.is_none() && (self.lost, self.duplicated, self.out_of_order) == (0, 0, 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for example in &self.examples {
            writeln!(f, "WRONG: {example}")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "FAILED: {failure}")?;
        }
        let coordinators = self.blows.iter().filter(|blow| blow.coordinator).count();
        writeln!(
            f,
            "seed {}: {} blows, {coordinators} of them to the coordinator, {} attempts, {:.0} s",
            self.seed,
            self.blows.len(),
            self.attempts,
            self.took_s
        )?;
        writeln!(
            f,
            "{} rows committed: {} lost, {} duplicated, {} out of order",
            self.rows, self.lost, self.duplicated, self.out_of_order
        )?;
        if let Some(Note { records, pause_ms, begun }) = self.beside {
            writeln!(f, "beside: {records} records, longest pause {pause_ms} ms, begun {begun} times")?;
        }
        writeln!(f, "first output    {}", self.output)?;
        writeln!(f, "first commit    {}", self.committed)?;
        write!(f, "with those in the recovery from another: first commit {}", self.committed_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_blows_that_stand_alone_are_told_apart() {
        let blow = |committed_ms, in_recovery| Blow {
            committed_ms: Some(committed_ms),
            in_recovery,
            ..Blow::default()
        };
        let blows = vec![blow(700, false), blow(500, false), blow(9_000, true), blow(600, false)];
        let mut report = Report { blows, ..Report::default() };
        report.sum_up();
        assert_eq!(report.committed, Times { count: 3, median_ms: 600, worst_ms: 700 });
        assert_eq!(report.committed_all.worst_ms, 9_000);
        assert!(report.is_right());
        assert!(!Report { duplicated: 1, ..Report::default() }.is_right());
    }
}
