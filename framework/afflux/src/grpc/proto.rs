//! A service's schemas as a protobuf file: messages, enums and the service, and how they stand for JSON values.
//!
//! What has no counterpart is refused with its path, method by method; see [`Mapped::refused`].

use std::collections::BTreeMap;

use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, MessageOptions, MethodDescriptorProto, OneofDescriptorProto, ServiceDescriptorProto,
};
use serde_json::Value;

use super::numbers::Numbers;
use crate::node_service::{MethodInfo, ServiceInfo};

/// The fields of the messages of a stream to a method that has parameters: the first, and all others.
pub(crate) const PARAMS: &str = "params";
pub(crate) const ITEM: &str = "item";

/// Schemas within schemas.
const NESTING_MAX: usize = 32;

/// How a message stands for a JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// An object: names in protobuf and in JSON, and whether a value may be absent.
    Object(Vec<Member>),
    /// An array of a fixed length, a field for each place.
    Tuple(Vec<String>),
    /// Its only field is the value.
    Wrapped,
    /// No value: null.
    Nothing,
    /// One of these, as serde writes an enum with data.
    OneOf(Vec<Variant>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) proto: String,
    pub(crate) json: String,
    pub(crate) optional: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variant {
    pub(crate) proto: String,
    pub(crate) json: String,
    /// It has no data: a word in JSON.
    pub(crate) word: bool,
}

/// A service in protobuf.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    pub(crate) file: FileDescriptorProto,
    /// By the message's full name.
    pub(crate) shapes: BTreeMap<String, Shape>,
    /// JSON words of an enum by its full name; the index is the position among its values.
    pub(crate) words: BTreeMap<String, Vec<(i32, String)>>,
    /// Methods that cannot be called over gRPC, each with the path of what has no counterpart.
    pub(crate) refused: BTreeMap<String, String>,
}

/// `shop.orders` as package and name.
pub(crate) fn split(service: &str) -> (&str, &str) {
    service.rsplit_once('.').unwrap_or(("", service))
}

/// The file of a service; numbers come from `numbers` where it knows them.
pub(crate) fn map(info: &ServiceInfo, numbers: &Numbers) -> Mapped {
    let (package, name) = split(&info.name);
    let mut builder = Builder { package, numbers, made: Made::default() };
    let mut methods = Vec::new();
    let mut refused = BTreeMap::new();
    for method in &info.methods {
        let before = builder.made.clone();
        match builder.method(method) {
            Ok(made) => methods.push(made),
            Err(why) => {
                builder.made = before;
                refused.insert(method.name.clone(), format!("{}/{}: {why}", info.name, method.name));
            }
        }
    }
    let Made { messages, enums, shapes, words, .. } = builder.made;
    let file = FileDescriptorProto {
        name: Some(format!("{}.proto", info.name.replace('.', "/"))),
        package: (!package.is_empty()).then(|| package.to_owned()),
        message_type: messages,
        enum_type: enums,
        service: vec![ServiceDescriptorProto { name: Some(name.to_owned()), method: methods, options: None }],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    Mapped { file, shapes, words, refused }
}

#[derive(Clone, Default)]
struct Made {
    messages: Vec<DescriptorProto>,
    enums: Vec<EnumDescriptorProto>,
    shapes: BTreeMap<String, Shape>,
    words: BTreeMap<String, Vec<(i32, String)>>,
    /// The schema behind each name, so that one name is one type.
    schemas: BTreeMap<String, Value>,
}

struct Builder<'a> {
    package: &'a str,
    numbers: &'a Numbers,
    made: Made,
}

/// What a field holds.
enum Held {
    Scalar(Type),
    Message(String),
    Enum(String),
    Repeated(Box<Held>),
    Map(Box<Held>),
    Optional(Box<Held>),
}

/// Where a schema stands: its document, for references, and its path, for errors.
#[derive(Clone, Copy)]
struct At<'a> {
    root: &'a Value,
    path: &'a str,
    depth: usize,
}

impl<'a> At<'a> {
    fn below(self, path: &'a str) -> Self {
        Self { path, depth: self.depth + 1, ..self }
    }
}

impl Builder<'_> {
    fn full(&self, name: &str) -> String {
        if self.package.is_empty() { name.to_owned() } else { format!("{}.{name}", self.package) }
    }

    fn method(&mut self, method: &MethodInfo) -> Result<MethodDescriptorProto, String> {
        let input = self.input(method)?;
        let (returned, streams) = match &method.streams {
            Some(item) => (item, true),
            None => (&method.returns, false),
        };
        let output = self.output(returned, &format!("{}Reply", method.name), "result")?;
        Ok(MethodDescriptorProto {
            name: Some(method.name.clone()),
            input_type: Some(format!(".{}", self.full(&input))),
            output_type: Some(format!(".{}", self.full(&output))),
            client_streaming: Some(method.accepts.is_some()),
            server_streaming: Some(streams),
            ..MethodDescriptorProto::default()
        })
    }

    /// The message of a request. Of a method that accepts items each message is one of them; where it has
    /// parameters too, the first message has those: [`PARAMS`] or [`ITEM`].
    fn input(&mut self, method: &MethodInfo) -> Result<String, String> {
        let at = At { root: &method.params, path: "", depth: 0 };
        let request = format!("{}Request", method.name);
        let Some(accepted) = &method.accepts else {
            self.object(at, &method.params, &request, &method.fields)?;
            return Ok(request);
        };
        let item = self.output(accepted, &format!("{}Item", method.name), "item")?;
        if method.fields.is_empty() {
            return Ok(item);
        }
        self.object(at, &method.params, &request, &method.fields)?;
        let part = format!("{}Part", method.name);
        let (mut fields, mut variants) = (Vec::new(), Vec::new());
        for (name, message) in [(PARAMS, request), (ITEM, item)] {
            let mut field = self.field(&part, name, Held::Message(message), name)?;
            field.oneof_index = Some(0);
            fields.push(field);
            variants.push(Variant { proto: name.to_owned(), json: name.to_owned(), word: false });
        }
        let kind = OneofDescriptorProto { name: Some("kind".to_owned()), options: None };
        // Of no type of the contract: another one of this name is an error.
        let made = Value::String(format!("part of {}", method.name));
        if self.made.shapes.contains_key(&self.full(&part)) {
            self.known(&made, &part, &made)?;
        }
        self.insert(&made, &part, &made, Shape::OneOf(variants), fields, vec![kind])?;
        Ok(part)
    }

    /// The message of a result or an item: its own, or one around a value that is none.
    fn output(&mut self, schema: &Value, fallback: &str, path: &str) -> Result<String, String> {
        let at = At { root: schema, path, depth: 0 };
        if is_null(schema) {
            self.insert(at.root, fallback, schema, Shape::Nothing, Vec::new(), Vec::new())?;
            return Ok(fallback.to_owned());
        }
        let title = schema.get("title").and_then(Value::as_str).filter(|title| is_name(title));
        match self.held(at, schema, title.unwrap_or(fallback))? {
            Held::Message(name) => Ok(name),
            held => {
                let field = self.field(fallback, "value", held, path)?;
                self.insert(at.root, fallback, schema, Shape::Wrapped, vec![field], Vec::new())?;
                Ok(fallback.to_owned())
            }
        }
    }

    /// What a schema is in a field.
    fn held(&mut self, at: At<'_>, schema: &Value, name: &str) -> Result<Held, String> {
        if at.depth > NESTING_MAX {
            return Err(format!("{}: nested more than {NESTING_MAX} deep", at.path));
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap_or("/-");
            let target =
                at.root.pointer(pointer).ok_or_else(|| format!("{}: {reference} leads nowhere", at.path))?;
            let name = name_of(at.root, reference);
            // A type within itself: it is being made.
            if self.made.schemas.get(&name) == Some(&canonical(at.root, target)) {
                let is_enum = self.made.words.contains_key(&self.full(&name));
                return Ok(if is_enum { Held::Enum(name) } else { Held::Message(name) });
            }
            return self.held(at, target, &name);
        }
        if let Some(held) = self.optional(at, schema, name)? {
            return Ok(held);
        }
        if let Some(words) = words_of(schema) {
            return self.enumeration(at, schema, name, &words).map(|()| Held::Enum(name.to_owned()));
        }
        if let Some(variants) = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array)
        {
            return self.one_of(at, schema, name, variants).map(|()| Held::Message(name.to_owned()));
        }
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => Ok(Held::Scalar(Type::String)),
            Some("boolean") => Ok(Held::Scalar(Type::Bool)),
            Some("number") => Ok(Held::Scalar(if format == "float" { Type::Float } else { Type::Double })),
            Some("integer") => Ok(Held::Scalar(match format {
                "uint8" | "uint16" | "uint32" => Type::Uint32,
                "uint64" | "uint" => Type::Uint64,
                "int8" | "int16" | "int32" => Type::Int32,
                "uint128" | "int128" => {
                    return Err(format!("{}: protobuf has no integer of 128 bits", at.path));
                }
                _ => Type::Int64,
            })),
            Some("array") => self.array(at, schema, name),
            Some("object") => {
                let values = schema.get("additionalProperties").filter(|values| values.is_object());
                let properties = schema.get("properties").and_then(Value::as_object);
                match (properties, values) {
                    (None, Some(values)) => {
                        let held = self.held(at.below(at.path), values, name)?;
                        match held {
                            Held::Scalar(_) | Held::Message(_) | Held::Enum(_) => {
                                Ok(Held::Map(Box::new(held)))
                            }
                            _ => Err(format!(
                                "{}: a map's values cannot be lists, maps or absent: wrap them in a struct",
                                at.path
                            )),
                        }
                    }
                    (Some(_), Some(_)) => {
                        Err(format!("{}: a struct with a flattened map has no message", at.path))
                    }
                    _ => self.object(at, schema, name, &[]).map(|()| Held::Message(name.to_owned())),
                }
            }
            Some("null") => {
                self.insert(at.root, name, schema, Shape::Nothing, Vec::new(), Vec::new())?;
                Ok(Held::Message(name.to_owned()))
            }
            _ => Err(format!("{}: a value of any type has no counterpart in protobuf", at.path)),
        }
    }

    /// `Option<T>`, as schemars writes it.
    fn optional(&mut self, at: At<'_>, schema: &Value, name: &str) -> Result<Option<Held>, String> {
        let inner = if let Some(types) = schema.get("type").and_then(Value::as_array) {
            let rest: Vec<&Value> = types.iter().filter(|kind| **kind != "null").collect();
            let [only] = rest.as_slice() else {
                return Err(format!("{}: of several types: protobuf has no counterpart", at.path));
            };
            let mut inner = schema.clone();
            inner["type"] = (*only).clone();
            if let Some(words) = inner.get_mut("enum").and_then(Value::as_array_mut) {
                words.retain(|word| !word.is_null());
            }
            if types.len() == 1 {
                return self.held(at, &inner, name).map(Some);
            }
            inner
        } else if let Some([a, b]) = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice) {
            match (is_null(a), is_null(b)) {
                (false, true) => a.clone(),
                (true, false) => b.clone(),
                _ => return Ok(None),
            }
        } else {
            return Ok(None);
        };
        match self.held(at, &inner, name)? {
            held @ (Held::Scalar(_) | Held::Message(_) | Held::Enum(_)) => {
                Ok(Some(Held::Optional(Box::new(held))))
            }
            Held::Optional(_) => {
                Err(format!("{}: an option of an option has no counterpart in protobuf", at.path))
            }
            _ => Err(format!(
                "{}: a list or map that may be absent looks empty in protobuf: use an empty one",
                at.path
            )),
        }
    }

    fn array(&mut self, at: At<'_>, schema: &Value, name: &str) -> Result<Held, String> {
        if let Some(places) = schema.get("prefixItems").and_then(Value::as_array) {
            let mut fields = Vec::new();
            let mut names = Vec::new();
            for (place, schema) in places.iter().enumerate() {
                let (field, path) = (format!("f{place}"), format!("{}.{place}", at.path));
                let held = self.held(at.below(&path), schema, &format!("{name}F{place}"))?;
                fields.push(self.field(name, &field, held, &path)?);
                names.push(field);
            }
            self.insert(at.root, name, schema, Shape::Tuple(names), fields, Vec::new())?;
            return Ok(Held::Message(name.to_owned()));
        }
        let items = schema
            .get("items")
            .ok_or_else(|| format!("{}: a list of any values has no counterpart", at.path))?;
        let path = format!("{}[]", at.path);
        match self.held(at.below(&path), items, &format!("{name}Item"))? {
            held @ (Held::Scalar(_) | Held::Message(_) | Held::Enum(_)) => Ok(Held::Repeated(Box::new(held))),
            _ => Err(format!(
                "{path}: the items of a list cannot be lists, maps or absent: wrap them in a struct"
            )),
        }
    }

    fn object(&mut self, at: At<'_>, schema: &Value, name: &str, order: &[String]) -> Result<(), String> {
        if self.known(at.root, name, schema)? {
            return Ok(());
        }
        self.made.schemas.insert(name.to_owned(), canonical(at.root, schema));
        let empty = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required = |field: &str| {
            schema
                .get("required")
                .and_then(Value::as_array)
                .is_some_and(|names| names.iter().any(|n| n == field))
        };
        let mut names: Vec<&String> = order.iter().filter(|name| properties.contains_key(*name)).collect();
        names.extend(properties.keys().filter(|name| !order.contains(name)));
        let (mut fields, mut members) = (Vec::new(), Vec::new());
        for json in names {
            let path = if at.path.is_empty() { json.clone() } else { format!("{}.{json}", at.path) };
            if !is_name(json) {
                return Err(format!("{path}: `{json}` is no name in protobuf: letters, digits and `_`"));
            }
            let Some(schema) = properties.get(json) else { continue };
            let held = self.held(at.below(&path), schema, &camel(name, json))?;
            let absent = !required(json);
            // A scalar with a default is told from its absence.
            let held = match held {
                Held::Scalar(_) | Held::Enum(_) if absent => Held::Optional(Box::new(held)),
                held => held,
            };
            fields.push(self.field(name, json, held, &path)?);
            members.push(Member { proto: json.clone(), json: json.clone(), optional: absent });
        }
        self.insert(at.root, name, schema, Shape::Object(members), fields, Vec::new())
    }

    fn one_of(&mut self, at: At<'_>, schema: &Value, name: &str, variants: &[Value]) -> Result<(), String> {
        if self.known(at.root, name, schema)? {
            return Ok(());
        }
        self.made.schemas.insert(name.to_owned(), canonical(at.root, schema));
        let (mut fields, mut shapes) = (Vec::new(), Vec::new());
        for variant in variants {
            let mut add = |this: &mut Self, json: &str, held: Held, word: bool| {
                let (proto, path) = (snake(json), format!("{}.{json}", at.path));
                let mut field = this.field(name, &proto, held, &path)?;
                field.oneof_index = Some(0);
                fields.push(field);
                shapes.push(Variant { proto, json: json.to_owned(), word });
                Ok::<_, String>(())
            };
            if let Some(words) = words_of(variant) {
                for word in words {
                    add(self, &word, Held::Scalar(Type::Bool), true)?;
                }
                continue;
            }
            let properties = variant.get("properties").and_then(Value::as_object);
            let only = properties.filter(|p| p.len() == 1).and_then(|p| p.iter().next());
            let Some((json, schema)) = only.filter(|(_, s)| s.get("const").is_none()) else {
                return Err(format!(
                    "{}: this enum is told apart by more than its variant's name, which protobuf's oneof is not",
                    at.path
                ));
            };
            let path = format!("{}.{json}", at.path);
            let inner = camel(name, json);
            let held = match self.held(at.below(&path), schema, &inner)? {
                held @ (Held::Scalar(_) | Held::Message(_) | Held::Enum(_)) => held,
                held => {
                    let field = self.field(&inner, "value", held, &path)?;
                    self.insert(at.root, &inner, schema, Shape::Wrapped, vec![field], Vec::new())?;
                    Held::Message(inner)
                }
            };
            add(self, json, held, false)?;
        }
        let kind = OneofDescriptorProto { name: Some("kind".to_owned()), options: None };
        self.insert(at.root, name, schema, Shape::OneOf(shapes), fields, vec![kind])
    }

    fn enumeration(
        &mut self,
        at: At<'_>,
        schema: &Value,
        name: &str,
        words: &[String],
    ) -> Result<(), String> {
        if self.known(at.root, name, schema)? {
            return Ok(());
        }
        self.made.schemas.insert(name.to_owned(), canonical(at.root, schema));
        let prefix = snake(name).to_ascii_uppercase();
        let zero = format!("{prefix}_UNSPECIFIED");
        let value = |name: String, number| EnumValueDescriptorProto {
            name: Some(name),
            number: Some(number),
            options: None,
        };
        let mut values = vec![value(zero, 0)];
        let mut known = Vec::new();
        for word in words {
            if !is_name(word) {
                return Err(format!("{}: `{word}` is no name in protobuf: letters, digits and `_`", at.path));
            }
            let proto = format!("{prefix}_{}", snake(word).to_ascii_uppercase());
            let taken: Vec<i32> = values.iter().filter_map(|value| value.number).collect();
            let number = self.numbers.of_value(name, &proto, &taken);
            known.push((number, word.clone()));
            values.push(value(proto, number));
        }
        self.made.words.insert(self.full(name), known);
        self.made.enums.push(EnumDescriptorProto {
            name: Some(name.to_owned()),
            value: values,
            ..EnumDescriptorProto::default()
        });
        Ok(())
    }

    /// Whether a type of this name is there already: the same one, or an error.
    fn known(&self, root: &Value, name: &str, schema: &Value) -> Result<bool, String> {
        match self.made.schemas.get(name) {
            None => Ok(false),
            Some(known) if *known == canonical(root, schema) => Ok(true),
            Some(_) => Err(format!("two types are called {name}: rename one (`#[schemars(rename = …)]`)")),
        }
    }

    fn insert(
        &mut self,
        root: &Value,
        name: &str,
        schema: &Value,
        shape: Shape,
        fields: Vec<FieldDescriptorProto>,
        mut oneofs: Vec<OneofDescriptorProto>,
    ) -> Result<(), String> {
        let full = self.full(name);
        if self.made.shapes.contains_key(&full) {
            return self.known(root, name, schema).map(drop);
        }
        self.made.schemas.insert(name.to_owned(), canonical(root, schema));
        let (mut fields, mut nested) = (fields, Vec::new());
        let mut taken = Vec::new();
        for field in &mut fields {
            let number = self.numbers.of_field(name, field.name(), &taken);
            taken.push(number);
            field.number = Some(number);
            if field.proto3_optional() {
                // protoc's own form: each optional field stands in a oneof of its own, behind the real ones.
                field.oneof_index = i32::try_from(oneofs.len()).ok();
                oneofs.push(OneofDescriptorProto { name: Some(format!("_{}", field.name())), options: None });
            }
            if let Some(entry) = field.json_name.take() {
                nested.push(entry_of(field, &entry));
                field.type_name =
                    Some(format!(".{full}.{}", nested.last().map_or("", |e: &DescriptorProto| e.name())));
            }
        }
        let (reserved_range, reserved_name) = self.numbers.reserved(name, &fields);
        self.made.shapes.insert(full, shape);
        self.made.messages.push(DescriptorProto {
            name: Some(name.to_owned()),
            field: fields,
            nested_type: nested,
            oneof_decl: oneofs,
            reserved_range,
            reserved_name,
            ..DescriptorProto::default()
        });
        Ok(())
    }

    /// A field without its number.
    fn field(
        &self,
        _message: &str,
        name: &str,
        held: Held,
        path: &str,
    ) -> Result<FieldDescriptorProto, String> {
        let mut field = FieldDescriptorProto {
            name: Some(name.to_owned()),
            label: Some(Label::Optional.into()),
            ..FieldDescriptorProto::default()
        };
        let type_of = |field: &mut FieldDescriptorProto, held: &Held| match held {
            Held::Scalar(kind) => field.r#type = Some((*kind).into()),
            Held::Message(name) => {
                field.r#type = Some(Type::Message.into());
                field.type_name = Some(format!(".{}", self.full(name)));
            }
            Held::Enum(name) => {
                field.r#type = Some(Type::Enum.into());
                field.type_name = Some(format!(".{}", self.full(name)));
            }
            _ => {}
        };
        match &held {
            Held::Optional(inner) => {
                type_of(&mut field, inner);
                if !matches!(**inner, Held::Message(_)) {
                    field.proto3_optional = Some(true);
                }
            }
            Held::Repeated(inner) => {
                field.label = Some(Label::Repeated.into());
                type_of(&mut field, inner);
            }
            Held::Map(inner) => {
                field.label = Some(Label::Repeated.into());
                type_of(&mut field, inner);
                // Kept until the message is known, whose nested type the entry is.
                let value = field.type_name.take().unwrap_or_default();
                field.json_name = Some(format!("{}:{value}", field.r#type.unwrap_or_default()));
                field.r#type = Some(Type::Message.into());
            }
            held => type_of(&mut field, held),
        }
        if field.r#type.is_none() {
            return Err(format!("{path}: has no counterpart in protobuf"));
        }
        Ok(field)
    }
}

/// The message behind a map's field, from what [`Builder::field`] left: `TYPE:NAME` of the values.
fn entry_of(field: &FieldDescriptorProto, value: &str) -> DescriptorProto {
    let (kind, name) = value.split_once(':').unwrap_or((value, ""));
    let part = |part: &str, number, kind: i32, name: &str| FieldDescriptorProto {
        name: Some(part.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind),
        type_name: (!name.is_empty()).then(|| name.to_owned()),
        ..FieldDescriptorProto::default()
    };
    DescriptorProto {
        name: Some(format!("{}Entry", camel("", field.name()))),
        field: vec![
            part("key", 1, Type::String.into(), ""),
            part("value", 2, kind.parse().unwrap_or_default(), name),
        ],
        options: Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    }
}

/// The name of a referenced type: that of its definition, or of the document.
fn name_of(root: &Value, reference: &str) -> String {
    let name = match reference {
        "#" => root.get("title").and_then(Value::as_str).unwrap_or("Value"),
        reference => reference.rsplit('/').next().unwrap_or(reference),
    };
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// A schema without what is for people and for its document, references by name: equal types are equal here,
/// wherever they are described.
fn canonical(root: &Value, schema: &Value) -> Value {
    const SILENT: [&str; 6] = ["$schema", "$defs", "title", "description", "examples", "default"];
    match schema {
        Value::Object(keywords) => keywords
            .iter()
            .filter(|(key, _)| !SILENT.contains(&key.as_str()))
            .map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(reference)) => (key.clone(), Value::String(name_of(root, reference))),
                // Its keys are names of fields, not keywords.
                ("properties", Value::Object(fields)) => {
                    let fields = fields.iter().map(|(name, schema)| (name.clone(), canonical(root, schema)));
                    (key.clone(), fields.collect())
                }
                _ => (key.clone(), canonical(root, value)),
            })
            .collect(),
        Value::Array(items) => items.iter().map(|item| canonical(root, item)).collect(),
        other => other.clone(),
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// The words of an enum without data.
fn words_of(schema: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(word) = schema.get("const") {
        return Some(vec![text(word)?]);
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return words.iter().map(text).collect();
    }
    let variants = schema.get("oneOf").and_then(Value::as_array)?;
    let words: Option<Vec<Vec<String>>> =
        variants.iter().map(|v| v.get("properties").is_none().then(|| words_of(v)).flatten()).collect();
    words.map(|words| words.concat())
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `Order` and `line_items` as `OrderLineItems`.
fn camel(outer: &str, inner: &str) -> String {
    inner.split('_').fold(outer.to_owned(), |mut name, part| {
        let mut letters = part.chars();
        name.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

/// `NoSuch` as `no_such`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_reflect::{DescriptorPool, DynamicMessage};
    use serde_json::json;

    use super::*;
    use crate::grpc::text::print;
    use crate::prelude::{Deserialize, JsonSchema, Serialize, Service};

    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Kind {
        Standard,
        Express,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Payment {
        Cash,
        Card { number: String, holder: Option<String> },
        Voucher(u32),
        Shared(Vec<u64>),
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Line {
        sku: String,
        count: u32,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Order {
        id: u64,
        delta: i64,
        ratio: f64,
        gift: bool,
        note: Option<String>,
        kind: Kind,
        payment: Payment,
        lines: Vec<Line>,
        labels: BTreeMap<String, u32>,
        place: (f64, String),
        parent: Option<Box<Order>>,
    }

    /// Shop.
    #[derive(Service)]
    #[service(name = "shop.orders")]
    enum Orders {
        #[rpc(returns = Order)]
        Place {
            order: Order,
            rush: bool,
        },
        #[rpc(returns = u64)]
        Count,
        #[rpc(streams = Line)]
        Watch {
            since: u64,
        },
        #[rpc(accepts = Line, returns = u64)]
        Import {
            batch: String,
        },
        #[rpc(accepts = String, streams = Line)]
        Chat,
        Touch,
        #[rpc(returns = Option<Vec<u32>>)]
        Odd,
        #[rpc(returns = Vec<Vec<u32>>)]
        Nested,
    }

    fn info() -> ServiceInfo {
        ServiceInfo::of(&afflux_actor::ServiceEntry::of::<Orders>(std::sync::Arc::new(Nowhere)))
    }

    struct Nowhere;

    impl crate::contract::Accept<OrdersCall> for Nowhere {
        fn accept(&self, call: OrdersCall) -> Result<(), crate::contract::Refused<OrdersCall>> {
            Err(crate::contract::Refused::Closed(call))
        }
        fn depth(&self) -> usize {
            0
        }
        fn capacity(&self) -> usize {
            0
        }
    }

    fn order() -> Value {
        let payment = json!({ "Card": { "number": "4000", "holder": "ann" } });
        json!({
            "id": u64::MAX, "delta": -7, "ratio": 0.5, "gift": true, "note": "soon", "kind": "Express",
            "payment": payment, "lines": [{ "sku": "a", "count": 1 }, { "sku": "b", "count": 0 }],
            "labels": { "x": 1, "y": 2 }, "place": [1.5, "north"],
            "parent": {
                "id": 0, "delta": 0, "ratio": 0.0, "gift": false, "kind": "Standard", "payment": "Cash",
                "lines": [], "labels": {}, "place": [0.0, ""],
            },
        })
    }

    #[test]
    fn a_value_comes_back_as_it_was_through_the_bytes_of_its_message() {
        let mapped = map(&info(), &Numbers::default());
        let pool = DescriptorPool::from_file_descriptor_set(prost_reflect::prost_types::FileDescriptorSet {
            file: vec![mapped.file.clone()],
        })
        .unwrap();
        let method = |name: &str| {
            let service = pool.get_service_by_name("shop.orders").unwrap();
            service.methods().find(|method| method.name() == name).unwrap()
        };
        let there_and_back = |descriptor: prost_reflect::MessageDescriptor, value: &Value| {
            let bytes = mapped.to_message(&descriptor, value, "v").unwrap().encode_to_vec();
            mapped.to_json(&DynamicMessage::decode(descriptor, &bytes[..]).unwrap())
        };
        let place = json!({ "order": order(), "rush": false });
        assert_eq!(there_and_back(method("Place").input(), &place), place);
        assert_eq!(there_and_back(method("Place").output(), &order()), order());
        for payment in [json!("Cash"), json!({ "Voucher": 0 }), json!({ "Shared": [1, 2] })] {
            let mut order = order();
            order["payment"] = payment;
            assert_eq!(there_and_back(method("Place").output(), &order), order);
        }
        assert_eq!(there_and_back(method("Count").output(), &json!(7)), json!(7));
        assert_eq!(there_and_back(method("Touch").output(), &Value::Null), Value::Null);
        assert!(method("Watch").is_server_streaming() && !method("Watch").is_client_streaming());
        assert!(method("Import").is_client_streaming() && !method("Import").is_server_streaming());
        assert!(method("Chat").is_client_streaming() && method("Chat").is_server_streaming());
        let text = print(&mapped.file, "shop.orders");
        for line in [
            "rpc Import(stream ImportPart) returns (ImportReply);",
            "rpc Chat(stream ChatItem) returns (stream Line);",
            "ImportRequest params = 1;",
            "Line item = 2;",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn what_has_no_counterpart_is_refused_with_its_path_and_costs_no_other_method() {
        let mapped = map(&info(), &Numbers::default());
        let refused: Vec<&str> = mapped.refused.values().map(String::as_str).collect();
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused[0].starts_with("shop.orders/Nested: result[]: "), "{refused:?}");
        assert!(refused[1].starts_with("shop.orders/Odd: result: "), "{refused:?}");
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error_with_its_path() {
        let mapped = map(&info(), &Numbers::default());
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_proto(mapped.file.clone()).unwrap();
        let order_type = pool.get_message_by_name("shop.Order").unwrap();
        let mut wrong = order();
        wrong["lines"][1]["count"] = json!("many");
        let error = mapped.to_message(&order_type, &wrong, "result").unwrap_err();
        assert_eq!(error, "result.lines[1].count: expected an integer, got \"many\"");
    }

    #[test]
    fn a_committed_file_keeps_numbers_and_reserves_those_of_what_is_gone() {
        let mut older = info();
        older.methods.retain(|method| !method.name.starts_with("Odd") && method.name != "Nested");
        let first = print(&map(&older, &Numbers::default()).file, "shop.orders");
        let (service, numbers) = Numbers::parse("orders.proto", &first).unwrap();
        assert_eq!(service, "shop.orders");
        assert_eq!(print(&map(&older, &numbers).file, "shop.orders"), first, "written again it is the same");

        // `rush` goes, `due` comes in front of what is left.
        let place = older.methods.iter_mut().find(|method| method.name == "Place").unwrap();
        let properties = place.params["properties"].as_object_mut().unwrap();
        properties.remove("rush");
        properties.insert("due".to_owned(), json!({ "type": "string" }));
        place.params["required"] = json!(["due", "order"]);
        place.fields = vec!["due".into(), "order".into()];
        let second = print(&map(&older, &numbers).file, "shop.orders");
        let message = second.split("message PlaceRequest {").nth(1).unwrap().split('}').next().unwrap();
        assert_eq!(
            message.trim(),
            "reserved 2;\n  reserved \"rush\";\n  string due = 3;\n  Order order = 1;"
        );
        // And a third time nothing moves.
        let (_, numbers) = Numbers::parse("orders.proto", &second).unwrap();
        assert_eq!(print(&map(&older, &numbers).file, "shop.orders"), second);
    }

    #[test]
    fn a_file_that_is_none_names_its_fault() {
        let error = Numbers::parse("orders.proto", "message {").unwrap_err().to_string();
        assert!(error.contains("orders.proto is no .proto file"), "{error}");
    }
}
