//! q22: the directories in the URL of each bid.

use super::prelude::*;

/// A bid and where its URL leads.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WithDirectories {
    /// The bid.
    pub bid: SharedBid,
    /// Where its 4th, 5th and 6th part stand in its URL.
    parts: [(u32, u32); 3],
}

impl WithDirectories {
    /// Cuts the URL of a bid at its slashes.
    fn of(bid: SharedBid) -> Self {
        let mut begin = 0;
        let bounds = bid.url.split('/').map(|part| {
            let end = begin + part.len() as u32;
            let bounds = (begin, end);
            begin = end + 1;
            bounds
        });
        let mut bounds = bounds.skip(3);
        let parts = [(); 3].map(|()| bounds.next().unwrap_or_default());
        Self { bid, parts }
    }

    /// The 4th, 5th and 6th part of the URL, each empty where there is none: not copied, but found again.
    pub fn directories(&self) -> [&str; 3] {
        self.parts.map(|(begin, end)| self.bid.url.get(begin as usize..end as usize).unwrap_or_default())
    }
}

/// Cuts each URL at its slashes.
pub fn q22(flow: &Flow, log: &Log, out: impl Sink<WithDirectories>) {
    flow.source("bids", log.bids()).watermarks(in_order()).map(WithDirectories::of).sink("answer", out);
}

impl Answer for WithDirectories {
    const COLUMNS: &'static [Column] = &[Column::Sum, Column::Sum, Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        self.directories().map(|directory| directory.chars().count() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_not_there_are_empty() {
        let directories = |url: &str| {
            let bid = Bid {
                auction: 0,
                bidder: 0,
                price: 0,
                channel: String::new(),
                url: url.to_owned(),
                date_time: Timestamp::MIN,
                extra: String::new(),
            };
            WithDirectories::of(Arc::new(bid)).directories().map(str::to_owned)
        };
        assert_eq!(directories("https://a.com/b/c/d/e"), ["b", "c", "d"]);
        assert_eq!(directories("https://a.com/b/"), ["b", "", ""]);
        assert_eq!(directories("https"), ["", "", ""]);
    }
}
