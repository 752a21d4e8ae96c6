//! What must come out of a feed: plain loops over its posts, no engine.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use afflux::prelude::*;
use afflux_rehearsal::{Difference, compare};

use crate::feed::Feed;
use crate::post::Post;
use crate::recommendations::RECOMMENDATIONS;
use crate::sessions::SILENCE;
use crate::social::OUTPUT;
use crate::trends::{TREND_SPAN, TREND_STEP, TREND_TAGS};

const HOUR_MS: i64 = 3_600_000;

/// The lines of the three files, headers included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Of `trends.csv`.
    pub trends: Vec<String>,
    /// Of `sessions.csv`.
    pub sessions: Vec<String>,
    /// Of `recommendations.csv`.
    pub recommendations: Vec<String>,
    posts: usize,
}

impl Expected {
    /// What must come out of this feed.
    pub fn of(feed: &Feed) -> Self {
        let mut posts: Vec<&Post> = feed.posts().iter().collect();
        posts.sort_by_key(|post| post.at);
        let mut sessions = sessions(&posts);
        sessions.sort();
        Self {
            trends: trends(&posts),
            recommendations: recommendations(&sessions),
            sessions: lines("ended,user,began,posts,tags", sessions.into_iter().map(|s| s.line())),
            posts: posts.len(),
        }
    }

    /// Compares the files in a directory with what is expected.
    ///
    /// # Errors
    /// The first line that differs.
    pub fn compare(&self, out: &Path) -> Result<(), Difference> {
        compare(&out.join("trends.csv"), &self.trends)?;
        compare(&out.join("sessions.csv"), &self.sessions)?;
        compare(&out.join("recommendations.csv"), &self.recommendations)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = |lines: &[String]| lines.len() - 1;
        let (trends, sessions) = (rows(&self.trends), rows(&self.sessions));
        let recommendations = rows(&self.recommendations);
        write!(
            f,
            "{sessions} sessions of {} posts, {trends} trends, {recommendations} recommendations",
            self.posts
        )
    }
}

fn lines(header: &str, rows: impl Iterator<Item = String>) -> Vec<String> {
    [header.to_owned()].into_iter().chain(rows).collect()
}

fn text(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// The first `n` of each group, those with the greatest count first; of as many, the alphabet decides.
fn ranked<G: Ord + Clone>(counts: BTreeMap<(G, &str), u64>, n: usize) -> Vec<(G, usize, &str, u64)> {
    let mut rows: Vec<_> = counts.into_iter().map(|((group, name), n)| (group, Reverse(n), name)).collect();
    rows.sort();
    let groups = rows.chunk_by(|a, b| a.0 == b.0);
    let first = groups.flat_map(|group| (1..).zip(group).take(n));
    first.map(|(rank, (group, Reverse(count), name))| (group.clone(), rank, *name, *count)).collect()
}

fn trends(posts: &[&Post]) -> Vec<String> {
    let (span, step) = (TREND_SPAN.as_millis() as i64, TREND_STEP.as_millis() as i64);
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for post in posts {
        let last_begin = post.at.millis() / step * step;
        for begin in (0..span / step).map(|back| last_begin - back * step) {
            for tag in &post.tags {
                *counts.entry((begin + span, tag.as_str())).or_default() += 1;
            }
        }
    }
    let rows = ranked(counts, TREND_TAGS).into_iter();
    lines(
        "until,rank,tag,posts",
        rows.map(|(until, rank, tag, n)| format!("{},{rank},{tag},{n}", text(until))),
    )
}

/// A session, sorted as its file is.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Session<'p> {
    ended: i64,
    user: u32,
    began: i64,
    posts: u64,
    tags: BTreeSet<&'p str>,
}

impl Session<'_> {
    fn line(&self) -> String {
        let Self { user, posts, .. } = self;
        format!("{},{user},{},{posts},{}", text(self.ended), text(self.began), self.tags.len())
    }
}

fn sessions<'p>(posts: &[&'p Post]) -> Vec<Session<'p>> {
    let mut open: BTreeMap<u32, Session<'p>> = BTreeMap::new();
    let mut over = Vec::new();
    for &post in posts {
        let (at, user) = (post.at.millis(), post.user);
        let fresh = || Session { ended: at, user, began: at, posts: 0, tags: BTreeSet::new() };
        let session = open.entry(user).or_insert_with(fresh);
        if at - session.ended >= SILENCE.as_millis() as i64 {
            over.push(std::mem::replace(session, fresh()));
        }
        session.ended = at;
        session.posts += 1;
        session.tags.extend(post.tags.iter().map(String::as_str));
    }
    over.extend(open.into_values());
    over
}

fn recommendations(sessions: &[Session<'_>]) -> Vec<String> {
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for session in sessions {
        // The last moment of the session's window.
        let over = session.ended + SILENCE.as_millis() as i64 - 1;
        for &tag in &session.tags {
            for &other in session.tags.iter().filter(|other| **other != tag) {
                *counts.entry(((over / HOUR_MS * HOUR_MS, tag), other)).or_default() += 1;
            }
        }
    }
    let rows = ranked(counts, RECOMMENDATIONS).into_iter();
    lines(
        "hour,tag,rank,other,sessions",
        rows.map(|((hour, tag), rank, other, n)| format!("{},{tag},{rank},{other},{n}", text(hour))),
    )
}

/// Compares what the pipeline `social` has written with what its generator expects.
///
/// # Errors
/// The first line that differs.
pub fn verify() -> Result<String> {
    let expected = Expected::of(Feed::the_evening());
    expected.compare(Path::new(OUTPUT))?;
    Ok(format!("  expected {expected}\noutput equals what the generator expects"))
}
