//! Posts as a stream: trending tags, sessions of users, and recommendations by what is posted together.
//!
//! Reading order: [`Post`] (what comes in), [`Feed`] (where it comes from), [`social`] (the pipeline) with its
//! parts [`trends`], [`VisitOf`] and [`recommendations`]; [`Trend`], [`UserSession`] and [`Recommendation`] (what comes
//! out); [`Guide`] (the service that the pipeline tells), [`GuideDesk`] (the actor behind it); [`Expected`] (what
//! must come out, by plain loops).

mod expected;
mod feed;
mod guide;
mod guide_desk;
mod post;
mod recommendations;
mod sessions;
mod social;
mod trends;

pub use expected::{Expected, verify};
pub use feed::{DELAY_MAX, Feed};
pub use guide::{
    Guide, GuideBeside, GuideClient, GuideError, GuideHandler, GuideRecommended, GuideTrended, GuideTrending,
};
pub use guide_desk::{GuideDesk, TAGS_MAX, TRENDS_KEPT_MAX};
pub use post::Post;
pub use recommendations::{RECOMMENDATIONS, Recommendation, recommendations};
pub use sessions::{SILENCE, UserSession, Visit, VisitAcc, VisitOf};
pub use social::{OUTPUT, social, social_of};
pub use trends::{TREND_SPAN, TREND_STEP, TREND_TAGS, Trend, trends};
