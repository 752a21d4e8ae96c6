//! Kills the nodes of a cluster again and again, and checks what it has committed.
//!
//! One program: with `node …` it is a node of the pipeline `counts`; without, it is the launcher that holds
//! the registry, starts nodes of itself, kills them with SIGKILL at moments that a seed decides, starts them
//! again, and reads the committed files as they come. Per key the counter's next minus current is 1, every
//! record is there, and none twice; otherwise it says what is wrong and ends with exit code 1.
//!
//! Reading order: `pipeline`, `ledger` (the check), `out` (the files) and `topics` (of a Kafka), `cluster` (processes), `proxy`
//! and `namespaces` (their network), `run`, `report`.

mod beside;
mod cluster;
mod ends;
mod ledger;
mod namespaces;
mod nexmark;
mod out;
mod pipeline;
mod proxy;
mod report;
mod run;
mod seed;
#[cfg(feature = "kafka")]
mod topics;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use afflux::App;
use clap::Parser;
use tempfile::TempDir;

use crate::nexmark::Answered;
use crate::pipeline::Mistake;
use crate::run::{Setup, Victim};

/// Kills the nodes of a cluster again and again, and checks what it has committed.
#[derive(Parser)]
#[command(name = "afflux-chaos")]
struct Arguments {
    /// Kills (SIGKILL), one after the other.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Nodes that are asked to end (SIGTERM), and hand their tasks over.
    #[arg(long, default_value_t = 0)]
    leaves: u32,
    /// Breaks of the network between nodes: resets, torn messages, silence, delays, a node cut off.
    #[arg(long, default_value_t = 0)]
    breaks: u32,
    /// Breaks the network by losing packets, in a network namespace for each node, not by proxies. Wants root, iproute2 and
    /// nftables.
    #[arg(long, conflicts_with_all = ["etcd", "kafka", "nexmark"])]
    namespaces: bool,
    /// Nodes that are stopped for longer than their leases (SIGSTOP), and go on (SIGCONT).
    #[arg(long, default_value_t = 0)]
    stops: u32,
    /// Kills of all nodes at once.
    #[arg(long, default_value_t = 0)]
    blackouts: u32,
    /// Other numbers of parallel tasks, half of them with a kill on their heels.
    #[arg(long, default_value_t = 0, conflicts_with = "etcd")]
    rescales: u32,
    /// Makes a mistake on purpose: it has to be found.
    #[arg(long, value_enum)]
    mistake: Option<Mistake>,
    /// Decides victims and moments; drawn when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Who is killed or stopped.
    #[arg(long, value_enum, default_value_t = Victim::Any)]
    victim: Victim,
    /// Node processes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// Milliseconds between two checkpoints; 150 when absent, 400 with `--kafka`.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    checkpoint_ms: Option<u64>,
    /// The Kafka, such as `127.0.0.1:9092`, of a build with `--features kafka`: records are read from a topic and written
    /// to another in transactions, and Kafka's own console consumer reads what is committed. `--mistake repeat` leaves
    /// the transactions out.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "nexmark")]
    kafka: Option<String>,
    /// The etcd that knows the nodes, such as `127.0.0.1:2379`, of a build with `--features etcd`; when absent the
    /// launcher does, and ends the leases of a process with the process.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "breaks")]
    etcd: Option<String>,
    /// Runs another pipeline on the first node, which is left alone: it must not pause, nor begin again.
    #[arg(long)]
    beside: bool,
    /// Runs Nexmark queries in place of all that, each with two kills and a rescale in the middle, and compares
    /// their digests with those of an independent engine.
    #[arg(long)]
    nexmark: bool,
    /// Any other setting of the nodes, such as `state.backend=disk`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Keeps the working directory, with the logs of all nodes, also when nothing is wrong.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("node") {
        return said(afflux::actor::system(|| async {
            let app = App::new("afflux-chaos").pipeline(pipeline::PIPELINE, pipeline::build);
            #[cfg(feature = "kafka")]
            let app = topics::add(app);
            nexmark::add(app.pipeline(beside::BESIDE, beside::build)).run().await
        }));
    }
    let arguments = Arguments::parse();
    if arguments.namespaces
        && let Err(error) = namespaces::enter()
    {
        return said(Ok(Err(error)));
    }
    match afflux::actor::system(|| suite(&arguments)) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => said(Ok(Err(error))),
        Err(status) => said(Ok(Err(status.into()))),
    }
}

fn said(result: Result<afflux::Result<()>, afflux_wire::Status>) -> ExitCode {
    match result.unwrap_or_else(|status| Err(status.into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// A directory to work in.
fn fresh() -> afflux::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("afflux-chaos-").tempdir();
    directory.map_err(|error| afflux::Error::failed(format!("no directory to work in: {error}")))
}

/// Keeps a directory whose logs somebody will want to read.
fn keep(directory: &mut TempDir) {
    directory.disable_cleanup(true);
    eprintln!("logs and checkpoints are kept in {}", directory.path().display());
}

/// Whether each query's digest is right.
async fn queries(arguments: &Arguments) -> afflux::Result<bool> {
    let mut answers = Vec::new();
    for query in nexmark::QUERIES {
        let mut directory = fresh()?;
        let answered = nexmark::answer(query, directory.path(), &arguments.settings).await;
        if !arguments.json {
            let Answered { digest, expected, attempts, failure, .. } = &answered;
            let verdict = if answered.is_right() { "as expected" } else { "WRONG" };
            println!("{query} {digest} {verdict} ({expected}), {attempts} attempts {failure:?}");
        }
        if arguments.keep || !answered.is_right() {
            keep(&mut directory);
        }
        answers.push(answered);
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&answers)?);
    }
    Ok(answers.iter().all(Answered::is_right))
}

/// Whether everything is as promised.
async fn suite(arguments: &Arguments) -> afflux::Result<bool> {
    if arguments.nexmark {
        return queries(arguments).await;
    }
    if arguments.kafka.is_some() && arguments.mistake == Some(Mistake::Skip) {
        let cure = "`--mistake repeat` leaves the transactions out";
        return Err(afflux::Error::usage("a source that is a topic leaves nothing out on purpose").hint(cure));
    }
    let drawn = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let setup = Setup {
        seed: arguments.seed.unwrap_or(drawn),
        nodes: usize::from(arguments.nodes),
        kills: arguments.kills,
        leaves: arguments.leaves,
        breaks: arguments.breaks,
        namespaces: arguments.namespaces,
        stops: arguments.stops,
        rescales: arguments.rescales,
        blackouts: arguments.blackouts,
        mistake: arguments.mistake,
        settings: arguments.settings.clone(),
        victim: arguments.victim,
        checkpoint_ms: arguments.checkpoint_ms.unwrap_or(if arguments.kafka.is_some() { 400 } else { 150 }),
        kafka: arguments.kafka.clone(),
        etcd: arguments.etcd.clone(),
        beside: arguments.beside,
    };
    let mut directory = fresh()?;
    let json = arguments.json;
    let report = run::run(&setup, directory.path(), &mut |blow| {
        if !json {
            println!("{blow}");
        }
    })
    .await;
    match serde_json::to_string(&report) {
        Ok(text) if json => println!("{text}"),
        _ => println!("{report}"),
    }
    if arguments.keep || !report.is_right() {
        keep(&mut directory);
    }
    Ok(report.is_right())
}
