//! OpenAPI 3.1 of the admin port: its pages, and every service that can be reached.

use std::collections::BTreeMap;

use afflux_wire::schema::Fingerprint;
use serde_json::{Map, Value, json};

use crate::node_service::{MethodInfo, ServiceInfo};

/// The document for these services and these pages of `/api/v1`.
pub(crate) fn document(services: &[ServiceInfo], pages: &[&str]) -> Value {
    let mut components = Components::default();
    components.schemas.insert("afflux.Error".to_owned(), error_schema());
    let mut paths = Map::new();
    for (path, summary, kind) in [
        ("/metrics", "Metrics, as Prometheus reads them.", "text/plain"),
        ("/livez", "Whether the threads of links, timers and services take turns.", "text/plain"),
        ("/readyz", "Whether the node takes calls, and if not, why.", "text/plain"),
        ("/startupz", "Whether the node has been ready once.", "text/plain"),
    ] {
        let mut responses = json!({ "200": { "description": "Yes.", "content": { kind: { "schema": { "type": "string" } } } } });
        if path != "/metrics" {
            responses["503"] =
                json!({ "description": "No.", "content": { kind: { "schema": { "type": "string" } } } });
        }
        let operation = json!({ "get": {
            "operationId": path.trim_start_matches('/'), "summary": summary, "tags": ["admin"], "responses": responses
        } });
        paths.insert(path.to_owned(), operation);
    }
    for page in pages {
        paths.insert(
            format!("/api/v1/{page}"),
            json!({ "get": {
                "operationId": format!("api.{page}"), "summary": format!("The cluster's {page}."), "tags": ["admin"],
                "responses": {
                    "200": { "description": "What is there.", "content": { "application/json": { "schema": {} } } },
                    "default": { "$ref": "#/components/responses/Error" },
                }
            } }),
        );
    }
    for (verb, path, summary) in crate::dashboard::PAGES {
        let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<Value> = named
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let kind = if path == "stream" { "text/event-stream" } else { "application/json" };
        let mut operation = json!({
            "operationId": format!("api.{verb}.{}", path.replace(['{', '}'], "").replace('/', ".")),
            "summary": summary, "tags": ["admin"], "parameters": parameters,
            "responses": {
                "200": { "description": "What is there.", "content": { kind: { "schema": {} } } },
                "default": { "$ref": "#/components/responses/Error" },
            },
        });
        if verb == "post" {
            // Demanded, so that no form of another site can send it.
            operation["requestBody"] =
                json!({ "required": false, "content": { "application/json": { "schema": {} } } });
        }
        let operations = paths.entry(format!("/api/v1/{path}")).or_insert_with(|| json!({}));
        operations[verb] = operation;
    }
    for service in services {
        for method in &service.methods {
            let path = format!("/rpc/{}/{}", service.name, method.name);
            if let Some(operation) = components.operation(service, method) {
                paths.insert(path, json!({ "post": operation }));
            }
        }
    }
    let tags: Vec<Value> = std::iter::once(json!({ "name": "admin", "description": "The node itself." }))
        .chain(services.iter().map(|service| {
            json!({ "name": service.name, "description": format!("{}\n\nVersion {}", service.doc, service.version).trim() })
        }))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Afflux node",
            "description": "The admin port of a node: its state, and the services of its cluster as JSON over HTTP.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "responses": { "Error": {
                "description": "It failed; the HTTP status is that of google.rpc.Code.",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/afflux.Error" } } },
            } },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": "Where authentication is on." } },
        },
        "security": [{}, { "token": [] }],
    })
}

/// The schemas that operations refer to, each definition once.
#[derive(Default)]
struct Components {
    schemas: BTreeMap<String, Value>,
    /// A definition's service, name and content to its name here.
    names: BTreeMap<(String, String, Fingerprint), String>,
}

impl Components {
    fn operation(&mut self, service: &ServiceInfo, method: &MethodInfo) -> Option<Value> {
        // A stream of items cannot be sent over HTTP/1.1 beside the answer to it.
        if matches!(method.kind.as_str(), "client_stream" | "duplex") {
            return None;
        }
        let prefix = format!("{}.{}", service.name, method.name);
        let params = self.lift(&service.name, &format!("{prefix}.params"), &method.params);
        let error = self.lift(&service.name, &format!("{}.error", service.name), &method.error);
        let failed = json!({
            "description": "It failed. `details.data` is the service's typed error, where it is one.",
            "content": { "application/json": { "schema": {
                "allOf": [{ "$ref": "#/components/schemas/afflux.Error" }],
                "properties": { "details": { "properties": { "data": error } } },
            } } },
        });
        let mut responses = json!({ "default": failed });
        match (method.kind.as_str(), &method.streams) {
            ("oneway", _) if !method.ack => {
                responses["202"] = json!({ "description": "Sent. Nothing is known of what becomes of it." });
            }
            ("server_stream", Some(items)) => {
                let items = self.lift(&service.name, &format!("{prefix}.item"), items);
                responses["200"] = json!({
                    "description": "Items as they come: events `item`, and at last `end` or `error`; or an object a line.",
                    "content": {
                        "text/event-stream": { "schema": { "type": "string" }, "x-afflux-item": items.clone() },
                        "application/x-ndjson": { "schema": { "type": "string" }, "x-afflux-item": items },
                    },
                });
            }
            _ => {
                let returns = self.lift(&service.name, &format!("{prefix}.result"), &method.returns);
                responses["200"] = json!({
                    "description": "The result.",
                    "content": { "application/json": { "schema": returns } },
                });
            }
        }
        let mut lines = method.doc.lines();
        Some(json!({
            "operationId": prefix,
            "tags": [service.name],
            "summary": lines.next().unwrap_or(&method.name).trim(),
            "description": method.doc,
            "parameters": [
                header("Afflux-Timeout", "How long the call may take, such as `500ms` or `2s`.", &format!("{}ms", method.deadline_ms)),
                header("Idempotency-Key", "The same key means the same effect.", "7b0e…"),
                header("traceparent", "The trace it belongs to (W3C Trace Context).", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ],
            "requestBody": {
                "required": !method.fields.is_empty(),
                "content": { "application/json": { "schema": params } },
            },
            "responses": responses,
            "x-afflux-idempotent": method.idempotent,
            "x-afflux-deadline-ms": method.deadline_ms,
        }))
    }

    /// Puts the definitions of a schema among the components and returns the schema with references to there.
    fn lift(&mut self, service: &str, own: &str, schema: &Value) -> Value {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let defs = schema.get("$defs").and_then(Value::as_object);
        let mut fresh = Vec::new();
        for (name, definition) in defs.into_iter().flatten() {
            let alone = json!({ "$ref": format!("#/$defs/{name}"), "$defs": defs });
            let key = (service.to_owned(), name.clone(), Fingerprint::of(&alone));
            let known = self.names.get(&key).cloned();
            let global = known.unwrap_or_else(|| {
                let plain = format!("{service}.{}", component_name(name));
                let global = (1_u32..)
                    .map(|n| if n == 1 { plain.clone() } else { format!("{plain}.{n}") })
                    .find(|global| {
                        !self.schemas.contains_key(global) && !self.names.values().any(|name| name == global)
                    })
                    .unwrap_or(plain);
                self.names.insert(key, global.clone());
                fresh.push((global.clone(), definition.clone()));
                global
            });
            names.insert(format!("#/$defs/{name}"), format!("#/components/schemas/{global}"));
        }
        names.insert("#".to_owned(), format!("#/components/schemas/{own}"));
        let mut meant = false;
        for (global, mut definition) in fresh {
            meant |= redirect(&mut definition, &names);
            self.schemas.insert(global, definition);
        }
        let mut root = schema.clone();
        if let Value::Object(root) = &mut root {
            root.remove("$defs");
            root.remove("$schema");
        }
        if redirect(&mut root, &names) || meant {
            self.schemas.insert(own.to_owned(), root);
            return json!({ "$ref": format!("#/components/schemas/{own}") });
        }
        root
    }
}

/// Gives references their new names; says whether one meant the root.
fn redirect(value: &mut Value, names: &BTreeMap<String, String>) -> bool {
    match value {
        Value::Object(map) => {
            let mut root = false;
            for (key, inner) in map {
                match inner {
                    Value::String(reference) if key == "$ref" => {
                        root |= reference == "#";
                        if let Some(name) = names.get(reference.as_str()) {
                            *reference = name.clone();
                        }
                    }
                    inner => root |= redirect(inner, names),
                }
            }
            root
        }
        Value::Array(list) => {
            let mut root = false;
            for inner in list {
                root |= redirect(inner, names);
            }
            root
        }
        _ => false,
    }
}

/// Only letters, digits, `.`, `-` and `_` may stand in the name of a component.
fn component_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' }).collect()
}

fn header(name: &str, what: &str, example: &str) -> Value {
    json!({ "name": name, "in": "header", "required": false, "description": what, "schema": { "type": "string" }, "example": example })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": { "type": "string", "description": "One of gRPC's codes.", "examples": ["NOT_FOUND"] },
            "message": { "type": "string", "description": "What, where, the limit and the cure." },
            "details": {
                "type": "object",
                "properties": {
                    "executed": { "enum": ["no", "maybe", "yes"], "description": "Whether the call had an effect." },
                    "type": { "type": "string", "description": "The name of the typed error." },
                    "data": { "description": "The typed error." },
                    "retry_after_ms": { "type": "integer", "minimum": 0 },
                    "stage": { "type": "string" },
                    "node": { "type": "string" },
                    "queue_depth": { "type": "integer", "minimum": 0 },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contracts of the framework itself, and types with what is awkward: recursion and equal names.
    fn sample() -> Value {
        let mut services = crate::cli::own_services();
        let tree = json!({ "$ref": "#/$defs/Tree", "$defs": { "Tree": { "type": "object", "properties": {
            "children": { "type": "array", "items": { "$ref": "#/$defs/Tree" } }, "next": { "$ref": "#" } } } } });
        let other = json!({ "$ref": "#/$defs/Tree", "$defs": { "Tree": { "type": "boolean" } } });
        let mut method = services[0].methods[0].clone();
        method.params = tree;
        method.returns = other;
        let odd = ServiceInfo { name: "test.odd".into(), methods: vec![method], ..services[0].clone() };
        services.push(odd);
        document(&services, &["nodes", "jobs"])
    }

    #[test]
    fn every_reference_leads_to_a_component() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|inner| references(inner, found));
                }
                Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
                _ => {}
            }
        }
        let document = sample();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{} references", found.len());
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(schemas.contains_key("test.odd.Tree") && schemas.contains_key("test.odd.Tree.2"));
    }

    #[test]
    #[ignore = "needs openapi-spec-validator"]
    fn the_document_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openapi.json");
        std::fs::write(&file, serde_json::to_string(&sample()).unwrap()).unwrap();
        let python = std::env::var("OPENAPI_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let run = std::process::Command::new(python)
            .args(["-m", "openapi_spec_validator", "--schema", "3.1"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{text}");
    }
}
