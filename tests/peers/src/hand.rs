//! The jobs as loops without an engine: the upper bound, and the checksum for any number of records.
//!
//! With several threads each takes one source partition and keeps a state of its own; nothing is merged,
//! since the checksums are linear in the sums.

use crate::args::Args;
use crate::hash::FoldMap;
use crate::report::{Param, Report, Work};
use crate::usage::{Mark, peak_rss_mb};
use crate::workload::{
    W3_LAG_MS, W3_WINDOW_MS, Words, indices, rnd, w1_keep, w1_map, w2_record, w2_term, w3_record,
    w3_term, w3_window, w4_term,
};
use std::collections::VecDeque;

/// Records in a batch of the batch shapes.
const BATCH_RECORDS: usize = 1024;

/// The shape of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Generate a record and process it at once.
    Record,
    /// Fill a batch of 1,024 records, then process it in a tight loop. Not for W4.
    Batch,
}

/// What one partition found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The partition's share of the checksum.
    pub checksum: u64,
    /// Result records of the partition.
    pub results: u64,
}

/// The `hand` binary.
///
/// # Errors
/// A message about the arguments or the run.
pub fn main(allocator: &'static str) -> Result<(), String> {
    let mut args = Args::from_env()?;
    let workload = args.word("a workload, w1 to w4,")?;
    let records = args.number("records", 20_000_000)?;
    let threads = args.count("threads", 1)?;
    let shape = if args.choice("shape", &["record", "batch"])? == "batch" {
        Shape::Batch
    } else {
        Shape::Record
    };
    args.finish()?;
    println!(
        "{}",
        run(&workload, records, threads, shape, allocator)?.json()
    );
    Ok(())
}

/// Runs a workload, `w1` to `w4`, and measures it.
///
/// # Errors
/// If the workload is unknown, has no such shape, or usage cannot be read.
pub fn run(
    workload: &str,
    records: u64,
    threads: usize,
    shape: Shape,
    allocator: &'static str,
) -> Result<Report, String> {
    let words = if workload == "w4" {
        Some(Words::new())
    } else {
        None
    };
    let job = move |p: u64, words: Option<&Words>| {
        part(workload, p, threads as u64, records, shape, words)
    };
    let mark = Mark::now()?;
    let parts: Vec<Part> = std::thread::scope(|scope| {
        let words = words.as_ref();
        let others: Vec<_> = (1..threads as u64)
            .map(|p| scope.spawn(move || job(p, words)))
            .collect();
        let first = job(0, words);
        let others = others
            .into_iter()
            .map(|other| other.join().map_err(|_| "a loop panicked".to_owned())?);
        std::iter::once(first)
            .chain(others)
            .collect::<Result<_, String>>()
    })?;
    let (wall_s, cpu_s) = mark.spent()?;
    let results =
        (threads == 1 || workload == "w1").then(|| parts.iter().map(|part| part.results).sum());
    Ok(Report {
        bench: format!("stream {workload}"),
        params: vec![
            ("engine", Param::Text("hand")),
            ("records", Param::Number(records)),
            ("threads", Param::Number(threads as u64)),
            ("processes", Param::Number(1)),
            (
                "shape",
                Param::Text(if shape == Shape::Batch {
                    "batch"
                } else {
                    "record"
                }),
            ),
            ("allocator", Param::Text(allocator)),
        ],
        work: Work::Records {
            records,
            checksum: parts
                .iter()
                .fold(0, |all, part| all.wrapping_add(part.checksum)),
            results,
        },
        wall_s,
        cpu_s,
        rss_mb: peak_rss_mb()?,
    })
}

fn part(
    workload: &str,
    p: u64,
    parts: u64,
    records: u64,
    shape: Shape,
    words: Option<&Words>,
) -> Result<Part, String> {
    let source = indices(p, parts, records);
    match (workload, shape, words) {
        ("w1", Shape::Record, _) => Ok(w1(source)),
        ("w1", Shape::Batch, _) => Ok(w1_batches(source)),
        ("w2", Shape::Record, _) => Ok(w2(source)),
        ("w2", Shape::Batch, _) => Ok(w2_batches(source)),
        ("w3", shape, _) => Ok(w3(source, shape)),
        ("w4", Shape::Record, Some(words)) => Ok(w4(source, words)),
        ("w4", _, _) => Err("w4 has no batch shape, expected --shape record".to_owned()),
        _ => Err(format!(
            "workload {workload:?} is unknown, expected w1, w2, w3 or w4"
        )),
    }
}

fn w1(source: impl Iterator<Item = u64>) -> Part {
    let kept = source.filter(|i| w1_keep(w1_map(rnd(*i)))).count() as u64;
    Part {
        checksum: kept,
        results: kept,
    }
}

fn w1_batches(mut source: impl Iterator<Item = u64>) -> Part {
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    let mut kept = 0;
    loop {
        batch.clear();
        batch.extend(source.by_ref().take(BATCH_RECORDS).map(rnd));
        if batch.is_empty() {
            return Part {
                checksum: kept,
                results: kept,
            };
        }
        batch.iter_mut().for_each(|x| *x = w1_map(*x));
        batch.retain(|y| w1_keep(*y));
        // What follows the filter would read the batch from memory.
        kept += std::hint::black_box(&batch).len() as u64;
    }
}

fn w2_part(sums: &FoldMap<u64, u64>) -> Part {
    let checksum = sums.iter().fold(0u64, |all, (key, sum)| {
        all.wrapping_add(w2_term(*key, *sum))
    });
    Part {
        checksum,
        results: sums.len() as u64,
    }
}

fn w2(source: impl Iterator<Item = u64>) -> Part {
    let mut sums = FoldMap::<u64, u64>::default();
    for (key, value) in source.map(w2_record) {
        add(&mut sums, key, value);
    }
    w2_part(&sums)
}

fn w2_batches(mut source: impl Iterator<Item = u64>) -> Part {
    let mut sums = FoldMap::<u64, u64>::default();
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    loop {
        batch.clear();
        batch.extend(source.by_ref().take(BATCH_RECORDS).map(w2_record));
        if batch.is_empty() {
            return w2_part(&sums);
        }
        for (key, value) in &batch {
            add(&mut sums, *key, *value);
        }
    }
}

fn w3(mut source: impl Iterator<Item = u64>, shape: Shape) -> Part {
    let mut windows = Windows::default();
    let mut part = Part {
        checksum: 0,
        results: 0,
    };
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    let (mut greatest, mut seen) = (0, 0);
    loop {
        let before = seen;
        let records = source
            .by_ref()
            .take(BATCH_RECORDS)
            .map(w3_record)
            .inspect(|_| seen += 1);
        let mut add = |(key, value, timestamp)| {
            windows.add(timestamp, key, value);
            greatest = greatest.max(timestamp);
        };
        if shape == Shape::Batch {
            batch.clear();
            batch.extend(records);
            batch.iter().copied().for_each(&mut add);
        } else {
            records.for_each(&mut add);
        }
        let ended = seen == before;
        let watermark = if ended {
            u64::MAX
        } else {
            greatest.saturating_sub(W3_LAG_MS)
        };
        windows.fire(watermark, |window, key, sum| {
            part.checksum = part.checksum.wrapping_add(w3_term(window, key, sum));
            part.results += 1;
        });
        if ended {
            return part;
        }
    }
}

fn w4(source: impl Iterator<Item = u64>, words: &Words) -> Part {
    let mut counts = FoldMap::<String, u64>::default();
    let mut line = String::new();
    for i in source {
        line.clear();
        words.write_line(i, &mut line);
        for word in line.split(' ') {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.to_owned(), 1)),
            }
        }
    }
    let checksum = counts.iter().fold(0u64, |all, (word, count)| {
        all.wrapping_add(w4_term(word, *count))
    });
    Part {
        checksum,
        results: counts.len() as u64,
    }
}

/// Adds to a key's sum.
#[inline]
pub fn add(sums: &mut FoldMap<u64, u64>, key: u64, value: u64) {
    let sum = sums.entry(key).or_insert(0);
    *sum = sum.wrapping_add(value);
}

/// The open tumbling windows of W3, each a sum per key; for the loops and for timely's operator.
#[derive(Debug, Default)]
pub struct Windows {
    /// Number of the window in `open[0]`.
    first: u64,
    open: VecDeque<FoldMap<u64, u64>>,
    /// Emptied maps, whose memory the next windows take.
    spare: Vec<FoldMap<u64, u64>>,
}

impl Windows {
    /// Adds a record to its window.
    ///
    /// # Panics
    /// If the window has fired: W3 has no late records, so the watermark was wrong.
    #[inline]
    pub fn add(&mut self, timestamp_ms: u64, key: u64, value: u64) {
        let window = w3_window(timestamp_ms);
        assert!(
            window >= self.first,
            "a record at {timestamp_ms} ms came after its window had fired"
        );
        let place = (window - self.first) as usize;
        while place >= self.open.len() {
            self.open.push_back(self.spare.pop().unwrap_or_default());
        }
        add(&mut self.open[place], key, value);
    }

    /// Gives `(window, key, sum)` of all windows that end at or before the watermark, and closes them.
    #[inline]
    pub fn fire(&mut self, watermark_ms: u64, mut give: impl FnMut(u64, u64, u64)) {
        while !self.open.is_empty() && watermark_ms / W3_WINDOW_MS > self.first {
            let Some(mut sums) = self.open.pop_front() else {
                return;
            };
            sums.drain()
                .for_each(|(key, sum)| give(self.first, key, sum));
            self.first += 1;
            self.spare.push(sums);
        }
    }

    /// Whether no window holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(workload: &str, parts: u64, records: u64, shape: Shape) -> Part {
        let words = Words::new();
        (0..parts)
            .map(|p| part(workload, p, parts, records, shape, Some(&words)).unwrap())
            .fold(
                Part {
                    checksum: 0,
                    results: 0,
                },
                |all, part| Part {
                    checksum: all.checksum.wrapping_add(part.checksum),
                    results: all.results + part.results,
                },
            )
    }

    #[test]
    fn both_shapes_find_what_the_reference_finds() {
        for shape in [Shape::Record, Shape::Batch] {
            assert_eq!(
                find("w1", 1, 1000, shape),
                Part {
                    checksum: 524,
                    results: 524
                }
            );
            assert_eq!(
                find("w2", 1, 10_000, shape),
                Part {
                    checksum: 0x29e4_88ba_2583_85b2,
                    results: 9949
                }
            );
        }
        assert_eq!(
            find("w4", 1, 200, Shape::Record),
            Part {
                checksum: 0xfb7d_12ca_eaab_d174,
                results: 1069
            }
        );
    }

    #[test]
    fn the_checksum_does_not_depend_on_the_partitions() {
        for workload in ["w1", "w2", "w3", "w4"] {
            let one = find(workload, 1, 50_000, Shape::Record).checksum;
            assert_ne!(one, 0);
            assert_eq!(
                find(workload, 3, 50_000, Shape::Record).checksum,
                one,
                "{workload}"
            );
        }
    }

    #[test]
    fn a_window_fires_when_the_watermark_reaches_its_end_and_not_before() {
        let mut windows = Windows::default();
        windows.add(999, 7, 1);
        windows.add(1000, 7, 2);
        let mut fired = Vec::new();
        windows.fire(999, |window, key, sum| fired.push((window, key, sum)));
        assert_eq!(fired, []);
        windows.add(0, 7, 3);
        windows.fire(1000, |window, key, sum| fired.push((window, key, sum)));
        assert_eq!(fired, [(0, 7, 4)]);
        windows.fire(u64::MAX, |window, key, sum| fired.push((window, key, sum)));
        assert_eq!(fired, [(0, 7, 4), (1, 7, 2)]);
        assert!(windows.is_empty());
    }

    #[test]
    fn a_window_job_that_is_wide_fires_every_window() {
        // 5,000 ms of event time and up to 100 more: windows 0 to 5.
        let mut groups = std::collections::BTreeSet::new();
        for (key, _, timestamp) in (0..5_000_000).map(w3_record) {
            groups.insert((w3_window(timestamp), key));
        }
        assert_eq!(
            find("w3", 1, 5_000_000, Shape::Record).results,
            groups.len() as u64
        );
    }
}
