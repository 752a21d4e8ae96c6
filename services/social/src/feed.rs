//! The generator: an evening of posts, the same evening each time.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use afflux::prelude::*;
use afflux::stream::Source;
use afflux_rehearsal::{Chance, Zipf, arrivals};

use crate::post::Post;

/// A post arrives at most this long after it was made.
pub const DELAY_MAX: Duration = secs(5);

/// Interests, each with its tags, the most popular first.
const INTERESTS: [[&str; 7]; 6] = [
    ["derby", "goals", "transfers", "stadium", "referee", "penalty", "offside"],
    ["recipes", "bread", "coffee", "market", "spices", "soup", "pickles"],
    ["films", "trailer", "festival", "actors", "score", "sequel", "subtitles"],
    ["hiking", "summit", "trails", "weather", "boots", "huts", "maps"],
    ["rust", "compilers", "streams", "actors-model", "benchmarks", "types", "macros"],
    ["gardens", "tomatoes", "bees", "compost", "roses", "frost", "seeds"],
];

/// Users; the first is the busiest. Each has one interest.
const USERS: usize = 1_500;

/// 2026-03-02T18:00:00Z.
const EVENING_MS: i64 = 1_772_474_400_000;

/// Seed and visits of the evening that the program plays.
const SEED: u64 = 2026;
const VISITS: usize = 12_000;

/// Milliseconds between the beginnings of two visits, at most.
const PAUSE_MAX_MS: u64 = 2_400;

/// Something happens once in so many visits: for so many, all talk of one tag.
const EVENT_ONE_IN: u64 = 900;
const EVENT_VISITS: u32 = 250;

/// The posts of a stretch of time, in the order in which they arrive. A clone is the same feed.
#[derive(Clone, Debug)]
pub struct Feed {
    posts: Arc<[Post]>,
}

impl Feed {
    /// The evening that the program plays.
    pub fn the_evening() -> &'static Feed {
        static EVENING: LazyLock<Feed> = LazyLock::new(|| Feed::seeded(SEED, VISITS));
        &EVENING
    }

    /// The posts of this many visits of this seed.
    pub fn seeded(seed: u64, visits: usize) -> Self {
        let mut town = Town::open(seed);
        (0..visits).for_each(|_| town.visit());
        let Town { mut posts, mut chance, .. } = town;
        posts.sort_by_key(|post| post.at);
        let delay_max_ms = DELAY_MAX.as_millis() as u64;
        Self { posts: arrivals(posts, |post| post.at.millis(), delay_max_ms, &mut chance).into() }
    }

    /// All of it.
    pub fn posts(&self) -> &[Post] {
        &self.posts
    }

    /// The feed as the source of a pipeline.
    pub fn source(&self) -> impl Source<Item = Post> + use<> {
        let posts = Arc::clone(&self.posts);
        generate(posts.len() as u64, move |i| posts[i as usize].clone())
    }
}

/// Those who post, while their posts are made, not yet in order.
struct Town {
    chance: Chance,
    users: Zipf,
    tags: Zipf,
    at: Timestamp,
    /// What has happened: the tag that all talk of, and for how many visits more.
    event: Option<(&'static str, u32)>,
    posts: Vec<Post>,
}

impl Town {
    fn open(seed: u64) -> Self {
        Self {
            chance: Chance::seeded(seed),
            users: Zipf::of(USERS),
            tags: Zipf::of(INTERESTS[0].len()),
            at: Timestamp::from_millis(EVENING_MS),
            event: None,
            posts: Vec::new(),
        }
    }

    /// Somebody comes, posts a few times, and goes; or only looks away, for ten minutes at most.
    fn visit(&mut self) {
        self.event = match self.event {
            Some((tag, visits)) => (visits > 0).then_some((tag, visits.saturating_sub(1))),
            None if self.chance.one_in(EVENT_ONE_IN) => {
                let interest = self.chance.of(&INTERESTS);
                Some((self.chance.of(&interest), EVENT_VISITS))
            }
            None => None,
        };
        self.at = self.at + millis_of(self.chance.below(PAUSE_MAX_MS));
        let user = self.users.pick(&mut self.chance);
        let mut at = self.at;
        for _ in 0..=self.chance.below(4) {
            let tags = self.tags_of(user);
            self.posts.push(Post { at, user: user as u32 + 1, tags });
            // A silence of ten minutes is the shortest that ends a session.
            let silence_ms = if self.chance.one_in(20) {
                599_999 + self.chance.below(2)
            } else {
                self.chance.below(240_000)
            };
            at = at + millis_of(silence_ms);
        }
    }

    /// One to three tags: what has happened, what the user is interested in, now and then anything.
    fn tags_of(&mut self, user: usize) -> Vec<String> {
        let mut tags: Vec<&str> = Vec::new();
        if let Some((tag, _)) = self.event
            && self.chance.one_in(2)
        {
            tags.push(tag);
        }
        for _ in 0..=self.chance.below(2) {
            let interest = if self.chance.one_in(5) {
                self.chance.of(&INTERESTS)
            } else {
                INTERESTS[user % INTERESTS.len()]
            };
            let tag = interest[self.tags.pick(&mut self.chance)];
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        tags.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_posts_each_time_and_another_one_others() {
        let posts = |seed| Feed::seeded(seed, 300).posts().to_vec();
        assert_eq!(posts(1), posts(1));
        assert_ne!(posts(1), posts(2));
    }

    #[test]
    fn posts_arrive_out_of_order_and_none_too_late() {
        let feed = Feed::seeded(3, 3_000);
        let mut latest = Timestamp::MIN;
        for post in feed.posts() {
            latest = latest.max(post.at);
            assert!(post.at >= latest - DELAY_MAX, "{post:?}");
        }
        assert!(!feed.posts().is_sorted_by_key(|post| post.at));
    }
}
