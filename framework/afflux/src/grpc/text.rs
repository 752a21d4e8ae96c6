//! The text of a `.proto` file.

use std::fmt::Write as _;

use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

/// The file as protobuf's own language writes it.
pub(crate) fn print(file: &FileDescriptorProto, service: &str) -> String {
    let mut text = format!(
        "// The numbers of {service}'s fields. Kept by `schema proto --write`: numbers are never changed or used again.\n\
         syntax = \"proto3\";\n"
    );
    if let Some(package) = &file.package {
        let _ = write!(text, "\npackage {package};\n");
    }
    let package = file.package.as_deref().unwrap_or_default();
    for service in &file.service {
        let _ = write!(text, "\nservice {} {{\n", service.name());
        for method in &service.method {
            let stream = |is| if is { "stream " } else { "" };
            let (accepts, streams) = (stream(method.client_streaming()), stream(method.server_streaming()));
            let (input, output) = (short(method.input_type(), package), short(method.output_type(), package));
            let _ = writeln!(text, "  rpc {}({accepts}{input}) returns ({streams}{output});", method.name());
        }
        text.push_str("}\n");
    }
    for message in &file.message_type {
        message_text(&mut text, message, package);
    }
    for known in &file.enum_type {
        let _ = write!(text, "\nenum {} {{\n", known.name());
        for value in &known.value {
            let _ = writeln!(text, "  {} = {};", value.name(), value.number());
        }
        text.push_str("}\n");
    }
    text
}

fn message_text(text: &mut String, message: &DescriptorProto, package: &str) {
    let _ = write!(text, "\nmessage {} {{\n", message.name());
    let numbers: Vec<String> = message.reserved_range.iter().map(|range| range.start().to_string()).collect();
    if !numbers.is_empty() {
        let _ = writeln!(text, "  reserved {};", numbers.join(", "));
    }
    let names: Vec<String> = message.reserved_name.iter().map(|name| format!("\"{name}\"")).collect();
    if !names.is_empty() {
        let _ = writeln!(text, "  reserved {};", names.join(", "));
    }
    let in_oneof = |field: &FieldDescriptorProto| field.oneof_index.is_some() && !field.proto3_optional();
    for field in message.field.iter().filter(|field| !in_oneof(field)) {
        let _ = writeln!(text, "  {};", field_text(message, field, package));
    }
    if message.field.iter().any(in_oneof) {
        text.push_str("  oneof kind {\n");
        for field in message.field.iter().filter(|field| in_oneof(field)) {
            let _ = writeln!(text, "    {};", field_text(message, field, package));
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
}

fn field_text(message: &DescriptorProto, field: &FieldDescriptorProto, package: &str) -> String {
    let entry = message
        .nested_type
        .iter()
        .find(|entry| field.type_name().rsplit('.').next() == entry.name.as_deref());
    let kind = match entry {
        Some(entry) => {
            let value = entry.field.get(1).map_or_else(String::new, |value| type_text(value, package));
            format!("map<string, {value}>")
        }
        None if field.label() == Label::Repeated => format!("repeated {}", type_text(field, package)),
        None if field.proto3_optional() => format!("optional {}", type_text(field, package)),
        None => type_text(field, package),
    };
    format!("{kind} {} = {}", field.name(), field.number())
}

fn type_text(field: &FieldDescriptorProto, package: &str) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name(), package).to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::Double => "double".to_owned(),
        Type::Float => "float".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Uint32 => "uint32".to_owned(),
        Type::Uint64 => "uint64".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// `.shop.Order` as `Order`, inside its own package.
fn short<'a>(name: &'a str, package: &str) -> &'a str {
    let name = name.strip_prefix('.').unwrap_or(name);
    match name.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')) {
        Some(rest) if !package.is_empty() => rest,
        _ => name,
    }
}
