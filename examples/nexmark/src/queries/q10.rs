//! q10: every bid into files.

use std::path::{Path, PathBuf};

use afflux_stream::Partitioning;

use super::prelude::*;
use crate::digest::Digest;
use crate::files::{PartitionedFiles, files_below, partition_of};

/// Rows of a file.
const ROWS_MAX: u64 = 10_000;

/// Writes the bids as JSON lines into partitions by day and minute, in files of 10,000 rows, and marks a
/// partition when no bid of its minute can come any more.
pub fn q10(flow: &Flow, log: &Log, directory: impl Into<PathBuf>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .partition(Partitioning::hash(|bid: &SharedBid| partition_of(bid.date_time)))
        .sink("files", PartitionedFiles::below(directory, ROWS_MAX));
}

/// The digest of what a run of [`q10`] has written and committed below a directory.
///
/// # Errors
/// When a file cannot be read, or holds anything but bids.
pub fn q10_written(directory: &Path) -> afflux_stream::Result<Digest> {
    let mut digest = Digest::of::<SharedBid>();
    for file in files_below(directory)?.iter().filter(|file| file.extension().is_some_and(|e| e == "jsonl")) {
        let wrong = |error: String| Status::new(Code::DataLoss, format!("{}: {error}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        for line in text.lines() {
            let bid: SharedBid = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            digest.add(&bid);
        }
    }
    Ok(digest)
}
