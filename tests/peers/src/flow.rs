//! The jobs on timely dataflow, with operators of our own that are as fast as we could make them
//! without leaving timely's usual containers (`Vec` of tuples, encoded by bincode between processes).
//!
//! [`Job`] says what runs, [`cluster`] starts the processes, [`graph`] holds the dataflows.

pub mod cluster;
pub mod graph;

use crate::usage::{Mark, peak_rss_mb};
use crate::workload::Words;
use std::sync::{Arc, Mutex, OnceLock};
use timely::dataflow::operators::{Input, Probe};
use timely::worker::Worker;

/// One of the stream workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Map and filter.
    W1,
    /// Sum per key.
    W2,
    /// Sum per key and tumbling event-time window.
    W3,
    /// Count per word.
    W4,
}

impl Workload {
    /// All of them with their names.
    pub const ALL: [(&str, Self); 4] = [
        ("w1", Self::W1),
        ("w2", Self::W2),
        ("w3", Self::W3),
        ("w4", Self::W4),
    ];

    /// The workload of a name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find_map(|(known, workload)| (*known == name).then_some(*workload))
            .ok_or_else(|| format!("workload {name:?} is unknown, expected w1, w2, w3 or w4"))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, workload)| *workload == self)
            .map_or("", |(name, _)| name)
    }
}

/// What the workers of every process do.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The workload.
    pub workload: Workload,
    /// Source records over all workers.
    pub records: u64,
    /// W1's filter: a branch per record (`Vec::retain`, what timely's own operator does), or compaction
    /// without branches.
    pub branchless: bool,
}

/// What one process found and used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// The process's share of the checksum.
    pub checksum: u64,
    /// Result records of the process.
    pub results: u64,
    /// Wall time from the first worker's start to the last one's end in seconds.
    pub wall_s: f64,
    /// User and system time of the process in between, in seconds.
    pub cpu_s: f64,
    /// Peak resident memory in MB.
    pub rss_mb: f64,
}

/// Measures a process from its first worker's start to its last worker's end.
#[derive(Debug, Default)]
struct Clock {
    start: OnceLock<Result<Mark, String>>,
    spent: Mutex<(f64, f64)>,
}

impl Clock {
    fn start(&self) {
        self.start.get_or_init(Mark::now);
    }

    /// Each worker calls it when its dataflow has ended; the last call counts.
    fn stop(&self) -> Result<(), String> {
        let spent = self.start.get_or_init(Mark::now).clone()?.spent()?;
        // The values are plain numbers: whatever a panicking worker left there is whole.
        *self
            .spent
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = spent;
        Ok(())
    }
}

/// Runs this process's workers to the end.
///
/// # Errors
/// If the processes cannot connect, a worker panics, or usage cannot be read.
pub fn run(config: timely::Config, job: Job) -> Result<Part, String> {
    let clock = Arc::new(Clock::default());
    // Before the barrier, hence before the clock starts anywhere.
    let words = (job.workload == Workload::W4).then(|| Arc::new(Words::new()));
    let watch = Arc::clone(&clock);
    let guards = timely::execute(config, move |worker| {
        await_everybody(worker);
        watch.start();
        let found = graph::build(worker, job, words.as_ref());
        while worker.has_dataflows() {
            worker.step_or_park(None);
        }
        watch.stop().map(|()| found.get())
    })?;
    let mut part = Part::default();
    for worker in guards.join() {
        let found = worker??;
        part.checksum = part.checksum.wrapping_add(found.checksum);
        part.results += found.results;
    }
    (part.wall_s, part.cpu_s) = *clock
        .spent
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    part.rss_mb = peak_rss_mb()?;
    Ok(part)
}

/// Returns when the workers of all processes are here, so that nobody's start-up is measured.
fn await_everybody(worker: &mut Worker) {
    let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
        let (input, stream) = scope.new_input::<Vec<()>>();
        (input, stream.probe().0)
    });
    input.advance_to(1);
    while probe.less_than(&1) {
        worker.step_or_park(None);
    }
}
