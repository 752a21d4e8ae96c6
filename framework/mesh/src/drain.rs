//! Going away without losing a call: GOAWAY first, then the answers, then the end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use afflux_actor::clock;
use afflux_wire::{Code, Status};

use crate::link::Link;
use crate::mesh::Shared;

/// How often a link is asked whether this side's own calls are answered.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The time that streams are given to end by themselves once a node drains.
const STREAM_GRACE: Duration = Duration::from_secs(2);

/// Waits until a link has no request of the peer and no call of ours without an answer.
pub(crate) async fn until_idle(link: &Arc<Link>, until: Instant) {
    loop {
        let mut idle = pin!(link.idle.notified());
        // Before looking, so that no notification falls between.
        idle.as_mut().enable();
        let ours = link.in_flight.load(Ordering::Acquire);
        if link.is_lost() || (link.incoming() == 0 && ours == 0) || clock::now() >= until {
            return;
        }
        let wait = if ours > 0 { until.min(clock::now() + LOOK_AGAIN) } else { until };
        let _ = tokio::time::timeout_at(wait.into(), idle).await;
    }
}

impl Shared {
    /// Announces the end to every peer, and waits for the answers of what was admitted, at most
    /// `grace` long; then closes.
    pub(crate) async fn drain(self: &Arc<Self>, grace: Duration) {
        let until = clock::now() + grace;
        self.leave();
        self.drains.send_replace(true);
        let links = self.peers.lock().links();
        let reason = format!("node {} is draining", self.config.node);
        for link in &links {
            link.put_goaway(Code::Unavailable, &reason, grace);
        }
        let streams_until = until.min(clock::now() + STREAM_GRACE);
        for link in &links {
            until_idle(link, streams_until).await;
        }
        // A stream may have no end of its own.
        for link in &links {
            link.end_streams(&Status::unavailable(reason.as_str()));
        }
        for link in &links {
            until_idle(link, until).await;
        }
        let _ = tokio::time::timeout_at(until.into(), self.compat.drain()).await;
        self.close(&Status::unavailable(reason));
        for link in &links {
            link.lost().await;
        }
    }
}
