//! The shape of a type, as serde reads and writes it.

use std::fmt::Write as _;

/// Parts of one type. A schema with more is opaque: equal or not, and nothing else is known of it.
pub const SHAPES_MAX: usize = 10_000;

/// Words of an enum that a text shows.
const WORDS_SHOWN: usize = 6;

/// Index of a shape within its type.
pub(super) type At = usize;

/// A type: a graph of shapes, so that recursion is a cycle in it.
#[derive(Clone, Debug)]
pub struct Type {
    pub(super) shapes: Vec<Shape>,
    pub(super) root: At,
}

/// What a value looks like.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// Every value.
    Any,
    /// No value.
    Never,
    Null,
    Bool,
    /// An integer between both, inclusive; the ends of `i128` mean no end.
    Int {
        low: i128,
        high: i128,
    },
    Float {
        bits: u8,
    },
    /// A string; `format` is JSON Schema's.
    Text {
        format: Option<String>,
    },
    /// This string.
    Word(String),
    /// This value, as JSON text.
    Literal(String),
    /// Of this length, where it is fixed.
    List {
        items: At,
        length: Option<u64>,
    },
    Tuple(Vec<At>),
    Struct {
        fields: Vec<Field>,
        /// A reader denies other fields.
        closed: bool,
        /// Other fields are values too: a flattened map.
        rest: bool,
    },
    /// Keys that match a pattern, or all.
    Map {
        keys: Option<String>,
        values: At,
    },
    /// One of these. With `other`, a variant that is not among them is read as the last resort.
    Union {
        variants: Vec<At>,
        other: bool,
    },
    /// A schema that says more than is understood here: its canonical text.
    Opaque(String),
}

/// A field of a struct.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) at: At,
    /// A reader fails without it.
    pub(super) required: bool,
    /// A writer never leaves it out.
    pub(super) written: bool,
    /// Other names under which a reader takes it.
    pub(super) aliases: Vec<String>,
}

/// What tells the variants of a union apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// `"Name"`.
    Word(String),
    /// `{"Name": …}`.
    Wrapped(String),
    /// `{"tag": "Name", …}`.
    Tagged(String, String),
    /// Nothing: it is tried.
    None,
}

impl Type {
    pub(super) fn shape(&self, at: At) -> &Shape {
        // Indices are made by the parser alone and are in range.
        self.shapes.get(at).unwrap_or(&Shape::Any)
    }

    /// The alternatives of a union, those of nested unions among them; anything else is its own.
    pub(super) fn alternatives(&self, at: At) -> (Vec<At>, bool) {
        let (mut found, mut seen, mut any_other) = (Vec::new(), Vec::new(), false);
        let mut left = vec![at];
        while let Some(at) = left.pop() {
            match self.shape(at) {
                Shape::Union { variants, other } => {
                    if !seen.contains(&at) {
                        seen.push(at);
                        any_other |= other;
                        left.extend(variants.iter().rev());
                    }
                }
                _ if found.contains(&at) => {}
                _ => found.push(at),
            }
        }
        (found, any_other)
    }

    /// How a variant is told from the others.
    pub(super) fn key(&self, at: At) -> Key {
        match self.shape(at) {
            Shape::Word(word) => Key::Word(word.clone()),
            Shape::Struct { fields, closed, .. } => match fields.as_slice() {
                [only] if *closed && only.required => Key::Wrapped(only.name.clone()),
                fields => fields
                    .iter()
                    .find_map(|field| match self.shape(field.at) {
                        Shape::Word(word) if field.required => {
                            Some(Key::Tagged(field.name.clone(), word.clone()))
                        }
                        _ => None,
                    })
                    .unwrap_or(Key::None),
            },
            _ => Key::None,
        }
    }

    /// The type in words, for an error: `u32`, `string (uuid)`, `list of u32`.
    #[must_use]
    pub fn words(&self) -> String {
        self.words_of(self.root, 0)
    }

    pub(super) fn words_of(&self, at: At, depth: usize) -> String {
        const DEPTH_SHOWN: usize = 3;
        if depth > DEPTH_SHOWN {
            return "…".to_owned();
        }
        let inner = |at: At| self.words_of(at, depth + 1);
        match self.shape(at) {
            Shape::Any => "any value".to_owned(),
            Shape::Never => "no value".to_owned(),
            Shape::Null => "null".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Int { low, high } => int_words(*low, *high),
            Shape::Float { bits } => format!("f{bits}"),
            Shape::Text { format: None } => "string".to_owned(),
            Shape::Text { format: Some(format) } => format!("string ({format})"),
            Shape::Word(word) => format!("\"{word}\""),
            Shape::Literal(text) => text.clone(),
            Shape::List { items, length: None } => format!("list of {}", inner(*items)),
            Shape::List { items, length: Some(n) } => format!("list of {n} {}", inner(*items)),
            Shape::Tuple(parts) => {
                format!("({})", parts.iter().map(|at| inner(*at)).collect::<Vec<_>>().join(", "))
            }
            Shape::Struct { .. } => "object".to_owned(),
            Shape::Map { values, .. } => format!("map of {}", inner(*values)),
            Shape::Opaque(_) => "of a schema that cannot be compared".to_owned(),
            Shape::Union { .. } => {
                let (variants, _) = self.alternatives(at);
                let null = variants.iter().any(|at| *self.shape(*at) == Shape::Null);
                let rest: Vec<At> =
                    variants.into_iter().filter(|at| *self.shape(*at) != Shape::Null).collect();
                let mut text = match rest.as_slice() {
                    [] => return "null".to_owned(),
                    [only] => self.words_of(*only, depth),
                    many => {
                        let mut names: Vec<String> = many
                            .iter()
                            .take(WORDS_SHOWN)
                            .map(|at| match self.key(*at) {
                                Key::Word(name) | Key::Wrapped(name) | Key::Tagged(_, name) => name,
                                Key::None => inner(*at),
                            })
                            .collect();
                        if many.len() > WORDS_SHOWN {
                            names.push("…".to_owned());
                        }
                        format!("one of {}", names.join(", "))
                    }
                };
                if null {
                    let _ = write!(text, " or null");
                }
                text
            }
        }
    }
}

/// `u32`, or a range in numbers.
fn int_words(low: i128, high: i128) -> String {
    for bits in [8_u32, 16, 32, 64] {
        if low == 0 && high == (1_i128 << bits) - 1 {
            return format!("u{bits}");
        }
        if low == -(1_i128 << (bits - 1)) && high == (1_i128 << (bits - 1)) - 1 {
            return format!("i{bits}");
        }
    }
    match (low, high) {
        (i128::MIN, i128::MAX) => "integer".to_owned(),
        (0, i128::MAX) => "u128".to_owned(),
        (low, i128::MAX) => format!("integer from {low}"),
        (i128::MIN, high) => format!("integer up to {high}"),
        (low, high) if low > 0 => format!("{} from {low}", int_words(0, high)),
        (low, high) => format!("integer from {low} to {high}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_the_names_that_rust_gives_them() {
        for (low, high, name) in [
            (0, 255, "u8"),
            (-32_768, 32_767, "i16"),
            (0, i128::from(u64::MAX), "u64"),
            (1, i128::from(u32::MAX), "u32 from 1"),
            (i128::MIN, i128::MAX, "integer"),
            (-1, 7, "integer from -1 to 7"),
        ] {
            assert_eq!(int_words(low, high), name);
        }
    }
}
