//! The stream that the page draws: Server-Sent Events, a picture of the cluster a second.
//!
//! A picture is made once for all who look on, and none is made while nobody does. Whoever is slow gets the newest
//! picture and not those between: nothing is queued.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use afflux_wire::{Code, Executed, Status};
use futures_util::stream::unfold;
use tokio::sync::watch;

use super::Dashboard;
use super::door::may_read;
use super::look::Looker;
use crate::admin::failure;

/// Streams at once. Each takes one of the admin port's connections.
pub(super) const LISTENERS_MAX: usize = 64;
/// Between two pictures.
const EVERY: Duration = Duration::from_secs(1);
/// A comment is sent when there is no picture for so long; a reader who has gone is noticed by it.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Who looks on, and the last picture.
pub(super) struct Feed {
    picture: watch::Sender<Option<Arc<str>>>,
    listeners: AtomicUsize,
    drawing: AtomicBool,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            picture: watch::Sender::new(None),
            listeners: AtomicUsize::new(0),
            drawing: AtomicBool::new(false),
        }
    }
}

/// Somebody who looks on, until it is dropped.
struct Listener {
    dashboard: Dashboard,
    pictures: watch::Receiver<Option<Arc<str>>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.dashboard.inner.feed.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Dashboard {
    /// One more looks on.
    fn listen(&self) -> Result<Listener, Status> {
        let feed = &self.inner.feed;
        if feed.listeners.fetch_add(1, Ordering::AcqRel) >= LISTENERS_MAX {
            feed.listeners.fetch_sub(1, Ordering::AcqRel);
            let text =
                format!("{LISTENERS_MAX} streams are open at this node: close a page, or ask another node");
            return Err(Status::new(Code::ResourceExhausted, text)
                .retry_after_ms(5_000)
                .executed(Executed::No));
        }
        let mut pictures = feed.picture.subscribe();
        // What was drawn for others a moment ago is shown at once.
        pictures.mark_changed();
        Ok(Listener { dashboard: self.clone(), pictures })
    }

    /// Sees to it that pictures are drawn while somebody looks on.
    fn keep_drawing(&self) {
        if !self.inner.feed.drawing.swap(true, Ordering::AcqRel) {
            actix_web::rt::spawn(Drawing(self.clone()).draw());
        }
    }
}

/// Who draws. There is one at a time.
struct Drawing(Dashboard);

impl Drawing {
    async fn draw(self) {
        let feed = &self.0.inner.feed;
        let mut looker = Looker::default();
        while feed.listeners.load(Ordering::Acquire) > 0 {
            let picture = looker.look(&self.0).await;
            feed.picture.send_replace(Some(picture.to_string().into()));
            tokio::time::sleep(EVERY).await;
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        let feed = &self.0.inner.feed;
        feed.drawing.store(false, Ordering::Release);
        // Wakes whoever has come since the last look at their number, and then sees to the next who draws.
        feed.picture.send_replace(None);
    }
}

impl Listener {
    /// The next part of the stream.
    async fn next(&mut self) -> Option<String> {
        self.dashboard.keep_drawing();
        match tokio::time::timeout(HEARTBEAT, self.pictures.changed()).await {
            Err(_) => Some(": still here\n\n".to_owned()),
            Ok(Err(_)) => None,
            Ok(Ok(())) => match &*self.pictures.borrow_and_update() {
                Some(picture) => Some(format!("event: picture\ndata: {picture}\n\n")),
                None => Some(": nothing yet\n\n".to_owned()),
            },
        }
    }
}

/// `GET /api/v1/stream`.
pub(super) async fn stream(request: HttpRequest, dashboard: web::Data<Dashboard>) -> HttpResponse {
    if let Err(status) = may_read(dashboard.inner.client.mesh(), &request) {
        return failure(&status);
    }
    let listener = match dashboard.listen() {
        Ok(listener) => listener,
        Err(status) => return failure(&status),
    };
    let body = unfold(listener, |mut listener| async move {
        let text = listener.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes::Bytes::from(text)), listener))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(Box::pin(body))
}
