//! One look at the cluster: every node and every job is asked, at the same time, and none is waited for long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::View;
use afflux_wire::contract::Service;
use futures_util::future::{join, join_all};
use serde_json::Value;

use super::Dashboard;
use super::log::wall_ms;
use super::picture::draw;
use super::tiles::ask_all;
use crate::job_detail::JobDetail;
use crate::jobs::{JobInfo, Jobs};
use crate::load::NodeLoad;
use crate::node_service::NodeInfo;

/// Longest wait for a node or the coordinator: a picture without it is better than none.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// Jobs that are shown, the newest.
const JOBS_MAX: usize = 20;

/// What was seen.
#[derive(Default)]
pub(super) struct Look {
    /// Milliseconds since 1970.
    pub(super) at_ms: i64,
    pub(super) view: Arc<View>,
    pub(super) nodes: Vec<NodeInfo>,
    pub(super) loads: BTreeMap<String, NodeLoad>,
    /// The newest first.
    pub(super) jobs: Vec<JobDetail>,
    /// Why jobs are not told, where they should be.
    pub(super) jobs_error: Option<String>,
    /// What the program's own figures are.
    pub(super) tiles: Vec<Value>,
}

/// Looks again and again; rates are between two looks.
#[derive(Default)]
pub(super) struct Looker {
    before: Option<Look>,
    /// Jobs that have ended do not change.
    ended: BTreeMap<String, JobDetail>,
}

impl Looker {
    /// What the cluster does now.
    pub(super) async fn look(&mut self, dashboard: &Dashboard) -> Value {
        let tiles = ask_all(&dashboard.inner.client, &dashboard.inner.tiles);
        let (mut now, tiles) = join(self.take(dashboard), tiles).await;
        now.tiles = tiles;
        let picture = draw(self.before.as_ref(), &now, dashboard);
        self.before = Some(now);
        picture
    }

    /// What there is to see.
    pub(super) async fn take(&mut self, dashboard: &Dashboard) -> Look {
        let client = &dashboard.inner.client;
        let at_ms = wall_ms(&dashboard.inner.clock);
        let view = match tokio::time::timeout(ANSWER_MAX, client.view()).await {
            Ok(Ok(view)) => view,
            _ => {
                let known = self.before.as_ref().map(|look| View::clone(&look.view)).unwrap_or_default();
                Arc::new(View { reachable: false, ..known })
            }
        };
        let mut look = Look { at_ms, view, ..Look::default() };
        let asked = look.view.instances.iter().map(|instance| async move {
            let node = client.node(&instance.node);
            let info = node.info().fail_fast().deadline(ANSWER_MAX);
            let load = node.load().fail_fast().deadline(ANSWER_MAX);
            let (info, load) = join(async { info.await }, async { load.await }).await;
            (instance, info, load)
        });
        for (instance, info, load) in join_all(asked).await {
            look.nodes.push(info.unwrap_or_else(|_| NodeInfo::silent(instance)));
            if let Ok(load) = load {
                look.loads.insert(instance.node.to_string(), load);
            }
        }
        if look.view.offering(<Jobs as Service>::NAME).next().is_some() {
            match client.client::<Jobs>().list().fail_fast().deadline(ANSWER_MAX).await {
                Ok(jobs) => look.jobs = self.jobs(dashboard, jobs).await,
                Err(error) => {
                    look.jobs_error = Some(error.into_status().message);
                    // Seen last, so that a change of leaders does not empty the page.
                    look.jobs = self.before.as_mut().map(|b| std::mem::take(&mut b.jobs)).unwrap_or_default();
                }
            }
        }
        look
    }

    async fn jobs(&mut self, dashboard: &Dashboard, mut jobs: Vec<JobInfo>) -> Vec<JobDetail> {
        jobs.truncate(JOBS_MAX);
        self.ended.retain(|id, _| jobs.iter().any(|job| job.id == *id));
        let client = dashboard.inner.client.client::<Jobs>();
        let ended = &self.ended;
        let asked = jobs.into_iter().map(|info| {
            let client = client.clone();
            async move {
                if let Some(known) = ended.get(&info.id) {
                    return known.clone();
                }
                let detail = client.detail(info.id.clone()).fail_fast().deadline(ANSWER_MAX).await;
                detail.unwrap_or_else(|_| JobDetail { info, ..JobDetail::default() })
            }
        });
        let details = join_all(asked).await;
        for detail in details.iter().filter(|d| d.info.has_ended() && !d.graph.is_null()) {
            if !self.ended.contains_key(&detail.info.id) {
                self.ended.insert(detail.info.id.clone(), detail.clone());
            }
        }
        details
    }
}
