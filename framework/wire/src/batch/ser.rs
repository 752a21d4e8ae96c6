//! Writing rows.

use std::fmt::{self, Display, Write};

use serde::ser::{self, Serialize};

use super::ZERO_SIZED_ELEMENTS_MAX;
use super::error::BatchError;
use crate::limits::DEPTH_MAX;

pub(super) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    depth_left: u32,
    zero_sized_left: u32,
}

impl<'a> Encoder<'a> {
    #[inline]
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, depth_left: DEPTH_MAX, zero_sized_left: ZERO_SIZED_ELEMENTS_MAX }
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.out.extend_from_slice(&bytes);
    }

    #[inline]
    fn put_len(&mut self, len: usize, what: &'static str) -> Result<(), BatchError> {
        let len = u32::try_from(len).map_err(|_| BatchError::long(what))?;
        self.put(len.to_le_bytes());
        Ok(())
    }

    /// Only what can contain itself is counted: sequences, maps, options and enums. Structs cannot without one.
    #[inline]
    fn deeper(&mut self) -> Result<(), BatchError> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or_else(BatchError::deep)?;
        Ok(())
    }

    #[inline]
    fn up(&mut self) {
        self.depth_left += 1;
    }

    /// Starts something counted; the count is filled in at its end, so that it is right even where the hint is not.
    #[inline]
    fn counted(&mut self) -> Result<Counted<'_, 'a>, BatchError> {
        self.deeper()?;
        let at = self.out.len();
        self.put([0; 4]);
        Ok(Counted { encoder: self, at, count: 0 })
    }

    #[inline]
    fn variant(&mut self, index: u32) -> Result<(), BatchError> {
        self.deeper()?;
        self.put(index.to_le_bytes());
        Ok(())
    }
}

/// A sequence or map that is being written.
pub(super) struct Counted<'e, 'a> {
    encoder: &'e mut Encoder<'a>,
    at: usize,
    count: u64,
}

impl Counted<'_, '_> {
    /// One element of a sequence, or the value of an entry.
    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, from: usize, value: &T) -> Result<(), BatchError> {
        value.serialize(&mut *self.encoder)?;
        self.count += 1;
        if self.encoder.out.len() == from {
            self.encoder.zero_sized_left =
                self.encoder.zero_sized_left.checked_sub(1).ok_or_else(BatchError::zero_sized)?;
        }
        Ok(())
    }

    #[inline]
    fn finish(self) -> Result<(), BatchError> {
        self.encoder.up();
        let count = u32::try_from(self.count).map_err(|_| BatchError::long("sequence"))?;
        if let Some(slot) = self.encoder.out.get_mut(self.at..self.at + 4) {
            slot.copy_from_slice(&count.to_le_bytes());
        }
        Ok(())
    }
}

/// The entries of a map; an entry without bytes is counted once, at its value.
pub(super) struct Entries<'e, 'a> {
    counted: Counted<'e, 'a>,
    entry_at: usize,
}

/// The fields of a struct or tuple; those of an enum's variant lead one level up at their end.
pub(super) struct Fields<'e, 'a> {
    encoder: &'e mut Encoder<'a>,
    in_variant: bool,
}

macro_rules! fixed_width {
    ($($name:ident: $type:ty),*) => {
        $(#[inline]
        fn $name(self, value: $type) -> Result<(), BatchError> {
            self.put(value.to_le_bytes());
            Ok(())
        })*
    };
}

impl<'e, 'a> ser::Serializer for &'e mut Encoder<'a> {
    type Ok = ();
    type Error = BatchError;
    type SerializeSeq = Counted<'e, 'a>;
    type SerializeTuple = Fields<'e, 'a>;
    type SerializeTupleStruct = Fields<'e, 'a>;
    type SerializeTupleVariant = Fields<'e, 'a>;
    type SerializeMap = Entries<'e, 'a>;
    type SerializeStruct = Fields<'e, 'a>;
    type SerializeStructVariant = Fields<'e, 'a>;

    fixed_width!(
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_f32: f32, serialize_f64: f64
    );

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), BatchError> {
        self.put([u8::from(value)]);
        Ok(())
    }
    #[inline]
    fn serialize_char(self, value: char) -> Result<(), BatchError> {
        self.put(u32::from(value).to_le_bytes());
        Ok(())
    }
    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), BatchError> {
        self.serialize_bytes(value.as_bytes())
    }
    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), BatchError> {
        self.out.reserve(4 + value.len());
        self.put_len(value.len(), "str or bytes")?;
        self.out.extend_from_slice(value);
        Ok(())
    }
    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), BatchError> {
        let at = self.out.len();
        self.put([0; 4]);
        write!(Text(&mut *self.out), "{value}")
            .map_err(|_| ser::Error::custom("a value could not be displayed"))?;
        let len = u32::try_from(self.out.len() - at - 4).map_err(|_| BatchError::long("str"))?;
        if let Some(slot) = self.out.get_mut(at..at + 4) {
            slot.copy_from_slice(&len.to_le_bytes());
        }
        Ok(())
    }
    #[inline]
    fn serialize_none(self) -> Result<(), BatchError> {
        self.put([0]);
        Ok(())
    }
    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), BatchError> {
        self.deeper()?;
        self.put([1]);
        value.serialize(&mut *self)?;
        self.up();
        Ok(())
    }
    #[inline]
    fn serialize_unit(self) -> Result<(), BatchError> {
        Ok(())
    }
    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), BatchError> {
        Ok(())
    }
    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<(), BatchError> {
        self.put(index.to_le_bytes());
        Ok(())
    }
    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), BatchError> {
        value.serialize(self)
    }
    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), BatchError> {
        self.variant(index)?;
        value.serialize(&mut *self)?;
        self.up();
        Ok(())
    }
    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Counted<'e, 'a>, BatchError> {
        self.counted()
    }
    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Fields<'e, 'a>, BatchError> {
        Ok(Fields { encoder: self, in_variant: false })
    }
    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Fields<'e, 'a>, BatchError> {
        Ok(Fields { encoder: self, in_variant: false })
    }
    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'e, 'a>, BatchError> {
        self.variant(index)?;
        Ok(Fields { encoder: self, in_variant: true })
    }
    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'e, 'a>, BatchError> {
        Ok(Entries { counted: self.counted()?, entry_at: 0 })
    }
    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'e, 'a>, BatchError> {
        Ok(Fields { encoder: self, in_variant: false })
    }
    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'e, 'a>, BatchError> {
        self.variant(index)?;
        Ok(Fields { encoder: self, in_variant: true })
    }
}

/// Lets `write!` append to bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl ser::SerializeSeq for Counted<'_, '_> {
    type Ok = ();
    type Error = BatchError;
    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), BatchError> {
        let from = self.encoder.out.len();
        self.element(from, value)
    }
    #[inline]
    fn end(self) -> Result<(), BatchError> {
        self.finish()
    }
}

impl ser::SerializeMap for Entries<'_, '_> {
    type Ok = ();
    type Error = BatchError;
    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), BatchError> {
        self.entry_at = self.counted.encoder.out.len();
        key.serialize(&mut *self.counted.encoder)
    }
    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), BatchError> {
        self.counted.element(self.entry_at, value)
    }
    #[inline]
    fn end(self) -> Result<(), BatchError> {
        self.counted.finish()
    }
}

impl Fields<'_, '_> {
    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), BatchError> {
        value.serialize(&mut *self.encoder)
    }

    #[inline]
    fn finish(self) -> Result<(), BatchError> {
        if self.in_variant {
            self.encoder.up();
        }
        Ok(())
    }
}

macro_rules! positional {
    ($($trait:ident $method:ident),*) => {
        $(impl ser::$trait for Fields<'_, '_> {
            type Ok = ();
            type Error = BatchError;
            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), BatchError> {
                self.field(value)
            }
            #[inline]
            fn end(self) -> Result<(), BatchError> {
                self.finish()
            }
        })*
    };
}

positional!(SerializeTuple serialize_element, SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field);

macro_rules! named {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Fields<'_, '_> {
            type Ok = ();
            type Error = BatchError;
            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), BatchError> {
                self.field(value)
            }
            /// A gap would shift every later field.
            fn skip_field(&mut self, field: &'static str) -> Result<(), BatchError> {
                Err(BatchError::skipped(field))
            }
            #[inline]
            fn end(self) -> Result<(), BatchError> {
                self.finish()
            }
        })*
    };
}

named!(SerializeStruct, SerializeStructVariant);
