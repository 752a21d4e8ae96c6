//! Writes rows of state: MessagePack in which a struct is an array with the number of its shape.
//!
//! Legal MessagePack, so that any reader of it can look at a block; the tags are in
//! [`shape::tag`](super::shape::tag) and described in docs/specs/checkpoint.md. Against rmp-serde's
//! arrays this costs five bytes a struct, and gives rows that survive a change of their type.

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::fault::Fault;
use super::shape::{Field, Form, Kinds, NESTING_MAX, SHAPES_MAX, Shape, tag};

/// A shape while rows are written.
#[derive(Clone, Debug)]
struct Draft {
    name: &'static str,
    variant: &'static str,
    form: Form,
    /// Fields that a value of it has.
    len: usize,
    /// Those that are known: fewer than `len` while the first value is being written.
    fields: Vec<(&'static str, Kinds)>,
}

/// The same word: mostly the same place, too.
#[inline]
fn same(a: &'static str, b: &'static str) -> bool {
    a.len() == b.len() && (std::ptr::eq(a.as_ptr(), b.as_ptr()) || a == b)
}

/// Rows and the shapes in them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoder {
    pub(crate) bytes: Vec<u8>,
    drafts: Vec<Draft>,
    depth: u32,
    /// Something was written that was not there before: a shape, or a kind of value in a field.
    pub(crate) novel: bool,
}

impl Encoder {
    /// Writes a value behind those before.
    #[inline]
    pub(crate) fn push<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), Fault> {
        self.depth = 0;
        value.serialize(&mut *self)
    }

    /// The shapes so far.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        let title = |id: u16| self.drafts.get(usize::from(id)).map(|draft| draft.name.to_owned());
        self.drafts
            .iter()
            .map(|draft| Shape {
                name: draft.name.to_owned(),
                variant: draft.variant.to_owned(),
                form: draft.form,
                fields: draft
                    .fields
                    .iter()
                    .map(|(name, kinds)| Field { name: (*name).to_owned(), kind: kinds.text(title) })
                    .collect(),
            })
            .collect()
    }

    #[inline]
    fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > NESTING_MAX { Err(too_deep()) } else { Ok(()) }
    }

    #[inline]
    fn head(&mut self, len: usize, small: u8, wide: u8) -> Result<(), Fault> {
        if len < 16 {
            self.bytes.push(small | len as u8);
        } else if let Ok(len) = u16::try_from(len) {
            self.bytes.push(wide);
            self.bytes.extend_from_slice(&len.to_be_bytes());
        } else {
            self.bytes.push(wide + 1);
            self.bytes.extend_from_slice(&length(len)?.to_be_bytes());
        }
        Ok(())
    }

    #[inline]
    fn array(&mut self, len: usize) -> Result<(), Fault> {
        self.head(len, 0x90, 0xdc)
    }

    /// Writes a head of one byte and a number behind it, at once.
    #[inline]
    fn wide<const N: usize, const ALL: usize>(&mut self, head: u8, number: [u8; N]) {
        let mut all = [head; ALL];
        if let Some(place) = all.get_mut(1..) {
            place.copy_from_slice(&number);
        }
        self.bytes.extend_from_slice(&all);
    }

    #[inline]
    fn uint(&mut self, v: u64) {
        if v < 0x80 {
            self.bytes.push(v as u8);
        } else if let Ok(v) = u8::try_from(v) {
            self.bytes.extend_from_slice(&[0xcc, v]);
        } else if let Ok(v) = u16::try_from(v) {
            self.wide::<2, 3>(0xcd, v.to_be_bytes());
        } else if let Ok(v) = u32::try_from(v) {
            self.wide::<4, 5>(0xce, v.to_be_bytes());
        } else {
            self.wide::<8, 9>(0xcf, v.to_be_bytes());
        }
    }

    #[inline]
    fn int(&mut self, v: i64) {
        if let Ok(v) = u64::try_from(v) {
            self.uint(v);
        } else if v >= -32 {
            self.bytes.push(v as i8 as u8);
        } else if let Ok(v) = i8::try_from(v) {
            self.bytes.extend_from_slice(&[0xd0, v as u8]);
        } else if let Ok(v) = i16::try_from(v) {
            self.wide::<2, 3>(0xd1, v.to_be_bytes());
        } else if let Ok(v) = i32::try_from(v) {
            self.wide::<4, 5>(0xd2, v.to_be_bytes());
        } else {
            self.wide::<8, 9>(0xd3, v.to_be_bytes());
        }
    }

    /// Writes a tag with the number of a shape, to be set later, and returns its place.
    fn tagged(&mut self, kind: u8) -> usize {
        self.bytes.extend_from_slice(&[0xd5, kind, 0, 0]);
        self.bytes.len() - 2
    }

    fn number(&mut self, at: usize, shape: usize) {
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&(shape as u16).to_be_bytes());
        }
    }

    /// The first shape that a value may have of which only this much is known.
    fn shape(
        &mut self,
        name: &'static str,
        variant: &'static str,
        form: Form,
        len: usize,
    ) -> Result<usize, Fault> {
        let known = self
            .drafts
            .iter()
            .position(|d| d.len == len && d.form == form && same(d.name, name) && same(d.variant, variant));
        match known {
            Some(known) => Ok(known),
            None => self.add(Draft { name, variant, form, len, fields: Vec::new() }),
        }
    }

    fn add(&mut self, draft: Draft) -> Result<usize, Fault> {
        if self.drafts.len() >= SHAPES_MAX {
            return Err(Fault::custom(format!(
                "the state has more than {SHAPES_MAX} different structs and variants"
            )));
        }
        self.novel = true;
        self.drafts.push(draft);
        Ok(self.drafts.len() - 1)
    }

    /// Whether the field at `next` of a shape is this one; where the shape ends before, it is now.
    #[inline]
    fn has(&mut self, shape: usize, next: usize, key: &'static str) -> bool {
        let Some(draft) = self.drafts.get_mut(shape) else { return false };
        match draft.fields.get(next) {
            Some((name, _)) => same(name, key),
            None => {
                draft.fields.push((key, Kinds::default()));
                self.novel = true;
                true
            }
        }
    }

    /// The shape that is like another up to a field and has this one there.
    fn sibling(&mut self, of: usize, next: usize, key: &'static str) -> Result<usize, Fault> {
        let Some(draft) = self.drafts.get(of).cloned() else {
            return Err(Fault::custom("a shape is lost"));
        };
        let begins = |d: &Draft| {
            d.len == draft.len
                && d.form == draft.form
                && same(d.name, draft.name)
                && same(d.variant, draft.variant)
                && d.fields.len() > next
                && d.fields.iter().zip(&draft.fields).take(next).all(|(a, b)| same(a.0, b.0))
                && d.fields.get(next).is_some_and(|f| same(f.0, key))
        };
        if let Some(known) = self.drafts.iter().position(begins) {
            return Ok(known);
        }
        let mut fields: Vec<_> = draft.fields.iter().take(next).copied().collect();
        fields.push((key, Kinds::default()));
        self.add(Draft { fields, ..draft })
    }

    fn fields(
        &mut self,
        name: &'static str,
        variant: &'static str,
        form: Form,
        len: usize,
    ) -> Result<Fields<'_>, Fault> {
        self.enter()?;
        self.array(len + 1)?;
        let at = self.tagged(if form == Form::Struct { tag::STRUCT } else { tag::VARIANT });
        let shape = self.shape(name, variant, form, len)?;
        Ok(Fields { encoder: self, shape, at, len, next: 0 })
    }

    #[inline]
    fn items(&mut self, len: Option<usize>) -> Result<Items<'_>, Fault> {
        self.enter()?;
        let head = match len {
            Some(len) => {
                self.array(len)?;
                None
            }
            None => {
                self.bytes.extend_from_slice(&[0xdd, 0, 0, 0, 0]);
                Some(self.bytes.len() - 4)
            }
        };
        Ok(Items { encoder: self, head, left: len.unwrap_or(0), count: 0 })
    }
}

#[cold]
fn too_deep() -> Fault {
    Fault::custom(format!(
        "the value is nested in more than {NESTING_MAX} levels, which could not be read again"
    ))
}

fn length(len: usize) -> Result<u32, Fault> {
    u32::try_from(len).map_err(|_| Fault::custom(format!("{len} elements or bytes in one value of state")))
}

/// The elements of a list, a tuple or a map.
pub(crate) struct Items<'a> {
    encoder: &'a mut Encoder,
    /// Where the number of elements goes that was not known before.
    head: Option<usize>,
    left: usize,
    count: usize,
}

impl Items<'_> {
    #[inline]
    fn item<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), Fault> {
        self.count += 1;
        self.left = self.left.wrapping_sub(1);
        value.serialize(&mut *self.encoder)
    }

    #[inline]
    fn done(self) -> Result<(), Fault> {
        self.encoder.depth -= 1;
        match self.head {
            None if self.left == 0 => Ok(()),
            None => Err(Fault::custom("a list or map has not as many elements as its type said")),
            Some(at) => {
                let count = length(self.count)?;
                if let Some(place) = self.encoder.bytes.get_mut(at..at + 4) {
                    place.copy_from_slice(&count.to_be_bytes());
                }
                Ok(())
            }
        }
    }
}

/// The fields of a struct or a variant.
pub(crate) struct Fields<'a> {
    encoder: &'a mut Encoder,
    shape: usize,
    /// Where the number of the shape goes.
    at: usize,
    len: usize,
    next: usize,
}

impl Fields<'_> {
    #[inline]
    fn field<V: Serialize + ?Sized>(&mut self, key: &'static str, value: &V) -> Result<(), Fault> {
        if !self.encoder.has(self.shape, self.next, key) {
            self.shape = self.encoder.sibling(self.shape, self.next, key)?;
        }
        let from = self.encoder.bytes.len();
        value.serialize(&mut *self.encoder).map_err(|fault| fault.at(key))?;
        let kinds = Kinds::of(self.encoder.bytes.get(from..).unwrap_or_default());
        let draft = self.encoder.drafts.get_mut(self.shape);
        if draft.and_then(|d| d.fields.get_mut(self.next)).is_some_and(|f| f.1.add(kinds)) {
            self.encoder.novel = true;
        }
        self.next += 1;
        Ok(())
    }

    fn done(self) -> Result<(), Fault> {
        self.encoder.depth -= 1;
        if self.next != self.len {
            return Err(Fault::custom("a struct has not as many fields as its type said"));
        }
        self.encoder.number(self.at, self.shape);
        Ok(())
    }
}

impl<'a> Serializer for &'a mut Encoder {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = Items<'a>;
    type SerializeTupleVariant = Items<'a>;
    type SerializeMap = Items<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    fn is_human_readable(&self) -> bool {
        false
    }
    #[inline]
    fn serialize_bool(self, v: bool) -> Result<(), Fault> {
        self.bytes.push(if v { 0xc3 } else { 0xc2 });
        Ok(())
    }
    #[inline]
    fn serialize_i8(self, v: i8) -> Result<(), Fault> {
        self.serialize_i64(v.into())
    }
    #[inline]
    fn serialize_i16(self, v: i16) -> Result<(), Fault> {
        self.serialize_i64(v.into())
    }
    #[inline]
    fn serialize_i32(self, v: i32) -> Result<(), Fault> {
        self.serialize_i64(v.into())
    }
    #[inline]
    fn serialize_i64(self, v: i64) -> Result<(), Fault> {
        self.int(v);
        Ok(())
    }
    #[inline]
    fn serialize_u8(self, v: u8) -> Result<(), Fault> {
        self.serialize_u64(v.into())
    }
    #[inline]
    fn serialize_u16(self, v: u16) -> Result<(), Fault> {
        self.serialize_u64(v.into())
    }
    #[inline]
    fn serialize_u32(self, v: u32) -> Result<(), Fault> {
        self.serialize_u64(v.into())
    }
    #[inline]
    fn serialize_u64(self, v: u64) -> Result<(), Fault> {
        self.uint(v);
        Ok(())
    }
    fn serialize_i128(self, v: i128) -> Result<(), Fault> {
        match (u64::try_from(v), i64::try_from(v)) {
            (Ok(v), _) => self.uint(v),
            (_, Ok(v)) => self.int(v),
            _ => {
                self.bytes.extend_from_slice(&[0xd8, tag::I128]);
                self.bytes.extend_from_slice(&v.to_be_bytes());
            }
        }
        Ok(())
    }
    fn serialize_u128(self, v: u128) -> Result<(), Fault> {
        match u64::try_from(v) {
            Ok(v) => self.uint(v),
            Err(_) => {
                self.bytes.extend_from_slice(&[0xd8, tag::U128]);
                self.bytes.extend_from_slice(&v.to_be_bytes());
            }
        }
        Ok(())
    }
    #[inline]
    fn serialize_f32(self, v: f32) -> Result<(), Fault> {
        self.wide::<4, 5>(0xca, v.to_be_bytes());
        Ok(())
    }
    #[inline]
    fn serialize_f64(self, v: f64) -> Result<(), Fault> {
        self.wide::<8, 9>(0xcb, v.to_be_bytes());
        Ok(())
    }
    fn serialize_char(self, v: char) -> Result<(), Fault> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }
    #[inline]
    fn serialize_str(self, v: &str) -> Result<(), Fault> {
        let len = v.len();
        if len < 32 {
            self.bytes.push(0xa0 | len as u8);
        } else if let Ok(len) = u8::try_from(len) {
            self.bytes.extend_from_slice(&[0xd9, len]);
        } else if let Ok(len) = u16::try_from(len) {
            self.bytes.push(0xda);
            self.bytes.extend_from_slice(&len.to_be_bytes());
        } else {
            self.bytes.push(0xdb);
            self.bytes.extend_from_slice(&length(len)?.to_be_bytes());
        }
        self.bytes.extend_from_slice(v.as_bytes());
        Ok(())
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<(), Fault> {
        if let Ok(len) = u8::try_from(v.len()) {
            self.bytes.extend_from_slice(&[0xc4, len]);
        } else if let Ok(len) = u16::try_from(v.len()) {
            self.bytes.push(0xc5);
            self.bytes.extend_from_slice(&len.to_be_bytes());
        } else {
            self.bytes.push(0xc6);
            self.bytes.extend_from_slice(&length(v.len())?.to_be_bytes());
        }
        self.bytes.extend_from_slice(v);
        Ok(())
    }
    #[inline]
    fn serialize_none(self) -> Result<(), Fault> {
        self.bytes.push(0xc0);
        Ok(())
    }
    fn serialize_some<V: Serialize + ?Sized>(self, value: &V) -> Result<(), Fault> {
        const SOME: [u8; 4] = [0x92, 0xd4, tag::SOME, 0];
        self.enter()?;
        let from = self.bytes.len();
        value.serialize(&mut *self)?;
        self.depth -= 1;
        let written = self.bytes.get(from..).unwrap_or_default();
        if written.first() == Some(&0xc0) || written.starts_with(&SOME) {
            // It would read as none.
            self.bytes.splice(from..from, SOME);
        }
        Ok(())
    }
    fn serialize_unit(self) -> Result<(), Fault> {
        self.serialize_none()
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Fault> {
        self.serialize_none()
    }
    fn serialize_unit_variant(self, name: &'static str, _: u32, variant: &'static str) -> Result<(), Fault> {
        let at = self.tagged(tag::UNIT);
        let shape = self.shape(name, variant, Form::Unit, 0)?;
        self.number(at, shape);
        Ok(())
    }
    fn serialize_newtype_struct<V: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &V,
    ) -> Result<(), Fault> {
        self.enter()?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }
    fn serialize_newtype_variant<V: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &V,
    ) -> Result<(), Fault> {
        self.enter()?;
        self.array(2)?;
        let at = self.tagged(tag::VARIANT);
        let shape = self.shape(name, variant, Form::Newtype, 1)?;
        self.number(at, shape);
        value.serialize(&mut *self).map_err(|fault| fault.at(variant))?;
        self.depth -= 1;
        Ok(())
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<Items<'a>, Fault> {
        self.items(len)
    }
    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Items<'a>, Fault> {
        self.items(Some(len))
    }
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Items<'a>, Fault> {
        self.items(Some(len))
    }
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'a>, Fault> {
        self.enter()?;
        self.array(len + 1)?;
        let at = self.tagged(tag::VARIANT);
        let shape = self.shape(name, variant, Form::Tuple, len)?;
        self.number(at, shape);
        Ok(Items { encoder: self, head: None, left: len, count: 0 })
    }
    fn serialize_map(self, len: Option<usize>) -> Result<Items<'a>, Fault> {
        self.enter()?;
        let head = match len {
            Some(len) => {
                self.head(len, 0x80, 0xde)?;
                None
            }
            None => {
                self.bytes.extend_from_slice(&[0xdf, 0, 0, 0, 0]);
                Some(self.bytes.len() - 4)
            }
        };
        Ok(Items { encoder: self, head, left: len.unwrap_or(0), count: 0 })
    }
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Fields<'a>, Fault> {
        self.fields(name, "", Form::Struct, len)
    }
    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Fields<'a>, Fault> {
        self.fields(name, variant, Form::Fields, len)
    }
}

impl SerializeSeq for Items<'_> {
    type Ok = ();
    type Error = Fault;
    fn serialize_element<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), Fault> {
        self.item(value)
    }
    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.done()
    }
}

impl SerializeTuple for Items<'_> {
    type Ok = ();
    type Error = Fault;
    #[inline]
    fn serialize_element<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), Fault> {
        self.item(value)
    }
    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.done()
    }
}

impl SerializeTupleStruct for Items<'_> {
    type Ok = ();
    type Error = Fault;
    fn serialize_field<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), Fault> {
        self.item(value)
    }
    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.done()
    }
}

impl SerializeTupleVariant for Items<'_> {
    type Ok = ();
    type Error = Fault;
    fn serialize_field<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), Fault> {
        self.item(value)
    }
    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.done()
    }
}

impl SerializeMap for Items<'_> {
    type Ok = ();
    type Error = Fault;
    fn serialize_key<V: Serialize + ?Sized>(&mut self, key: &V) -> Result<(), Fault> {
        self.item(key)
    }
    fn serialize_value<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), Fault> {
        // A pair counts once.
        value.serialize(&mut *self.encoder)
    }
    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.done()
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Fault;
    fn serialize_field<V: Serialize + ?Sized>(&mut self, key: &'static str, value: &V) -> Result<(), Fault> {
        self.field(key, value)
    }
    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.done()
    }
}

impl SerializeStructVariant for Fields<'_> {
    type Ok = ();
    type Error = Fault;
    fn serialize_field<V: Serialize + ?Sized>(&mut self, key: &'static str, value: &V) -> Result<(), Fault> {
        self.field(key, value)
    }
    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.done()
    }
}
