//! Whether a reader understands what a writer writes.

use std::collections::BTreeSet;

use super::shape::{At, Field, Key, Shape, Type};

/// Differences that are told of one pair of types.
pub const DIFFERENCES_MAX: usize = 64;

/// Pairs of shapes that are compared; beyond it the rest counts as equal.
const PAIRS_MAX: usize = 20_000;

/// Nesting that is followed.
const DEPTH_MAX: usize = 256;

/// The largest integer of which `f64` has every smaller one.
const EXACT_IN_F64: i128 = 1 << 53;

/// A place where a reader does not understand a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// From the root, such as `order.lines[].qty`; empty for the root itself.
    pub path: String,
    /// What the writer's side is or has there: `i64`.
    pub writer: String,
    /// The same of the reader's side: `u32`.
    pub reader: String,
}

/// Where `reader` cannot read what `writer` writes, as serde reads: unknown fields are skipped unless the reader denies
/// them, an absent field needs a default, integers and floats may widen, and an unknown variant needs an "other".
///
/// Empty when everything can be read. Types that are compared within themselves (recursion) count as readable.
#[must_use]
pub fn unreadable(writer: &Type, reader: &Type) -> Vec<Difference> {
    let mut judge =
        Judge { writer, reader, met: BTreeSet::new(), trail: Vec::new(), found: Vec::new(), depth: 0 };
    judge.value(writer.root, reader.root, "");
    judge.found
}

struct Judge<'a> {
    writer: &'a Type,
    reader: &'a Type,
    met: BTreeSet<(At, At)>,
    /// What is in `met`, in its order: what a failed try has added is taken out again.
    trail: Vec<(At, At)>,
    found: Vec<Difference>,
    depth: usize,
}

impl Judge<'_> {
    fn differ(&mut self, path: &str, writer: impl Into<String>, reader: impl Into<String>) {
        if self.found.len() < DIFFERENCES_MAX {
            let (writer, reader) = (writer.into(), reader.into());
            self.found.push(Difference { path: path.to_owned(), writer, reader });
        }
    }

    fn types_differ(&mut self, w: At, r: At, path: &str) {
        let (writer, reader) = (self.writer.words_of(w, 0), self.reader.words_of(r, 0));
        match writer == reader {
            // The words leave out what tells them apart.
            true => self.differ(path, format!("another {writer}"), reader),
            false => self.differ(path, writer, reader),
        }
    }

    /// Tells what is wrong below; nothing when all is well.
    fn value(&mut self, w: At, r: At, path: &str) {
        if self.met.contains(&(w, r)) || self.met.len() >= PAIRS_MAX || self.depth >= DEPTH_MAX {
            return;
        }
        self.met.insert((w, r));
        self.trail.push((w, r));
        self.depth += 1;
        self.open(w, r, path);
        self.depth -= 1;
    }

    /// Whether all is well below; leaves nothing behind when not.
    fn fits(&mut self, w: At, r: At) -> bool {
        let (length, before) = (self.trail.len(), std::mem::take(&mut self.found));
        self.value(w, r, "");
        let fits = self.found.is_empty();
        self.found = before;
        if !fits {
            for pair in self.trail.drain(length..) {
                self.met.remove(&pair);
            }
        }
        fits
    }

    fn open(&mut self, w: At, r: At, path: &str) {
        let (writer, reader) = (self.writer, self.reader);
        match (writer.shape(w), reader.shape(r)) {
            (_, Shape::Any) | (Shape::Never, _) => {}
            (Shape::Union { .. }, _) | (_, Shape::Union { .. }) => self.union(w, r, path),
            (Shape::Null, Shape::Null) | (Shape::Bool, Shape::Bool) => {}
            (Shape::Int { low, high }, Shape::Int { low: least, high: most }) => {
                if low < least || high > most {
                    self.types_differ(w, r, path);
                }
            }
            (Shape::Int { low, high }, Shape::Float { bits: 64 })
                if *low >= -EXACT_IN_F64 && *high <= EXACT_IN_F64 => {}
            (Shape::Float { bits }, Shape::Float { bits: room }) if bits <= room => {}
            // A format is a promise of the writer; a reader of plain text takes each.
            (Shape::Text { .. } | Shape::Word(_), Shape::Text { format: None }) => {}
            (Shape::Text { format }, Shape::Text { format: wanted }) if format == wanted => {}
            (Shape::Word(a), Shape::Word(b)) if a == b => {}
            (Shape::Literal(a), Shape::Literal(b)) | (Shape::Opaque(a), Shape::Opaque(b)) if a == b => {}
            (Shape::List { items, length }, Shape::List { items: wanted, length: exact }) => {
                if exact.is_some() && exact != length {
                    return self.types_differ(w, r, path);
                }
                self.value(*items, *wanted, &format!("{path}[]"));
            }
            (Shape::Tuple(parts), Shape::Tuple(wanted)) if parts.len() == wanted.len() => {
                for (number, (w, r)) in parts.iter().zip(wanted).enumerate() {
                    self.value(*w, *r, &format!("{path}[{number}]"));
                }
            }
            (Shape::Tuple(parts), Shape::List { items, length })
                if length.is_none_or(|n| n == parts.len() as u64) =>
            {
                for (number, w) in parts.iter().enumerate() {
                    self.value(*w, *items, &format!("{path}[{number}]"));
                }
            }
            (Shape::Map { keys, values }, Shape::Map { keys: pattern, values: wanted }) => {
                if pattern.is_some() && keys != pattern {
                    return self.types_differ(w, r, path);
                }
                self.value(*values, *wanted, &join(path, "*"));
            }
            (Shape::Struct { fields, .. }, Shape::Map { keys: None, values }) => {
                for field in fields {
                    self.value(field.at, *values, &join(path, &field.name));
                }
            }
            (Shape::Struct { fields, .. }, Shape::Struct { fields: wanted, closed, .. }) => {
                self.fields(fields, wanted, *closed, path);
            }
            _ => self.types_differ(w, r, path),
        }
    }

    fn fields(&mut self, written: &[Field], wanted: &[Field], closed: bool, path: &str) {
        let named = |want: &Field, name: &String| *name == want.name || want.aliases.contains(name);
        for want in wanted {
            let path = join(path, &want.name);
            match written.iter().find(|field| named(want, &field.name)) {
                None if want.required => self.differ(&path, "absent", "required"),
                Some(field) if want.required && !field.written => self.differ(&path, "optional", "required"),
                None => {}
                Some(field) => self.value(field.at, want.at, &path),
            }
        }
        if closed {
            for field in written {
                if !wanted.iter().any(|want| named(want, &field.name)) {
                    self.differ(&join(path, &field.name), "there", "denied as an unknown field");
                }
            }
        }
    }

    fn union(&mut self, w: At, r: At, path: &str) {
        let (written, _) = self.writer.alternatives(w);
        let (wanted, other) = self.reader.alternatives(r);
        let null = |parsed: &Type, at: &At| *parsed.shape(*at) == Shape::Null;
        let plain = |parsed: &Type, list: &[At]| {
            let rest: Vec<At> = list.iter().copied().filter(|at| !null(parsed, at)).collect();
            match rest.as_slice() {
                [only] => Some(*only),
                _ => None,
            }
        };
        // `Option<T>`, or `T`, against the same: the difference is told of `T`.
        let single = plain(self.writer, &written).zip(plain(self.reader, &wanted));
        for variant in written {
            if wanted.iter().any(|at| *self.reader.shape(*at) == Shape::Any) {
                return;
            }
            let key = self.writer.key(variant);
            let name = match &key {
                Key::Word(name) | Key::Wrapped(name) | Key::Tagged(_, name) => Some(name.clone()),
                Key::None => None,
            };
            let twin = wanted.iter().copied().find(|at| key != Key::None && self.reader.key(*at) == key);
            if let (Some(twin), Some(name)) = (twin, &name) {
                self.variant(variant, twin, &key, &join(path, name));
                continue;
            }
            if wanted.iter().any(|at| self.fits(variant, *at)) || (other && name.is_some()) {
                continue;
            }
            match (name, single) {
                _ if null(self.writer, &variant) => {
                    let reader = self.reader.words_of(r, 0);
                    self.differ(path, "null at times", format!("{reader}, never null"));
                }
                (_, Some((w, r))) if w == variant => self.open(w, r, path),
                (Some(name), _) => self.differ(&join(path, &name), "a variant", "unknown"),
                (None, _) => {
                    let (writer, reader) = (self.writer.words_of(variant, 0), self.reader.words_of(r, 0));
                    self.differ(path, writer, reader);
                }
            }
        }
    }

    /// Two variants of one name: what is in them.
    fn variant(&mut self, w: At, r: At, key: &Key, path: &str) {
        match (key, self.writer.shape(w), self.reader.shape(r)) {
            (Key::Wrapped(_), Shape::Struct { fields: ours, .. }, Shape::Struct { fields: theirs, .. }) => {
                if let ([w], [r]) = (ours.as_slice(), theirs.as_slice()) {
                    self.value(w.at, r.at, path);
                }
            }
            (
                Key::Tagged(..),
                Shape::Struct { fields: ours, .. },
                Shape::Struct { fields: theirs, closed, .. },
            ) => {
                self.fields(ours, theirs, *closed, path);
            }
            _ => {}
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
