//! Whether a JSON value is one of a type, in words for whoever wrote it.

use serde_json::Value;

use super::shape::{At, Field, Key, Shape, Type};

/// Problems that are told of one value.
pub const PROBLEMS_MAX: usize = 16;

/// Nesting that is looked at; what is deeper is left to the decoder.
const DEPTH_MAX: usize = 128;

impl Type {
    /// What is wrong with a value that somebody wrote by hand, a line each: `order.qty: expected u32, got "two"`.
    ///
    /// Stricter than the decoder in one point: a field that the type does not have is a problem, named with the nearest
    /// that it has, because it is far more often a slip than a wish.
    ///
    /// ```
    /// use afflux_wire::schema::Type;
    /// let parsed = Type::of(&serde_json::json!({
    ///     "type": "object", "properties": { "qty": { "type": "integer", "format": "uint32" } }, "required": ["qty"],
    /// }));
    /// assert_eq!(parsed.problems(&serde_json::json!({ "qty": -1 })), ["qty: expected u32, got -1"]);
    /// assert_eq!(
    ///     parsed.problems(&serde_json::json!({ "qti": 1 })),
    ///     ["qty: is missing (u32)", "qti: there is no such field; did you mean `qty`?"]
    /// );
    /// ```
    #[must_use]
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.look(self.root, value, "", 0, &mut found);
        found.truncate(PROBLEMS_MAX);
        found
    }

    fn look(&self, at: At, value: &Value, path: &str, depth: usize, found: &mut Vec<String>) {
        if depth > DEPTH_MAX || found.len() >= PROBLEMS_MAX {
            return;
        }
        match (self.shape(at), value) {
            (Shape::Any | Shape::Opaque(_), _)
            | (Shape::Null, Value::Null)
            | (Shape::Bool, Value::Bool(_))
            | (Shape::Float { .. }, Value::Number(_))
            | (Shape::Text { .. }, Value::String(_)) => {}
            (Shape::Int { low, high }, Value::Number(number)) => {
                let n = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                if n.is_none_or(|n| n < *low || n > *high) {
                    found.push(self.expected(at, value, path));
                }
            }
            (Shape::Word(word), Value::String(text)) if word == text => {}
            (Shape::Literal(json), value) if serde_json::to_string(value).is_ok_and(|text| text == *json) => {
            }
            (Shape::List { items, length }, Value::Array(list)) => {
                if length.is_some_and(|n| n != list.len() as u64) {
                    return found.push(self.expected(at, value, path));
                }
                for (number, value) in list.iter().enumerate() {
                    self.look(*items, value, &format!("{path}[{number}]"), depth + 1, found);
                }
            }
            (Shape::Tuple(parts), Value::Array(list)) if parts.len() == list.len() => {
                for (number, (part, value)) in parts.iter().zip(list).enumerate() {
                    self.look(*part, value, &format!("{path}[{number}]"), depth + 1, found);
                }
            }
            (Shape::Map { values, .. }, Value::Object(map)) => {
                for (key, value) in map {
                    self.look(*values, value, &join(path, key), depth + 1, found);
                }
            }
            (Shape::Struct { fields, rest, .. }, Value::Object(map)) => {
                self.look_at_fields(fields, *rest, map, path, depth, found);
            }
            (Shape::Union { .. }, _) => self.look_at_union(at, value, path, depth, found),
            _ => found.push(self.expected(at, value, path)),
        }
    }

    fn look_at_fields(
        &self,
        fields: &[Field],
        rest: bool,
        map: &serde_json::Map<String, Value>,
        path: &str,
        depth: usize,
        found: &mut Vec<String>,
    ) {
        let is = |field: &Field, name: &String| field.name == *name || field.aliases.contains(name);
        for field in fields {
            match map.iter().find(|(name, _)| is(field, name)) {
                Some((name, value)) => self.look(field.at, value, &join(path, name), depth + 1, found),
                None if field.required => {
                    let path = join(path, &field.name);
                    found.push(format!("{path}: is missing ({})", self.words_of(field.at, 0)));
                }
                None => {}
            }
        }
        if rest {
            return;
        }
        for name in map.keys().filter(|name| !fields.iter().any(|field| is(field, name))) {
            let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            let hint = match nearest(name, &names) {
                Some(near) => format!("; did you mean `{near}`?"),
                None if names.is_empty() => String::new(),
                None => format!("; there is {}", names.join(", ")),
            };
            found.push(format!("{}: there is no such field{hint}", join(path, name)));
        }
    }

    fn look_at_union(&self, at: At, value: &Value, path: &str, depth: usize, found: &mut Vec<String>) {
        let (variants, other) = self.alternatives(at);
        let mut closest: Option<Vec<String>> = None;
        for variant in &variants {
            let mut own = Vec::new();
            self.look(*variant, value, path, depth + 1, &mut own);
            if own.is_empty() {
                return;
            }
            // The variant that was meant: the one whose tag is there, or the only one of its kind.
            let meant = match (self.key(*variant), value) {
                (Key::Wrapped(name), Value::Object(map)) => map.contains_key(&name),
                (Key::Tagged(tag, name), Value::Object(map)) => {
                    map.get(&tag).and_then(Value::as_str) == Some(name.as_str())
                }
                (Key::Word(_), _) | (_, Value::Null) => false,
                _ => variants.iter().filter(|at| *self.shape(**at) != Shape::Null).count() == 1,
            };
            if meant {
                closest = Some(own);
            }
        }
        match closest {
            Some(own) => found.extend(own),
            None if other => {}
            None => found.push(self.expected(at, value, path)),
        }
    }

    fn expected(&self, at: At, value: &Value, path: &str) -> String {
        const SHOWN_CHARS: usize = 40;
        let mut got: String = value.to_string();
        if got.chars().count() > SHOWN_CHARS {
            got = got.chars().take(SHOWN_CHARS).chain(std::iter::once('…')).collect();
        }
        let text = format!("expected {}, got {got}", self.words_of(at, 0));
        if path.is_empty() { text } else { format!("{path}: {text}") }
    }
}

/// The name most like a wrong one.
fn nearest<'a>(wrong: &str, names: &[&'a str]) -> Option<&'a str> {
    const LIKENESS_MIN: f64 = 0.6;
    names
        .iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), *name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
