//! Benchmarks of Afflux, one JSON line a run; see `docs/performance.md`.
//!
//! `afflux-bench stream w1|w2|w3|w4 --records N --parallelism P --nodes K`
//! `afflux-bench rpc r1|r2|r3 --outstanding N --payload BYTES --seconds S`

// Shared with the peers, who use more of it.
#[allow(dead_code, unreachable_pub)]
#[path = "../../peers/src/args.rs"]
mod args;
#[allow(dead_code, unreachable_pub)]
#[path = "../../peers/src/report.rs"]
mod report;
mod rpc;
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

/// Words are bound by the allocator; nodes use the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
afflux-bench stream w1|w2|w3|w4 [--records N] [--parallelism P] [--nodes K]
afflux-bench rpc r1|r2|r3 [--outstanding N] [--payload BYTES] [--seconds S]

Each prints one JSON line: records (or requests), wall and CPU seconds of all processes,
work per CPU second, latencies, peak memory and the workload's checksum.

Examples:
  afflux-bench stream w2 --records 200_000_000 --parallelism 2
  afflux-bench rpc r2 --outstanding 256 --seconds 10";

fn main() {
    let outcome = Args::from_env().and_then(|mut args| {
        let suite = args.word("a suite (stream, rpc)").map_err(|e| format!("{e}\n\n{HELP}"))?;
        match suite.as_str() {
            "stream" => stream::run(args),
            "rpc" => rpc::run(args),
            "rpc-server" => rpc::server(args),
            "stream-node" => stream::node(args),
            other => Err(format!("unknown suite `{other}`\n\n{HELP}")),
        }
    });
    if let Err(error) = outcome {
        eprintln!("afflux-bench: {error}");
        std::process::exit(2);
    }
}
