//! Spans to an OpenTelemetry collector: OTLP over HTTP, [JSON encoding](https://opentelemetry.io/docs/specs/otlp/#otlphttp),
//! in batches, from a bounded queue.
//!
//! Written here rather than taken: the spans are of one shape and the encoder is a page, where `opentelemetry-otlp`
//! brings a second HTTP client and a second notion of a span. What it leaves out: TLS (a collector stands on this
//! machine, or a sidecar does), compression, and retries; what a collector does not take is dropped and counted.

use std::fmt;
use std::time::{Duration, SystemTime};

use afflux_actor::TRACE_TARGET;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Error, Result};

/// Ended spans that wait to be sent; more are dropped.
const SPANS_QUEUED_MAX: usize = 4_096;
/// Spans of one request.
const SPANS_PER_REQUEST_MAX: usize = 512;
/// Events of one span; a call has an attempt or three.
const EVENTS_PER_SPAN_MAX: usize = 16;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// For one request, its connection included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read: its first line counts, and how many spans it did not take.
const ANSWER_BYTES_MAX: u64 = 65_536;
/// For what waits when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Listens to spans of calls, and hands those that have ended to an [`Exporter`].
pub(crate) struct Spans {
    queue: mpsc::Sender<Item>,
    dropped: IntCounter,
}

/// What waits to be sent.
enum Item {
    /// A span that has ended, as OTLP has it.
    Span(Value),
    /// Told when all in front of it has been sent, or given up.
    Flush(oneshot::Sender<()>),
}

/// Asks an [`Exporter`] to send what it has.
pub(crate) struct Flush(mpsc::Sender<Item>);

impl Flush {
    /// Resolves when everything that has ended is sent or given up; after two seconds in any case.
    pub(crate) async fn wait(self) {
        let (told, done) = oneshot::channel();
        let flushed = async {
            if self.0.send(Item::Flush(told)).await.is_ok() {
                // An error: the exporter is gone, and nothing is left to wait for.
                let _gone = done.await;
            }
        };
        if tokio::time::timeout(FLUSH_TIMEOUT, flushed).await.is_err() {
            tracing::warn!("the collector of spans takes its time: the last spans are lost");
        }
    }
}

/// Sends what [`Spans`] hands over.
pub(crate) struct Exporter {
    spans: mpsc::Receiver<Item>,
    endpoint: Endpoint,
    resource: Value,
    exported: IntCounter,
    failed: IntCounter,
    rejected: IntCounter,
}

/// `http://HOST:PORT/PATH`, taken apart.
#[derive(Debug, PartialEq)]
struct Endpoint {
    authority: String,
    path: String,
}

impl Endpoint {
    /// Reads a URL; `/v1/traces` follows its path, as the specification has it.
    fn parse(url: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("trace.otlp_endpoint: `{url}` is not of the form http://HOST:PORT"))
                .hint("OTLP over plain HTTP: the collector's port 4318, on this machine or beside it")
        };
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || port.parse::<u16>().is_err() || rest.contains(char::is_whitespace) {
            return Err(wrong());
        }
        let path = path.trim_end_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        Ok(Self { authority: authority.to_owned(), path: format!("{slash}{path}/v1/traces") })
    }
}

/// What listens, and what sends: `service` and `instance` say whose spans they are.
///
/// # Errors
/// An endpoint that is no plain HTTP URL.
pub(crate) fn export(
    endpoint: &str,
    service: &str,
    instance: &str,
    metrics: &Registry,
) -> Result<(Spans, Exporter)> {
    let endpoint = Endpoint::parse(endpoint)?;
    let exported = IntCounter::new("afflux_trace_spans_exported_total", "Spans that a collector took.")?;
    let dropped = IntCounterVec::new(
        Opts::new("afflux_trace_spans_dropped_total", "Spans that no collector got."),
        &["reason"],
    )?;
    metrics.register(Box::new(exported.clone()))?;
    metrics.register(Box::new(dropped.clone()))?;
    let (queue, spans) = mpsc::channel(SPANS_QUEUED_MAX);
    let resource = json!({ "attributes": [
        attribute("service.name", service),
        attribute("service.instance.id", instance),
    ] });
    let [failed, rejected, full] =
        ["export", "rejected", "queue"].map(|reason| dropped.with_label_values(&[reason]));
    let listener = Spans { queue, dropped: full };
    Ok((listener, Exporter { spans, endpoint, resource, exported, failed, rejected }))
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn nanos(at: SystemTime) -> String {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// A span while it runs.
struct Running {
    name: &'static str,
    began: SystemTime,
    fields: Fields,
    events: Vec<Value>,
}

/// What a span says of itself.
#[derive(Default)]
struct Fields {
    trace_id: String,
    span_id: String,
    parent_id: String,
    kind: String,
    rpc: String,
    code: String,
    error: String,
    wait_us: u64,
    after: String,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "wait_us" {
            self.wait_us = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

impl Fields {
    fn set(&mut self, field: &Field, value: String) {
        let place = match field.name() {
            "trace_id" => &mut self.trace_id,
            "span_id" => &mut self.span_id,
            "parent_id" => &mut self.parent_id,
            "kind" => &mut self.kind,
            "rpc" => &mut self.rpc,
            "code" => &mut self.code,
            "error" => &mut self.error,
            "after" => &mut self.after,
            _ => return,
        };
        *place = value;
    }
}

impl Running {
    fn end(self, now: SystemTime) -> Value {
        let fields = self.fields;
        // A wait is told when it is over.
        let began = match fields.wait_us {
            0 => self.began,
            us => self.began.checked_sub(Duration::from_micros(us)).unwrap_or(self.began),
        };
        let kind = match fields.kind.as_str() {
            "server" => 2,
            "client" => 3,
            _ => 1,
        };
        let mut attributes = vec![attribute("rpc.system", "afflux"), attribute("afflux.span", &fields.kind)];
        if !fields.code.is_empty() {
            attributes.push(attribute("rpc.afflux.code", &fields.code));
        }
        let name = if fields.rpc.is_empty() { self.name.to_owned() } else { fields.rpc };
        let status = match fields.code.as_str() {
            "" | "OK" => json!({}),
            _ => json!({ "code": 2, "message": fields.error }),
        };
        let root = fields.parent_id.bytes().all(|digit| digit == b'0');
        json!({
            "traceId": fields.trace_id,
            "spanId": fields.span_id,
            "parentSpanId": if root { "" } else { fields.parent_id.as_str() },
            "name": name,
            "kind": kind,
            "startTimeUnixNano": nanos(began),
            "endTimeUnixNano": nanos(now.max(began)),
            "attributes": attributes,
            "events": self.events,
            "status": status,
        })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() != TRACE_TARGET {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            let (name, began) = (attributes.metadata().name(), SystemTime::now());
            span.extensions_mut().insert(Running { name, began, fields, events: Vec::new() });
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(running) = span.extensions_mut().get_mut::<Running>()
        {
            values.record(&mut running.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != TRACE_TARGET {
            return;
        }
        if let Some(span) = event.parent().and_then(|parent| context.span(parent))
            && let Some(running) = span.extensions_mut().get_mut::<Running>()
            && running.events.len() < EVENTS_PER_SPAN_MAX
        {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let attributes = match fields.after.as_str() {
                "" => Vec::new(),
                code => vec![attribute("after", code)],
            };
            let at = nanos(SystemTime::now());
            running.events.push(json!({ "timeUnixNano": at, "name": "attempt", "attributes": attributes }));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let running = span.extensions_mut().remove::<Running>();
        if let Some(running) = running
            && self.queue.try_send(Item::Span(running.end(SystemTime::now()))).is_err()
        {
            self.dropped.inc();
        }
    }
}

impl Exporter {
    /// Asks it to send what it has.
    pub(crate) fn flush(&self, spans: &Spans) -> Flush {
        Flush(spans.queue.clone())
    }

    /// Sends batches until nothing listens any more.
    pub(crate) async fn run(mut self) {
        let mut failing = false;
        while let Some(first) = self.spans.recv().await {
            let (mut batch, mut flush) = (Vec::new(), None);
            match first {
                Item::Span(span) => batch.push(span),
                Item::Flush(told) => flush = Some(told),
            }
            let until = tokio::time::Instant::now() + LINGER;
            while flush.is_none() && batch.len() < SPANS_PER_REQUEST_MAX {
                match tokio::time::timeout_at(until, self.spans.recv()).await {
                    Ok(Some(Item::Span(span))) => batch.push(span),
                    Ok(Some(Item::Flush(told))) => flush = Some(told),
                    Ok(None) | Err(_) => break,
                }
            }
            if !batch.is_empty() {
                self.deliver(batch, &mut failing).await;
            }
            if let Some(told) = flush {
                // An error: nobody waits any more.
                let _gone = told.send(());
            }
        }
    }

    /// Sends one batch and counts what became of it.
    async fn deliver(&self, batch: Vec<Value>, failing: &mut bool) {
        let spans = batch.len() as u64;
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, self.send(batch)).await;
        let why = match sent.unwrap_or_else(|_| Err(format!("no answer within {REQUEST_TIMEOUT:?}"))) {
            Ok((0, _)) => {
                self.exported.inc_by(spans);
                *failing = false;
                return;
            }
            Ok((rejected, why)) => {
                let rejected = rejected.min(spans);
                self.exported.inc_by(spans - rejected);
                self.rejected.inc_by(rejected);
                why
            }
            Err(why) => {
                self.failed.inc_by(spans);
                why
            }
        };
        if !std::mem::replace(failing, true) {
            let collector = &self.endpoint.authority;
            tracing::warn!(collector, why, spans, "spans were dropped: the collector does not take them");
        }
    }

    /// How many spans the collector refused, and why; an error: it took none.
    async fn send(&self, spans: Vec<Value>) -> std::result::Result<(u64, String), String> {
        let body = json!({ "resourceSpans": [{
            "resource": self.resource,
            "scopeSpans": [{ "scope": { "name": "afflux" }, "spans": spans }],
        }] })
        .to_string();
        let Endpoint { authority, path } = &self.endpoint;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let exchange = async {
            let mut socket = TcpStream::connect(authority.as_str()).await?;
            socket.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = exchange.await.map_err(|error| error.to_string())?;
        answered(&String::from_utf8_lossy(&answer))
    }
}

/// Reads an answer: a status of 2xx, and in its body perhaps that some spans were rejected.
fn answered(answer: &str) -> std::result::Result<(u64, String), String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let line = head.lines().next().unwrap_or_default();
    match line.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok()) {
        Some(200..=299) => {}
        _ => return Err(format!("it answered `{line}`")),
    }
    // One object, plain or as the only chunk of a chunked body: from the first brace to the last.
    let object = body.find('{').zip(body.rfind('}')).and_then(|(begin, end)| body.get(begin..=end));
    let said: Value = object.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let partial = &said["partialSuccess"];
    // A 64-bit number is text in protobuf's JSON; some write it as a number all the same.
    let rejected = &partial["rejectedSpans"];
    let rejected = rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or_default();
    Ok((rejected, partial["errorMessage"].as_str().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use afflux_actor::Tracer;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use afflux_wire::Status;

    #[test]
    fn an_endpoint_is_plain_http_with_a_port_and_the_path_of_traces_follows() {
        let endpoint = Endpoint::parse("http://127.0.0.1:4318").unwrap();
        assert_eq!((endpoint.authority.as_str(), endpoint.path.as_str()), ("127.0.0.1:4318", "/v1/traces"));
        assert_eq!(Endpoint::parse("http://c:1/otel/").unwrap().path, "/otel/v1/traces");
        for wrong in ["https://c:4318", "c:4318", "http://c", "http://:1", "http://c:x", "http://c:1/a b"] {
            let error = Endpoint::parse(wrong).unwrap_err();
            assert!(error.to_string().contains("trace.otlp_endpoint") && error.exit_code() == 2, "{error}");
        }
    }

    /// A collector that answers one request, and gives its head and its body.
    async fn collect(listener: &tokio::net::TcpListener, answer: &str) -> (String, Value) {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut bytes, mut part) = (Vec::new(), [0; 4_096]);
        loop {
            let n = socket.read(&mut part).await.unwrap();
            bytes.extend_from_slice(&part[..n]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n")
                && let Ok(body) = serde_json::from_str(body)
            {
                socket.write_all(answer.as_bytes()).await.unwrap();
                return (head.to_owned(), body);
            }
        }
    }

    #[tokio::test]
    async fn a_call_that_failed_reaches_a_collector_with_its_attempts_and_a_refused_batch_is_counted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = Registry::new();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (spans, exporter) = export(&url, "shop", "node-1", &metrics).unwrap();
        let (exported, failed) = (exporter.exported.clone(), exporter.failed.clone());
        let call = || {
            let span = Tracer::new(1, 1.0).call(None, "shop.orders", "Get").unwrap();
            span.attempt(None);
            span.attempt(Some(&Status::unavailable("gone")));
            span.ended(Err(&Status::not_found("no order 7")));
        };
        let subscriber = tracing_subscriber::registry().with(spans);
        let running = tokio::spawn(exporter.run());
        tracing::subscriber::with_default(subscriber, || {
            call();
            call();
        });
        let (head, body) = collect(&listener, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        let resource = &body["resourceSpans"][0]["resource"]["attributes"];
        assert_eq!(resource[0], attribute("service.name", "shop"));
        let sent = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(sent.len(), 2, "one batch");
        let one = &sent[0];
        assert_eq!((one["name"].as_str(), one["kind"].as_u64()), (Some("shop.orders/Get"), Some(3)));
        assert_eq!((one["traceId"].as_str().unwrap().len(), one["spanId"].as_str().unwrap().len()), (32, 16));
        assert_eq!(one["parentSpanId"], "");
        assert_eq!(one["status"], json!({ "code": 2, "message": "no order 7" }));
        assert_eq!(one["events"][1]["attributes"][0], attribute("after", "UNAVAILABLE"));
        // The subscriber is gone and with it the queue: the exporter ends after what it has.
        running.await.unwrap();
        assert_eq!((exported.get(), failed.get()), (2, 0));

        let (spans, exporter) = export(&url, "shop", "node-1", &Registry::new()).unwrap();
        let failed = exporter.failed.clone();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans), call);
        let refuse = collect(&listener, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
        tokio::join!(exporter.run(), refuse);
        assert_eq!(failed.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn spans_beyond_the_queue_are_dropped_and_counted() {
        let (spans, exporter) = export("http://127.0.0.1:1", "shop", "n", &Registry::new()).unwrap();
        let (dropped, failed) = (spans.dropped.clone(), exporter.failed.clone());
        let flush = exporter.flush(&spans);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans), || {
            let tracer = Tracer::new(1, 1.0);
            for _ in 0..SPANS_QUEUED_MAX + 3 {
                drop(tracer.call(None, "shop.orders", "Get").unwrap());
            }
        });
        assert_eq!(dropped.get(), 3);
        tokio::join!(exporter.run(), flush.wait());
        assert_eq!(failed.get(), SPANS_QUEUED_MAX as u64, "nobody listens on port 1");
    }

    #[test]
    fn an_answer_says_how_many_spans_it_did_not_take() {
        let ok = |body: &str| {
            answered(&format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{body}"))
        };
        assert_eq!(ok("").unwrap().0, 0);
        assert_eq!(ok("{}").unwrap().0, 0);
        let partial = r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#;
        assert_eq!(ok(partial).unwrap(), (2, "too old".to_owned()));
        assert_eq!(ok(&format!("41\r\n{partial}\r\n0\r\n\r\n")).unwrap().0, 2, "in a chunk");
        assert_eq!(ok(&partial.replace("\"2\"", "3")).unwrap().0, 3);
        assert!(ok("not JSON { at all }").is_ok());
        for wrong in ["", "nonsense", "HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert!(answered(wrong).is_err(), "{wrong}");
        }
    }
}
