//! Reading MessagePack elements from a borrowed frame.

use crate::error::WireError;
use crate::limits::DEPTH_MAX;
use crate::scan::skip_value;

/// The rest of a frame. Every read names the element, so that an error can.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    #[inline]
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    fn byte(&mut self, what: &'static str) -> Result<u8, WireError> {
        let Some((first, rest)) = self.rest.split_first() else {
            return Err(truncated(what, 1));
        };
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(truncated(what, (N - self.rest.len()) as u64));
        };
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let Some((head, rest)) = self.rest.split_at_checked(bytes) else {
            return Err(truncated(what, (bytes - self.rest.len()) as u64));
        };
        self.rest = rest;
        Ok(head)
    }

    /// Any unsigned integer, and a signed one that is not negative.
    #[inline]
    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        let marker = self.byte(what)?;
        let signed = match marker {
            0x00..=0x7f => return Ok(u64::from(marker)),
            0xcc => return Ok(u64::from(self.byte(what)?)),
            0xcd => return Ok(u64::from(u16::from_be_bytes(self.array(what)?))),
            0xce => return Ok(u64::from(u32::from_be_bytes(self.array(what)?))),
            0xcf => return Ok(u64::from_be_bytes(self.array(what)?)),
            0xd0 => i64::from(self.byte(what)? as i8),
            0xd1 => i64::from(i16::from_be_bytes(self.array(what)?)),
            0xd2 => i64::from(i32::from_be_bytes(self.array(what)?)),
            0xd3 => i64::from_be_bytes(self.array(what)?),
            other => return Err(malformed(what, "an unsigned integer", other)),
        };
        u64::try_from(signed).map_err(|_| malformed(what, "an unsigned integer", marker))
    }

    #[inline]
    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        let value = self.u64(what)?;
        u32::try_from(value).map_err(|_| too_long(what, value, u64::from(u32::MAX)))
    }

    #[inline]
    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, WireError> {
        match self.rest.first() {
            Some(&marker @ 0xe0..=0xff) => {
                self.rest = &self.rest[1..];
                Ok(i64::from(marker as i8))
            }
            Some(0xd0..=0xd3) => {
                let marker = self.byte(what)?;
                Ok(match marker {
                    0xd0 => i64::from(self.byte(what)? as i8),
                    0xd1 => i64::from(i16::from_be_bytes(self.array(what)?)),
                    0xd2 => i64::from(i32::from_be_bytes(self.array(what)?)),
                    _ => i64::from_be_bytes(self.array(what)?),
                })
            }
            _ => {
                let value = self.u64(what)?;
                i64::try_from(value).map_err(|_| too_long(what, value, i64::MAX as u64))
            }
        }
    }

    /// The element count of an array; never more than the bytes that are left.
    #[inline]
    pub(super) fn array_len(&mut self, what: &'static str) -> Result<usize, WireError> {
        let count = match self.byte(what)? {
            marker @ 0x90..=0x9f => u64::from(marker & 0x0f),
            0xdc => u64::from(u16::from_be_bytes(self.array(what)?)),
            0xdd => u64::from(u32::from_be_bytes(self.array(what)?)),
            other => return Err(malformed(what, "an array", other)),
        };
        self.claim(count, 1, what)
    }

    /// The entry count of a map; never more than half the bytes that are left.
    #[inline]
    pub(super) fn map_len(&mut self, what: &'static str) -> Result<usize, WireError> {
        let count = match self.byte(what)? {
            marker @ 0x80..=0x8f => u64::from(marker & 0x0f),
            0xde => u64::from(u16::from_be_bytes(self.array(what)?)),
            0xdf => u64::from(u32::from_be_bytes(self.array(what)?)),
            other => return Err(malformed(what, "a map", other)),
        };
        self.claim(count, 2, what)
    }

    #[inline]
    fn claim(&self, count: u64, bytes_each: u64, what: &'static str) -> Result<usize, WireError> {
        let possible = self.rest.len() as u64 / bytes_each;
        if count > possible {
            return Err(too_long(what, count, possible));
        }
        Ok(count as usize)
    }

    /// A `bin`.
    #[inline]
    pub(super) fn bin(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let bytes = match self.byte(what)? {
            0xc4 => usize::from(self.byte(what)?),
            0xc5 => usize::from(u16::from_be_bytes(self.array(what)?)),
            0xc6 => u32::from_be_bytes(self.array(what)?) as usize,
            other => return Err(malformed(what, "bin", other)),
        };
        self.take(bytes, what)
    }

    /// A `str`, which must be UTF-8.
    #[inline]
    pub(super) fn str(&mut self, what: &'static str) -> Result<&'a str, WireError> {
        let bytes = match self.byte(what)? {
            marker @ 0xa0..=0xbf => usize::from(marker & 0x1f),
            0xd9 => usize::from(self.byte(what)?),
            0xda => usize::from(u16::from_be_bytes(self.array(what)?)),
            0xdb => u32::from_be_bytes(self.array(what)?) as usize,
            other => return Err(malformed(what, "str", other)),
        };
        std::str::from_utf8(self.take(bytes, what)?).map_err(|_| WireError::NotUtf8 { what })
    }

    /// A `bin`, or nil as no bytes.
    #[inline]
    pub(super) fn bin_or_nil(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        if self.nil() { Ok(&[]) } else { self.bin(what) }
    }

    /// True, and past it, where a nil stands.
    #[inline]
    pub(super) fn nil(&mut self) -> bool {
        match self.rest.split_first() {
            Some((0xc0, rest)) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// True where a string stands next.
    #[inline]
    pub(super) const fn at_str(&self) -> bool {
        matches!(self.rest.first(), Some(0xa0..=0xbf | 0xd9..=0xdb))
    }

    /// The bytes of one whole value.
    #[inline]
    pub(super) fn value(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let bytes = skip_value(self.rest, DEPTH_MAX)?;
        self.take(bytes, what)
    }
}

#[cold]
fn truncated(what: &'static str, missing_bytes: u64) -> WireError {
    WireError::Truncated { what, missing_bytes }
}

#[cold]
fn too_long(what: &'static str, claimed: u64, limit: u64) -> WireError {
    WireError::TooLong { what, claimed, limit }
}

#[cold]
pub(super) fn malformed(what: &'static str, expected: &'static str, marker: u8) -> WireError {
    WireError::Malformed { what, expected, got: type_name(marker) }
}

/// What a person calls the type that a marker starts.
const fn type_name(marker: u8) -> &'static str {
    match marker {
        0x00..=0x7f | 0xcc..=0xcf => "an unsigned integer",
        0xe0..=0xff | 0xd0..=0xd3 => "a signed integer",
        0x80..=0x8f | 0xde | 0xdf => "a map",
        0x90..=0x9f | 0xdc | 0xdd => "an array",
        0xa0..=0xbf | 0xd9..=0xdb => "str",
        0xc0 => "nil",
        0xc1 => "c1, which is never used",
        0xc2 | 0xc3 => "a bool",
        0xc4..=0xc6 => "bin",
        0xc7..=0xc9 | 0xd4..=0xd8 => "an extension",
        0xca | 0xcb => "a float",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_read_as_rmp_writes_them() {
        for n in [0u64, 1, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            let mut bytes = Vec::new();
            rmp::encode::write_uint(&mut bytes, n).unwrap();
            assert_eq!(Reader::new(&bytes).u64("n").unwrap(), n);
        }
        for n in [0i64, -1, -32, -33, -128, -129, -32_768, -32_769, i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            rmp::encode::write_sint(&mut bytes, n).unwrap();
            assert_eq!(Reader::new(&bytes).i64("n").unwrap(), n);
        }
    }

    #[test]
    fn a_signed_marker_with_a_positive_value_is_an_unsigned_integer() {
        assert_eq!(Reader::new(&[0xd3, 0, 0, 0, 0, 0, 0, 0, 9]).u64("n").unwrap(), 9);
        assert!(Reader::new(&[0xd0, 0xff]).u64("n").is_err());
        assert!(Reader::new(&[0xff]).u64("n").is_err());
    }

    #[test]
    fn a_claim_beyond_the_frame_is_refused() {
        let error = Reader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff, 0, 0]).array_len("frame").unwrap_err();
        assert_eq!(error, WireError::TooLong { what: "frame", claimed: 4_294_967_295, limit: 2 });
        assert_eq!(
            Reader::new(&[0xc6, 0xff, 0xff, 0xff, 0xff]).bin("params").unwrap_err(),
            WireError::Truncated { what: "params", missing_bytes: 4_294_967_295 }
        );
    }

    #[test]
    fn the_wrong_type_is_named() {
        let error = Reader::new(&[0xa1, b'x']).u64("REQUEST.id").unwrap_err();
        assert_eq!(error.to_string(), "REQUEST.id: expected an unsigned integer, got str");
    }
}
