//! What nodes tell each other of their state: ready or not, going away, how much waits where.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afflux_wire::{HealthReport, ServiceLoad, Status};

use crate::link::Link;
use crate::mesh::Shared;

/// Peers are told this often how much waits here, when anything does.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What this node says of itself.
pub(crate) struct Standing {
    ready: AtomicBool,
    leaving: AtomicBool,
}

impl Default for Standing {
    fn default() -> Self {
        Self { ready: AtomicBool::new(true), leaving: AtomicBool::new(false) }
    }
}

impl Shared {
    /// Tells all peers, when it is news.
    pub(crate) fn set_ready(&self, ready: bool) {
        if self.standing.ready.swap(ready, Ordering::AcqRel) != ready {
            self.tell_all();
        }
    }

    /// Tells all peers that this node gets no new calls any more.
    pub(crate) fn leave(&self) {
        self.standing.ready.store(false, Ordering::Release);
        if !self.standing.leaving.swap(true, Ordering::AcqRel) {
            self.tell_all();
        }
    }

    fn report(&self) -> HealthReport {
        let services = self.services();
        let loads = services.entries().filter_map(|entry| {
            let depth = u32::try_from(entry.dispatch.depth()).unwrap_or(u32::MAX);
            let capacity = u32::try_from(entry.dispatch.capacity()).unwrap_or(u32::MAX);
            (depth > 0).then(|| (entry.name.to_owned(), ServiceLoad { depth, capacity }))
        });
        HealthReport {
            ready: self.standing.ready.load(Ordering::Acquire),
            draining: self.standing.leaving.load(Ordering::Acquire),
            services: loads.collect(),
        }
    }

    fn tell_all(&self) {
        let report = self.report();
        let links = self.peers.lock().links();
        links.iter().for_each(|link| link.put_health(&report));
    }

    /// Tells a new peer what it would otherwise take for granted.
    pub(crate) fn tell_standing(&self, link: &Link) {
        let report = self.report();
        if !report.ready || report.draining {
            link.put_health(&report);
        }
    }

    /// What a peer says of itself.
    pub(crate) fn health_received(&self, link: &Link, bytes: &[u8], now: Instant) -> Result<(), Status> {
        let report = HealthReport::decode(bytes)?;
        link.ready.store(report.ready, Ordering::Release);
        let own = link.in_flight.load(Ordering::Relaxed);
        for (service, load) in &report.services {
            if let Some(health) = link.health(service) {
                health.reported(load.depth, own, now);
            }
        }
        if link.leaving.swap(report.draining, Ordering::AcqRel) != report.draining {
            self.routes_changed();
        }
        Ok(())
    }
}

/// Tells how much waits here until the mesh is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            () = shared.stopped() => return,
            () = tokio::time::sleep(REPORT_INTERVAL) => {}
        }
        if shared.report().services.is_empty() {
            continue;
        }
        shared.tell_all();
    }
}
