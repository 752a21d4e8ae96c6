//! One call: from a protobuf message to a service of the cluster, and back.

use std::sync::Arc;
use std::time::Duration;

use afflux_mesh::RawStream;
use afflux_wire::contract::{CallMeta, Identity, Passed, Target, TraceParent};
use afflux_wire::{Code, Executed, Stage, Status, codec};
use http::HeaderMap;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::Value;

use super::frames::{Answer, Messages, timeout};
use super::proto::{ITEM, PARAMS};
use super::services::{Described, Services};
use crate::node_service::OWN_PREFIX;

/// The longest deadline that a client may ask for.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// No parameters.
fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Who calls: by certificate, or by the token of the request.
pub(super) struct Who<'a> {
    pub(super) certificate: Option<&'a Arc<Identity>>,
    pub(super) headers: &'a HeaderMap,
}

/// Answers a call of a service of the cluster.
pub(super) async fn serve(
    services: &Services,
    who: &Who<'_>,
    service: &str,
    method: &str,
    messages: &mut Messages,
    answer: &mut Answer,
) -> Result<(), Status> {
    let (identity, token) = admit(services, who, service, method)?;
    let described = services.get(service).await?;
    let descriptor = described.method(method)?;
    let info = described.info().methods.iter().find(|info| info.name == method);
    let own = Duration::from_millis(info.map_or(10_000, |info| info.deadline_ms));
    let asked = timeout(who.headers)?;
    let deadline = asked.unwrap_or(own).min(DEADLINE_MAX);
    let deadline_at = afflux_actor::clock::now() + deadline;
    let accepts = descriptor.is_client_streaming();
    let streaming = accepts || descriptor.is_server_streaming();
    // Whoever sends its message slowly holds a place no longer than its call may take.
    let asking = async {
        if !accepts {
            return params(&described, &descriptor, &messages.only().await?);
        }
        let has_params = info.is_some_and(|info| !info.fields.is_empty());
        if has_params { first(&described, &descriptor, messages).await } else { codec::to_named(&empty()) }
    };
    let params = tokio::time::timeout_at(deadline_at.into(), asking).await.unwrap_or_else(|_| {
        let text = format!("{service}/{method}: the request was not here within {deadline:?}");
        Err(Status::new(Code::DeadlineExceeded, text).executed(Executed::No).stage(Stage::Admission))
    })?;
    let text = |name: &str| who.headers.get(name).and_then(|value| value.to_str().ok());
    let meta = CallMeta {
        // What a method without a deadline of the client's may take is bounded where it is opened.
        deadline: (!streaming || asked.is_some()).then_some(deadline_at),
        trace: text("traceparent").and_then(|text| text.parse::<TraceParent>().ok()),
        passed: Passed::new(
            all(who.headers, "tracestate").as_deref(),
            all(who.headers, "baggage").as_deref(),
        ),
        token,
        identity,
        ..CallMeta::default()
    };
    let (mesh, target) = (services.catalogue.client().mesh(), Target::service(service));
    if !streaming {
        let one_way = info.is_some_and(|info| info.kind == "oneway" && !info.ack);
        let bytes = if one_way {
            mesh.notify_raw(&target, method, params, meta).await?;
            Vec::new()
        } else {
            tokio::select! {
                biased;
                bytes = mesh.call_raw_with(&target, method, params, meta) => bytes?,
                () = answer.gone() => return Err(cancelled()),
            }
        };
        let reply = reply(&described, &descriptor, &bytes)?;
        return answer.send(&reply).await.map_err(|_| cancelled());
    }
    let stream = tokio::select! {
        biased;
        stream = mesh.open_raw_with(&target, method, params, meta, deadline) => stream?,
        () = answer.gone() => return Err(cancelled()),
    };
    let (described, descriptor) = (&described, &descriptor);
    let asks = async {
        if accepts {
            items(described, descriptor, messages, &stream).await?;
        }
        // What ends the call is its answer.
        std::future::pending().await
    };
    tokio::select! {
        biased;
        ended = answers(described, descriptor, &stream, answer) => ended,
        failed = asks => failed,
    }
}

/// Sends the items of a call to the client, or its result; ends with the call.
async fn answers(
    described: &Described,
    descriptor: &MethodDescriptor,
    stream: &RawStream,
    answer: &mut Answer,
) -> Result<(), Status> {
    if !descriptor.is_server_streaming() {
        let result = tokio::select! {
            biased;
            result = stream.result() => result?,
            () = answer.gone() => return Err(cancelled()),
        };
        let reply = reply(described, descriptor, &result)?;
        return answer.send(&reply).await.map_err(|_| cancelled());
    }
    loop {
        let item = tokio::select! {
            biased;
            item = stream.next() => item,
            () = answer.gone() => return Err(cancelled()),
        };
        let Some(item) = item else { break };
        let reply = reply(described, descriptor, &item?)?;
        answer.send(&reply).await.map_err(|_| cancelled())?;
    }
    stream.result().await.map(drop)
}

/// Takes items of the client to the call, as fast as its handler takes them, until there are no more.
///
/// # Errors
/// A message that is no item, or a client that has gone; not the end of the call, whose answer says more.
async fn items(
    described: &Described,
    descriptor: &MethodDescriptor,
    messages: &mut Messages,
    stream: &RawStream,
) -> Result<(), Status> {
    let has_params = is_part(described, descriptor);
    while let Some(message) = messages.next().await? {
        let mut value = described.mapped.to_json(&decode(descriptor, &message)?);
        if has_params {
            value = match value.get_mut(ITEM) {
                Some(item) => item.take(),
                None => {
                    return Err(wrong(descriptor, "has no `item`: `params` are in the first message alone"));
                }
            };
        }
        if stream.send(&codec::to_named(&value)?).await.is_err() {
            return Ok(());
        }
    }
    stream.finish();
    Ok(())
}

/// The parameters of a method that accepts items, from its first message.
async fn first(
    described: &Described,
    descriptor: &MethodDescriptor,
    messages: &mut Messages,
) -> Result<Vec<u8>, Status> {
    let Some(message) = messages.next().await? else {
        return Err(wrong(descriptor, "is missing: it has the parameters, as `params`"));
    };
    let mut value = described.mapped.to_json(&decode(descriptor, &message)?);
    match value.get_mut(PARAMS).map(Value::take) {
        Some(Value::Null) => codec::to_named(&empty()),
        Some(params) => codec::to_named(&params),
        None => Err(wrong(descriptor, "has no `params`: the first message has them")),
    }
}

/// Whether the messages of a stream are parameters or items.
fn is_part(described: &Described, descriptor: &MethodDescriptor) -> bool {
    let info = described.info().methods.iter().find(|info| info.name == descriptor.name());
    info.is_some_and(|info| !info.fields.is_empty())
}

fn wrong(descriptor: &MethodDescriptor, what: &str) -> Status {
    Status::invalid(format!("{}: a message of the stream {what}", descriptor.full_name()))
        .stage(Stage::Admission)
}

/// A header that may stand there several times, as one.
fn all(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn cancelled() -> Status {
    Status::new(Code::Cancelled, "the client went away")
}

type Admitted = (Option<Arc<Identity>>, Option<Arc<str>>);

/// Whether this caller may call this method; asked before anything is looked up.
fn admit(services: &Services, who: &Who<'_>, service: &str, method: &str) -> Result<Admitted, Status> {
    let mesh = services.catalogue.client().mesh();
    let refused =
        |code, text: String| Err(Status::new(code, text).executed(Executed::No).stage(Stage::Admission));
    if service.starts_with(OWN_PREFIX) {
        return refused(
            Code::PermissionDenied,
            format!("{service} belongs to the nodes and is not called over gRPC"),
        );
    }
    let guard = mesh.guard();
    let mut token = None;
    let mut identity = who.certificate.cloned();
    if let Some(header) = who.headers.get(http::header::AUTHORIZATION)
        && guard.is_on()
    {
        let value = header.to_str().unwrap_or_default();
        let Some((scheme, secret)) = value.split_once(' ').filter(|(s, _)| s.eq_ignore_ascii_case("bearer"))
        else {
            return refused(Code::Unauthenticated, "`authorization` is not `Bearer TOKEN`".to_owned());
        };
        let _ = scheme;
        identity = Some(guard.authenticate(secret.trim())?);
        token = Some(Arc::from(secret.trim()));
    }
    mesh.authorize(identity.as_deref(), service, method)?;
    Ok((identity, token))
}

fn decode(method: &MethodDescriptor, message: &[u8]) -> Result<DynamicMessage, Status> {
    DynamicMessage::decode(method.input(), message).map_err(|error| {
        Status::invalid(format!(
            "{}: the message is not a {}: {error}",
            method.full_name(),
            method.input().full_name()
        ))
        .executed(Executed::No)
        .stage(Stage::Admission)
    })
}

/// The parameters of a request as MessagePack.
fn params(described: &Described, method: &MethodDescriptor, message: &[u8]) -> Result<Vec<u8>, Status> {
    let message = decode(method, message)?;
    let value = match described.mapped.to_json(&message) {
        Value::Null => empty(),
        value => value,
    };
    codec::to_named(&value)
}

/// A result or an item as a protobuf message.
fn reply(described: &Described, method: &MethodDescriptor, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let value: Value = if bytes.is_empty() { Value::Null } else { codec::from_slice(bytes)? };
    let message = described.mapped.to_message(&method.output(), &value, "result").map_err(|why| {
        Status::internal(format!("{}: the answer does not fit its schema: {why}", method.full_name()))
            .executed(Executed::Yes)
            .stage(Stage::Reply)
    })?;
    Ok(message.encode_to_vec())
}
