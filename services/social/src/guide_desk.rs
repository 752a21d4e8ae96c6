//! The actor behind [`Guide`](crate::Guide).

use std::collections::BTreeMap;

use afflux::prelude::*;

use crate::guide::{Guide, GuideError, GuideHandler};
use crate::recommendations::Recommendation;
use crate::trends::Trend;

/// Ends of trends that the desk keeps; the oldest go first. Parts of one may come late.
pub const TRENDS_KEPT_MAX: usize = 100;

/// Tags that it knows recommendations for, at most; others are not taken.
pub const TAGS_MAX: usize = 100_000;

/// The latest trends and recommendations in memory: a fresh desk is filled by the pipeline.
#[derive(Actor, Default)]
#[actor(serves(Guide), mailbox = 256, overflow = "wait")]
pub struct GuideDesk {
    /// By end and rank.
    trends: BTreeMap<Timestamp, BTreeMap<u32, Trend>>,
    /// By tag: the hour, and by rank.
    recommendations: BTreeMap<String, (Timestamp, BTreeMap<u32, Recommendation>)>,
}

impl GuideDesk {
    /// An empty desk.
    ///
    /// # Errors
    /// None.
    pub fn open() -> Result<Self, Status> {
        Ok(Self::default())
    }

    fn recommend(&mut self, row: Recommendation) {
        if self.recommendations.len() >= TAGS_MAX && !self.recommendations.contains_key(&row.tag) {
            return;
        }
        let (hour, rows) = self.recommendations.entry(row.tag.clone()).or_insert((row.hour, BTreeMap::new()));
        if row.hour > *hour {
            *hour = row.hour;
            rows.clear();
        }
        if row.hour == *hour {
            rows.insert(row.rank, row);
        }
    }
}

impl GuideHandler for GuideDesk {
    async fn trended(&mut self, _: &mut Cx, trends: Vec<Trend>) -> Result<(), Fault<GuideError>> {
        for row in trends {
            self.trends.entry(row.until).or_default().insert(row.rank, row);
        }
        while self.trends.len() > TRENDS_KEPT_MAX {
            self.trends.pop_first();
        }
        Ok(())
    }

    async fn recommended(
        &mut self,
        _: &mut Cx,
        recommendations: Vec<Recommendation>,
    ) -> Result<(), Fault<GuideError>> {
        recommendations.into_iter().for_each(|row| self.recommend(row));
        Ok(())
    }

    async fn trending(&mut self, _: &mut Cx) -> Result<Vec<Trend>, Fault<GuideError>> {
        Ok(self.trends.values().next_back().into_iter().flat_map(BTreeMap::values).cloned().collect())
    }

    async fn beside(&mut self, _: &mut Cx, tag: String) -> Result<Vec<Recommendation>, Fault<GuideError>> {
        match self.recommendations.get(&tag) {
            Some((_, rows)) => Ok(rows.values().cloned().collect()),
            None => Err(GuideError::NoSuchTag { tag }.into()),
        }
    }
}
