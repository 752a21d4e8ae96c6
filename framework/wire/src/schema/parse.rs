//! From JSON Schema, as `schemars` writes it, to shapes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::shape::{At, Field, SHAPES_MAX, Shape, Type};

/// Schemas within schemas, without a definition between them.
const NESTING_MAX: usize = 64;

/// Keywords that say nothing of what a value looks like, or that are read elsewhere.
const SILENT: [&str; 12] = [
    "$schema",
    "$id",
    "$defs",
    "$comment",
    "title",
    "description",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "default",
    "x-aliases",
];

/// Keywords that narrow a value beyond what serde checks.
const NARROWING: [&str; 12] = [
    "pattern",
    "minLength",
    "maxLength",
    "contentEncoding",
    "contentMediaType",
    "multipleOf",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minProperties",
    "maxProperties",
    "uniqueItems",
    "propertyNames",
];

/// A variant, or an enum, whose unknown variants are read all the same (`#[serde(other)]`).
const OTHER: &str = "x-other";

impl Type {
    /// The type that a JSON Schema describes. What is not understood becomes opaque; nothing fails.
    #[must_use]
    pub fn of(schema: &Value) -> Self {
        let merged = merged(schema);
        let schema = &merged;
        let mut parser = Parser {
            root: schema,
            defs: BTreeMap::new(),
            pending: Vec::new(),
            shapes: vec![Shape::Any],
            full: false,
        };
        parser.defs.insert("#".to_owned(), 0);
        parser.pending.push((0, schema));
        while let Some((at, schema)) = parser.pending.pop() {
            let shape = parser.shape(schema, 0);
            if let Some(place) = parser.shapes.get_mut(at) {
                *place = shape;
            }
        }
        if parser.full {
            return Self { shapes: vec![Shape::Opaque(canonical(schema))], root: 0 };
        }
        let mut parsed = Self { shapes: parser.shapes, root: 0 };
        parsed.unalias();
        parsed
    }
}

impl Type {
    /// A definition that is nothing but another one is that one.
    fn unalias(&mut self) {
        let target = |shapes: &[Shape], mut at: At| {
            for _ in 0..shapes.len() {
                match shapes.get(at) {
                    Some(Shape::Union { variants, other: false }) => match variants.as_slice() {
                        [only] => at = *only,
                        _ => break,
                    },
                    _ => break,
                }
            }
            at
        };
        let targets: Vec<At> = (0..self.shapes.len()).map(|at| target(&self.shapes, at)).collect();
        let go = |at: &mut At| *at = targets.get(*at).copied().unwrap_or(*at);
        for shape in &mut self.shapes {
            match shape {
                Shape::List { items, .. } => go(items),
                Shape::Tuple(parts) => parts.iter_mut().for_each(go),
                Shape::Struct { fields, .. } => fields.iter_mut().for_each(|field| go(&mut field.at)),
                Shape::Map { values, .. } => go(values),
                Shape::Union { variants, .. } => variants.iter_mut().for_each(go),
                _ => {}
            }
        }
        go(&mut self.root);
    }
}

struct Parser<'a> {
    root: &'a Value,
    defs: BTreeMap<String, At>,
    /// Definitions that are named and not read yet.
    pending: Vec<(At, &'a Value)>,
    shapes: Vec<Shape>,
    full: bool,
}

impl<'a> Parser<'a> {
    fn push(&mut self, shape: Shape) -> At {
        if self.shapes.len() >= SHAPES_MAX {
            self.full = true;
            return 0;
        }
        self.shapes.push(shape);
        self.shapes.len() - 1
    }

    /// The place of a schema: that of its definition, or a new one.
    fn at(&mut self, schema: &'a Value, depth: usize) -> At {
        match reference(schema) {
            Some(name) => self.definition(name),
            None => {
                let shape = self.shape(schema, depth);
                self.push(shape)
            }
        }
    }

    fn definition(&mut self, reference: &'a str) -> At {
        if let Some(at) = self.defs.get(reference) {
            return *at;
        }
        let path = reference.strip_prefix('#').unwrap_or("/no such place");
        let Some(schema) = self.root.pointer(path) else {
            return self.push(Shape::Opaque(reference.to_owned()));
        };
        let at = self.push(Shape::Any);
        if !self.full {
            self.defs.insert(reference.to_owned(), at);
            self.pending.push((at, schema));
        }
        at
    }

    fn shape(&mut self, schema: &'a Value, depth: usize) -> Shape {
        if depth > NESTING_MAX {
            self.full = true;
            return Shape::Any;
        }
        let keywords = match schema {
            Value::Bool(true) => return Shape::Any,
            Value::Bool(false) => return Shape::Never,
            Value::Object(keywords) => keywords,
            other => return Shape::Opaque(canonical(other)),
        };
        if let Some(name) = reference(schema) {
            let at = self.definition(name);
            return Shape::Union { variants: vec![at], other: false };
        }
        let said: Vec<&str> = keywords
            .keys()
            .map(String::as_str)
            .filter(|key| !SILENT.contains(key) && !NARROWING.contains(key) && *key != OTHER)
            .collect();
        let other = keywords.get(OTHER) == Some(&Value::Bool(true));
        let only = |allowed: &[&str]| said.iter().all(|key| allowed.contains(key));
        if said.is_empty() {
            return Shape::Any;
        }
        for word in ["oneOf", "anyOf"] {
            if let Some(Value::Array(list)) = keywords.get(word)
                && only(&[word])
            {
                return self.union(list, other, depth);
            }
        }
        // `schemars` wraps a reference that has neighbours.
        if let Some(Value::Array(list)) = keywords.get("allOf")
            && only(&["allOf"])
            && let [single] = list.as_slice()
        {
            return self.shape(single, depth + 1);
        }
        if let Some(Value::Array(words)) = keywords.get("enum")
            && only(&["enum", "type"])
        {
            let variants: Vec<At> = words
                .iter()
                .map(|word| {
                    let shape = literal(word);
                    self.push(shape)
                })
                .collect();
            return Shape::Union { variants, other };
        }
        if let Some(value) = keywords.get("const")
            && only(&["const", "type"])
        {
            let shape = literal(value);
            return if other { Shape::Union { variants: vec![self.push(shape)], other } } else { shape };
        }
        if keywords.get("not").is_some_and(|not| *not == Value::Object(Map::new()) || *not == true)
            && only(&["not"])
        {
            return Shape::Never;
        }
        match keywords.get("type") {
            Some(Value::String(kind)) => {
                let kind = kind.clone();
                self.kind(&kind, keywords, &said, depth)
            }
            Some(Value::Array(kinds)) => {
                let variants = kinds
                    .iter()
                    .map(|kind| {
                        let kind = kind.as_str().unwrap_or_default();
                        let shape = self.kind(kind, keywords, &said, depth);
                        self.push(shape)
                    })
                    .collect();
                Shape::Union { variants, other }
            }
            _ => Shape::Opaque(canonical(&Value::Object(keywords.clone()))),
        }
    }

    fn union(&mut self, list: &'a [Value], mut other: bool, depth: usize) -> Shape {
        let mut variants = Vec::with_capacity(list.len());
        for schema in list {
            other |= schema.get(OTHER) == Some(&Value::Bool(true));
            variants.push(self.at(schema, depth + 1));
        }
        Shape::Union { variants, other }
    }

    fn kind(&mut self, kind: &str, keywords: &'a Map<String, Value>, said: &[&str], depth: usize) -> Shape {
        // A list of types shares its keywords: each type reads its own.
        let shared = matches!(keywords.get("type"), Some(Value::Array(_)));
        let opaque = || Shape::Opaque(canonical(&Value::Object(keywords.clone())));
        let only =
            |allowed: &[&str]| shared || said.iter().all(|key| *key == "type" || allowed.contains(key));
        let format = keywords.get("format").and_then(Value::as_str);
        match kind {
            "null" => Shape::Null,
            "boolean" => Shape::Bool,
            "integer" if only(&["format", "minimum", "maximum"]) => integer(keywords, format),
            "number" if only(&["format", "minimum", "maximum"]) => {
                Shape::Float { bits: if format == Some("float") { 32 } else { 64 } }
            }
            "string" if only(&["format"]) => Shape::Text { format: format.map(str::to_owned) },
            "array" if only(&["items", "prefixItems", "minItems", "maxItems", "additionalItems"]) => {
                self.array(keywords, depth)
            }
            "object" if only(&["properties", "required", "additionalProperties", "patternProperties"]) => {
                self.object(keywords, depth).unwrap_or_else(opaque)
            }
            _ => opaque(),
        }
    }

    fn array(&mut self, keywords: &'a Map<String, Value>, depth: usize) -> Shape {
        if let Some(Value::Array(parts)) = keywords.get("prefixItems") {
            return Shape::Tuple(parts.iter().map(|part| self.at(part, depth + 1)).collect());
        }
        let items = match keywords.get("items") {
            Some(items) => self.at(items, depth + 1),
            None => self.push(Shape::Any),
        };
        let bound = |name: &str| keywords.get(name).and_then(Value::as_u64);
        let length = bound("minItems").filter(|least| bound("maxItems") == Some(*least));
        Shape::List { items, length }
    }

    fn object(&mut self, keywords: &'a Map<String, Value>, depth: usize) -> Option<Shape> {
        let properties = match keywords.get("properties") {
            Some(Value::Object(properties)) => Some(properties),
            Some(_) => return None,
            None => None,
        };
        let patterns = match keywords.get("patternProperties") {
            Some(Value::Object(patterns)) => Some(patterns),
            Some(_) => return None,
            None => None,
        };
        let rest = keywords.get("additionalProperties");
        match (properties, patterns, rest) {
            (None, Some(patterns), _) if patterns.len() == 1 => {
                let (pattern, values) = patterns.iter().next()?;
                let values = self.at(values, depth + 1);
                Some(Shape::Map { keys: Some(pattern.clone()), values })
            }
            (_, Some(_), _) => None,
            (None, None, Some(values @ (Value::Object(_) | Value::Bool(true)))) => {
                let values = self.at(values, depth + 1);
                Some(Shape::Map { keys: None, values })
            }
            // Fields beside a map: a flattened one. Unknown fields are read, so it is open.
            (properties, None, rest) => {
                let required: Vec<&str> = match keywords.get("required") {
                    Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
                    _ => Vec::new(),
                };
                let mut fields = Vec::new();
                for (name, schema) in properties.into_iter().flatten() {
                    let required = required.contains(&name.as_str());
                    let aliases = match schema.get("x-aliases") {
                        Some(Value::Array(names)) => {
                            names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
                        }
                        _ => Vec::new(),
                    };
                    fields.push(Field {
                        name: name.clone(),
                        at: self.at(schema, depth + 1),
                        required,
                        // `schemars` writes the default of a field that serde always writes.
                        written: required || schema.get("default").is_some(),
                        aliases,
                    });
                }
                let closed = rest == Some(&Value::Bool(false));
                Some(Shape::Struct { fields, closed, rest: rest.is_some() && !closed })
            }
        }
    }
}

/// The same schema with references that stand beside fields (variants with a tag inside) replaced by the fields that
/// they refer to.
fn merged(schema: &Value) -> Value {
    /// References that are followed from one place.
    const FOLLOWED_MAX: usize = 8;
    fn walk(value: &mut Value, root: &Value, depth: usize) {
        if depth > 4 * NESTING_MAX {
            return;
        }
        if let Value::Object(map) = value {
            for _ in 0..FOLLOWED_MAX {
                if !map.contains_key("properties") {
                    break;
                }
                let target = map
                    .get("$ref")
                    .and_then(Value::as_str)
                    .and_then(|name| root.pointer(name.strip_prefix('#')?))
                    .and_then(Value::as_object)
                    .filter(|target| target.get("properties").is_some_and(Value::is_object));
                let Some(target) = target else { break };
                map.remove("$ref");
                for (key, theirs) in target {
                    match (map.get_mut(key), theirs) {
                        (Some(Value::Object(ours)), Value::Object(theirs)) if key == "properties" => {
                            for (name, field) in theirs {
                                ours.entry(name.clone()).or_insert_with(|| field.clone());
                            }
                        }
                        (Some(Value::Array(ours)), Value::Array(theirs)) if key == "required" => {
                            ours.extend(theirs.iter().cloned());
                        }
                        (Some(_), _) => {}
                        (None, theirs) => {
                            map.insert(key.clone(), theirs.clone());
                        }
                    }
                }
            }
        }
        match value {
            Value::Object(map) => map.values_mut().for_each(|inner| walk(inner, root, depth + 1)),
            Value::Array(list) => list.iter_mut().for_each(|inner| walk(inner, root, depth + 1)),
            _ => {}
        }
    }
    let mut copy = schema.clone();
    walk(&mut copy, schema, 0);
    copy
}

fn reference(schema: &Value) -> Option<&str> {
    let keywords = schema.as_object()?;
    let name = keywords.get("$ref")?.as_str()?;
    keywords.keys().all(|key| key == "$ref" || SILENT.contains(&key.as_str())).then_some(name)
}

fn literal(value: &Value) -> Shape {
    match value {
        Value::String(word) => Shape::Word(word.clone()),
        Value::Null => Shape::Null,
        other => Shape::Literal(other.to_string()),
    }
}

fn integer(keywords: &Map<String, Value>, format: Option<&str>) -> Shape {
    let signed = |bits: u32| (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
    let unsigned = |bits: u32| (0, (1_i128 << bits) - 1);
    let (low, high) = match format {
        Some("int8") => signed(8),
        Some("int16") => signed(16),
        Some("int32") => signed(32),
        Some("int64" | "int") => signed(64),
        Some("uint8") => unsigned(8),
        Some("uint16") => unsigned(16),
        Some("uint32") => unsigned(32),
        Some("uint64" | "uint") => unsigned(64),
        Some("uint128") => (0, i128::MAX),
        _ => (i128::MIN, i128::MAX),
    };
    let said = |name: &str| {
        let value = keywords.get(name)?;
        value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
    };
    Shape::Int {
        low: said("minimum").map_or(low, |least| low.max(least)),
        high: said("maximum").map_or(high, |most| high.min(most)),
    }
}

/// JSON text with its keys in order and without what only people read.
pub(super) fn canonical(value: &Value) -> String {
    fn sorted(value: &Value, depth: usize) -> Value {
        match value {
            _ if depth > 4 * NESTING_MAX => Value::Null,
            Value::Object(map) => {
                let ordered: BTreeMap<&String, Value> = map
                    .iter()
                    .filter(|(key, _)| {
                        !matches!(key.as_str(), "title" | "description" | "examples" | "$schema")
                    })
                    .map(|(key, value)| (key, sorted(value, depth + 1)))
                    .collect();
                Value::Object(ordered.into_iter().map(|(key, value)| (key.clone(), value)).collect())
            }
            Value::Array(list) => Value::Array(list.iter().map(|value| sorted(value, depth + 1)).collect()),
            other => other.clone(),
        }
    }
    sorted(value, 0).to_string()
}
