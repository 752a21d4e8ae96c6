//! The peers of the benchmarks: what the jobs of `afflux-bench` are compared with.
//!
//! Not a product and not published. Reading order: [`workload`] (the generator, the very file that
//! `afflux-bench` uses), [`hand`] (loops without an engine), [`flow`] (timely dataflow), [`rpc`] with
//! [`tarpc_peer`] and [`tonic_peer`]; [`args`], [`usage`] and [`report`] are what every binary shares.
//!
//! Every binary prints one JSON object on one line of standard output; anything else goes to standard
//! error. The binaries named `…-mimalloc` are the same programs on mimalloc.

pub mod args;
pub mod flow;
pub mod hand;
pub mod hash;
pub mod renoir_peer;
pub mod report;
pub mod rpc;
pub mod tarpc_peer;
pub mod tonic_peer;
pub mod usage;
#[path = "../../bench/src/workload.rs"]
pub mod workload;

/// Runs a binary's body and turns an error into a message and exit status 1.
pub fn exit_with(result: Result<(), String>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            std::process::ExitCode::FAILURE
        }
    }
}
