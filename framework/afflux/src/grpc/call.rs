//! One call: from a protobuf message to a service of the cluster, and back.

use std::sync::Arc;
use std::time::Duration;

use afflux_wire::contract::{CallMeta, Identity, Target, TraceParent};
use afflux_wire::{Code, Executed, Stage, Status, codec};
use http::HeaderMap;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::Value;

use super::frames::{Answer, Messages, timeout};
use super::services::{Described, Services};
use crate::node_service::OWN_PREFIX;

/// The longest deadline that a client may ask for.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3_600);

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
    let params = params(&described, &descriptor, &messages.only().await?)?;
    let text = |name: &str| who.headers.get(name).and_then(|value| value.to_str().ok());
    let meta = CallMeta {
        // What a method without a deadline of the client's may take is bounded where it is opened.
        deadline: (!descriptor.is_server_streaming() || asked.is_some()).then_some(deadline_at),
        trace: text("traceparent").and_then(|text| text.parse::<TraceParent>().ok()),
        token,
        identity,
        ..CallMeta::default()
    };
    let (mesh, target) = (services.catalogue.client().mesh(), Target::service(service));
    if !descriptor.is_server_streaming() {
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
    let stream = mesh.open_raw_with(&target, method, params, meta, deadline).await?;
    loop {
        let item = tokio::select! {
            biased;
            item = stream.next() => item,
            () = answer.gone() => return Err(cancelled()),
        };
        let Some(item) = item else { break };
        let reply = reply(&described, &descriptor, &item?)?;
        answer.send(&reply).await.map_err(|_| cancelled())?;
    }
    stream.result().await.map(drop)
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

/// The parameters of a request as MessagePack.
fn params(described: &Described, method: &MethodDescriptor, message: &[u8]) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(method.input(), message).map_err(|error| {
        Status::invalid(format!(
            "{}: the message is not a {}: {error}",
            method.full_name(),
            method.input().full_name()
        ))
        .executed(Executed::No)
        .stage(Stage::Admission)
    })?;
    let value = match described.mapped.to_json(&message) {
        Value::Null => Value::Object(serde_json::Map::new()),
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
