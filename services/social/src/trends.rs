//! Trends: the tags of most posts in the last ten minutes, every two minutes.

use std::cmp::Reverse;
use std::time::Duration;

use afflux::prelude::*;
use afflux::stream::Stream;

use crate::post::Post;

/// How far back a trend looks.
pub const TREND_SPAN: Duration = minutes(10);

/// How often there is another.
pub const TREND_STEP: Duration = minutes(2);

/// Tags of a trend.
pub const TREND_TAGS: usize = 5;

/// A tag that much is posted about. Sorted as its fields are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trend {
    /// The end of the ten minutes.
    pub until: Timestamp,
    /// Its place among the tags: 1 for that of most posts; of as many posts, the alphabet decides.
    pub rank: u32,
    /// The tag.
    pub tag: String,
    /// Posts about it in the ten minutes.
    pub posts: u64,
}

/// The trends of a stream of posts.
pub fn trends(posts: Stream<Post>) -> Stream<Trend> {
    posts
        .flat_map(|post| post.tags)
        .key_by_ref(|tag| tag)
        .window(Sliding::of(TREND_SPAN).every(TREND_STEP))
        .late(Late::Drop)
        .count("posts-of-tag")
        // A result has the last moment of its window as its time, so each step has one window's.
        .key_by(|(_, window, _)| window.end)
        .window(Tumbling::of(TREND_STEP))
        .late(Late::Drop)
        .aggregate(
            "trends",
            top_n(TREND_TAGS, |(tag, _, posts): &(String, Window, u64)| (*posts, Reverse(tag.clone()))),
        )
        .flat_map(|Ranking { key: until, rows, .. }| {
            (1..).zip(rows).map(move |(rank, (tag, _, posts))| Trend { until, rank, tag, posts })
        })
}
