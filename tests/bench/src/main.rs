//! Benchmarks of Afflux, one JSON line a run with `--json`; see `docs/performance.md`.
//!
//! `afflux-bench stream w1|w2|w3|w4 --records N --parallelism P --nodes K`
//! `afflux-bench checkpoint --keys N --changed SHARE`
//! `afflux-bench nexmark q0|…|q22 --events N --rate R --parallelism P --nodes K --digest`
//! `afflux-bench rpc r1|r2|r3|r4|r5|connections --outstanding N --payload BYTES --seconds S`

// Shared with the peers, who use more of it.
#[allow(dead_code, unreachable_pub)]
#[path = "../../peers/src/args.rs"]
mod args;
mod checkpoint;
mod connections;
mod latency;
mod local;
mod nexmark;
mod open_loop;
#[allow(dead_code, unreachable_pub)]
#[path = "../../peers/src/report.rs"]
mod report;
mod rpc;
mod state;
mod stream;
#[allow(dead_code, unreachable_pub)]
#[path = "../../peers/src/usage.rs"]
mod usage;
#[allow(dead_code, unreachable_pub)]
mod workload;

use args::Args;

/// What the derives name, without the facade.
mod kit {
    pub(crate) mod contract {
        pub(crate) use afflux_wire::contract::*;
    }
    pub(crate) mod actor {
        pub(crate) use afflux_actor::*;
    }
    pub(crate) mod __private {
        pub(crate) use ::schemars;
        pub(crate) use ::serde;
    }
}

/// Prints a report: as one JSON line where `--json` was given, else as a table.
fn show(report: &report::Report) {
    show_line(&report.json());
}

/// Prints a JSON object, as [`show`] does.
fn show_line(line: &str) {
    if std::env::args().any(|word| word == "--json") {
        println!("{line}");
        return;
    }
    let fields: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    for (name, value) in fields.as_object().into_iter().flatten() {
        if !value.is_null() {
            println!("{name:<10} {value}");
        }
    }
}

const HELP: &str = "\
afflux-bench stream w1|w2|w3|w4 [--records N] [--parallelism P] [--nodes K]
afflux-bench nexmark q0|…|q22 [--events N] [--rate R] [--parallelism P] [--nodes K] [--digest] [--state memory|disk]
afflux-bench nexmark events --out DIR [--events N] [--rate R]      the events as JSON lines, for an independent engine
afflux-bench rpc r1|r2|r3 [--outstanding N] [--payload BYTES] [--seconds S] [--transport tcp|memory] [--busy N]
afflux-bench rpc r2 --rate N [--seconds S]      calls at a rate, latency from when each was due (cpu_s: the server's alone)
afflux-bench rpc r4|r5 [--records N]      items sent, and received, a million a stream
afflux-bench rpc large [--payload BYTES] [--seconds S]      pings each ms beside large answers on one link
afflux-bench rpc connections [--clients N] [--rate N] [--seconds S]      memory of the server, latency over all clients
afflux-bench local l1|l2 [--outstanding N] [--threads 1|2] [--seconds S]      ask and tell in one process
afflux-bench stream latency [--rate N] [--seconds S] [--nodes K]      from when a record was due to the sink
afflux-bench checkpoint [--keys N] [--changed SHARE] [--epochs E]      pause, duration and bytes of checkpoints of N keys
afflux-bench checkpoint --backpressure [--sink-rate N] [--seconds S] [--nodes K]      how long barriers wait behind a slow sink
afflux-bench state [--state memory|disk] [--keys N] [--records N] [--cache MIB] [--checkpoint-ms MS]      sums per key, state larger than memory
afflux-bench stream slow --nodes 2      memory behind a consumer of 1,000 records/s, after 10 and 60 s

Each prints a table, or with --json one JSON line: records (or requests), wall and CPU seconds of all processes,
work per CPU second, latencies, peak memory and the workload's checksum.

stream and nexmark take --checkpoint-ms MS: a checkpoint each MS, stored in a temporary directory; 0, the default: none.

Examples:
  afflux-bench stream w2 --records 200_000_000 --parallelism 2
  afflux-bench rpc r2 --outstanding 256 --seconds 10";

fn main() {
    if std::env::args().skip(1).any(|word| matches!(word.as_str(), "--help" | "-h" | "help")) {
        println!("{HELP}");
        return;
    }
    let words = std::env::args()
        .skip(1)
        .filter(|word| word != "--json" && word != nexmark::DIGEST && word != checkpoint::BACKPRESSURE);
    let outcome = Args::parse(words).and_then(|mut args| {
        let suite = args
            .word("a suite (stream, nexmark, checkpoint, rpc, local)")
            .map_err(|e| format!("{e}\n\n{HELP}"))?;
        match suite.as_str() {
            "stream" => stream::run(args),
            "nexmark" => nexmark::run(args),
            "checkpoint" => checkpoint::run(args),
            "checkpoint-node" => checkpoint::node(args),
            "rpc" => rpc::run(args),
            "local" => local::run(args),
            "rpc-server" => rpc::server(args),
            "state" => state::run(args),
            "stream-node" => stream::node(args),
            "latency-node" => latency::node(args),
            "nexmark-node" => nexmark::node(args),
            other => Err(format!("unknown suite `{other}`\n\n{HELP}")),
        }
    });
    if let Err(error) = outcome {
        eprintln!("afflux-bench: {error}");
        std::process::exit(2);
    }
}
