//! `services` and `describe`: what can be called.

use super::args::{DescribeArgs, Global, ServicesArgs};
use super::output::{print, print_json};
use super::table::table;
use crate::error::{Error, Result, suggest};
use crate::node_service::{MethodInfo, OWN_PREFIX};

pub(crate) async fn services(global: &Global, args: &ServicesArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let mut offered = client.services().await?;
    offered.retain(|offered| args.all || !offered.service.name.starts_with(OWN_PREFIX));
    if global.json {
        return print_json(&offered);
    }
    if offered.is_empty() {
        return print("no service is offered here; `--all` shows those of the framework\n");
    }
    let rows: Vec<Vec<String>> = offered
        .iter()
        .map(|offered| {
            let methods: Vec<&str> = offered.service.methods.iter().map(|m| m.name.as_str()).collect();
            vec![
                offered.service.name.clone(),
                offered.service.version.clone(),
                offered.nodes.join(", "),
                methods.join(", "),
            ]
        })
        .collect();
    print(&table(&["SERVICE", "VERSION", "NODES", "METHODS"], &rows))
}

pub(crate) async fn describe(global: &Global, args: &DescribeArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let offered = client.services().await?;
    let Some(found) = offered.iter().find(|offered| offered.service.name == args.service) else {
        let names: Vec<&str> = offered.iter().map(|offered| offered.service.name.as_str()).collect();
        return Err(Error::usage(format!("no node offers a service `{}`", args.service))
            .hint(suggest(&args.service, names)));
    };
    if global.json {
        return print_json(found);
    }
    let service = &found.service;
    let mut text = format!("{} {}, on {}\n", service.name, service.version, found.nodes.join(", "));
    if !service.doc.is_empty() {
        text.push_str(&format!("  {}\n", service.doc));
    }
    for method in &service.methods {
        text.push_str(&format!("\n  {}\n", signature(method)));
        for line in method.doc.lines() {
            text.push_str(&format!("      {}\n", line.trim()));
        }
        text.push_str(&format!("      deadline {} ms{}\n", method.deadline_ms, traits_of(method)));
    }
    text.push_str(&super::types::types(service));
    print(&text)
}

/// `, idempotent, high priority`: what a caller may want to know.
fn traits_of(method: &MethodInfo) -> String {
    let priority = match method.priority.as_str() {
        "high" => ", high priority",
        "low" => ", low priority",
        _ => "",
    };
    let idempotent = match (method.readonly, method.idempotent) {
        (true, _) => ", read only",
        (false, true) => ", idempotent",
        (false, false) => "",
    };
    let ack = if method.ack { ", acknowledged" } else { "" };
    let detached = if method.detached { ", detached" } else { "" };
    [idempotent, priority, ack, detached].concat()
}

/// `Place(order: Order) -> Receipt`.
fn signature(method: &MethodInfo) -> String {
    let fields: Vec<String> = method
        .fields
        .iter()
        .map(|name| match method.params.pointer(&format!("/properties/{name}")) {
            Some(schema) => format!("{name}: {}", type_name(schema)),
            None => name.clone(),
        })
        .collect();
    let mut call = format!("{}({})", method.name, fields.join(", "));
    if let Some(item) = &method.accepts {
        call.push_str(&format!(" <- stream of {}", type_name(item)));
    }
    match &method.streams {
        Some(item) => format!("{call} -> stream of {}", type_name(item)),
        None if method.kind == "oneway" => format!("{call}, one-way"),
        None => format!("{call} -> {}", type_name(&method.returns)),
    }
}

/// The type of a JSON Schema in a word.
pub(crate) fn type_name(schema: &serde_json::Value) -> String {
    if let Some(reference) = schema.get("$ref").and_then(|r| r.as_str()) {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    if let Some(options) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(|o| o.as_array()) {
        return options.iter().map(type_name).collect::<Vec<_>>().join(" | ");
    }
    let items = |schema: &serde_json::Value| schema.get("items").map_or("any".to_owned(), type_name);
    match schema.get("type") {
        Some(serde_json::Value::String(kind)) if kind == "array" => format!("[{}]", items(schema)),
        Some(serde_json::Value::String(kind)) if kind == "object" => {
            schema.get("title").and_then(|t| t.as_str()).unwrap_or("object").to_owned()
        }
        Some(serde_json::Value::String(kind)) => {
            schema.get("format").and_then(|f| f.as_str()).unwrap_or(kind).to_owned()
        }
        Some(serde_json::Value::Array(kinds)) => {
            let words: Vec<String> = kinds
                .iter()
                .filter_map(|kind| kind.as_str())
                .map(|kind| if kind == "array" { format!("[{}]", items(schema)) } else { kind.to_owned() })
                .collect();
            words.join(" | ")
        }
        _ => schema.get("title").and_then(|t| t.as_str()).unwrap_or("any").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Service as _;
    use crate::jobs::Jobs;

    #[test]
    fn a_signature_names_parameters_and_result() {
        let spec = |name: &str| {
            let method = Jobs::METHODS.iter().find(|m| m.name == name).unwrap();
            signature(&MethodInfo {
                name: method.name.into(),
                kind: "unary".into(),
                fields: method.fields.iter().map(|f| (*f).to_owned()).collect(),
                params: (method.params)().to_value(),
                returns: (method.returns)().to_value(),
                ..MethodInfo::default()
            })
        };
        assert_eq!(spec("Submit"), "Submit(request: JobRequest) -> JobInfo");
        assert_eq!(spec("Show"), "Show(job: string) -> JobInfo");
        assert_eq!(spec("List"), "List() -> [JobInfo]");
    }

    #[test]
    fn types_are_a_word_each() {
        for (schema, word) in [
            (serde_json::json!({ "type": "integer", "format": "uint32" }), "uint32"),
            (serde_json::json!({ "type": ["string", "null"] }), "string | null"),
            (
                serde_json::json!({ "anyOf": [{ "$ref": "#/$defs/Order" }, { "type": "null" }] }),
                "Order | null",
            ),
            (serde_json::json!(true), "any"),
        ] {
            assert_eq!(type_name(&schema), word);
        }
    }
}
