//! A query run to its end in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use afflux::actor::{Clock, Threads, system};
use afflux_stream::job::run_local;
use afflux_stream::{Flow, JobSettings, Plan};

use crate::digest::{Digest, Tally};
use crate::queries::{build, q10_written};
use crate::source::Log;

/// Threads of a run's tasks.
const SLOTS: usize = 2;

/// Where q10 writes, below the working directory.
const FILES: &str = "out/nexmark-q10";

/// Runs a query over a log at a parallelism and returns the digest of its answer. What q10 writes goes below
/// `out/nexmark-q10` of the working directory, and away what was there.
///
/// ```
/// use afflux_nexmark::{Log, answer};
/// assert_eq!(answer("q22", &Log::new(1_000, 500), 2).unwrap().to_string(), "[920, 3230, 3207, 3318]");
/// ```
///
/// # Errors
/// When there is no such query, or a task fails.
pub fn answer(query: &str, log: &Log, parallelism: u32) -> afflux::Result<Digest> {
    answer_with(query, log, JobSettings { parallelism, ..JobSettings::default() })
}

/// The same with other settings, such as where state is kept.
///
/// # Errors
/// As [`answer`].
pub fn answer_with(query: &str, log: &Log, settings: JobSettings) -> afflux::Result<Digest> {
    let (tally, files) = (Tally::default(), Path::new(FILES));
    if query == "q10" && files.exists() {
        std::fs::remove_dir_all(files)?;
    }
    let flow = Flow::new(query, settings);
    build(query, &flow, log, tally.clone(), files)?;
    run(flow.finish()?)?;
    if query == "q10" { Ok(q10_written(files)?) } else { Ok(tally.digest()) }
}

/// Runs a plan to its end. The clock begins at 1970: queries are about time in their events, or about
/// time that passes.
///
/// # Errors
/// When a task fails.
pub fn run(plan: Plan) -> afflux::Result {
    system(|| async move {
        let threads = Arc::new(Threads::start(SLOTS, 1)?);
        run_local(&plan, threads, Clock::starting_at(SystemTime::UNIX_EPOCH)).await?;
        afflux::Result::Ok(())
    })?
}
