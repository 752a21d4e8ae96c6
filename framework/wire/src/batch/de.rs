//! Reading rows.

use serde::de::value::U32Deserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::ZERO_SIZED_ELEMENTS_MAX;
use super::error::BatchError;
use crate::limits::DEPTH_MAX;

pub(super) struct Decoder<'de> {
    rest: &'de [u8],
    depth_left: u32,
    zero_sized_left: u32,
}

impl<'de> Decoder<'de> {
    #[inline]
    pub(super) const fn new(rest: &'de [u8]) -> Self {
        Self { rest, depth_left: DEPTH_MAX, zero_sized_left: ZERO_SIZED_ELEMENTS_MAX }
    }

    #[inline]
    pub(super) const fn rest(&self) -> &'de [u8] {
        self.rest
    }

    /// The next row; one without bytes counts against the batch's bound.
    #[inline]
    pub(super) fn row<T: DeserializeOwned>(&mut self) -> Result<T, BatchError> {
        let before = self.rest.len();
        let row = T::deserialize(&mut *self)?;
        self.consumed_since(before)?;
        Ok(row)
    }

    #[inline]
    fn consumed_since(&mut self, before: usize) -> Result<(), BatchError> {
        if self.rest.len() == before {
            self.zero_sized_left = self.zero_sized_left.checked_sub(1).ok_or_else(BatchError::zero_sized)?;
        }
        Ok(())
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(BatchError::short(N as u64, self.rest.len()));
        };
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, BatchError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    #[inline]
    fn slice(&mut self) -> Result<&'de [u8], BatchError> {
        let len = self.u32()?;
        let Some((head, rest)) = self.rest.split_at_checked(len as usize) else {
            return Err(BatchError::short(u64::from(len), self.rest.len()));
        };
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn str(&mut self) -> Result<&'de str, BatchError> {
        std::str::from_utf8(self.slice()?).map_err(|_| BatchError::utf8())
    }

    /// A count that the rest can hold, or that the bound for elements without bytes can.
    #[inline]
    fn count(&mut self) -> Result<usize, BatchError> {
        let count = self.u32()?;
        if count as usize > self.rest.len() && count > self.zero_sized_left {
            return Err(if count > ZERO_SIZED_ELEMENTS_MAX {
                BatchError::zero_sized()
            } else {
                BatchError::count(u64::from(count))
            });
        }
        Ok(count as usize)
    }

    #[inline]
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, BatchError>) -> Result<T, BatchError> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or_else(BatchError::deep)?;
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }
}

macro_rules! fixed_width {
    ($($name:ident $visit:ident $type:ty),*) => {
        $(#[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
            visitor.$visit(<$type>::from_le_bytes(self.take()?))
        })*
    };
}

impl<'de> de::Deserializer<'de> for &mut Decoder<'de> {
    type Error = BatchError;

    fixed_width!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_u128 visit_u128 u128,
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_i128 visit_i128 i128,
        deserialize_f32 visit_f32 f32, deserialize_f64 visit_f64 f64
    );

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, BatchError> {
        Err(BatchError::self_describing("deserialize_any"))
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, BatchError> {
        Err(BatchError::self_describing("deserialize_identifier"))
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, BatchError> {
        Err(BatchError::self_describing("deserialize_ignored_any"))
    }
    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        match self.take()? {
            [0] => visitor.visit_bool(false),
            [1] => visitor.visit_bool(true),
            [other] => Err(BatchError::tag("bool", u32::from(other))),
        }
    }
    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        let code = self.u32()?;
        visitor.visit_char(char::from_u32(code).ok_or_else(|| BatchError::tag("char", code))?)
    }
    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        visitor.visit_borrowed_str(self.str()?)
    }
    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        visitor.visit_borrowed_str(self.str()?)
    }
    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        visitor.visit_borrowed_bytes(self.slice()?)
    }
    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        visitor.visit_borrowed_bytes(self.slice()?)
    }
    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        match self.take()? {
            [0] => visitor.visit_none(),
            [1] => self.nested(|decoder| visitor.visit_some(decoder)),
            [other] => Err(BatchError::tag("tag of an option", u32::from(other))),
        }
    }
    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        visitor.visit_unit()
    }
    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, BatchError> {
        visitor.visit_unit()
    }
    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, BatchError> {
        visitor.visit_newtype_struct(self)
    }
    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        let left = self.count()?;
        self.nested(|decoder| {
            let mut elements = Elements { decoder, left };
            let value = visitor.visit_seq(&mut elements)?;
            elements.end()?;
            Ok(value)
        })
    }
    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BatchError> {
        let left = self.count()?;
        self.nested(|decoder| {
            let mut elements = Elements { decoder, left };
            let value = visitor.visit_map(&mut elements)?;
            elements.end()?;
            Ok(value)
        })
    }
    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, BatchError> {
        visitor.visit_seq(Fields { decoder: self, left: len })
    }
    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, BatchError> {
        visitor.visit_seq(Fields { decoder: self, left: len })
    }
    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, BatchError> {
        visitor.visit_seq(Fields { decoder: self, left: fields.len() })
    }
    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, BatchError> {
        self.nested(|decoder| visitor.visit_enum(decoder))
    }
}

/// The fields of a struct or tuple: their number comes from the type, not from the input.
struct Fields<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Fields<'_, 'de> {
    type Error = BatchError;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, BatchError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// The elements of a sequence or the entries of a map: their number comes from the input.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
}

impl Elements<'_, '_> {
    /// A visitor that stops early would leave the rest of its elements to the next field.
    #[inline]
    fn end(&self) -> Result<(), BatchError> {
        if self.left > 0 {
            return Err(de::Error::invalid_length(
                self.left,
                &"a type that takes all elements of its sequence",
            ));
        }
        Ok(())
    }
}

impl<'de> de::SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = BatchError;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, BatchError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let before = self.decoder.rest.len();
        let element = seed.deserialize(&mut *self.decoder)?;
        self.decoder.consumed_since(before)?;
        Ok(Some(element))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(self.decoder.rest.len()))
    }
}

impl<'de> de::MapAccess<'de> for &mut Elements<'_, 'de> {
    type Error = BatchError;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, BatchError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let before = self.decoder.rest.len();
        let key = seed.deserialize(&mut *self.decoder)?;
        // An entry whose key takes no bytes counts even if its value does: such maps have one entry.
        self.decoder.consumed_since(before)?;
        Ok(Some(key))
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, BatchError> {
        seed.deserialize(&mut *self.decoder)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(self.decoder.rest.len()))
    }
}

impl<'de> de::EnumAccess<'de> for &mut Decoder<'de> {
    type Error = BatchError;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), BatchError> {
        let index: U32Deserializer<BatchError> = self.u32()?.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut Decoder<'de> {
    type Error = BatchError;

    #[inline]
    fn unit_variant(self) -> Result<(), BatchError> {
        Ok(())
    }
    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, BatchError> {
        seed.deserialize(self)
    }
    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, BatchError> {
        visitor.visit_seq(Fields { decoder: self, left: len })
    }
    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, BatchError> {
        visitor.visit_seq(Fields { decoder: self, left: fields.len() })
    }
}
