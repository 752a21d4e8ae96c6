//! The contract of the guide: what is going on, and what else there is.

use afflux::prelude::*;

use crate::recommendations::Recommendation;
use crate::trends::Trend;

/// Why there is no answer.
#[derive(RpcError, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub enum GuideError {
    /// Nothing is recommended for this tag.
    #[rpc(code = NotFound)]
    NoSuchTag {
        /// The tag that was asked for.
        tag: String,
    },
}

/// Trends and recommendations, as the pipeline `social` finds them.
#[derive(Service)]
#[service(name = "social.guide", version = "1.0", error = GuideError)]
pub enum Guide {
    /// Takes trends; those of one end and rank are replaced, so a repetition does no harm.
    #[rpc(idempotent)]
    Trended {
        /// The trends.
        trends: Vec<Trend>,
    },
    /// Takes recommendations; those of an earlier hour than is known are passed over.
    #[rpc(idempotent)]
    Recommended {
        /// The recommendations.
        recommendations: Vec<Recommendation>,
    },
    /// The latest trends, that of most posts first; none before the first ten minutes.
    #[rpc(returns = Vec<Trend>, idempotent)]
    Trending,
    /// The latest recommendations for a tag, the best first.
    #[rpc(returns = Vec<Recommendation>, idempotent)]
    Beside {
        /// The tag, such as `derby`.
        tag: String,
    },
}
