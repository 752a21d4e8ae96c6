//! What a block of state says about itself: the structs and enums in its rows, by name.
//!
//! A row writes the values of a struct as an array and the number of its shape; the names of the
//! fields stand here, once. So a field that was added or removed is found by its name, and a person
//! can read what a checkpoint holds without the program that wrote it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Shapes that a block may have: their numbers are of two bytes.
pub const SHAPES_MAX: usize = u16::MAX as usize;
/// Levels of nesting that a value may have.
pub const NESTING_MAX: u32 = 96;

/// How the values behind a shape are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A struct: values by the names of fields.
    Struct,
    /// A variant of an enum without values.
    Unit,
    /// A variant with one value.
    Newtype,
    /// A variant with values in a row.
    Tuple,
    /// A variant with values by the names of fields.
    Fields,
}

/// A field of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What its values were: `int`, `str?`, `Order`, `int|str`.
    pub kind: String,
}

/// A struct or a variant of an enum, as rows of a block have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The type's name, without its module.
    pub name: String,
    /// The variant, of an enum.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// How its values are arranged.
    pub form: Form,
    /// Its fields in the order of the rows; none where values have no names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

impl Shape {
    /// `Order`, or `Status::Paid` for a variant.
    pub fn title(&self) -> String {
        if self.form == Form::Struct { self.name.clone() } else { format!("{}::{}", self.name, self.variant) }
    }

    /// Whether rows written for one can be read with the other.
    pub(crate) fn is_like(&self, other: &Shape) -> bool {
        self.name == other.name
            && self.variant == other.variant
            && self.form == other.form
            && self.fields.iter().map(|f| &f.name).eq(other.fields.iter().map(|f| &f.name))
    }
}

impl fmt::Display for Shape {
    /// `Order { id: int, note: str? }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())?;
        match self.form {
            Form::Struct | Form::Fields if self.fields.is_empty() => f.write_str(" {}"),
            Form::Struct | Form::Fields => {
                let fields: Vec<String> =
                    self.fields.iter().map(|field| format!("{}: {}", field.name, field.kind)).collect();
                write!(f, " {{ {} }}", fields.join(", "))
            }
            Form::Unit => Ok(()),
            Form::Newtype => f.write_str("(…)"),
            Form::Tuple => f.write_str("(…, …)"),
        }
    }
}

/// What rows are made of: stated once for all blocks that have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// What a row is, such as `[int, Order]`.
    #[serde(default)]
    pub row: String,
    /// The shapes, by their numbers.
    #[serde(default)]
    pub shapes: Vec<Shape>,
    /// Rows that showed something new when they were written: enough to see whether a program can
    /// read all of them.
    #[serde(default)]
    pub samples: Vec<serde_bytes::ByteBuf>,
}

impl Schema {
    /// Whether blocks that were written with `before` can be read with this one.
    pub(crate) fn extends(&self, before: &Schema) -> bool {
        before.shapes.len() <= self.shapes.len()
            && before.shapes.iter().zip(&self.shapes).all(|(a, b)| a.is_like(b))
            && before.samples.iter().all(|sample| self.samples.contains(sample))
    }
}

/// The types of tags in rows; MessagePack leaves 0 to 127 to applications.
pub(crate) mod tag {
    /// Two bytes: the first element of an array that is a struct, its shape's number.
    pub(crate) const STRUCT: u8 = b'S';
    /// Two bytes: the first element of an array that is a variant of an enum with its values.
    pub(crate) const VARIANT: u8 = b'V';
    /// Two bytes: a variant without values. Not the tag above, or a list that begins with one would
    /// look like one with values.
    pub(crate) const UNIT: u8 = b'E';
    /// One byte: the first of two elements, the second the value of an option that would read as none.
    pub(crate) const SOME: u8 = b'O';
    /// Sixteen bytes: an unsigned number beyond 64 bits.
    pub(crate) const U128: u8 = b'U';
    /// Sixteen bytes: a signed number beyond 64 bits.
    pub(crate) const I128: u8 = b'I';
}

/// What values of a field were, of all rows so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    bits: u16,
    /// The first shape, of a struct or an enum.
    shape: Option<u16>,
}

impl Kinds {
    const NIL: u16 = 1;
    const NAMES: [(u16, &'static str); 9] = [
        (2, "bool"),
        (4, "int"),
        (8, "float"),
        (16, "str"),
        (32, "bytes"),
        (64, "list"),
        (128, "map"),
        (256, "struct"),
        (512, "enum"),
    ];

    /// What the value that begins here is.
    #[inline]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let Some(&first) = bytes.first() else { return Self::default() };
        let bits = match first {
            0x00..=0x7f | 0xe0..=0xff | 0xcc..=0xd3 | 0xd8 => 4,
            0xc0 => Self::NIL,
            0xc2 | 0xc3 => 2,
            0xca | 0xcb => 8,
            0xa0..=0xbf | 0xd9..=0xdb => 16,
            0xc4..=0xc6 => 32,
            0x80..=0x8f | 0xde | 0xdf => 128,
            0xd5 => return Self { bits: 512, shape: id_at(bytes, 2) },
            0x90..=0x9f | 0xdc | 0xdd => {
                let head = match first {
                    0xdc => 3,
                    0xdd => 5,
                    _ => 1,
                };
                match (bytes.get(head), bytes.get(head + 1)) {
                    (Some(0xd5), Some(&tag::STRUCT)) => {
                        return Self { bits: 256, shape: id_at(bytes, head + 2) };
                    }
                    (Some(0xd5), Some(&tag::VARIANT)) => {
                        return Self { bits: 512, shape: id_at(bytes, head + 2) };
                    }
                    (Some(0xd4), Some(&tag::SOME)) => {
                        let inner = Self::of(bytes.get(head + 3..).unwrap_or_default());
                        return Self { bits: inner.bits | Self::NIL, ..inner };
                    }
                    _ => 64,
                }
            }
            _ => 0,
        };
        Self { bits, shape: None }
    }

    /// Takes in another value; whether it is of a kind that was not seen before.
    #[inline]
    pub(crate) fn add(&mut self, other: Self) -> bool {
        let new = other.bits & !self.bits != 0;
        self.bits |= other.bits;
        self.shape = self.shape.or(other.shape);
        new
    }

    /// For people.
    pub(crate) fn text(self, name_of: impl Fn(u16) -> Option<String>) -> String {
        let names: Vec<String> = Self::NAMES
            .iter()
            .filter(|(bit, _)| self.bits & bit != 0)
            .map(|(bit, name)| match self.shape.filter(|_| *bit >= 256).and_then(&name_of) {
                Some(shape) => shape,
                None => (*name).to_owned(),
            })
            .collect();
        match (names.is_empty(), self.bits & Self::NIL != 0) {
            (true, _) => "nil".to_owned(),
            (false, true) => format!("{}?", names.join("|")),
            (false, false) => names.join("|"),
        }
    }
}

fn id_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_reads_like_the_type_it_was() {
        let field = |name: &str, kind: &str| Field { name: name.into(), kind: kind.into() };
        let shape = Shape {
            name: "Order".into(),
            variant: String::new(),
            form: Form::Struct,
            fields: vec![field("id", "int"), field("note", "str?")],
        };
        assert_eq!(shape.to_string(), "Order { id: int, note: str? }");
        let paid =
            Shape { name: "Status".into(), variant: "Paid".into(), form: Form::Newtype, fields: vec![] };
        assert_eq!(paid.to_string(), "Status::Paid(…)");
    }

    #[test]
    fn kinds_of_a_field_come_together_and_say_what_is_new() {
        let mut kinds = Kinds::default();
        assert!(kinds.add(Kinds::of(&[0x05])));
        assert!(!kinds.add(Kinds::of(&[0xcd, 1, 0])));
        assert!(kinds.add(Kinds::of(&[0xc0])));
        assert_eq!(kinds.text(|_| None), "int?");
    }
}
