//! Records that are posted: `POST /ingest/NAME`.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use afflux_stream::{Batch, IoContext, ReadState, Recall, Result, Source, Split, SplitReader};
use afflux_wire::Status;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::body::{FORMS, Form};
use super::queue::{Queue, Refused};
use super::server::{Server, refusal, start, unknown};
use crate::listen::{Binding, BoundAddress, guard};
use crate::waiting::caught_up;

/// Rows that wait for the pipeline when nothing is said.
const QUEUE_ROWS: usize = 16 * 1024;
/// Bytes of a body when nothing is said.
const BODY_BYTES: usize = 1024 * 1024;
/// Longest wait for the rest of a body.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for the sinks where a post waits for them, when nothing is said.
const CONFIRM_WITHIN: Duration = Duration::from_secs(30);

type Answer = Pin<Box<dyn Future<Output = HttpResponse>>>;
/// What stands behind a name: decodes a body and queues it.
type Door = Arc<dyn Fn(Form, web::Bytes) -> Answer + Send + Sync>;

/// An address at which records are posted, one or several names: `POST /ingest/NAME`.
///
/// The body is a JSON object or an array of them (`application/json`), JSON lines
/// (`application/x-ndjson`), or MessagePack, a map or an array of them (`application/msgpack`), up to
/// [`HttpIngest::body_bytes`]. It is taken whole or not at all.
///
/// | answer | means |
/// |---|---|
/// | 202 | the records are queued in memory: they are in the pipeline unless this process or the job's attempt ends before it has read them (**at most once**) |
/// | 200 | with [`HttpIngest::confirmed`]: all sinks have confirmed them (**at least once**, if the client posts again until it reads 200) |
/// | 400 | a record is wrong: its place, what was expected; nothing was taken |
/// | 401, 404, 405, 413, 415 | no token, no such name, not POST, too large, another content type |
/// | 429 with `Retry-After` | the queue is full: the pipeline is slower than its clients. Nothing was taken |
/// | 503 with `Retry-After` | no pipeline reads this name now |
/// | 504 | with [`HttpIngest::confirmed`]: not confirmed in time; the records may still come through |
///
/// It is plain HTTP. On loopback alone it may go without a token; what other machines reach needs
/// [`HttpIngest::token`], and a TLS proxy in front where the network is not trusted.
///
/// ```
/// use afflux_connectors::HttpIngest;
/// use afflux_stream::{Flow, JobSettings};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order { id: u64 }
///
/// let http = HttpIngest::listen("127.0.0.1:0");
/// let flow = Flow::new("shop", JobSettings::default());
/// flow.source("orders", http.source::<Order>("orders")).untimed().count("orders-seen");
/// flow.source("notes", http.source::<String>("notes")).untimed().count("notes-seen");
/// assert!(flow.finish().is_ok());
/// ```
#[derive(Clone)]
pub struct HttpIngest {
    shared: Arc<Shared>,
    address: String,
    token: Option<String>,
    queue_rows: usize,
    body_bytes: usize,
    confirm_within: Option<Duration>,
}

/// What the sources of one address share in a process.
#[derive(Default)]
struct Shared {
    bound: BoundAddress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    doors: BTreeMap<String, Door>,
    binding: Option<Binding>,
    server: Option<Server>,
}

/// Records that are posted under one name, as a [`Source`]: see [`HttpIngest`].
pub struct HttpSource<T> {
    http: HttpIngest,
    name: String,
    rows: PhantomData<fn() -> T>,
}

impl HttpIngest {
    /// Listens on this `HOST:PORT` once a task of its sources runs in this process; port 0 takes any
    /// free one, which [`HttpIngest::bound`] tells.
    pub fn listen(address: impl Into<String>) -> Self {
        Self {
            shared: Arc::default(),
            address: address.into(),
            token: None,
            queue_rows: QUEUE_ROWS,
            body_bytes: BODY_BYTES,
            confirm_within: None,
        }
    }

    /// Asks for `Authorization: Bearer TOKEN`. An address beyond loopback needs it.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Rows of a name that wait for the pipeline at most; 16,384 when nothing is said.
    #[must_use]
    pub fn queue_rows(mut self, rows: usize) -> Self {
        self.queue_rows = rows.max(1);
        self
    }

    /// Bytes of a body at most; 1 MiB when nothing is said.
    #[must_use]
    pub fn body_bytes(mut self, bytes: usize) -> Self {
        self.body_bytes = bytes;
        self
    }

    /// Answers 200, and not before all sinks have confirmed the records, instead of 202 at once. A post
    /// then takes as long as a round of confirmations or a checkpoint.
    #[must_use]
    pub fn confirmed(mut self) -> Self {
        self.confirm_within = Some(CONFIRM_WITHIN);
        self
    }

    /// The same with another longest wait than 30 s, behind which the answer is 504.
    #[must_use]
    pub fn confirmed_within(mut self, span: Duration) -> Self {
        self.confirm_within = Some(span);
        self
    }

    /// Tells the address once a task runs in this process.
    pub fn bound(&self) -> BoundAddress {
        self.shared.bound.clone()
    }

    /// The records that are posted to `/ingest/NAME`.
    pub fn source<T: DeserializeOwned + Send + 'static>(&self, name: &str) -> HttpSource<T> {
        HttpSource { http: self.clone(), name: name.to_owned(), rows: PhantomData }
    }
}

impl<T: DeserializeOwned + Send + 'static> Source for HttpSource<T> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        if self.name.is_empty()
            || !self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return Err(Status::invalid(format!(
                "`{}` cannot be part of an address; use letters, digits, `-`, `_` and `.`",
                self.name
            )));
        }
        let token = self.http.token.as_deref().is_some_and(|token| !token.is_empty());
        guard(&self.http.address, token, "listen on 127.0.0.1, or give `.token(…)`")?;
        let id = format!("http://{}/ingest/{}", self.http.address, self.name);
        Ok(vec![Split { id, payload: Vec::new(), size: None }])
    }

    fn open(&self, _: &Split, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SplitReader<T>>> {
        let http = &self.http;
        let queue = Arc::new(Queue::<T>::new(http.queue_rows));
        let door = door(Arc::clone(&queue), http.confirm_within);
        let mut state = http.shared.state.lock();
        state.doors.insert(self.name.clone(), Arc::clone(&door));
        if state.server.is_none() && state.binding.is_none() {
            state.binding = Some(Binding::new(&http.address, &http.shared.bound, &cx.clock));
        }
        drop(state);
        Ok(Box::new(HttpReader { http: http.clone(), name: self.name.clone(), door, queue, told: false }))
    }

    fn recall(&self) -> Recall {
        if self.http.confirm_within.is_some() { Recall::Acknowledged } else { Recall::Lossy }
    }

    fn kind(&self) -> &'static str {
        if self.http.confirm_within.is_some() {
            "http ingest, at least once"
        } else {
            "http ingest, at most once"
        }
    }

    fn acknowledges(&self) -> bool {
        self.http.confirm_within.is_some()
    }
}

/// Decodes bodies into a queue.
fn door<T: DeserializeOwned + Send + 'static>(queue: Arc<Queue<T>>, confirm: Option<Duration>) -> Door {
    Arc::new(move |form, body| {
        let rows = match form.decode::<T>(&body) {
            Ok(rows) => rows,
            Err(what) => {
                queue.refuse();
                let answer = refusal(StatusCode::BAD_REQUEST, format!("{what}; nothing was taken"));
                return Box::pin(std::future::ready(answer));
            }
        };
        let (count, rows_max) = (rows.len(), queue.rows_max());
        if count > rows_max {
            let what = format!("{count} records, and the queue holds {rows_max}; post fewer at a time");
            return Box::pin(std::future::ready(refusal(StatusCode::PAYLOAD_TOO_LARGE, what)));
        }
        let mut progress = queue.progress();
        let last = match queue.push(rows) {
            Ok(last) => last,
            Err(refused) => {
                let (status, what) = match refused {
                    Refused::Full(waiting) => (
                        StatusCode::TOO_MANY_REQUESTS,
                        format!(
                            "{waiting} records wait already, and the queue holds {rows_max}; post it again"
                        ),
                    ),
                    Refused::Closed => (StatusCode::SERVICE_UNAVAILABLE, closed()),
                };
                return Box::pin(std::future::ready(refusal(status, what)));
            }
        };
        Box::pin(async move {
            let accepted = serde_json::json!({ "accepted": count });
            let Some(within) = confirm else { return HttpResponse::Accepted().json(accepted) };
            let done = progress.wait_for(|p| p.confirmed >= last || p.closed);
            match actix_web::rt::time::timeout(within, done).await {
                Ok(Ok(p)) if p.confirmed >= last => HttpResponse::Ok().json(accepted),
                Ok(_) => refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the pipeline has ended before the records were confirmed; post them again",
                ),
                Err(_) => refusal(
                    StatusCode::GATEWAY_TIMEOUT,
                    format!(
                        "not confirmed within {} ms; the records may still come through, so that posting \
                         them again may double them",
                        within.as_millis()
                    ),
                ),
            }
        })
    })
}

fn closed() -> String {
    "no pipeline reads this now; post it again".to_owned()
}

/// What the server knows; it must not hold what holds the server.
#[derive(Clone)]
struct Served {
    shared: Weak<Shared>,
    token: Option<String>,
    body_bytes: usize,
}

/// A request.
async fn ingest(request: HttpRequest, http: web::Data<Served>, payload: web::Payload) -> HttpResponse {
    if let Some(refused) = unknown(&request, http.token.as_deref()) {
        return refused;
    }
    let name = request.match_info().query("name");
    let Some(shared) = http.shared.upgrade() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, closed());
    };
    let door = {
        let state = shared.state.lock();
        match state.doors.get(name) {
            Some(door) => Arc::clone(door),
            None => {
                let known: Vec<_> = state.doors.keys().map(String::as_str).collect();
                let what = format!("nothing is ingested as `{name}`; there is {}", known.join(", "));
                return refusal(StatusCode::NOT_FOUND, what);
            }
        }
    };
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let Some(form) = Form::of(header(CONTENT_TYPE)).filter(|_| header(CONTENT_ENCODING).is_empty()) else {
        return refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "`Content-Type: {}` with `Content-Encoding: {}` is not taken; send {FORMS}, uncompressed",
                header(CONTENT_TYPE),
                header(CONTENT_ENCODING)
            ),
        );
    };
    let bytes_max = http.body_bytes;
    match actix_web::rt::time::timeout(BODY_WITHIN, payload.to_bytes_limited(bytes_max)).await {
        Ok(Ok(Ok(body))) => door(form, body).await,
        Ok(Ok(Err(error))) => refusal(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")),
        Ok(Err(_)) => refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {bytes_max} bytes; post fewer records at a time"),
        ),
        Err(_) => refusal(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", BODY_WITHIN.as_secs()),
        ),
    }
}

async fn only_post() -> HttpResponse {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "records are sent with POST")
}

struct HttpReader<T> {
    http: HttpIngest,
    name: String,
    door: Door,
    queue: Arc<Queue<T>>,
    told: bool,
}

impl<T> HttpReader<T> {
    /// Sees to it that the server runs: the first of its readers starts it.
    fn poll_serve(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = self.http.shared.state.lock();
        if state.server.is_some() {
            return Poll::Ready(Ok(()));
        }
        let Some(binding) = &mut state.binding else { return Poll::Ready(Ok(())) };
        let listener = ready!(binding.poll(cx))?;
        let served = Served {
            shared: Arc::downgrade(&self.http.shared),
            token: self.http.token.clone(),
            body_bytes: self.http.body_bytes,
        };
        state.server = Some(start(listener, move |config| {
            let ingest =
                web::resource("/ingest/{name}").route(web::post().to(ingest)).route(web::to(only_post));
            config.app_data(web::Data::new(served.clone())).service(ingest);
        })?);
        state.binding = None;
        Poll::Ready(Ok(()))
    }
}

impl<T> Drop for HttpReader<T> {
    fn drop(&mut self) {
        let lost = self.queue.close();
        if lost > 0 {
            tracing::warn!(name = %self.name, lost, "records that were posted were not read: the task has ended");
        }
        let mut state = self.http.shared.state.lock();
        // A newer attempt may have taken the place.
        if state.doors.get(&self.name).is_some_and(|door| Arc::ptr_eq(door, &self.door)) {
            state.doors.remove(&self.name);
        }
        if state.doors.is_empty() {
            state.binding = None;
            state.server = None;
            self.http.shared.bound.tell(None);
        }
    }
}

impl<T: Send> SplitReader<T> for HttpReader<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        if let Poll::Ready(Err(status)) = self.poll_serve(cx) {
            return Poll::Ready(Err(status));
        }
        let before = batch.rows.len();
        let state = self.queue.poll_pop(cx, &mut batch.rows, rows_max).map(|()| Ok(ReadState::More));
        caught_up(state, batch.rows.len() > before, &mut self.told, cx)
    }

    /// Rows that were read, for people: nothing can be read again.
    fn position(&self) -> Vec<u8> {
        self.queue.given().to_le_bytes().to_vec()
    }

    /// Bodies that were refused, each of them told to its client.
    fn skipped(&self) -> u64 {
        self.queue.refused()
    }

    fn barrier(&mut self, epoch: u64) {
        self.queue.barrier(epoch);
    }

    fn completed(&mut self, epoch: u64) {
        self.queue.completed(epoch);
    }
}
