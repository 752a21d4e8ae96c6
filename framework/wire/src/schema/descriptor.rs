//! What a node tells of its methods, and what the difference of two builds means for a call.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compare::{Difference, unreadable};
use super::fingerprint::Fingerprint;
use super::shape::Type;
use crate::contract::{MethodKind, MethodSpec};

/// A method as another build, or another language, needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodDescriptor {
    /// Its name within the service.
    pub name: String,
    /// How it exchanges messages, such as `unary` or `oneway`.
    pub kind: String,
    /// JSON Schema of the parameters, an object.
    pub params: Value,
    /// JSON Schema of the result.
    pub returns: Value,
    /// JSON Schema of the typed error.
    pub error: Value,
    /// JSON Schema of the items that the client streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepts: Option<Value>,
    /// JSON Schema of the items that the server streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<Value>,
}

/// A service as another build needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceDescriptor {
    /// Its name.
    pub name: String,
    /// The version of its contract, for people.
    pub version: String,
    /// Its methods.
    pub methods: Vec<MethodDescriptor>,
}

/// What a peer is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DescribeRequest {
    /// The service.
    pub service: String,
    /// Those of its methods that are asked for; all when empty.
    pub methods: Vec<String>,
}

impl MethodDescriptor {
    /// That of a method of this process.
    #[must_use]
    pub fn of(spec: &MethodSpec) -> Self {
        Self {
            name: spec.name.to_owned(),
            kind: spec.kind.name().to_owned(),
            params: (spec.params)().to_value(),
            returns: (spec.returns)().to_value(),
            error: (spec.error)().to_value(),
            accepts: spec.accepts.map(|schema| schema().to_value()),
            streams: spec.streams.map(|schema| schema().to_value()),
        }
    }

    /// The fingerprint of all that the method says: its kind, parameters, result, error and items. Never 0, which
    /// stands for "unknown" in a handshake.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(self.kind.as_bytes());
        bytes.push(0);
        for part in [
            Some(&self.params),
            Some(&self.returns),
            Some(&self.error),
            self.accepts.as_ref(),
            self.streams.as_ref(),
        ] {
            let hash = part.map_or(0, |schema| Fingerprint::of(schema).0);
            bytes.extend_from_slice(&hash.to_le_bytes());
        }
        Fingerprint(xxhash_rust::xxh3::xxh3_64(&bytes).max(1))
    }
}

/// Who writes what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The client writes, the server reads.
    Request,
    /// The server writes, the client reads.
    Response,
}

/// Which part of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The method itself: it is missing, or of another kind.
    Method,
    /// Its parameters.
    Params,
    /// Its result.
    Returns,
    /// Items that the client streams.
    Accepts,
    /// Items that the server streams.
    Streams,
}

/// An incompatible place of a method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Which part of it.
    pub part: Part,
    /// Who writes it.
    pub direction: Direction,
    /// From the part's root, such as `order.qty`.
    pub path: String,
    /// What the client's build says of it.
    pub client: String,
    /// What the server's build says of it.
    pub server: String,
}

impl Mismatch {
    /// `field order.qty is u32 in orders-7 but i64 here`, with names for both sides.
    #[must_use]
    pub fn text(&self, server: &str, client: &str) -> String {
        let subject = match (self.part, self.path.as_str()) {
            (Part::Method, _) => "the method".to_owned(),
            (Part::Params, "") => "the parameter object".to_owned(),
            (Part::Params, path) => format!("field {path}"),
            (Part::Returns, "") => "the result".to_owned(),
            (Part::Returns, path) => format!("result field {path}"),
            (Part::Accepts, "") => "the item sent".to_owned(),
            (Part::Accepts, path) => format!("field {path} of the items sent"),
            (Part::Streams, "") => "the item received".to_owned(),
            (Part::Streams, path) => format!("field {path} of the items received"),
        };
        format!("{subject} is {} {server} but {} {client}", self.server, self.client)
    }
}

/// Every place where a client of one build and a server of another do not understand each other: what the client
/// writes must be readable by the server, and the other way for what the server writes.
///
/// A typed error is no such place: one that a client cannot read arrives as its status.
#[must_use]
pub fn differences(client: &MethodDescriptor, server: &MethodDescriptor) -> Vec<Mismatch> {
    if client.kind != server.kind {
        return vec![Mismatch {
            part: Part::Method,
            direction: Direction::Request,
            path: String::new(),
            client: client.kind.clone(),
            server: server.kind.clone(),
        }];
    }
    let mut found = Vec::new();
    let mut requests = |part: Part, client: Option<&Value>, server: Option<&Value>| {
        found.extend(compared(client, server).into_iter().map(|d| Mismatch {
            part,
            direction: Direction::Request,
            path: d.path,
            client: d.writer,
            server: d.reader,
        }));
    };
    requests(Part::Params, Some(&client.params), Some(&server.params));
    requests(Part::Accepts, client.accepts.as_ref(), server.accepts.as_ref());
    let mut responses = |part: Part, client: Option<&Value>, server: Option<&Value>| {
        found.extend(compared(server, client).into_iter().map(|d| Mismatch {
            part,
            direction: Direction::Response,
            path: d.path,
            client: d.reader,
            server: d.writer,
        }));
    };
    if client.kind != MethodKind::OneWay.name() {
        responses(Part::Returns, Some(&client.returns), Some(&server.returns));
    }
    responses(Part::Streams, client.streams.as_ref(), server.streams.as_ref());
    found
}

fn compared(writer: Option<&Value>, reader: Option<&Value>) -> Vec<Difference> {
    match (writer, reader) {
        (Some(writer), Some(reader)) => unreadable(&Type::of(writer), &Type::of(reader)),
        _ => Vec::new(),
    }
}

/// Why a client of this build cannot call a method of a peer, in words, or nothing.
///
/// ```
/// # use afflux_wire::schema::{MethodDescriptor, incompatibility};
/// let method = |kind: &str| MethodDescriptor {
///     name: "Place".into(),
///     kind: "unary".into(),
///     params: serde_json::json!({ "type": "object", "properties": { "qty": { "type": "integer", "format": kind } } }),
///     ..MethodDescriptor::default()
/// };
/// assert_eq!(
///     incompatibility("shop.orders", &method("int64"), &method("uint32"), "orders-7 (build 1.4.2, 10.0.0.5:7000)"),
///     Some("shop.orders/Place: field qty is u32 in orders-7 (build 1.4.2, 10.0.0.5:7000) but i64 here".to_owned())
/// );
/// ```
#[must_use]
pub fn incompatibility(
    service: &str,
    ours: &MethodDescriptor,
    theirs: &MethodDescriptor,
    peer: &str,
) -> Option<String> {
    let all = differences(ours, theirs);
    let first = all.first()?;
    let more = match all.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    Some(format!("{service}/{}: {}{more}", ours.name, first.text(&format!("in {peer}"), "here")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_of_another_kind_is_not_compared_further() {
        let unary = MethodDescriptor { kind: "unary".into(), ..MethodDescriptor::default() };
        let oneway = MethodDescriptor { kind: "oneway".into(), ..MethodDescriptor::default() };
        let found = differences(&unary, &oneway);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text("there", "here"), "the method is oneway there but unary here");
        assert_ne!(unary.fingerprint(), oneway.fingerprint());
    }
}
