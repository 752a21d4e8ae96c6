//! The processes of a timely run: one is this process; several are copies of it that connect over loopback
//! TCP, while this one waits for their results.

use super::{Job, Part, Workload};
use crate::args::Args;
use crate::report::{Param, Report, Work};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// How many processes a run may have.
const PROCESSES_MAX: usize = 16;

/// How a copy's result line begins; timely itself writes to standard output too, while it connects.
const PART: &str = "part ";

/// The `timely` binary.
///
/// # Errors
/// A message about the arguments, the processes or the run.
pub fn main(allocator: &'static str) -> Result<(), String> {
    let mut args = Args::from_env()?;
    let workload = Workload::named(&args.word("a workload, w1 to w4,")?)?;
    let records = args.number("records", 20_000_000)?;
    let threads = args.count("threads", 1)?;
    let processes = args.count("processes", 1)?;
    let filter = args.choice("filter", &["retain", "branchless"])?;
    let wanted = args.choice("allocator", &["default", "system", "mimalloc"])?;
    // Given by the waiting process to its copies.
    let (process, addresses) = (args.number("process", 0usize)?, args.text("addresses"));
    args.finish()?;
    if processes > PROCESSES_MAX {
        return Err(format!(
            "--processes is {processes}, expected at most {PROCESSES_MAX}"
        ));
    }
    let wanted = match (wanted, workload) {
        ("default", Workload::W4) => "mimalloc",
        ("default", _) => allocator,
        (named, _) => named,
    };
    if wanted != allocator {
        return Err(become_other(wanted));
    }

    let job = Job {
        workload,
        records,
        branchless: filter == "branchless",
    };
    if let Some(addresses) = addresses {
        exit_with_parent();
        let addresses = addresses.split(',').map(str::to_owned).collect();
        let part = super::run(config(threads, processes, process, addresses), job)?;
        println!("{PART}{}", encode(&part));
        return Ok(());
    }
    let parts = if processes == 1 {
        vec![super::run(config(threads, 1, 0, Vec::new()), job)?]
    } else {
        Copies::start(&free_addresses(processes)?)?.collect()?
    };
    let report = Report {
        bench: format!("stream {}", workload.name()),
        params: vec![
            ("engine", Param::Text("timely")),
            ("records", Param::Number(records)),
            ("threads", Param::Number(threads as u64)),
            ("processes", Param::Number(processes as u64)),
            ("filter", Param::Text(filter)),
            ("allocator", Param::Text(allocator)),
        ],
        work: Work::Records {
            records,
            checksum: parts
                .iter()
                .fold(0, |all, part| all.wrapping_add(part.checksum)),
            results: Some(parts.iter().map(|part| part.results).sum()),
        },
        wall_s: parts.iter().map(|part| part.wall_s).fold(0.0, f64::max),
        cpu_s: parts.iter().map(|part| part.cpu_s).sum(),
        rss_mb: parts.iter().map(|part| part.rss_mb).sum(),
    };
    println!("{}", report.json());
    Ok(())
}

/// Replaces this process by the same program on another allocator; returns only if that fails.
fn become_other(allocator: &str) -> String {
    use std::os::unix::process::CommandExt;
    let name = if allocator == "mimalloc" {
        "timely-mimalloc"
    } else {
        "timely"
    };
    match std::env::current_exe() {
        Ok(this) => {
            let other = this.with_file_name(name);
            let error = Command::new(&other)
                .args(std::env::args_os().skip(1))
                .exec();
            format!(
                "{}: {error}; build it, or choose another --allocator",
                other.display()
            )
        }
        Err(error) => format!("this program's path: {error}"),
    }
}

fn config(
    threads: usize,
    processes: usize,
    process: usize,
    addresses: Vec<String>,
) -> timely::Config {
    use timely::CommunicationConfig::{Cluster, Process, Thread};
    let communication = match (processes, threads) {
        (1, 1) => Thread,
        (1, threads) => Process(threads),
        _ => Cluster {
            threads,
            process,
            addresses,
            report: false,
            zerocopy: false,
        },
    };
    timely::Config {
        communication,
        worker: timely::WorkerConfig::default(),
    }
}

/// Addresses that are free now. Timely binds them itself, so another program may take one in between; the run
/// then fails and says so.
fn free_addresses(count: usize) -> Result<Vec<String>, String> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("no free port on loopback: {error}"))?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.to_string()))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the address of a listener: {error}"))
}

/// Ends this process when its parent closes our standard input, as it does by ending.
fn exit_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
}

/// The processes of a run; dropping them ends them.
struct Copies {
    parts: Receiver<Result<Part, String>>,
    /// Held open, one for each copy: closing ends the copy.
    inputs: Vec<ChildStdin>,
}

impl Copies {
    fn start(addresses: &[String]) -> Result<Self, String> {
        let this =
            std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
        let (sender, parts) = channel();
        let mut inputs = Vec::new();
        for process in 0..addresses.len() {
            let mut child = Command::new(&this)
                .args(std::env::args_os().skip(1))
                .args([
                    "--process",
                    &process.to_string(),
                    "--addresses",
                    &addresses.join(","),
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("start of process {process}: {error}"))?;
            inputs.extend(child.stdin.take());
            let sender = sender.clone();
            std::thread::spawn(move || {
                let part =
                    await_part(child).map_err(|message| format!("process {process}: {message}"));
                // If another process has failed, nobody listens.
                let _ = sender.send(part);
            });
        }
        Ok(Self { parts, inputs })
    }

    /// The parts as they come; the first failure ends the run, since timely would wait for the lost process.
    fn collect(self) -> Result<Vec<Part>, String> {
        self.inputs
            .iter()
            .map(|_| {
                self.parts
                    .recv()
                    .unwrap_or_else(|_| Err("a process went without a result".to_owned()))
            })
            .collect()
    }
}

/// Waits for a copy's end; its result, if it ended well.
fn await_part(mut child: Child) -> Result<Part, String> {
    let output = child.stdout.take().ok_or("it has no standard output")?;
    let mut part = None;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        match line.strip_prefix(PART) {
            Some(fields) => part = Some(decode(fields)?),
            None => eprintln!("timely: {line}"),
        }
    }
    let status = child.wait().map_err(|error| format!("wait: {error}"))?;
    part.filter(|_| status.success())
        .ok_or_else(|| format!("it ended without a result, {status}"))
}

fn encode(part: &Part) -> String {
    format!(
        "{} {} {} {} {}",
        part.checksum, part.results, part.wall_s, part.cpu_s, part.rss_mb
    )
}

fn decode(line: &str) -> Result<Part, String> {
    fn next<T: std::str::FromStr>(
        fields: &mut std::str::SplitWhitespace<'_>,
        line: &str,
    ) -> Result<T, String> {
        fields
            .next()
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| format!("no result: {line:?}"))
    }
    let fields = &mut line.split_whitespace();
    Ok(Part {
        checksum: next(fields, line)?,
        results: next(fields, line)?,
        wall_s: next(fields, line)?,
        cpu_s: next(fields, line)?,
        rss_mb: next(fields, line)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_survives_the_pipe() {
        let part = Part {
            checksum: u64::MAX,
            results: 3,
            wall_s: 1.25,
            cpu_s: 0.125,
            rss_mb: 53.5,
        };
        assert_eq!(decode(&encode(&part)).unwrap(), part);
        assert!(decode("1 2 3").is_err());
    }

    #[test]
    fn every_workload_finds_the_same_with_one_worker_and_with_three() {
        for (name, workload) in Workload::ALL {
            let job = Job {
                workload,
                records: 20_000,
                branchless: false,
            };
            let one = super::super::run(config(1, 1, 0, Vec::new()), job).unwrap();
            let three = super::super::run(config(3, 1, 0, Vec::new()), job).unwrap();
            assert_eq!(
                (one.checksum, one.results),
                (three.checksum, three.results),
                "{name}"
            );
            let shape = crate::hand::Shape::Record;
            let hand = crate::hand::run(name, 20_000, 1, shape, "system").unwrap();
            let crate::report::Work::Records {
                checksum, results, ..
            } = hand.work
            else {
                panic!("not a stream")
            };
            assert_eq!(
                (one.checksum, Some(one.results)),
                (checksum, results),
                "{name}"
            );
        }
    }

    #[test]
    fn the_filter_without_branches_keeps_the_same_records() {
        let job = Job {
            workload: Workload::W1,
            records: 5_000,
            branchless: false,
        };
        let plain = super::super::run(config(1, 1, 0, Vec::new()), job).unwrap();
        let other = super::super::run(
            config(1, 1, 0, Vec::new()),
            Job {
                branchless: true,
                ..job
            },
        )
        .unwrap();
        assert!(plain.results > 2_000);
        assert_eq!(
            (plain.checksum, plain.results),
            (other.checksum, other.results)
        );
    }
}
