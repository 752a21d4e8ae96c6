//! The stream jobs on renoir, in one process. `renoir w1|w2|w4 --records N --threads T`.
//!
//! Its usual operators: a parallel source, `filter` and `fold_assoc` for W1, `group_by_fold` for W2 and W4 (a table on
//! each source's side first, then one over all, which is renoir's own way and saves it the exchange of records). W3 is
//! left out: renoir's event-time windows gave other sums than the definition here.

use crate::args::Args;
use crate::report::{Param, Report, Work};
use crate::usage::{Mark, peak_rss_mb};
use crate::workload::{Words, indices, rnd, w1_keep, w1_map, w2_record, w2_term, w4_term};
use renoir::prelude::*;
use std::sync::Arc;

/// The `renoir` binary.
///
/// # Errors
/// A message about the arguments or the run.
pub fn main(allocator: &'static str) -> Result<(), String> {
    let mut args = Args::from_env()?;
    let workload = args.word("a workload, w1, w2 or w4,")?;
    let records: u64 = args.number("records", 20_000_000)?;
    let threads = args.count("threads", 1)?;
    args.finish()?;
    let (name, job): (_, fn(u64, usize) -> Result<Found, String>) = match workload.as_str() {
        "w1" => ("w1", w1),
        "w2" => ("w2", w2),
        "w4" => ("w4", w4),
        other => return Err(format!("workload {other:?} is unknown here, expected w1, w2 or w4")),
    };
    let found = job(records, threads)?;
    let report = Report {
        bench: format!("stream {name}"),
        params: vec![
            ("engine", Param::Text("renoir")),
            ("records", Param::Number(records)),
            ("threads", Param::Number(threads as u64)),
            ("allocator", Param::Text(allocator)),
        ],
        work: Work::Records { records, checksum: found.checksum, results: Some(found.results) },
        wall_s: found.spent.0,
        cpu_s: found.spent.1,
        rss_mb: peak_rss_mb()?,
    };
    println!("{}", report.json());
    Ok(())
}

/// What a run found and used.
struct Found {
    checksum: u64,
    results: u64,
    /// Wall and processor seconds.
    spent: (f64, f64),
}

fn context(threads: usize) -> Result<StreamContext, String> {
    let config = RuntimeConfig::local(threads as u64).map_err(|error| format!("renoir: {error}"))?;
    Ok(StreamContext::new(config))
}

/// Runs what was built, to its end.
fn execute(context: StreamContext) -> Result<(f64, f64), String> {
    let mark = Mark::now()?;
    context.execute_blocking();
    mark.spent()
}

fn w1(records: u64, threads: usize) -> Result<Found, String> {
    let context = context(threads)?;
    let kept = context
        .stream_par_iter(move |partition, partitions| indices(partition, partitions, records))
        .batch_mode(BatchMode::fixed(1024))
        .map(|i| w1_map(rnd(i)))
        .filter(|y| w1_keep(*y))
        .fold_assoc(0_u64, |sum, _| *sum += 1, |sum, part| *sum += part)
        .collect_vec();
    let spent = execute(context)?;
    let kept = kept.get().and_then(|kept| kept.first().copied()).unwrap_or_default();
    Ok(Found { checksum: kept, results: kept, spent })
}

fn w2(records: u64, threads: usize) -> Result<Found, String> {
    let context = context(threads)?;
    let sums = context
        .stream_par_iter(move |partition, partitions| indices(partition, partitions, records))
        .batch_mode(BatchMode::fixed(1024))
        .map(w2_record)
        .group_by_fold(
            |row| row.0,
            0_u64,
            |sum, (_, value)| *sum = sum.wrapping_add(value),
            |sum, part| *sum = sum.wrapping_add(part),
        )
        .unkey()
        .fold_assoc(
            (0_u64, 0_u64),
            |all, (key, sum)| *all = (all.0.wrapping_add(w2_term(key, sum)), all.1 + 1),
            |all, part| *all = (all.0.wrapping_add(part.0), all.1 + part.1),
        )
        .collect_vec();
    let spent = execute(context)?;
    let (checksum, results) = sums.get().and_then(|sums| sums.first().copied()).unwrap_or_default();
    Ok(Found { checksum, results, spent })
}

fn w4(records: u64, threads: usize) -> Result<Found, String> {
    let words = Arc::new(Words::new());
    let context = context(threads)?;
    let counts = context
        .stream_par_iter(move |partition, partitions| {
            let words = Arc::clone(&words);
            indices(partition, partitions, records).map(move |i| {
                let mut line = String::new();
                words.write_line(i, &mut line);
                line
            })
        })
        .batch_mode(BatchMode::fixed(1024))
        .flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by_fold(Clone::clone, 0_u64, |count, _| *count += 1, |count, part| *count += part)
        .unkey()
        .fold_assoc(
            (0_u64, 0_u64),
            |all, (word, count)| *all = (all.0.wrapping_add(w4_term(&word, count)), all.1 + 1),
            |all, part| *all = (all.0.wrapping_add(part.0), all.1 + part.1),
        )
        .collect_vec();
    let spent = execute(context)?;
    let (checksum, results) = counts.get().and_then(|counts| counts.first().copied()).unwrap_or_default();
    Ok(Found { checksum, results, spent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_finds_what_a_loop_finds() {
        for (name, job) in [("w1", w1 as fn(u64, usize) -> Result<Found, String>), ("w2", w2), ("w4", w4)] {
            let found = job(20_000, 2).unwrap();
            let hand = crate::hand::run(name, 20_000, 1, crate::hand::Shape::Record, "system").unwrap();
            let Work::Records { checksum, results, .. } = hand.work else { panic!("not a stream") };
            assert_eq!((found.checksum, Some(found.results)), (checksum, results), "{name}");
        }
    }
}
