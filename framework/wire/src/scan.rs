//! Walking a MessagePack value without decoding it and without recursion.
//!
//! MessagePack-RPC has no length prefix, so the end of a message is found by scanning. A [`Scanner`] takes up
//! where it stopped when more bytes arrive, so a peer that sends one byte at a time costs no more than one that
//! sends all at once. Claims are checked before anything waits for them: a container of n elements needs at
//! least n more bytes.

use crate::error::WireError;
use crate::limits::DEPTH_MAX;

/// What one MessagePack marker says about the bytes behind it.
enum Shape {
    /// A scalar: so many bytes belong to it.
    Scalar(usize),
    /// A length of so many bytes follows, then as many payload bytes as it says, plus the third.
    Payload { length_bytes: usize, extra: usize },
    /// A container with so many values (a map counts twice).
    Fixed(u64),
    /// A container whose count takes so many bytes, times the factor.
    Counted { length_bytes: usize, factor: u64 },
    /// `C1`, which MessagePack never uses.
    Never,
}

#[inline]
const fn shape(marker: u8) -> Shape {
    match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Shape::Scalar(0),
        0x80..=0x8f => Shape::Fixed((marker & 0x0f) as u64 * 2),
        0x90..=0x9f => Shape::Fixed((marker & 0x0f) as u64),
        0xa0..=0xbf => Shape::Scalar((marker & 0x1f) as usize),
        0xc1 => Shape::Never,
        0xc4 | 0xd9 => Shape::Payload { length_bytes: 1, extra: 0 },
        0xc5 | 0xda => Shape::Payload { length_bytes: 2, extra: 0 },
        0xc6 | 0xdb => Shape::Payload { length_bytes: 4, extra: 0 },
        0xc7 => Shape::Payload { length_bytes: 1, extra: 1 },
        0xc8 => Shape::Payload { length_bytes: 2, extra: 1 },
        0xc9 => Shape::Payload { length_bytes: 4, extra: 1 },
        0xcc | 0xd0 => Shape::Scalar(1),
        0xcd | 0xd1 | 0xd4 => Shape::Scalar(2),
        0xd5 => Shape::Scalar(3),
        0xca | 0xce | 0xd2 => Shape::Scalar(4),
        0xd6 => Shape::Scalar(5),
        0xcb | 0xcf | 0xd3 => Shape::Scalar(8),
        0xd7 => Shape::Scalar(9),
        0xd8 => Shape::Scalar(17),
        0xdc => Shape::Counted { length_bytes: 2, factor: 1 },
        0xdd => Shape::Counted { length_bytes: 4, factor: 1 },
        0xde => Shape::Counted { length_bytes: 2, factor: 2 },
        0xdf => Shape::Counted { length_bytes: 4, factor: 2 },
    }
}

/// Finds the end of one MessagePack value, across as many reads as it takes.
///
/// ```
/// use afflux_wire::Scanner;
///
/// let mut scanner = Scanner::new(1 << 20, 64);
/// assert_eq!(scanner.advance(&[0x92, 0x01]).unwrap(), None);               // an array of two, one is missing
/// assert_eq!(scanner.advance(&[0x92, 0x01, 0x02]).unwrap(), Some(3));      // complete after three bytes
/// ```
#[derive(Clone, Debug)]
pub struct Scanner {
    bytes_max: usize,
    depth_max: usize,
    elements_max: u64,
    elements: u64,
    at: usize,
    depth: usize,
    left: [u64; DEPTH_MAX as usize],
}

impl Scanner {
    /// A scanner for one value of at most `bytes_max` bytes and `depth_max` levels of nesting
    /// (never more than [`DEPTH_MAX`]).
    #[must_use]
    pub fn new(bytes_max: usize, depth_max: u32) -> Self {
        Self {
            bytes_max,
            depth_max: depth_max.min(DEPTH_MAX) as usize,
            elements_max: u64::MAX,
            elements: 0,
            at: 0,
            depth: 0,
            left: [0; DEPTH_MAX as usize],
        }
    }

    /// The same with a bound on the elements of all arrays and maps together; a map's entry is two.
    /// Without it only `bytes_max` bounds them, and values in memory are larger than their bytes.
    #[must_use]
    pub fn elements_max(mut self, elements_max: u64) -> Self {
        self.elements_max = elements_max;
        self
    }

    /// Makes it ready for the next value.
    pub fn reset(&mut self) {
        self.elements = 0;
        self.at = 0;
        self.depth = 0;
    }

    /// Goes on with `input`, which starts at the value's first byte and may be longer than at the last call.
    ///
    /// Returns the value's length in bytes once it is complete, `None` while bytes are missing.
    /// After an error or a completed value, [`Scanner::reset`] first.
    ///
    /// # Errors
    /// [`WireError::TooDeep`], [`WireError::TooLong`] for a value that is, or claims to become, longer than
    /// `bytes_max` or `elements_max`, and [`WireError::Malformed`] for the byte `C1`.
    pub fn advance(&mut self, input: &[u8]) -> Result<Option<usize>, WireError> {
        loop {
            let Some(&marker) = input.get(self.at) else {
                self.check(self.at as u64 + 1)?;
                return Ok(None);
            };
            let children = match shape(marker) {
                Shape::Scalar(bytes) => {
                    let end = self.at + 1 + bytes;
                    self.check(end as u64)?;
                    if input.len() < end {
                        return Ok(None);
                    }
                    self.at = end;
                    0
                }
                Shape::Payload { length_bytes, extra } => {
                    let Some(bytes) = big_endian(input, self.at + 1, length_bytes) else {
                        return Ok(None);
                    };
                    let end = (self.at + 1 + length_bytes + extra) as u64 + bytes;
                    self.check(end)?;
                    if (input.len() as u64) < end {
                        return Ok(None);
                    }
                    self.at = end as usize;
                    0
                }
                Shape::Fixed(count) => {
                    self.at += 1;
                    self.check(self.at as u64 + count)?;
                    self.open(count)?
                }
                Shape::Counted { length_bytes, factor } => {
                    let Some(count) = big_endian(input, self.at + 1, length_bytes) else {
                        return Ok(None);
                    };
                    self.at += 1 + length_bytes;
                    self.check(self.at as u64 + count * factor)?;
                    self.open(count * factor)?
                }
                Shape::Never => {
                    return Err(WireError::Malformed {
                        what: "value",
                        expected: "a MessagePack marker",
                        got: "c1, which is never used",
                    });
                }
            };
            if children == 0 && self.close() {
                return Ok(Some(self.at));
            }
        }
    }

    /// Enters a container of `count` values; an empty one needs no level of its own.
    #[inline]
    fn open(&mut self, count: u64) -> Result<u64, WireError> {
        if self.depth >= self.depth_max {
            return Err(WireError::TooDeep { depth_max: self.depth_max as u32 });
        }
        self.elements = self.elements.saturating_add(count);
        if self.elements > self.elements_max {
            let (claimed, limit) = (self.elements, self.elements_max);
            return Err(WireError::TooLong { what: "elements of a value", claimed, limit });
        }
        if count > 0 {
            self.left[self.depth] = count;
            self.depth += 1;
        }
        Ok(count)
    }

    /// One value has ended: leaves the containers that end with it. True when the outermost has.
    #[inline]
    fn close(&mut self) -> bool {
        while self.depth > 0 {
            let left = &mut self.left[self.depth - 1];
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.depth -= 1;
        }
        true
    }

    #[inline]
    fn check(&self, end: u64) -> Result<(), WireError> {
        if end > self.bytes_max as u64 {
            return Err(WireError::TooLong { what: "value", claimed: end, limit: self.bytes_max as u64 });
        }
        Ok(())
    }
}

#[inline]
fn big_endian(input: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let slice = input.get(at..at + bytes)?;
    Some(slice.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The length in bytes of the MessagePack value at the start of `input`, which must hold all of it.
///
/// # Errors
/// [`WireError::Truncated`] where the value does not end within `input` (a length or count that claims more than
/// is there is [`WireError::TooLong`]), otherwise as [`Scanner::advance`].
///
/// ```
/// assert_eq!(afflux_wire::skip_value(&[0x81, 0xa1, b'k', 0x07, 0xff], 64).unwrap(), 4);
/// ```
#[inline]
pub fn skip_value(input: &[u8], depth_max: u32) -> Result<usize, WireError> {
    // Scalars need no stack; they are nearly all that is ever skipped.
    if let Some(&marker) = input.first()
        && let Shape::Scalar(bytes) = shape(marker)
        && bytes < input.len()
    {
        return Ok(1 + bytes);
    }
    skip_scanned(input, depth_max)
}

#[inline(never)]
fn skip_scanned(input: &[u8], depth_max: u32) -> Result<usize, WireError> {
    match Scanner::new(input.len(), depth_max).advance(input)? {
        Some(end) => Ok(end),
        None => Err(WireError::Truncated { what: "value", missing_bytes: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_marker_is_walked_as_rmp_writes_it() {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        let mut end = |bytes: &Vec<u8>| ends.push(bytes.len());
        use rmp::encode as e;
        e::write_nil(&mut bytes).unwrap();
        end(&bytes);
        for n in [0u64, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), u64::MAX] {
            e::write_uint(&mut bytes, n).unwrap();
            end(&bytes);
        }
        for n in [-1i64, -32, -33, -128, -129, -32_768, -32_769, i64::MIN] {
            e::write_sint(&mut bytes, n).unwrap();
            end(&bytes);
        }
        e::write_f32(&mut bytes, 1.5).unwrap();
        end(&bytes);
        e::write_f64(&mut bytes, 1.5).unwrap();
        end(&bytes);
        e::write_bool(&mut bytes, true).unwrap();
        end(&bytes);
        for n in [0usize, 1, 31, 32, 255, 256, 65_535, 65_536] {
            e::write_str(&mut bytes, &"x".repeat(n)).unwrap();
            end(&bytes);
            e::write_bin(&mut bytes, &vec![0; n]).unwrap();
            end(&bytes);
            if n > 0 {
                e::write_ext_meta(&mut bytes, n as u32, 5).unwrap();
                bytes.extend(vec![0; n]);
                end(&bytes);
            }
        }
        for n in [2u32, 4, 8, 16] {
            e::write_ext_meta(&mut bytes, n, 5).unwrap();
            bytes.extend(vec![0; n as usize]);
            end(&bytes);
        }
        for n in [0u32, 1, 15, 16, 65_535, 65_536] {
            e::write_array_len(&mut bytes, n).unwrap();
            bytes.extend(vec![0x07; n as usize]);
            end(&bytes);
            e::write_map_len(&mut bytes, n).unwrap();
            bytes.extend(vec![0x07; 2 * n as usize]);
            end(&bytes);
        }
        let mut at = 0;
        for end in ends {
            assert_eq!(at + skip_value(&bytes[at..], 64).unwrap(), end);
            at = end;
        }
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn a_scan_byte_by_byte_ends_where_a_scan_at_once_ends() {
        let value = [0x93, 0x81, 0xa1, b'k', 0xc4, 2, 9, 9, 0x90, 0xcd, 1, 0];
        let mut scanner = Scanner::new(100, 64);
        for n in 0..value.len() {
            assert_eq!(scanner.advance(&value[..n]).unwrap(), None, "after {n} bytes");
        }
        assert_eq!(scanner.advance(&value).unwrap(), Some(value.len()));
        scanner.reset();
        assert_eq!(scanner.advance(&value).unwrap(), Some(value.len()));
    }

    #[test]
    fn sixty_four_levels_are_walked_and_sixty_five_are_refused() {
        let nested = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
        assert_eq!(skip_value(&nested(64), 64).unwrap(), 65);
        assert_eq!(skip_value(&nested(65), 64), Err(WireError::TooDeep { depth_max: 64 }));
    }

    #[test]
    fn a_false_claim_is_refused_before_waiting_for_it() {
        let mut scanner = Scanner::new(1_000, 64);
        assert!(matches!(scanner.advance(&[0xdd, 0xff, 0xff, 0xff, 0xff]), Err(WireError::TooLong { .. })));
        scanner.reset();
        assert!(matches!(scanner.advance(&[0xdf, 0xff, 0xff, 0xff, 0xff]), Err(WireError::TooLong { .. })));
        scanner.reset();
        assert!(matches!(scanner.advance(&[0xdb, 0xff, 0xff, 0xff, 0xff]), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn a_value_that_never_ends_is_refused_at_the_limit() {
        let mut scanner = Scanner::new(4, 64);
        assert_eq!(scanner.advance(&[0x94, 1, 1]).ok(), None, "an array of four needs five bytes");
    }

    #[test]
    fn elements_are_counted_over_all_levels_and_anew_for_the_next_value() {
        let value = [0x92, 0x92, 1, 2, 0x81, 3, 4];
        let mut scanner = Scanner::new(100, 64).elements_max(6);
        assert_eq!(scanner.advance(&value).unwrap(), Some(7));
        scanner.reset();
        assert_eq!(scanner.advance(&value).unwrap(), Some(7));
        let mut scanner = Scanner::new(100, 64).elements_max(5);
        assert!(matches!(scanner.advance(&value), Err(WireError::TooLong { claimed: 6, limit: 5, .. })));
    }

    #[test]
    fn the_byte_that_messagepack_never_uses_is_refused() {
        assert!(matches!(skip_value(&[0x91, 0xc1], 64), Err(WireError::Malformed { .. })));
    }
}
