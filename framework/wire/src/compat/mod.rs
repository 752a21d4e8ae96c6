//! Compatibility mode: the public MessagePack-RPC specification, without a socket.
//!
//! A message is one array, `[0, id, method, params]` (request), `[1, id, error, result]` (answer) or
//! `[2, method, params]` (notification), without a length in front of it: [`Scanner`](crate::Scanner) finds its
//! end. [`decode`] reads what a client sends, [`Params`] turns positional or named parameters into the map that
//! a method takes, [`put_answer`], [`put_error`] and [`put_notification`] write.
//!
//! Specification: <https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md>. Beyond it: `bin` stands for
//! `str` in names of methods and parameters, ids may have 64 bits, and a map may stand in place of the array of
//! parameters.
//!
//! Not here: who may call, where a call goes, and how many of them at once (`afflux-mesh`).

mod describe;
mod message;
mod name;
mod params;

pub use describe::{MethodDescription, ServiceDescription, describe_service, read_services};
pub use message::{
    Message, Refused, decode, peek_request_id, put_answer, put_error, put_notification,
    put_notification_error,
};
pub use name::{is_method, plain_name, split_name};
pub use params::{Params, Wanted};

use crate::limits::DEPTH_MAX;
use crate::scan::skip_value;

/// What type a marker begins, in the words of errors.
const fn type_name(marker: u8) -> &'static str {
    match marker {
        0xc0 => "nil",
        0xc2 | 0xc3 => "bool",
        0x00..=0x7f | 0xcc..=0xd3 | 0xe0..=0xff => "an integer",
        0xca | 0xcb => "a float",
        0xa0..=0xbf | 0xd9..=0xdb => "str",
        0xc4..=0xc6 => "bin",
        0x90..=0x9f | 0xdc | 0xdd => "an array",
        0x80..=0x8f | 0xde | 0xdf => "a map",
        0xc7..=0xc9 | 0xd4..=0xd8 => "ext",
        0xc1 => "c1, which is never used",
    }
}

/// Reads along complete MessagePack; every method gives nothing, and stays, where something else stands.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn marker(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn what(&self) -> &'static str {
        self.marker().map_or("nothing", type_name)
    }

    fn take(&mut self, head: usize, bytes: usize) -> Option<&'a [u8]> {
        let value = self.0.get(head..head.checked_add(bytes)?)?;
        self.0 = self.0.get(head + bytes..)?;
        Some(value)
    }

    fn number(&self, at: usize, bytes: usize) -> Option<u64> {
        let slice = self.0.get(at..at + bytes)?;
        Some(slice.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn unsigned(&mut self) -> Option<u64> {
        let marker = self.marker()?;
        let (value, bytes) = match marker {
            0x00..=0x7f => (u64::from(marker), 0),
            0xcc | 0xd0 => (self.number(1, 1)?, 1),
            0xcd | 0xd1 => (self.number(1, 2)?, 2),
            0xce | 0xd2 => (self.number(1, 4)?, 4),
            0xcf | 0xd3 => (self.number(1, 8)?, 8),
            _ => return None,
        };
        if matches!(marker, 0xd0..=0xd3) && value >> (bytes * 8 - 1) != 0 {
            return None;
        }
        self.take(1, bytes)?;
        Some(value)
    }

    /// `str`, or `bin` of the same bytes: what old and dynamic clients send for text.
    fn text(&mut self) -> Option<&'a [u8]> {
        let marker = self.marker()?;
        let (head, bytes) = match marker {
            0xa0..=0xbf => (1, u64::from(marker & 0x1f)),
            0xd9 | 0xc4 => (2, self.number(1, 1)?),
            0xda | 0xc5 => (3, self.number(1, 2)?),
            0xdb | 0xc6 => (5, self.number(1, 4)?),
            _ => return None,
        };
        self.take(head, usize::try_from(bytes).ok()?)
    }

    fn array(&mut self) -> Option<u64> {
        let marker = self.marker()?;
        let (head, count) = match marker {
            0x90..=0x9f => (1, u64::from(marker & 0x0f)),
            0xdc => (3, self.number(1, 2)?),
            0xdd => (5, self.number(1, 4)?),
            _ => return None,
        };
        self.take(head, 0)?;
        Some(count)
    }

    fn map(&mut self) -> Option<u64> {
        let marker = self.marker()?;
        let (head, count) = match marker {
            0x80..=0x8f => (1, u64::from(marker & 0x0f)),
            0xde => (3, self.number(1, 2)?),
            0xdf => (5, self.number(1, 4)?),
            _ => return None,
        };
        self.take(head, 0)?;
        Some(count)
    }

    /// One whole value.
    fn value(&mut self) -> Option<&'a [u8]> {
        let bytes = skip_value(self.0, DEPTH_MAX).ok()?;
        self.take(0, bytes)
    }
}

fn put_array_len(out: &mut Vec<u8>, len: u32) {
    match len {
        0..=15 => out.push(0x90 | len as u8),
        16..=0xffff => {
            out.push(0xdc);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdd);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
}

fn put_map_len(out: &mut Vec<u8>, len: u32) {
    match len {
        0..=15 => out.push(0x80 | len as u8),
        16..=0xffff => {
            out.push(0xde);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdf);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
}

/// Appends an unsigned integer.
pub fn put_number(out: &mut Vec<u8>, value: u64) {
    put_uint(out, value);
}

fn put_uint(out: &mut Vec<u8>, value: u64) {
    // Writing into a vector cannot fail.
    let _ = rmp::encode::write_uint(out, value);
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    let _ = rmp::encode::write_str(out, text);
}
