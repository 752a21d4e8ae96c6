//! Recommendations: who posts about one tag posts about which others?

use std::cmp::Reverse;

use afflux::prelude::*;
use afflux::stream::Stream;

use crate::sessions::Visit;

/// Recommendations for a tag.
pub const RECOMMENDATIONS: usize = 3;

/// A tag that is often posted about in the same session as another. Sorted as its fields are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recommendation {
    /// The beginning of the hour in which the sessions were over: ten minutes after their last post.
    pub hour: Timestamp,
    /// Who posts about this
    pub tag: String,
    /// Its place among the recommendations for `tag`: 1 for that of most sessions; of as many, the
    /// alphabet decides.
    pub rank: u32,
    /// also posts about this,
    pub other: String,
    /// in so many sessions.
    pub sessions: u64,
}

/// Sessions in which two tags were, in one hour.
type Together = ((String, String), Window, u64);

/// The recommendations of every hour.
pub fn recommendations(visits: Stream<Visit>) -> Stream<Recommendation> {
    visits
        .flat_map(pairs)
        .key_by_ref(|pair| pair)
        .window(Tumbling::of(hours(1)))
        .late(Late::Drop)
        .count("sessions-of-pair")
        .key_by(|((tag, _), _, _)| tag.clone())
        .window(Tumbling::of(hours(1)))
        .late(Late::Drop)
        .aggregate(
            "recommendations",
            top_n(RECOMMENDATIONS, |((_, other), _, sessions): &Together| {
                (*sessions, Reverse(other.clone()))
            }),
        )
        .flat_map(|Ranking { key: tag, window, rows }| {
            (1..).zip(rows).map(move |(rank, ((_, other), _, sessions))| Recommendation {
                hour: window.start,
                tag: tag.clone(),
                rank,
                other,
                sessions,
            })
        })
}

/// Every two tags of a session, each way around.
fn pairs(visit: Visit) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for tag in &visit.tags {
        let others = visit.tags.iter().filter(|other| *other != tag);
        pairs.extend(others.map(|other| (tag.clone(), other.clone())));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::UserSession;

    #[test]
    fn every_two_tags_of_a_session_are_a_pair_each_way_around() {
        let tags = ["a", "b", "c"].map(str::to_owned).into();
        let at = Timestamp::from_millis(0);
        let session = UserSession { ended: at, user: 1, began: at, posts: 2, tags: 3 };
        let pairs: Vec<String> =
            pairs(Visit { session, tags }).iter().map(|(a, b)| format!("{a}{b}")).collect();
        assert_eq!(pairs, ["ab", "ac", "ba", "bc", "ca", "cb"]);
    }
}
