//! One post.

use afflux::prelude::*;

/// Somebody has posted something.
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// When: the event time.
    #[event(time)]
    pub at: Timestamp,
    /// Who.
    pub user: u32,
    /// What about: different tags, such as `derby`.
    pub tags: Vec<String>,
}
