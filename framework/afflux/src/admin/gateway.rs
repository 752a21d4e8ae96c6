//! `/rpc/{service}/{method}`: every service of the cluster as JSON over HTTP.
//!
//! A request is a POST with the parameters as a JSON (or MessagePack) object. The content type is demanded, and a
//! browser's page of another site is refused, so that no page can call what its visitor can reach.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use afflux_wire::contract::{CallMeta, Passed, Target, TraceParent};
use afflux_wire::schema::Type;
use afflux_wire::{Code, Executed, Stage, Status, codec};
use serde_json::{Value, json};

use super::errors::{as_json, failure, http_status};
use super::events;
use super::hosts::by_own_name;
use super::metrics::{HttpCalls, UNKNOWN};
use crate::catalogue::Catalogue;
use crate::node_service::{MethodInfo, OWN_PREFIX};

/// Bytes of a request's body.
pub(crate) const RPC_BODY_BYTES_MAX: usize = 4 << 20;
/// The longest deadline that a request may ask for.
const DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// Bytes of an idempotency key.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// The door to the services of the cluster.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) catalogue: Catalogue,
    pub(crate) calls: HttpCalls,
}

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    MessagePack,
}

/// A request that may be carried out.
struct Asked {
    target: Target,
    info: MethodInfo,
    params: Vec<u8>,
    meta: CallMeta,
    deadline: Duration,
}

/// Answers `POST /rpc/{service}/{method}`, and GET for streams of events.
pub(crate) async fn rpc(
    request: HttpRequest,
    gateway: Option<web::Data<Gateway>>,
    body: web::Bytes,
) -> HttpResponse {
    let Some(gateway) = gateway else {
        return failure(&Status::new(Code::Unimplemented, "this node opens no door for calls over HTTP"));
    };
    let arrived = afflux_actor::clock::now();
    let headers = request.headers();
    let answer_in = match text(headers, ACCEPT.as_str()) {
        Some(accept) if accept.contains("msgpack") => Format::MessagePack,
        _ => Format::Json,
    };
    let (service, method, response) = match gateway.asked(&request, &body).await {
        Ok(asked) => {
            let (service, method) = (Arc::clone(&asked.target.service), asked.info.name.clone());
            let accept = text(headers, ACCEPT.as_str()).unwrap_or_default();
            (service, method, gateway.answer(asked, accept, answer_in).await)
        }
        Err(refusal) => {
            let response = match refusal {
                Refusal::Status(status) => failure(&status),
                Refusal::Http(code, message) => {
                    HttpResponse::build(code).json(json!({ "code": "INVALID_ARGUMENT", "message": message }))
                }
            };
            (Arc::from(UNKNOWN), UNKNOWN.to_owned(), response)
        }
    };
    let took = afflux_actor::clock::now().saturating_duration_since(arrived);
    gateway.calls.answered(&service, &method, response.status(), took);
    response
}

/// Why a request is not carried out.
enum Refusal {
    Status(Status),
    /// What HTTP has a number of its own for.
    Http(StatusCode, String),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Gateway {
    async fn asked(&self, request: &HttpRequest, body: &[u8]) -> Result<Asked, Refusal> {
        let path = request.match_info();
        let (service, method) = (path.query("service"), path.query("method"));
        let headers = request.headers();
        if matches!(text(headers, "sec-fetch-site"), Some("cross-site" | "same-site")) {
            let text = "a page of another site may not call services: call from a page of this node, or from a program";
            return Err(Status::new(Code::PermissionDenied, text).executed(Executed::No).into());
        }
        if service.starts_with(OWN_PREFIX) {
            let text = format!("{service} belongs to the nodes and is not called over HTTP");
            return Err(Status::new(Code::PermissionDenied, text).executed(Executed::No).into());
        }
        let guard = self.catalogue.client().mesh().guard();
        if !guard.is_on() {
            only_from_here(request)?;
        }
        let identity = match text(headers, AUTHORIZATION.as_str()) {
            Some(value) => match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && guard.is_on() => {
                    Some((guard.authenticate(token.trim())?, token.trim()))
                }
                Some((scheme, _)) if scheme.eq_ignore_ascii_case("bearer") => None,
                _ => {
                    let text = "the Authorization header is not `Bearer TOKEN`";
                    return Err(Status::new(Code::Unauthenticated, text).executed(Executed::No).into());
                }
            },
            None => None,
        };
        // Asked before anything is looked up, so that a stranger learns nothing of what is there.
        self.catalogue.client().mesh().authorize(
            identity.as_ref().map(|(identity, _)| &**identity),
            service,
            method,
        )?;
        let info = self.catalogue.method(service, method).await?;
        let params = if *request.method() == Method::GET { query(request)? } else { read(headers, body)? };
        let problems = Type::of(&info.params).problems(&params);
        if !problems.is_empty() {
            let text = format!("{service}/{method}: {}", problems.join("; "));
            return Err(Status::invalid(text).executed(Executed::No).stage(Stage::Admission).into());
        }
        let said = deadline(headers)?;
        let asked_for = said.is_some();
        let deadline = said.unwrap_or(Duration::from_millis(info.deadline_ms)).min(DEADLINE_MAX);
        // What nobody asked for bounds the opening of a stream only, not its whole length.
        let whole = asked_for || !info.kind.ends_with("stream");
        let meta = CallMeta {
            deadline: whole.then(|| afflux_actor::clock::now() + deadline),
            trace: text(headers, "traceparent").and_then(|text| text.parse::<TraceParent>().ok()),
            passed: Passed::new(all(headers, "tracestate").as_deref(), all(headers, "baggage").as_deref()),
            idempotency_key: idempotency_key(headers)?,
            token: identity.as_ref().map(|(_, token)| Arc::from(*token)),
            identity: identity.map(|(identity, _)| identity),
            ..CallMeta::default()
        };
        let params = codec::to_named(&params)?;
        Ok(Asked { target: Target::service(service), info, params, meta, deadline })
    }

    async fn answer(&self, asked: Asked, accept: &str, format: Format) -> HttpResponse {
        let Asked { target, info, params, meta, deadline } = asked;
        let mesh = self.catalogue.client().mesh();
        match info.kind.as_str() {
            "server_stream" => match mesh.open_raw_with(&target, &info.name, params, meta, deadline).await {
                Ok(stream) if accept.contains("text/event-stream") => events::server_sent(stream),
                Ok(stream) => events::lines(stream),
                Err(status) => failure(&status),
            },
            "client_stream" | "duplex" => failure(&Status::new(
                Code::Unimplemented,
                format!(
                    "{}/{} takes a stream of items, which HTTP/1.1 cannot carry beside its answer: \
                     call it over the node port",
                    target.service, info.name
                ),
            )),
            "oneway" if !info.ack => match mesh.notify_raw(&target, &info.name, params, meta).await {
                Ok(()) => HttpResponse::Accepted().finish(),
                Err(status) => failure(&status),
            },
            _ => match mesh.call_raw_with(&target, &info.name, params, meta).await {
                Ok(bytes) if format == Format::MessagePack => {
                    HttpResponse::Ok().content_type("application/msgpack").body(bytes)
                }
                Ok(bytes) => match value_of(&bytes) {
                    Ok(value) => HttpResponse::Ok().json(value),
                    Err(status) => failure(&status),
                },
                Err(status) => failure(&status),
            },
        }
    }
}

/// Where nobody is asked who they are, only programs of this machine may call: no other peer, and no page that a
/// browser reached under a name of its own for this address (DNS rebinding).
pub(crate) fn only_from_here(request: &HttpRequest) -> Result<(), Status> {
    let refused = |text: String| Err(Status::new(Code::PermissionDenied, text).executed(Executed::No));
    if let Some(peer) = request.peer_addr()
        && !peer.ip().is_loopback()
    {
        return refused(format!(
            "{} is not this machine: calls over HTTP from elsewhere need authentication (auth.tokens)",
            peer.ip()
        ));
    }
    by_own_name(request).or_else(refused)
}

/// MessagePack as JSON; nothing is null.
pub(super) fn value_of(bytes: &[u8]) -> Result<Value, Status> {
    if bytes.is_empty() { Ok(Value::Null) } else { codec::from_slice(bytes) }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A header that may stand there several times, as one.
fn all(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// The parameters of a body: an object in the format that its content type names.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let params = match kind.as_str() {
        "application/json" if body.iter().all(u8::is_ascii_whitespace) => json!({}),
        "application/json" => serde_json::from_slice(body)
            .map_err(|error| Status::invalid(format!("the body is not JSON: {error}")))?,
        "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
            codec::from_slice(body)?
        }
        "" => {
            let text = "the request names no Content-Type: send application/json or application/msgpack";
            return Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, text.to_owned()));
        }
        other => {
            let text = format!(
                "Content-Type {other} is not read here: send application/json or application/msgpack"
            );
            return Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
    };
    object(params)
}

/// The parameters of a GET, which EventSource is limited to: `?params={…}`. Streams only: it must change nothing.
fn query(request: &HttpRequest) -> Result<Value, Refusal> {
    if !text(request.headers(), ACCEPT.as_str()).unwrap_or_default().contains("text/event-stream") {
        let text = "calls are made with POST; GET is for streams, with `Accept: text/event-stream`";
        return Err(Refusal::Http(StatusCode::METHOD_NOT_ALLOWED, text.to_owned()));
    }
    let pairs = web::Query::<std::collections::BTreeMap<String, String>>::from_query(request.query_string())
        .map_err(|error| Status::invalid(format!("the query cannot be read: {error}")))?;
    match pairs.get("params") {
        None => Ok(json!({})),
        Some(params) => object(
            serde_json::from_str(params)
                .map_err(|error| Status::invalid(format!("`params` of the query is not JSON: {error}")))?,
        ),
    }
}

fn object(params: Value) -> Result<Value, Refusal> {
    match params {
        Value::Object(_) => Ok(params),
        Value::Null => Ok(json!({})),
        other => {
            let text = format!("the parameters are {other}, expected an object such as {{\"id\":7}}");
            Err(Status::invalid(text).executed(Executed::No).into())
        }
    }
}

/// `Afflux-Timeout: 1500ms` or `2s`, or gRPC's `grpc-timeout: 1500m`.
fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let (name, value, units): (_, _, &[(&str, u64)]) =
        match (text(headers, "afflux-timeout"), text(headers, "grpc-timeout")) {
            (Some(value), _) => {
                ("Afflux-Timeout", value, &[("ms", 1_000), ("us", 1), ("s", 1_000_000), ("m", 60_000_000)])
            }
            (None, Some(value)) => (
                "grpc-timeout",
                value,
                &[("H", 3_600_000_000), ("M", 60_000_000), ("S", 1_000_000), ("m", 1_000), ("u", 1)],
            ),
            (None, None) => return Ok(None),
        };
    let value = value.trim();
    units
        .iter()
        .find_map(|(unit, micros)| {
            let number = value.strip_suffix(unit)?.trim().parse::<u64>().ok().filter(|n| *n > 0)?;
            Some(Duration::from_micros(number.saturating_mul(*micros)))
        })
        .map(Some)
        .ok_or_else(|| {
            Status::invalid(format!("{name} is `{value}`: write a number and a unit, such as 500ms or 2s"))
                .executed(Executed::No)
        })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<[u8]>>, Status> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let text = format!(
            "the Idempotency-Key has {} bytes: 1 to {IDEMPOTENCY_KEY_BYTES_MAX} are allowed",
            key.len()
        );
        return Err(Status::invalid(text).executed(Executed::No));
    }
    Ok(Some(key.into()))
}

/// The end of a stream that failed, as its last line or event.
pub(super) fn failed(status: &Status) -> Value {
    let mut value = as_json(status);
    value["http"] = json!(http_status(status.code).as_u16());
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        TestRequest::default().insert_header((name, value)).to_http_request().headers().clone()
    }

    #[test]
    fn a_deadline_has_a_number_and_a_unit() {
        for (name, value, millis) in [
            ("afflux-timeout", "500ms", 500),
            ("afflux-timeout", "2s", 2_000),
            ("afflux-timeout", "1m", 60_000),
            ("grpc-timeout", "1500m", 1_500),
            ("grpc-timeout", "3S", 3_000),
        ] {
            assert_eq!(deadline(&headers(name, value)), Ok(Some(Duration::from_millis(millis))), "{value}");
        }
        for wrong in ["2", "s", "-1s", "0s", "1.5s"] {
            let error = deadline(&headers("afflux-timeout", wrong)).unwrap_err();
            assert!(error.message.contains("500ms"), "{error}");
        }
        assert_eq!(deadline(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn a_body_needs_a_content_type_and_an_object() {
        let json = headers("content-type", "application/json; charset=utf-8");
        assert!(read(&json, b"{\"id\":7}").is_ok_and(|value| value == json!({ "id": 7 })));
        assert!(read(&json, b"").is_ok_and(|value| value == json!({})));
        let packed = codec::to_named(&json!({ "id": 7 })).unwrap();
        assert!(read(&headers("content-type", "application/msgpack"), &packed).is_ok());
        assert!(matches!(read(&json, b"7"), Err(Refusal::Status(_))));
        for kind in ["text/plain", "application/x-www-form-urlencoded"] {
            let refused = read(&headers("content-type", kind), b"{}");
            assert!(matches!(refused, Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, _))), "{kind}");
        }
        assert!(matches!(
            read(&HeaderMap::new(), b"{}"),
            Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, _))
        ));
    }
}
