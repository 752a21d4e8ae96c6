//! The pipeline: posts into trends, sessions and recommendations.

use std::path::Path;

use afflux::prelude::*;

use crate::feed::{DELAY_MAX, Feed};
use crate::guide::{GuideRecommended, GuideTrended};
use crate::recommendations::recommendations;
use crate::sessions::{SILENCE, VisitOf};
use crate::trends::trends;

/// Where the results go, below the working directory.
pub const OUTPUT: &str = "out/social";

/// The pipeline `social`: the generated evening into `trends.csv`, `sessions.csv` and `recommendations.csv`
/// below `out/social`, and trends and recommendations to the service `social.guide`.
///
/// # Errors
/// What the builder refuses.
pub fn social(flow: &Flow) -> Result<()> {
    social_of(flow, Feed::the_evening(), OUTPUT)
}

/// The same of another feed, into another directory.
///
/// # Errors
/// What the builder refuses.
pub fn social_of(flow: &Flow, feed: &Feed, out: impl AsRef<Path>) -> Result<()> {
    let file = |name: &str| out.as_ref().join(name);
    let (posts, of_users) =
        flow.source("posts", feed.source()).watermarks(BoundedOutOfOrder::by(DELAY_MAX)).tee();

    trends(posts)
        .tell("trended", |trends| GuideTrended { trends })
        .sink("out-trends", Csv::path(file("trends.csv")).ordered_by_window());

    let (visits, late) = of_users
        .key_by(|post| post.user)
        .window(Session::gap(SILENCE))
        .late(Late::Side)
        .aggregate("visits", VisitOf);
    late.count("too-late-for-a-session");
    let (visits, sessions) = visits.tee();
    sessions
        .map(|visit| visit.session)
        .sink("out-sessions", Csv::path(file("sessions.csv")).ordered_by_window());
    recommendations(visits)
        .tell("recommended", |recommendations| GuideRecommended { recommendations })
        .sink("out-recommendations", Csv::path(file("recommendations.csv")).ordered_by_window());
    Ok(())
}
