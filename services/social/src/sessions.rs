//! Sessions: what a user posts without being silent for ten minutes.

use std::collections::BTreeSet;
use std::time::Duration;

use afflux::prelude::*;

use crate::post::Post;

/// A silence that ends a session.
pub const SILENCE: Duration = minutes(10);

/// A session with all that was posted about.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// What is written of it.
    pub session: UserSession,
    /// The tags of its posts.
    pub tags: BTreeSet<String>,
}

/// A session. Sorted as its fields are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserSession {
    /// The moment of its last post.
    pub ended: Timestamp,
    /// Whose it is.
    pub user: u32,
    /// The moment of its first post.
    pub began: Timestamp,
    /// Posts in it.
    pub posts: u64,
    /// Different tags in it.
    pub tags: u64,
}

/// Aggregates the posts of a session into a [`Visit`].
#[derive(Clone, Copy, Debug, Default)]
pub struct VisitOf;

/// What [`VisitOf`] keeps of a session.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct VisitAcc {
    posts: u64,
    tags: BTreeSet<String>,
}

impl Aggregate<u32, Post> for VisitOf {
    type Acc = VisitAcc;
    type Output = Visit;

    fn create(&self) -> VisitAcc {
        VisitAcc::default()
    }

    fn add(&self, acc: &mut VisitAcc, post: &Post) {
        acc.posts += 1;
        acc.tags.extend(post.tags.iter().cloned());
    }

    fn finish(&self, user: u32, window: Window, VisitAcc { posts, tags }: VisitAcc) -> Visit {
        // The window reaches from the first post to the silence behind the last.
        let (began, ended) = (window.start, window.end - SILENCE);
        Visit { session: UserSession { ended, user, began, posts, tags: tags.len() as u64 }, tags }
    }
}

impl MergeAggregate<u32, Post> for VisitOf {
    fn merge(&self, into: &mut VisitAcc, from: &VisitAcc) {
        into.posts += from.posts;
        into.tags.extend(from.tags.iter().cloned());
    }
}
