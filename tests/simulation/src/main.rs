//! Plays seeds, and says which of them break the promise.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use afflux_mesh::bugs::Bug;
use afflux_simulation::{Detail, Outcome, Simulation, run};
use clap::Parser;

/// Plays the job protocol on machines whose network, disks and calendars a seed decides.
#[derive(Parser)]
#[command(name = "afflux-simulation")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints what happened in it, line by line.
    #[arg(long)]
    trace: bool,
    /// With every packet and every line of the log.
    #[arg(long)]
    all: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Makes a mistake on purpose, such as `EarlyCommit`: the seeds that find it fail.
    #[arg(long)]
    bug: Option<String>,
    /// Makes each of the mistakes in turn, and says how many seeds it takes to find it.
    #[arg(long, conflicts_with_all = ["seed", "bug"])]
    bugs: bool,
    /// Seeds that are played at a time; 0: as many as there are processors.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let known = |name: &String| Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == *name);
    let bug = arguments.bug.as_ref().and_then(known);
    if arguments.bug.is_some() && bug.is_none() {
        eprintln!("there is no such bug; there are {:?}", Bug::ALL);
        return ExitCode::FAILURE;
    }
    if arguments.bugs {
        return mistakes(&arguments);
    }
    match arguments.seed {
        Some(seed) => one(seed, bug, &arguments),
        None => many(bug, &arguments),
    }
}

fn one(seed: u64, bug: Option<Bug>, arguments: &Arguments) -> ExitCode {
    let detail = if arguments.all { Detail::All } else { Detail::Story };
    let outcome = run(&Simulation { detail, bug, kept: arguments.trace, ..Simulation::of(seed) });
    if arguments.trace {
        print!("{}", outcome.trace.text);
    }
    let Outcome { failure, played, kills, rows, trace, .. } = &outcome;
    let verdict = failure.as_deref().unwrap_or("ok");
    println!(
        "seed {seed}: {verdict}; {:.1} s played, {kills} kills, {rows} rows, {} lines, trace {:016x}",
        played.as_secs_f64(),
        trace.lines,
        trace.hash
    );
    if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether every mistake is found.
fn mistakes(arguments: &Arguments) -> ExitCode {
    let mut missed = 0;
    for bug in Bug::ALL {
        let began = Instant::now();
        let found = (arguments.from..arguments.from + arguments.seeds).find_map(|seed| {
            let outcome = run(&Simulation { bug: Some(bug), kept: false, ..Simulation::of(seed) });
            outcome.failure.map(|failure| (seed, failure))
        });
        let (name, took) = (format!("{bug:?}"), began.elapsed().as_secs_f64());
        match found {
            Some((seed, failure)) => {
                let seeds = seed - arguments.from + 1;
                println!("{name:<15} found after {seeds:>3} seeds, {took:.0} s: {failure}");
            }
            None => {
                missed += 1;
                println!("{name:<15} NOT FOUND in {} seeds, {took:.0} s", arguments.seeds);
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(bug: Option<Bug>, arguments: &Arguments) -> ExitCode {
    let threads = match arguments.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let (failures, sums) = (Mutex::new(BTreeMap::new()), Mutex::new((0.0, 0u64, 0u64)));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    // On a thread of its own: what libraries keep for a thread goes with it.
                    let play = || run(&Simulation { bug, kept: false, ..Simulation::of(seed) });
                    let outcome = match std::thread::scope(|alone| alone.spawn(play).join()) {
                        Ok(outcome) => outcome,
                        Err(panic) => std::panic::resume_unwind(panic),
                    };
                    if let Ok(mut sums) = sums.lock() {
                        sums.0 += outcome.played.as_secs_f64();
                        sums.1 += u64::from(outcome.kills);
                        sums.2 += outcome.rows;
                    }
                    if let Some(failure) = outcome.failure {
                        eprintln!("seed {seed} FAILED: {failure}");
                        eprintln!("    again: cargo run -p afflux-simulation -- --seed {seed} --trace");
                        if let Ok(mut failures) = failures.lock() {
                            failures.insert(seed, failure);
                        }
                    }
                }
            });
        }
    });
    let took = began.elapsed().as_secs_f64();
    let failures = failures.into_inner().unwrap_or_default();
    let (played, kills, rows) = sums.into_inner().unwrap_or_default();
    let (seeds, from) = (arguments.seeds, arguments.from);
    if arguments.json {
        let failed: Vec<u64> = failures.keys().copied().collect();
        let report = serde_json::json!({
            "from": from, "seeds": seeds, "failed": failed, "played_s": played, "kills": kills, "rows": rows,
            "took_s": took,
        });
        println!("{report}");
    } else {
        println!(
            "{seeds} seeds from {from}: {} failed; {played:.0} s played with {kills} kills and {rows} rows in {took:.0} s",
            failures.len()
        );
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
