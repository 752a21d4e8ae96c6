//! A protobuf message as the JSON value it stands for, and back.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value as Proto,
};
use serde_json::{Map, Value, json};

use super::proto::{Mapped, Shape};

impl Mapped {
    /// The JSON value of a message. Nothing fails: what is missing is missed by the service, with its path.
    pub(crate) fn to_json(&self, message: &DynamicMessage) -> Value {
        let descriptor = message.descriptor();
        let field = |name: &str| descriptor.get_field_by_name(name);
        match self.shapes.get(descriptor.full_name()) {
            None | Some(Shape::Nothing) => Value::Null,
            Some(Shape::Wrapped) => {
                field("value").map_or(Value::Null, |f| self.value_json(&f, &message.get_field(&f)))
            }
            Some(Shape::Tuple(names)) => names
                .iter()
                .filter_map(|name| field(name))
                .map(|f| self.value_json(&f, &message.get_field(&f)))
                .collect(),
            Some(Shape::Object(members)) => {
                let mut object = Map::new();
                for member in members {
                    let Some(f) = field(&member.proto) else { continue };
                    // What is not on the wire is a scalar's zero, or absent.
                    if f.supports_presence() && !message.has_field(&f) {
                        continue;
                    }
                    object.insert(member.json.clone(), self.value_json(&f, &message.get_field(&f)));
                }
                Value::Object(object)
            }
            Some(Shape::OneOf(variants)) => {
                let set = variants.iter().find_map(|variant| {
                    let f = field(&variant.proto)?;
                    message.has_field(&f).then_some((variant, f))
                });
                match set {
                    None => Value::Null,
                    Some((variant, _)) if variant.word => Value::String(variant.json.clone()),
                    Some((variant, f)) => {
                        json!({ variant.json.as_str(): self.value_json(&f, &message.get_field(&f)) })
                    }
                }
            }
        }
    }

    fn value_json(&self, field: &FieldDescriptor, value: &Proto) -> Value {
        match value {
            Proto::List(items) => items.iter().map(|item| self.value_json(field, item)).collect(),
            Proto::Map(entries) => {
                let Kind::Message(entry) = field.kind() else { return Value::Null };
                let values = entry.map_entry_value_field();
                let mut sorted: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| (key_text(key), self.value_json(&values, value)))
                    .collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(sorted.into_iter().collect())
            }
            Proto::Message(message) => self.to_json(message),
            Proto::EnumNumber(number) => {
                let Kind::Enum(kind) = field.kind() else { return Value::Null };
                let words = self.words.get(kind.full_name());
                let word = words.and_then(|words| words.iter().find(|(n, _)| n == number));
                word.map_or_else(|| json!(number), |(_, word)| json!(word))
            }
            Proto::Bool(value) => json!(value),
            Proto::I32(value) => json!(value),
            Proto::I64(value) => json!(value),
            Proto::U32(value) => json!(value),
            Proto::U64(value) => json!(value),
            Proto::F32(value) => json!(value),
            Proto::F64(value) => json!(value),
            Proto::String(value) => json!(value),
            Proto::Bytes(value) => json!(value.to_vec()),
        }
    }

    /// The message of a JSON value.
    ///
    /// # Errors
    /// The path of a value that does not fit the schema it was described by.
    pub(crate) fn to_message(
        &self,
        descriptor: &MessageDescriptor,
        value: &Value,
        path: &str,
    ) -> Result<DynamicMessage, String> {
        let mut message = DynamicMessage::new(descriptor.clone());
        let wrong = |expected: &str| format!("{path}: expected {expected}, got {}", brief(value));
        let field =
            |name: &str| descriptor.get_field_by_name(name).ok_or_else(|| format!("{path}: no field {name}"));
        let mut set = |name: &str, value: &Value, path: &str| {
            let field = field(name)?;
            let value = self.to_proto(&field, value, path)?;
            message.try_set_field(&field, value).map_err(|error| format!("{path}: {error}"))
        };
        match self.shapes.get(descriptor.full_name()) {
            None | Some(Shape::Nothing) => {}
            Some(Shape::Wrapped) => set("value", value, path)?,
            Some(Shape::Tuple(names)) => {
                let places = value.as_array().ok_or_else(|| wrong("an array"))?;
                for (name, place) in names.iter().zip(places) {
                    set(name, place, &format!("{path}.{name}"))?;
                }
            }
            Some(Shape::Object(members)) => {
                let object = value.as_object().ok_or_else(|| wrong("an object"))?;
                for member in members {
                    match object.get(&member.json) {
                        None | Some(Value::Null) => {}
                        Some(value) => set(&member.proto, value, &format!("{path}.{}", member.json))?,
                    }
                }
            }
            Some(Shape::OneOf(variants)) => match value {
                Value::String(word) => {
                    let variant = variants.iter().find(|v| v.word && v.json == *word);
                    set(&variant.ok_or_else(|| wrong("a variant"))?.proto, &Value::Bool(true), path)?;
                }
                Value::Object(object) => {
                    let (json, value) = object.iter().next().ok_or_else(|| wrong("a variant"))?;
                    let variant =
                        variants.iter().find(|v| v.json == *json).ok_or_else(|| wrong("a variant"))?;
                    set(&variant.proto, value, &format!("{path}.{json}"))?;
                }
                _ => return Err(wrong("a variant")),
            },
        }
        Ok(message)
    }

    fn to_proto(&self, field: &FieldDescriptor, value: &Value, path: &str) -> Result<Proto, String> {
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { return Err(format!("{path}: no map")) };
            let values = entry.map_entry_value_field();
            let object = value
                .as_object()
                .ok_or_else(|| format!("{path}: expected an object, got {}", brief(value)))?;
            let entries = object.iter().map(|(key, value)| {
                let value = self.to_proto(&values, value, &format!("{path}.{key}"))?;
                Ok((MapKey::String(key.clone()), value))
            });
            return Ok(Proto::Map(entries.collect::<Result<_, String>>()?));
        }
        if field.is_list() {
            let items =
                value.as_array().ok_or_else(|| format!("{path}: expected an array, got {}", brief(value)))?;
            let items =
                items.iter().enumerate().map(|(at, item)| self.one(field, item, &format!("{path}[{at}]")));
            return Ok(Proto::List(items.collect::<Result<_, String>>()?));
        }
        self.one(field, value, path)
    }

    fn one(&self, field: &FieldDescriptor, value: &Value, path: &str) -> Result<Proto, String> {
        let wrong = |expected: &str| format!("{path}: expected {expected}, got {}", brief(value));
        let int = || value.as_i64().ok_or_else(|| wrong("an integer"));
        Ok(match field.kind() {
            Kind::Bool => Proto::Bool(value.as_bool().ok_or_else(|| wrong("a bool"))?),
            Kind::String => Proto::String(value.as_str().ok_or_else(|| wrong("a string"))?.to_owned()),
            Kind::Int32 => Proto::I32(i32::try_from(int()?).map_err(|_| wrong("an int32"))?),
            Kind::Int64 => Proto::I64(int()?),
            Kind::Uint32 => Proto::U32(u32::try_from(int()?).map_err(|_| wrong("a uint32"))?),
            Kind::Uint64 => Proto::U64(value.as_u64().ok_or_else(|| wrong("a uint64"))?),
            #[expect(clippy::cast_possible_truncation, reason = "the field is a float")]
            Kind::Float => Proto::F32(value.as_f64().ok_or_else(|| wrong("a number"))? as f32),
            Kind::Double => Proto::F64(value.as_f64().ok_or_else(|| wrong("a number"))?),
            Kind::Message(descriptor) => Proto::Message(self.to_message(&descriptor, value, path)?),
            Kind::Enum(kind) => {
                let words = self.words.get(kind.full_name());
                let found = words
                    .and_then(|words| words.iter().find(|(_, word)| Some(word.as_str()) == value.as_str()));
                Proto::EnumNumber(found.ok_or_else(|| wrong("a variant"))?.0)
            }
            other => return Err(format!("{path}: {other:?} is not written here")),
        })
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// A value, short enough for an error.
fn brief(value: &Value) -> String {
    const SHOWN_BYTES_MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_BYTES_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
