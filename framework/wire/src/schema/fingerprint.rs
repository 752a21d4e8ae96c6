//! A number for a type: equal for equal types, whatever their names and comments are.

use std::collections::BTreeMap;

use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::parse::canonical;
use super::shape::{At, Shape, Type};

/// Shapes that are looked at for one fingerprint. Recursive types with many ways around need the more.
const STEPS_MAX: usize = 200_000;

/// The fingerprint of a schema: XXH3 of its canonical form.
///
/// A part is hashed from the hashes of its parts (Merkle), with definitions in place of their names and a step back in
/// place of a recursion, so that the names and the order of definitions, and whether a type is written in place or
/// referred to, do not count.
///
/// ```
/// use afflux_wire::schema::Fingerprint;
///
/// let inline = serde_json::json!({ "type": "array", "items": { "type": "boolean", "title": "Flag" } });
/// let named = serde_json::json!({
///     "type": "array", "items": { "$ref": "#/$defs/B" }, "$defs": { "B": { "type": "boolean" } },
/// });
/// assert_eq!(Fingerprint::of(&inline), Fingerprint::of(&named));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// That of a JSON Schema. The order of fields and variants does not count.
    #[must_use]
    pub fn of(schema: &Value) -> Self {
        Self(hash(schema, false))
    }

    /// The layout hash: the same, but the order of fields counts. Where it is equal on both sides, a struct may be
    /// written as an array of its fields.
    #[must_use]
    pub fn layout(schema: &Value) -> Self {
        Self(hash(schema, true))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn hash(schema: &Value, ordered: bool) -> u64 {
    let parsed = Type::of(schema);
    let mut hasher = Hasher { parsed: &parsed, ordered, stack: Vec::new(), known: BTreeMap::new(), steps: 0 };
    match hasher.shape(parsed.root) {
        Some((hash, _)) => xxh3_64(&hash.to_le_bytes()),
        // Too entangled to be followed: its text stands for it. A renamed definition then counts.
        None => xxh3_64(canonical(schema).as_bytes()),
    }
}

struct Hasher<'a> {
    parsed: &'a Type,
    ordered: bool,
    stack: Vec<At>,
    known: BTreeMap<At, u128>,
    steps: usize,
}

impl Hasher<'_> {
    /// The hash of a shape, and the lowest place of the stack that it refers back to.
    fn shape(&mut self, at: At) -> Option<(u128, usize)> {
        if let Some(hash) = self.known.get(&at) {
            return Some((*hash, usize::MAX));
        }
        if let Some(place) = self.stack.iter().position(|open| *open == at) {
            let back = (self.stack.len() - place) as u64;
            return Some((part(b'^', &[&back.to_le_bytes()]), place));
        }
        self.steps += 1;
        // The stack is as deep as the call stack here.
        if self.steps > STEPS_MAX || self.stack.len() > 512 {
            return None;
        }
        let own = self.stack.len();
        self.stack.push(at);
        let found = self.open(at);
        self.stack.pop();
        let (hash, lowest) = found?;
        if lowest >= own {
            self.known.insert(at, hash);
            return Some((hash, usize::MAX));
        }
        Some((hash, lowest))
    }

    fn open(&mut self, at: At) -> Option<(u128, usize)> {
        let parsed = self.parsed;
        let mut lowest = usize::MAX;
        let mut inner = |hasher: &mut Self, at: At| {
            let (hash, low) = hasher.shape(at)?;
            lowest = lowest.min(low);
            Some(hash.to_le_bytes())
        };
        let hash = match parsed.shape(at) {
            Shape::Any => part(b'*', &[]),
            Shape::Never => part(b'!', &[]),
            Shape::Null => part(b'0', &[]),
            Shape::Bool => part(b'b', &[]),
            Shape::Int { low, high } => part(b'i', &[&low.to_le_bytes(), &high.to_le_bytes()]),
            Shape::Float { bits } => part(b'f', &[&[*bits]]),
            Shape::Text { format } => part(b's', &[format.as_deref().unwrap_or_default().as_bytes()]),
            Shape::Word(word) => part(b'w', &[word.as_bytes()]),
            Shape::Literal(text) => part(b'l', &[text.as_bytes()]),
            Shape::Opaque(text) => part(b'?', &[text.as_bytes()]),
            Shape::List { items, length } => {
                let items = inner(self, *items)?;
                part(b'[', &[&items, &length.map_or(u64::MAX, |n| n).to_le_bytes()])
            }
            Shape::Tuple(parts) => {
                let mut hashes = Vec::with_capacity(parts.len());
                for at in parts {
                    hashes.push(inner(self, *at)?);
                }
                part(b'(', &hashes.iter().map(<[u8; 16]>::as_slice).collect::<Vec<_>>())
            }
            Shape::Map { keys, values } => {
                let values = inner(self, *values)?;
                part(b'm', &[keys.as_deref().unwrap_or_default().as_bytes(), &values])
            }
            Shape::Struct { fields, closed, rest } => {
                let mut hashes = Vec::with_capacity(fields.len());
                for field in fields {
                    let hash = inner(self, field.at)?;
                    let flags = [u8::from(field.required), u8::from(field.written)];
                    let mut parts: Vec<&[u8]> = vec![field.name.as_bytes(), &hash, &flags];
                    parts.extend(field.aliases.iter().map(String::as_bytes));
                    hashes.push((&field.name, part(b'.', &parts).to_le_bytes()));
                }
                if !self.ordered {
                    hashes.sort_unstable();
                }
                let flag = [u8::from(*closed) | (u8::from(*rest) << 1)];
                let mut parts: Vec<&[u8]> = vec![&flag];
                parts.extend(hashes.iter().map(|(_, hash)| hash.as_slice()));
                part(b'{', &parts)
            }
            Shape::Union { .. } => {
                let (variants, other) = parsed.alternatives(at);
                let mut hashes = Vec::with_capacity(variants.len());
                for at in variants {
                    hashes.push(inner(self, at)?);
                }
                hashes.sort_unstable();
                hashes.dedup();
                match hashes.as_slice() {
                    [only] if !other => u128::from_le_bytes(*only),
                    _ => {
                        let flag = [u8::from(other)];
                        let mut parts: Vec<&[u8]> = vec![&flag];
                        parts.extend(hashes.iter().map(<[u8; 16]>::as_slice));
                        part(b'|', &parts)
                    }
                }
            }
        };
        Some((hash, lowest))
    }
}

fn part(kind: u8, parts: &[&[u8]]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&[kind]);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.digest128()
}
