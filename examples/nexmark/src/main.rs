//! Prints the digests of the answers to all queries over the first 60,000 events.

use std::process::ExitCode;

use afflux_nexmark::queries::QUERIES;
use afflux_nexmark::{Log, answer};

/// Events of the auction.
const EVENTS: usize = 60_000;
/// Events in a second of its time.
const RATE: usize = 500;
/// Tasks of each chain.
const PARALLELISM: u32 = 2;

fn main() -> ExitCode {
    let log = Log::new(EVENTS, RATE);
    for query in QUERIES {
        match answer(query, &log, PARALLELISM) {
            Ok(digest) => println!("{query}\t{digest}"),
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(error.exit_code());
            }
        }
    }
    ExitCode::SUCCESS
}
