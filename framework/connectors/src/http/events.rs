//! Records that are sent to whoever subscribes: Server-Sent Events, `GET /events/NAME`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use afflux_stream::{Batch, Delivery, IoContext, Result, Sink, SinkWriter};
use afflux_wire::{Code, Status};
use bytes::Bytes;
use futures_core::Stream;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use super::ring::Ring;
use super::server::{Server, refusal, start, unknown};
use crate::lines::{Encode, encode_json};
use crate::listen::{Binding, BoundAddress, guard};

/// Subscribers of one sink of events, at most; further ones are answered 503.
pub const EVENT_SUBSCRIBERS_MAX: usize = 512;
/// Events that wait for one subscriber; one that does not keep up is let go.
pub const SUBSCRIBER_EVENTS_MAX: usize = 1024;

/// Events that are kept for those who come back, when nothing is said.
const RING_EVENTS: usize = 1024;
/// A comment is sent to a silent connection this often, so that one that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Records as Server-Sent Events at `GET /events/NAME`, for browsers (`EventSource`) and `curl -N`.
///
/// Each record is an event with a number and one line of JSON: `id: 7`, `data: {…}`. A subscriber gets
/// what comes from its request on; with `Last-Event-ID: 7`, as a browser sends it when it connects
/// again, also what came behind 7 and is still kept ([`ServerSentEvents::keep`]). What is no longer
/// kept is said: `event: gap` with `{"from":8,"next":20}`, the numbers of the first that is missing and of
/// the first that follows. The end of the pipeline is `event: end`.
///
/// **Subscribers hold nobody back**: one that has [`SUBSCRIBER_EVENTS_MAX`] events waiting is let go and
/// counted ([`EventSink::dropped`]); it may come back. With nobody subscribed records are kept, and then
/// forgotten. Numbers go on after a restore from a checkpoint, and events behind it come again.
///
/// It is plain HTTP, on loopback alone unless there is a token, as with [`HttpIngest`](crate::HttpIngest).
///
/// ```
/// use afflux_connectors::ServerSentEvents;
/// use afflux_stream::{Flow, JobSettings, vec_source};
///
/// let events = ServerSentEvents::listen("127.0.0.1:0").keep(100);
/// let flow = Flow::new("ticker", JobSettings::default());
/// flow.source("prices", vec_source(vec![1.5, 1.75])).untimed().sink("events", events.sink("prices"));
/// assert!(flow.finish().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct ServerSentEvents {
    address: String,
    token: Option<String>,
    keep: usize,
}

/// A [`Sink`] of events: see [`ServerSentEvents`].
pub struct EventSink<T> {
    settings: ServerSentEvents,
    name: String,
    bound: BoundAddress,
    /// Subscribers that were let go by all writers so far.
    dropped: Arc<std::sync::atomic::AtomicU64>,
    rows: PhantomData<fn(T)>,
}

impl ServerSentEvents {
    /// Listens on this `HOST:PORT` once the sink's task runs in this process; port 0 takes any free one.
    pub fn listen(address: impl Into<String>) -> Self {
        Self { address: address.into(), token: None, keep: RING_EVENTS }
    }

    /// Asks for `Authorization: Bearer TOKEN`. An address beyond loopback needs it.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Events that are kept for those who come back; 1,024 when nothing is said.
    #[must_use]
    pub fn keep(mut self, events: usize) -> Self {
        self.keep = events;
        self
    }

    /// The sink behind `/events/NAME`. One task writes it; it has the address to itself.
    pub fn sink<T: Serialize>(&self, name: &str) -> EventSink<T> {
        EventSink {
            settings: self.clone(),
            name: name.to_owned(),
            bound: BoundAddress::default(),
            dropped: Arc::default(),
            rows: PhantomData,
        }
    }
}

impl<T> EventSink<T> {
    /// Tells the address once the task runs in this process.
    pub fn bound(&self) -> BoundAddress {
        self.bound.clone()
    }

    /// Counts the subscribers that did not keep up and were let go.
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let dropped = Arc::clone(&self.dropped);
        move || dropped.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl<T: Serialize + Send + 'static> Sink<T> for EventSink<T> {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let token = self.settings.token.as_deref().is_some_and(|token| !token.is_empty());
        guard(&self.settings.address, token, "listen on 127.0.0.1, or give `.token(…)`")?;
        let next = match state {
            None => 1,
            Some(state) => u64::from_le_bytes(state.try_into().map_err(|_| {
                let bytes = state.len();
                let what =
                    format!("the checkpoint's state of /events/{} has {bytes} bytes, not 8", self.name);
                Status::new(Code::DataLoss, format!("{what}; start without it"))
            })?),
        };
        Ok(Box::new(EventWriter {
            name: self.name.clone(),
            token: self.settings.token.clone(),
            binding: Binding::new(&self.settings.address, &self.bound, &cx.clock),
            server: None,
            ring: Arc::new(Mutex::new(Ring::new(self.settings.keep, next))),
            bound: self.bound.clone(),
            dropped: Arc::clone(&self.dropped),
            encode: encode_json,
            line: Vec::new(),
        }))
    }

    fn delivery(&self) -> Delivery {
        Delivery::BestEffort
    }

    fn kind(&self) -> &'static str {
        "server-sent events"
    }

    fn target(&self) -> Option<String> {
        Some(format!("http://{}/events/{}", self.settings.address, self.name))
    }

    fn single(&self) -> bool {
        true
    }
}

struct EventWriter<T> {
    name: String,
    token: Option<String>,
    binding: Binding,
    server: Option<Server>,
    ring: Arc<Mutex<Ring>>,
    bound: BoundAddress,
    dropped: Arc<std::sync::atomic::AtomicU64>,
    encode: Encode<T>,
    line: Vec<u8>,
}

/// What the server knows.
#[derive(Clone)]
struct Served {
    name: String,
    token: Option<String>,
    ring: Arc<Mutex<Ring>>,
}

impl<T> EventWriter<T> {
    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.server.is_none() {
            let listener = ready!(self.binding.poll(cx))?;
            let served =
                Served { name: self.name.clone(), token: self.token.clone(), ring: Arc::clone(&self.ring) };
            self.server = Some(start(listener, move |config| {
                config
                    .app_data(web::Data::new(served.clone()))
                    .route("/events/{name}", web::get().to(subscribe));
            })?);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T> Drop for EventWriter<T> {
    fn drop(&mut self) {
        self.ring.lock().end();
        self.bound.tell(None);
    }
}

impl<T: Send> SinkWriter<T> for EventWriter<T> {
    /// Ready once it listens: what comes before would be seen by nobody.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_serve(cx)
    }

    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let mut ring = self.ring.lock();
        let before = ring.dropped();
        for row in &batch.rows {
            self.line.clear();
            (self.encode)(row, &mut self.line).map_err(|what| {
                Status::invalid(format!("a record cannot be an event of /events/{}: {what}", self.name))
            })?;
            ring.send(&self.line);
        }
        self.dropped.fetch_add(ring.dropped() - before, std::sync::atomic::Ordering::Relaxed);
        batch.clear();
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_serve(cx)
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(self.ring.lock().next().to_le_bytes().to_vec())
    }

    fn end(&mut self) -> Result<()> {
        self.ring.lock().end();
        Ok(())
    }
}

/// A request.
async fn subscribe(request: HttpRequest, events: web::Data<Served>) -> HttpResponse {
    if let Some(refused) = unknown(&request, events.token.as_deref()) {
        return refused;
    }
    let name = request.match_info().query("name");
    if name != events.name {
        let what = format!("there are no events `{name}`; there are {}", events.name);
        return refusal(StatusCode::NOT_FOUND, what);
    }
    let last = match request.headers().get("Last-Event-ID").map(|v| v.to_str().unwrap_or_default()) {
        None | Some("") => None,
        Some(text) => match text.parse() {
            Ok(last) => Some(last),
            Err(_) => {
                let what = format!("`Last-Event-ID: {}` is no number of an event", text.escape_debug());
                return refusal(StatusCode::BAD_REQUEST, what);
            }
        },
    };
    let subscription = {
        let mut ring = events.ring.lock();
        if ring.subscribers() >= EVENT_SUBSCRIBERS_MAX {
            let what = format!("{EVENT_SUBSCRIBERS_MAX} subscribers are there already");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, what);
        }
        ring.subscribe(last, SUBSCRIBER_EVENTS_MAX)
    };
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(Feed {
            // Sent at once, so that a client knows that it is subscribed.
            first: Some(Bytes::from_static(b": subscribed\n\n")),
            backlog: subscription.backlog,
            live: subscription.live,
            heartbeat: Box::pin(actix_web::rt::time::sleep(HEARTBEAT)),
        })
}

/// What one subscriber is sent.
struct Feed {
    first: Option<Bytes>,
    backlog: VecDeque<Bytes>,
    live: mpsc::Receiver<Bytes>,
    heartbeat: Pin<Box<actix_web::rt::time::Sleep>>,
}

impl Stream for Feed {
    type Item = std::result::Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.first.take().or_else(|| self.backlog.pop_front()) {
            return Poll::Ready(Some(Ok(event)));
        }
        if let Poll::Ready(event) = self.live.poll_recv(cx) {
            let next = tokio::time::Instant::now() + HEARTBEAT;
            self.heartbeat.as_mut().reset(next);
            return Poll::Ready(event.map(Ok));
        }
        ready!(self.heartbeat.as_mut().poll(cx));
        let next = tokio::time::Instant::now() + HEARTBEAT;
        self.heartbeat.as_mut().reset(next);
        Poll::Ready(Some(Ok(Bytes::from_static(b":\n\n"))))
    }
}
