//! q22: the directories in the URL of each bid.

use super::prelude::*;

/// A bid and where its URL leads.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WithDirectories {
    /// The bid.
    pub bid: SharedBid,
    /// The 4th, 5th and 6th part of its URL, each empty where there is none.
    pub directories: [String; 3],
}

/// Cuts each URL at its slashes.
pub fn q22(flow: &Flow, log: &Log, out: impl Sink<WithDirectories>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .map(|bid| {
            let mut parts = bid.url.split('/').skip(3);
            let directories = [(); 3].map(|()| parts.next().unwrap_or_default().to_owned());
            WithDirectories { bid, directories }
        })
        .sink("answer", out);
}

impl Answer for WithDirectories {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        self.directories.each_ref().map(|directory| directory.chars().count() as i64)
    }
}
