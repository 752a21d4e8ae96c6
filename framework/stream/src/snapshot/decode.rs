//! Reads rows of state back: fields by their names, whatever the type looks like now.
//!
//! Bytes may be anything: they give an error, never a panic, and no more memory than they have bytes.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::fault::Fault;
use super::shape::{Form, NESTING_MAX, Shape, tag};

/// Reads values one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Decoder<'de> {
    bytes: &'de [u8],
    at: usize,
    shapes: &'de [Shape],
    depth: u32,
}

/// A value, or what begins here.
#[derive(Clone, Copy, Debug)]
enum Value<'de> {
    Nil,
    Bool(bool),
    Uint(u64),
    Int(i64),
    U128(u128),
    I128(i128),
    F32(f32),
    F64(f64),
    Str(&'de str),
    Bytes(&'de [u8]),
    Seq(u32),
    Map(u32),
    Struct(&'de Shape),
    /// A variant with so many values.
    Variant(&'de Shape, u32),
    Some,
}

impl Value<'_> {
    fn name(&self) -> Unexpected<'_> {
        match self {
            Value::Nil => Unexpected::Unit,
            Value::Bool(v) => Unexpected::Bool(*v),
            Value::Uint(v) => Unexpected::Unsigned(*v),
            Value::Int(v) => Unexpected::Signed(*v),
            Value::U128(_) | Value::I128(_) => Unexpected::Other("an integer of 128 bits"),
            Value::F32(v) => Unexpected::Float((*v).into()),
            Value::F64(v) => Unexpected::Float(*v),
            Value::Str(v) => Unexpected::Str(v),
            Value::Bytes(v) => Unexpected::Bytes(v),
            Value::Seq(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
            Value::Struct(shape) => Unexpected::Other(&shape.name),
            Value::Variant(shape, _) => Unexpected::Other(&shape.name),
            Value::Some => Unexpected::Option,
        }
    }
}

impl<'de> Decoder<'de> {
    pub(crate) fn new(bytes: &'de [u8], shapes: &'de [Shape]) -> Self {
        Self { bytes, at: 0, shapes, depth: 0 }
    }

    /// Whether all has been read.
    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::custom(format!("{what} at byte {} of {}", self.at, self.bytes.len()))
    }

    fn take(&mut self, count: usize) -> Result<&'de [u8], Fault> {
        let end = self.at.checked_add(count).ok_or_else(|| self.fault("a length beyond all bounds"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| self.fault("the bytes end in a value"))?;
        self.at = end;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.fault("the bytes end in a value"))
    }

    fn size(&mut self, bytes: u8) -> Result<usize, Fault> {
        Ok(match bytes {
            1 => usize::from(u8::from_be_bytes(self.fixed()?)),
            2 => usize::from(u16::from_be_bytes(self.fixed()?)),
            _ => u32::from_be_bytes(self.fixed()?) as usize,
        })
    }

    fn text(&mut self, len: usize) -> Result<Value<'de>, Fault> {
        let text = std::str::from_utf8(self.take(len)?);
        text.map(Value::Str).map_err(|_| self.fault("text that is not UTF-8"))
    }

    fn shape(&mut self) -> Result<&'de Shape, Fault> {
        let id = usize::from(u16::from_be_bytes(self.fixed()?));
        let shapes = self.shapes;
        shapes.get(id).ok_or_else(|| self.fault("a shape that the block does not have"))
    }

    /// What stands behind the head of an array.
    fn array(&mut self, len: usize) -> Result<Value<'de>, Fault> {
        let ahead = self.bytes.get(self.at..).unwrap_or_default();
        match ahead {
            [0xd5, tag::STRUCT, ..] if len > 0 => {
                self.at += 2;
                let shape = self.shape()?;
                if shape.form != Form::Struct || shape.fields.len() + 1 != len {
                    return Err(self.fault("a struct with another number of fields than its shape"));
                }
                Ok(Value::Struct(shape))
            }
            [0xd5, tag::VARIANT, ..] if len > 0 => {
                self.at += 2;
                let shape = self.shape()?;
                let right = match shape.form {
                    Form::Struct | Form::Unit => false,
                    Form::Newtype => len == 2,
                    Form::Tuple => true,
                    Form::Fields => shape.fields.len() + 1 == len,
                };
                if !right {
                    return Err(self.fault("a variant with another number of values than its shape"));
                }
                Ok(Value::Variant(shape, (len - 1) as u32))
            }
            [0xd4, tag::SOME, 0, ..] if len == 2 => {
                self.at += 3;
                Ok(Value::Some)
            }
            _ => Ok(Value::Seq(self.count(len)?)),
        }
    }

    /// Elements cannot be more than there are bytes.
    fn count(&self, len: usize) -> Result<u32, Fault> {
        if len > self.bytes.len() - self.at {
            return Err(self.fault("more elements than bytes"));
        }
        Ok(len as u32)
    }

    fn value(&mut self) -> Result<Value<'de>, Fault> {
        let [first] = self.fixed()?;
        Ok(match first {
            0x00..=0x7f => Value::Uint(first.into()),
            0xe0..=0xff => Value::Int((first as i8).into()),
            0x80..=0x8f => Value::Map(self.count(usize::from(first & 15))?),
            0x90..=0x9f => return self.array(usize::from(first & 15)),
            0xa0..=0xbf => return self.text(usize::from(first & 31)),
            0xc0 => Value::Nil,
            0xc2 | 0xc3 => Value::Bool(first == 0xc3),
            0xc4..=0xc6 => {
                let len = self.size([1, 2, 4][usize::from(first - 0xc4)])?;
                Value::Bytes(self.take(len)?)
            }
            0xca => Value::F32(f32::from_be_bytes(self.fixed()?)),
            0xcb => Value::F64(f64::from_be_bytes(self.fixed()?)),
            0xcc => Value::Uint(u8::from_be_bytes(self.fixed()?).into()),
            0xcd => Value::Uint(u16::from_be_bytes(self.fixed()?).into()),
            0xce => Value::Uint(u32::from_be_bytes(self.fixed()?).into()),
            0xcf => Value::Uint(u64::from_be_bytes(self.fixed()?)),
            0xd0 => Value::Int(i8::from_be_bytes(self.fixed()?).into()),
            0xd1 => Value::Int(i16::from_be_bytes(self.fixed()?).into()),
            0xd2 => Value::Int(i32::from_be_bytes(self.fixed()?).into()),
            0xd3 => Value::Int(i64::from_be_bytes(self.fixed()?)),
            0xd5 => {
                let [kind] = self.fixed()?;
                let shape = self.shape()?;
                if kind != tag::UNIT || shape.form != Form::Unit {
                    return Err(self.fault("a tag that is no variant"));
                }
                Value::Variant(shape, 0)
            }
            0xd8 => {
                let [kind] = self.fixed()?;
                match kind {
                    tag::U128 => Value::U128(u128::from_be_bytes(self.fixed()?)),
                    tag::I128 => Value::I128(i128::from_be_bytes(self.fixed()?)),
                    _ => return Err(self.fault("an unknown tag")),
                }
            }
            0xd9..=0xdb => {
                let len = self.size([1, 2, 4][usize::from(first - 0xd9)])?;
                return self.text(len);
            }
            0xdc | 0xdd => {
                let len = self.size([2, 4][usize::from(first - 0xdc)])?;
                return self.array(len);
            }
            0xde | 0xdf => {
                let len = self.size([2, 4][usize::from(first - 0xde)])?;
                Value::Map(self.count(len)?)
            }
            _ => return Err(self.fault("a byte that begins no value of state")),
        })
    }

    fn peek(&self) -> Result<Value<'de>, Fault> {
        self.clone().value()
    }

    /// Steps over a value, however deep.
    pub(crate) fn skip(&mut self) -> Result<(), Fault> {
        let mut left = 1_u64;
        while left > 0 {
            left -= 1;
            left += match self.value()? {
                Value::Seq(len) => len.into(),
                Value::Map(len) => u64::from(len) * 2,
                Value::Struct(shape) => shape.fields.len() as u64,
                Value::Variant(_, len) => len.into(),
                Value::Some => 1,
                _ => 0,
            };
        }
        Ok(())
    }

    /// What the value that begins here is, for people: `[int, Order]`.
    pub(crate) fn describe(&mut self) -> Result<String, Fault> {
        const SHOWN_MAX: u32 = 4;
        let Value::Seq(len) = self.peek()? else {
            let name = self.plain_name()?;
            self.skip()?;
            return Ok(name);
        };
        self.value()?;
        let mut names = Vec::new();
        for at in 0..len {
            if at < SHOWN_MAX {
                names.push(self.plain_name()?);
            } else if at == SHOWN_MAX {
                names.push("…".to_owned());
            }
            self.skip()?;
        }
        Ok(format!("[{}]", names.join(", ")))
    }

    fn plain_name(&self) -> Result<String, Fault> {
        Ok(match self.peek()? {
            Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Uint(_) | Value::Int(_) | Value::U128(_) | Value::I128(_) => "int",
            Value::F32(_) | Value::F64(_) => "float",
            Value::Str(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::Seq(_) => "list",
            Value::Map(_) => "map",
            Value::Struct(shape) | Value::Variant(shape, _) => &shape.name,
            Value::Some => "option",
        }
        .to_owned())
    }

    fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(self.fault(&format!("a value nested in more than {NESTING_MAX} levels")));
        }
        Ok(())
    }

    fn list<V: Visitor<'de>>(&mut self, len: u32, visitor: V) -> Result<V::Value, Fault> {
        self.enter()?;
        let mut items = Items { decoder: self, left: len };
        let value = visitor.visit_seq(&mut items)?;
        if items.left > 0 {
            return Err(Fault::custom(format!("{} more elements were saved than are read now", items.left)));
        }
        self.depth -= 1;
        Ok(value)
    }

    fn entries<V: Visitor<'de>>(&mut self, len: u32, visitor: V) -> Result<V::Value, Fault> {
        self.enter()?;
        let mut items = Items { decoder: self, left: len };
        let value = visitor.visit_map(&mut items)?;
        if items.left > 0 {
            return Err(Fault::custom(format!("{} more entries were saved than are read now", items.left)));
        }
        self.depth -= 1;
        Ok(value)
    }

    fn fields<V: Visitor<'de>>(&mut self, shape: &'de Shape, visitor: V) -> Result<V::Value, Fault> {
        self.enter()?;
        let mut fields = Fields { decoder: self, shape, next: 0 };
        let value = visitor.visit_map(&mut fields).map_err(|fault| {
            if !fault.missing {
                return fault;
            }
            let more = format!(
                ": it is `{shape}` there; give a new field `#[serde(default)]`, and a renamed one \
                 `#[serde(alias = \"OLD\")]`"
            );
            fault.and(&more)
        })?;
        if fields.next < shape.fields.len() {
            return Err(Fault::custom(format!("not all fields of {} were read", shape.title())));
        }
        self.depth -= 1;
        Ok(value)
    }

    fn any<V: Visitor<'de>>(&mut self, value: Value<'de>, visitor: V) -> Result<V::Value, Fault> {
        match value {
            Value::Nil => visitor.visit_unit(),
            Value::Bool(v) => visitor.visit_bool(v),
            Value::Uint(v) => visitor.visit_u64(v),
            Value::Int(v) => visitor.visit_i64(v),
            Value::U128(v) => visitor.visit_u128(v),
            Value::I128(v) => visitor.visit_i128(v),
            Value::F32(v) => visitor.visit_f32(v),
            Value::F64(v) => visitor.visit_f64(v),
            Value::Str(v) => visitor.visit_borrowed_str(v),
            Value::Bytes(v) => visitor.visit_borrowed_bytes(v),
            Value::Seq(len) => self.list(len, visitor),
            Value::Map(len) => self.entries(len, visitor),
            Value::Struct(shape) => self.fields(shape, visitor),
            // As in JSON: a name, or a map of one name to what it has.
            Value::Variant(shape, _) if shape.form == Form::Unit => {
                visitor.visit_borrowed_str(&shape.variant)
            }
            Value::Variant(shape, len) => {
                self.enter()?;
                let value = visitor.visit_map(Tagged { decoder: self, shape: Some(shape), len })?;
                self.depth -= 1;
                Ok(value)
            }
            Value::Some => {
                self.enter()?;
                let value = visitor.visit_some(&mut *self)?;
                self.depth -= 1;
                Ok(value)
            }
        }
    }

    /// The values of a variant.
    fn payload<V: Visitor<'de>>(
        &mut self,
        shape: &'de Shape,
        len: u32,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match shape.form {
            Form::Newtype => {
                let value = self.value()?;
                self.any(value, visitor)
            }
            Form::Struct | Form::Fields => self.fields(shape, visitor),
            Form::Unit | Form::Tuple => self.list(len, visitor),
        }
    }
}

fn refused<T>(value: &Value<'_>, expected: &dyn serde::de::Expected) -> Result<T, Fault> {
    Err(Fault::invalid_type(value.name(), expected))
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = Fault;

    fn is_human_readable(&self) -> bool {
        false
    }
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = self.value()?;
        self.any(value, visitor)
    }
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::F32(v) => visitor.visit_f32(v),
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::F32(v) => visitor.visit_f64(v.into()),
            Value::F64(v) => visitor.visit_f64(v),
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::Str(v) => visitor.visit_borrowed_str(v),
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::Bytes(v) => visitor.visit_borrowed_bytes(v),
            Value::Seq(len) => self.list(len, visitor),
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_bytes(visitor)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.bytes.get(self.at..).unwrap_or_default() {
            [0xc0, ..] => {
                self.at += 1;
                return visitor.visit_none();
            }
            [0x92, 0xd4, tag::SOME, 0, ..] => self.at += 4,
            _ => {}
        }
        self.enter()?;
        let value = visitor.visit_some(&mut *self)?;
        self.depth -= 1;
        Ok(value)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.enter()?;
        let value = visitor.visit_newtype_struct(&mut *self)?;
        self.depth -= 1;
        Ok(value)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::Seq(len) => self.list(len, visitor),
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::Seq(saved) if saved as usize == len => self.list(saved, visitor),
            Value::Seq(saved) => Err(Fault::invalid_length(saved as usize, &visitor)),
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_tuple(len, visitor)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::Map(len) => self.entries(len, visitor),
            Value::Struct(shape) => self.fields(shape, visitor),
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value()? {
            Value::Variant(shape, len) => {
                self.enter()?;
                let value = visitor.visit_enum(Tagged { decoder: &mut *self, shape: Some(shape), len })?;
                self.depth -= 1;
                Ok(value)
            }
            other => refused(&other, &visitor),
        }
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.skip()?;
        visitor.visit_unit()
    }
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char unit unit_struct identifier
    }
}

/// The elements of a list, or the entries of a map.
struct Items<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: u32,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Fault;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.decoder).map(Some)
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.left as usize)
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = Fault;
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        SeqAccess::next_element_seed(self, seed)
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(&mut *self.decoder)
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.left as usize)
    }
}

/// The fields of a struct.
struct Fields<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    shape: &'de Shape,
    next: usize,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Fault;
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(field) = self.shape.fields.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(BorrowedStrDeserializer::new(&field.name)).map(Some)
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let value = seed.deserialize(&mut *self.decoder);
        value.map_err(|fault| match self.shape.fields.get(self.next.wrapping_sub(1)) {
            Some(field) => {
                fault.at(format!("{}.{} (saved as {})", self.shape.title(), field.name, field.kind))
            }
            None => fault,
        })
    }
}

/// A variant with its values.
struct Tagged<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    /// Taken when its name has been given, where it is read as a map.
    shape: Option<&'de Shape>,
    len: u32,
}

impl<'a, 'de> EnumAccess<'de> for Tagged<'a, 'de> {
    type Error = Fault;
    type Variant = Payload<'a, 'de>;
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Payload<'a, 'de>), Fault> {
        let Some(shape) = self.shape else { return Err(Fault::custom("a variant without a shape")) };
        let name = seed.deserialize(BorrowedStrDeserializer::new(&shape.variant))?;
        Ok((name, Payload { decoder: self.decoder, shape, len: self.len }))
    }
}

impl<'de> MapAccess<'de> for Tagged<'_, 'de> {
    type Error = Fault;
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(shape) = self.shape else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(&shape.variant)).map(Some)
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some(shape) = self.shape.take() else { return Err(Fault::custom("a variant has one value")) };
        seed.deserialize(Payload { decoder: &mut *self.decoder, shape, len: self.len })
    }
}

/// The values of a variant.
struct Payload<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    shape: &'de Shape,
    len: u32,
}

impl Payload<'_, '_> {
    fn other<T>(&self, expected: &str) -> Result<T, Fault> {
        Err(Fault::custom(format!("{} was saved, now {expected} is expected", self.shape)))
    }
}

impl<'de> VariantAccess<'de> for Payload<'_, 'de> {
    type Error = Fault;
    fn unit_variant(self) -> Result<(), Fault> {
        if self.shape.form == Form::Unit { Ok(()) } else { self.other("a variant without values") }
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        if self.shape.form != Form::Newtype {
            return self.other("a variant with one value");
        }
        let title = self.shape.title();
        seed.deserialize(self.decoder).map_err(|fault| fault.at(title))
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        if self.shape.form != Form::Tuple || self.len as usize != len {
            return self.other(&format!("a variant with {len} values in a row"));
        }
        self.decoder.list(self.len, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if self.shape.form != Form::Fields {
            return self.other("a variant with named fields");
        }
        self.decoder.fields(self.shape, visitor)
    }
}

/// For enums that are read without their type, such as untagged ones.
impl<'de> Deserializer<'de> for Payload<'_, 'de> {
    type Error = Fault;
    fn is_human_readable(&self) -> bool {
        false
    }
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.decoder.payload(self.shape, self.len, visitor)
    }
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        option newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
