//! Which records of a key count: one of many, the best of many, how many different ones.

mod dedupe;
mod distinct;
mod latest;
mod top;

use std::cmp::Ordering;

use serde::Serialize;

pub use dedupe::Deduplicate;
pub use distinct::{Distinct, DistinctSet, distinct};
pub use top::{Change, Ranking, Top, TopN, top_n};

/// A total order of records by what they are written as (MessagePack): decides where nothing else
/// does, so that results do not depend on the order in which records come.
pub(crate) fn by_bytes<T: Serialize>(a: &T, b: &T) -> Ordering {
    // What cannot be encoded fails where it is sent or saved, with the operator's name.
    rmp_serde::to_vec(a).unwrap_or_default().cmp(&rmp_serde::to_vec(b).unwrap_or_default())
}
