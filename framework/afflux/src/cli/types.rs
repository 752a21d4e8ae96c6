//! The types of a service as text: what `describe` prints below the methods.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::services::type_name;
use crate::node_service::ServiceInfo;

/// Every named type that the methods of a service mention, a paragraph each.
pub(crate) fn types(service: &ServiceInfo) -> String {
    let mut named: BTreeMap<&str, &Value> = BTreeMap::new();
    let mut errors: Option<&Value> = None;
    for method in &service.methods {
        let schemas =
            [Some(&method.params), Some(&method.returns), method.accepts.as_ref(), method.streams.as_ref()];
        for (number, schema) in schemas.into_iter().enumerate() {
            let Some(schema) = schema else { continue };
            for (name, definition) in schema.get("$defs").and_then(Value::as_object).into_iter().flatten() {
                named.entry(name).or_insert(definition);
            }
            // The parameters themselves stand in the signature.
            if let (1.., Some(title)) = (number, schema.get("title").and_then(Value::as_str))
                && is_structured(schema)
            {
                named.entry(title).or_insert(schema);
            }
        }
        if method.error.is_object() {
            errors = errors.or(Some(&method.error));
        }
    }
    let mut text = String::new();
    if let Some(error) = errors {
        let title = error.get("title").and_then(Value::as_str).unwrap_or("error");
        named.remove(title);
        let _ = write!(text, "\n  error {title}");
        body(&mut text, error);
    }
    for (name, schema) in named {
        let _ = write!(text, "\n  type {name}");
        body(&mut text, schema);
    }
    text
}

fn is_structured(schema: &Value) -> bool {
    ["properties", "oneOf", "enum"].iter().any(|key| schema.get(key).is_some())
}

fn body(text: &mut String, schema: &Value) {
    if !is_structured(schema) {
        let _ = write!(text, " = {}", type_name(schema));
    }
    text.push('\n');
    comment(text, schema, "      ");
    fields(text, schema, "      ");
    for variant in ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten() {
        if let Some(word) = variant.get("const").and_then(Value::as_str) {
            line(text, "      ", &format!("| {word}"), variant);
        } else if let Some(words) = variant.get("enum").and_then(Value::as_array) {
            words
                .iter()
                .filter_map(Value::as_str)
                .for_each(|word| line(text, "      ", &format!("| {word}"), variant));
        } else if let Some((name, inner)) = wrapped(variant) {
            if inner.get("properties").is_some() {
                line(text, "      ", &format!("| {name}"), variant);
                fields(text, inner, "          ");
            } else {
                line(text, "      ", &format!("| {name}({})", type_name(inner)), variant);
            }
        } else {
            line(text, "      ", &format!("| {}", type_name(variant)), variant);
            fields(text, variant, "          ");
        }
    }
    for word in schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(text, "      | {word}");
    }
}

/// `{"Name": …}`: a variant with content.
fn wrapped(variant: &Value) -> Option<(&str, &Value)> {
    let properties = variant.get("properties")?.as_object()?;
    let closed = variant.get("additionalProperties") == Some(&Value::Bool(false));
    match (properties.iter().next(), properties.len()) {
        (Some((name, inner)), 1) if closed => Some((name, inner)),
        _ => None,
    }
}

fn fields(text: &mut String, schema: &Value, indent: &str) {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let optional = if required.contains(&name.as_str()) { "" } else { "?" };
        let kind = match field.get("const") {
            Some(value) => value.to_string(),
            None => type_name(field),
        };
        line(text, indent, &format!("{name}{optional}: {kind}"), field);
    }
}

/// A line with the first line of its comment behind it.
fn line(text: &mut String, indent: &str, left: &str, schema: &Value) {
    const LEFT_CHARS: usize = 32;
    let said = schema.get("description").and_then(Value::as_str).and_then(|said| said.lines().next());
    match said {
        Some(said) => {
            let _ = writeln!(text, "{indent}{left:LEFT_CHARS$} {}", said.trim());
        }
        None => {
            let _ = writeln!(text, "{indent}{left}");
        }
    }
}

fn comment(text: &mut String, schema: &Value, indent: &str) {
    for said in schema.get("description").and_then(Value::as_str).into_iter().flat_map(str::lines) {
        let _ = writeln!(text, "{indent}{}", said.trim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_service::MethodInfo;

    #[test]
    fn types_are_shown_with_their_comments_variants_and_what_may_be_left_out() {
        let order = serde_json::json!({ "type": "object", "description": "What is ordered.",
            "properties": {
                "id": { "type": "integer", "format": "uint64", "description": "Its number." },
                "note": { "type": ["string", "null"] } },
            "required": ["id"] });
        let kind = serde_json::json!({ "oneOf": [
            { "const": "Plain", "type": "string", "description": "As it is." },
            { "type": "object", "properties": { "Gift": { "type": "string" } }, "required": ["Gift"], "additionalProperties": false } ] });
        let method = MethodInfo {
            name: "Place".into(),
            params: serde_json::json!({ "type": "object", "properties": {}, "$defs": { "Order": order, "Kind": kind } }),
            ..MethodInfo::default()
        };
        let service =
            ServiceInfo { name: "s".into(), version: "1".into(), doc: String::new(), methods: vec![method] };
        let text = types(&service);
        let expected = "
  type Kind
      | Plain                          As it is.
      | Gift(string)

  type Order
      What is ordered.
      id: uint64                       Its number.
      note?: string | null
";
        assert_eq!(text, expected);
    }
}
