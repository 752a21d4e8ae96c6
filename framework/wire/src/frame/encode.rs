//! Writing frames, length prefix included, behind whatever the buffer already holds.
//!
//! Nothing here allocates but the caller's buffer. A function whose frame has a size given by its caller returns an
//! error above [`FRAME_BYTES_CEILING`] and leaves the buffer as it was; the others cannot fail. The *peer's* limit is
//! the link's to check, with [`Limits::check_frame`](crate::Limits::check_frame), before it encodes.

use bytes::{BufMut, BytesMut};

use super::{Attach, CancelReason, Kind, Mark, Meta, Method};
use crate::codec;
use crate::error::WireError;
use crate::limits::{FRAME_BYTES_CEILING, METHOD_BYTES_MAX};
use crate::status::Status;
use crate::text;

/// Bytes of the length in front of every frame.
pub const FRAME_PREFIX_BYTES: usize = 4;

/// A growing buffer whose length prefix can be filled in afterwards: `Vec<u8>` or `BytesMut`.
pub trait FrameBuf: BufMut + AsMut<[u8]> {
    /// Makes room for `bytes` more.
    fn room(&mut self, bytes: usize);
    /// Forgets what stands behind `len`.
    fn cut(&mut self, len: usize);
}

impl FrameBuf for Vec<u8> {
    #[inline]
    fn room(&mut self, bytes: usize) {
        self.reserve(bytes);
    }
    #[inline]
    fn cut(&mut self, len: usize) {
        self.truncate(len);
    }
}

impl FrameBuf for BytesMut {
    #[inline]
    fn room(&mut self, bytes: usize) {
        self.reserve(bytes);
    }
    #[inline]
    fn cut(&mut self, len: usize) {
        self.truncate(len);
    }
}

/// The fixed-size start of a frame, put together on the stack and copied once.
pub(super) struct Head {
    bytes: [u8; Self::BYTES],
    len: usize,
}

impl Head {
    /// The longest: prefix 4, array 1, kind 1, and six integers of 9 (ATTACH without its text has 5).
    pub(super) const BYTES: usize = 64;

    #[inline]
    pub(super) const fn new() -> Self {
        Self { bytes: [0; Self::BYTES], len: 0 }
    }

    /// Prefix (still zero), array of `elements`, kind.
    #[inline]
    fn frame(elements: u8, kind: Kind) -> Self {
        let mut head = Self::new();
        head.len = FRAME_PREFIX_BYTES;
        head.byte(0x90 | elements);
        head.byte(kind as u8);
        head
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    #[inline]
    pub(super) fn uint(&mut self, value: u64) {
        if value < 0x80 {
            self.byte(value as u8);
        } else if value <= u64::from(u8::MAX) {
            self.byte(0xcc);
            self.byte(value as u8);
        } else if value <= u64::from(u16::MAX) {
            self.byte(0xcd);
            self.bytes(&(value as u16).to_be_bytes());
        } else if value <= u64::from(u32::MAX) {
            self.byte(0xce);
            self.bytes(&(value as u32).to_be_bytes());
        } else {
            self.byte(0xcf);
            self.bytes(&value.to_be_bytes());
        }
    }

    #[inline]
    fn int(&mut self, value: i64) {
        if value >= 0 {
            self.uint(value as u64);
        } else if value >= -32 {
            self.byte(value as u8);
        } else {
            self.byte(0xd3);
            self.bytes(&value.to_be_bytes());
        }
    }

    /// Header of a `bin`. Lengths above `u32::MAX` never reach the wire: every caller checks the ceiling.
    #[inline]
    pub(super) fn bin_header(&mut self, bytes: usize) {
        if bytes <= usize::from(u8::MAX) {
            self.byte(0xc4);
            self.byte(bytes as u8);
        } else if bytes <= usize::from(u16::MAX) {
            self.byte(0xc5);
            self.bytes(&(bytes as u16).to_be_bytes());
        } else {
            self.byte(0xc6);
            self.bytes(&(bytes as u32).to_be_bytes());
        }
    }

    #[inline]
    fn str_header(&mut self, bytes: usize) {
        if bytes < 32 {
            self.byte(0xa0 | bytes as u8);
        } else if bytes <= usize::from(u8::MAX) {
            self.byte(0xd9);
            self.byte(bytes as u8);
        } else if bytes <= usize::from(u16::MAX) {
            self.byte(0xda);
            self.bytes(&(bytes as u16).to_be_bytes());
        } else {
            self.byte(0xdb);
            self.bytes(&(bytes as u32).to_be_bytes());
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Fills in the prefix for a frame that goes on for `more` bytes behind this head.
    #[inline]
    fn seal(&mut self, more: usize) {
        let bytes = (self.len - FRAME_PREFIX_BYTES + more) as u32;
        self.bytes[..FRAME_PREFIX_BYTES].copy_from_slice(&bytes.to_be_bytes());
    }

    /// Writes a frame that is this head alone.
    #[inline]
    fn put_alone<B: FrameBuf>(mut self, buf: &mut B) {
        self.seal(0);
        buf.put_slice(self.as_slice());
    }
}

/// Refuses what no setting allows.
#[inline]
const fn check_ceiling(bytes: usize) -> Result<(), WireError> {
    if bytes > FRAME_BYTES_CEILING as usize {
        return Err(WireError::FrameTooLarge {
            bytes: bytes as u64,
            frame_bytes_max: FRAME_BYTES_CEILING as u64,
        });
    }
    Ok(())
}

/// Fills in the prefix of the frame that starts at `start`.
#[inline]
fn seal_at<B: FrameBuf>(buf: &mut B, start: usize) {
    let bytes = buf.as_mut();
    let len = (bytes.len() - start - FRAME_PREFIX_BYTES) as u32;
    bytes[start..start + FRAME_PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
}

#[inline]
fn put_call<B: FrameBuf>(
    buf: &mut B,
    mut head: Head,
    method: Method<'_>,
    params: &[u8],
    meta: &Meta,
) -> Result<(), WireError> {
    let start = buf.as_mut().len();
    let name = match method {
        Method::Number(number) => {
            head.uint(u64::from(number));
            ""
        }
        Method::Name(name) if name.len() > METHOD_BYTES_MAX => {
            return Err(WireError::TooLong {
                what: "method",
                claimed: name.len() as u64,
                limit: METHOD_BYTES_MAX as u64,
            });
        }
        Method::Name(name) => {
            head.str_header(name.len());
            name
        }
    };
    let bytes_max = Head::BYTES + name.len() + params.len() + meta.bytes_max();
    check_ceiling(bytes_max)?;
    buf.room(bytes_max);
    if name.is_empty() {
        head.bin_header(params.len());
        buf.put_slice(head.as_slice());
    } else {
        buf.put_slice(head.as_slice());
        buf.put_slice(name.as_bytes());
        let mut header = Head::new();
        header.bin_header(params.len());
        buf.put_slice(header.as_slice());
    }
    buf.put_slice(params);
    meta.put(buf);
    seal_at(buf, start);
    Ok(())
}

/// `[0, id, method, params, meta]`.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling, [`WireError::TooLong`] for a method's name of more than
/// [`METHOD_BYTES_MAX`] bytes.
///
/// ```
/// use afflux_wire::{Frame, Meta, Method, put_request};
///
/// let mut buf = Vec::new();
/// put_request(&mut buf, 1, Method::Number(4), b"\x91\x2a", &Meta::default()).unwrap();
/// assert_eq!(buf, [0, 0, 0, 9, 0x95, 0, 1, 4, 0xc4, 2, 0x91, 0x2a, 0xc0]);
/// ```
#[inline]
pub fn put_request<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    method: Method<'_>,
    params: &[u8],
    meta: &Meta,
) -> Result<(), WireError> {
    let mut head = Head::frame(5, Kind::Request);
    head.uint(id);
    put_call(buf, head, method, params, meta)
}

/// `[2, method, params, meta]`.
///
/// # Errors
/// As [`put_request`].
#[inline]
pub fn put_notify<B: FrameBuf>(
    buf: &mut B,
    method: Method<'_>,
    params: &[u8],
    meta: &Meta,
) -> Result<(), WireError> {
    put_call(buf, Head::frame(4, Kind::Notify), method, params, meta)
}

/// `[1, id, nil, result, meta]`. An empty result is a bin of no bytes.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
#[inline]
pub fn put_response_ok<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    result: &[u8],
    meta: &Meta,
) -> Result<(), WireError> {
    let bytes_max = Head::BYTES + result.len() + meta.bytes_max();
    check_ceiling(bytes_max)?;
    let start = buf.as_mut().len();
    buf.room(bytes_max);
    let mut head = Head::frame(5, Kind::Response);
    head.uint(id);
    head.byte(0xc0);
    head.bin_header(result.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(result);
    meta.put(buf);
    seal_at(buf, start);
    Ok(())
}

/// What stands around the `result_bytes` of an answer's result, without the prefix and with an empty meta: for frames
/// that travel in parts, whose result is not copied into one.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
pub fn response_around(id: u64, result_bytes: usize) -> Result<(Vec<u8>, Vec<u8>), WireError> {
    check_ceiling(Head::BYTES + result_bytes)?;
    let mut head = Head::frame(5, Kind::Response);
    head.uint(id);
    head.byte(0xc0);
    head.bin_header(result_bytes);
    let mut tail = Vec::new();
    Meta::default().put(&mut tail);
    Ok((head.as_slice()[FRAME_PREFIX_BYTES..].to_vec(), tail))
}

/// `[1, id, error, nil, meta]`.
///
/// # Errors
/// An error whose details cannot be encoded, or are above the ceiling.
pub fn put_response_err<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    error: &Status,
    meta: &Meta,
) -> Result<(), Status> {
    let error = codec::to_named(error)?;
    let bytes_max = Head::BYTES + error.len() + meta.bytes_max();
    check_ceiling(bytes_max)?;
    let start = buf.as_mut().len();
    buf.room(bytes_max);
    let mut head = Head::frame(5, Kind::Response);
    head.uint(id);
    buf.put_slice(head.as_slice());
    buf.put_slice(&error);
    buf.put_u8(0xc0);
    meta.put(buf);
    seal_at(buf, start);
    Ok(())
}

/// A frame `[kind, value]` whose value is encoded already.
pub(super) fn put_value<B: FrameBuf>(buf: &mut B, kind: Kind, value: &[u8]) -> Result<(), WireError> {
    check_ceiling(Head::BYTES + value.len())?;
    let mut head = Head::frame(2, kind);
    head.seal(value.len());
    buf.room(Head::BYTES + value.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(value);
    Ok(())
}

/// `[3, map]`.
///
/// # Errors
/// A value that cannot be encoded, or is above the ceiling.
pub fn put_hello<B: FrameBuf>(buf: &mut B, hello: &crate::Hello) -> Result<(), Status> {
    Ok(put_value(buf, Kind::Hello, &codec::to_named(hello)?)?)
}

/// `[4, map]`.
///
/// # Errors
/// A value that cannot be encoded, or is above the ceiling.
pub fn put_welcome<B: FrameBuf>(buf: &mut B, welcome: &crate::Welcome) -> Result<(), Status> {
    Ok(put_value(buf, Kind::Welcome, &codec::to_named(welcome)?)?)
}

/// `[5, error]`.
///
/// # Errors
/// An error whose details cannot be encoded, or are above the ceiling.
pub fn put_reject<B: FrameBuf>(buf: &mut B, error: &Status) -> Result<(), Status> {
    Ok(put_value(buf, Kind::Reject, &codec::to_named(error)?)?)
}

/// `[6, [[number, method], …]]`.
///
/// # Errors
/// [`WireError::TooLong`] for a name of more than [`METHOD_BYTES_MAX`] bytes, [`WireError::FrameTooLarge`] above
/// the ceiling.
pub fn put_bind<'a, B: FrameBuf>(
    buf: &mut B,
    methods: impl ExactSizeIterator<Item = (u32, &'a str)>,
) -> Result<(), WireError> {
    let start = buf.as_mut().len();
    check_ceiling(methods.len())?;
    let mut head = Head::frame(2, Kind::Bind);
    head.byte(0xdd);
    head.bytes(&(methods.len() as u32).to_be_bytes());
    buf.put_slice(head.as_slice());
    for (number, name) in methods {
        let written = buf.as_mut().len() - start;
        let fits = check_ceiling(written + name.len() + Head::BYTES);
        if fits.is_err() || name.len() > METHOD_BYTES_MAX {
            buf.cut(start);
            fits?;
            return Err(WireError::TooLong {
                what: "method",
                claimed: name.len() as u64,
                limit: METHOD_BYTES_MAX as u64,
            });
        }
        let mut head = Head::new();
        head.byte(0x92);
        head.uint(u64::from(number));
        head.str_header(name.len());
        buf.put_slice(head.as_slice());
        buf.put_slice(name.as_bytes());
    }
    seal_at(buf, start);
    Ok(())
}

/// Bytes of GOAWAY's reason; a longer one is cut at a character.
pub const REASON_BYTES_MAX: usize = 1024;

/// `[7, last_id, code, reason, grace_ms]`. The reason is cut at [`REASON_BYTES_MAX`].
pub fn put_goaway<B: FrameBuf>(buf: &mut B, last_id: u64, code: u32, reason: &str, grace_ms: u64) {
    let start = buf.as_mut().len();
    let reason = text::shorten(reason, REASON_BYTES_MAX);
    let mut head = Head::frame(5, Kind::Goaway);
    head.uint(last_id);
    head.uint(u64::from(code));
    head.str_header(reason.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(reason.as_bytes());
    let mut tail = Head::new();
    tail.uint(grace_ms);
    buf.put_slice(tail.as_slice());
    seal_at(buf, start);
}

/// `[8, nonce]`.
#[inline]
pub fn put_ping<B: FrameBuf>(buf: &mut B, nonce: u64) {
    let mut head = Head::frame(2, Kind::Ping);
    head.uint(nonce);
    head.put_alone(buf);
}

/// `[9, nonce]`.
#[inline]
pub fn put_pong<B: FrameBuf>(buf: &mut B, nonce: u64) {
    let mut head = Head::frame(2, Kind::Pong);
    head.uint(nonce);
    head.put_alone(buf);
}

/// `[10, id, reason]`.
#[inline]
pub fn put_cancel<B: FrameBuf>(buf: &mut B, id: u64, reason: CancelReason) {
    let mut head = Head::frame(3, Kind::Cancel);
    head.uint(id);
    head.uint(u64::from(reason.number()));
    head.put_alone(buf);
}

/// `[11, id, method, params, meta]`.
///
/// # Errors
/// As [`put_request`].
pub fn put_open<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    method: Method<'_>,
    params: &[u8],
    meta: &Meta,
) -> Result<(), WireError> {
    let mut head = Head::frame(5, Kind::Open);
    head.uint(id);
    put_call(buf, head, method, params, meta)
}

/// Everything of `[12, id, first_seq, count, bin]` but the `items_bytes` bytes of items, which the caller writes
/// right behind it.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
#[inline]
pub fn put_item_header<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    first_seq: u64,
    count: u32,
    items_bytes: usize,
) -> Result<(), WireError> {
    check_ceiling(Head::BYTES + items_bytes)?;
    let mut head = Head::frame(5, Kind::Item);
    head.uint(id);
    head.uint(first_seq);
    head.uint(u64::from(count));
    head.bin_header(items_bytes);
    head.seal(items_bytes);
    buf.put_slice(head.as_slice());
    Ok(())
}

/// `[12, id, first_seq, count, bin]`.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
///
/// ```
/// use afflux_wire::put_item;
///
/// let mut buf = Vec::new();
/// put_item(&mut buf, 1, 1, 2, &[7, 8]).unwrap();
/// assert_eq!(buf, [0, 0, 0, 9, 0x95, 12, 1, 1, 2, 0xc4, 2, 7, 8]);
/// ```
pub fn put_item<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    first_seq: u64,
    count: u32,
    items: &[u8],
) -> Result<(), WireError> {
    put_item_header(buf, id, first_seq, count, items.len())?;
    buf.put_slice(items);
    Ok(())
}

/// `[13, id, nil, result]`. An empty result is a bin of no bytes.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
pub fn put_end_ok<B: FrameBuf>(buf: &mut B, id: u64, result: &[u8]) -> Result<(), WireError> {
    check_ceiling(Head::BYTES + result.len())?;
    let mut head = Head::frame(4, Kind::End);
    head.uint(id);
    head.byte(0xc0);
    head.bin_header(result.len());
    head.seal(result.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(result);
    Ok(())
}

/// `[13, id, error, nil]`.
///
/// # Errors
/// An error whose details cannot be encoded, or are above the ceiling.
pub fn put_end_err<B: FrameBuf>(buf: &mut B, id: u64, error: &Status) -> Result<(), Status> {
    let error = codec::to_named(error)?;
    check_ceiling(Head::BYTES + error.len())?;
    let mut head = Head::frame(4, Kind::End);
    head.uint(id);
    head.seal(error.len() + 1);
    buf.put_slice(head.as_slice());
    buf.put_slice(&error);
    buf.put_u8(0xc0);
    Ok(())
}

/// Flag of a CHUNK: the first part, which has the length of the whole behind its bytes.
pub(super) const CHUNK_FIRST: u64 = 1;
/// Flag of a CHUNK: the last part.
pub(super) const CHUNK_LAST: u64 = 2;

/// `[15, id, flags, bin]`, with the bytes of the whole as a fifth element where `total` is given, which is the
/// first part. The parts of a whole, one behind the other, are a frame without its prefix.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
pub fn put_chunk<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    total: Option<u64>,
    last: bool,
    part: &[u8],
) -> Result<(), WireError> {
    check_ceiling(Head::BYTES + part.len())?;
    let start = buf.as_mut().len();
    let mut head = Head::frame(if total.is_some() { 5 } else { 4 }, Kind::Chunk);
    head.uint(id);
    head.uint(if total.is_some() { CHUNK_FIRST } else { 0 } | if last { CHUNK_LAST } else { 0 });
    head.bin_header(part.len());
    buf.room(2 * Head::BYTES + part.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(part);
    if let Some(total) = total {
        let mut tail = Head::new();
        tail.uint(total);
        buf.put_slice(tail.as_slice());
    }
    seal_at(buf, start);
    Ok(())
}

/// `[14, id, n]`.
#[inline]
pub fn put_credit<B: FrameBuf>(buf: &mut B, id: u64, n: u64) {
    let mut head = Head::frame(3, Kind::Credit);
    head.uint(id);
    head.uint(n);
    head.put_alone(buf);
}

/// Everything of `[16, channel, seq, count, bin]` but the `payload_bytes` bytes of rows, which the caller writes
/// right behind it, for example as a slice of their own in a vectored write.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
///
/// ```
/// let mut whole = Vec::new();
/// afflux_wire::put_data(&mut whole, 7, 1, 2, b"rows").unwrap();
/// let mut header = Vec::new();
/// afflux_wire::put_data_header(&mut header, 7, 1, 2, 4).unwrap();
/// assert_eq!(whole, [header.as_slice(), b"rows"].concat());
/// ```
#[inline]
pub fn put_data_header<B: FrameBuf>(
    buf: &mut B,
    channel: u64,
    seq: u64,
    count: u32,
    payload_bytes: usize,
) -> Result<(), WireError> {
    check_ceiling(Head::BYTES + payload_bytes)?;
    let mut head = Head::frame(5, Kind::Data);
    head.uint(channel);
    head.uint(seq);
    head.uint(u64::from(count));
    head.bin_header(payload_bytes);
    head.seal(payload_bytes);
    buf.put_slice(head.as_slice());
    Ok(())
}

/// `[16, channel, seq, count, bin]`.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
#[inline]
pub fn put_data<B: FrameBuf>(
    buf: &mut B,
    channel: u64,
    seq: u64,
    count: u32,
    rows: &[u8],
) -> Result<(), WireError> {
    put_data_header(buf, channel, seq, count, rows.len())?;
    buf.put_slice(rows);
    Ok(())
}

/// `[17, channel, attempt, fingerprint, job, edge, from, to]`.
///
/// # Errors
/// [`WireError::TooLong`] for a job's name of more than [`METHOD_BYTES_MAX`] bytes.
pub fn put_attach<B: FrameBuf>(buf: &mut B, attach: &Attach<'_>) -> Result<(), WireError> {
    if attach.job.len() > METHOD_BYTES_MAX {
        return Err(WireError::TooLong {
            what: "ATTACH.job",
            claimed: attach.job.len() as u64,
            limit: METHOD_BYTES_MAX as u64,
        });
    }
    let start = buf.as_mut().len();
    let mut head = Head::frame(8, Kind::Attach);
    head.uint(attach.channel);
    head.uint(attach.attempt);
    head.uint(attach.fingerprint);
    head.str_header(attach.job.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(attach.job.as_bytes());
    let mut tail = Head::new();
    tail.uint(u64::from(attach.edge));
    tail.uint(u64::from(attach.from));
    tail.uint(u64::from(attach.to));
    buf.put_slice(tail.as_slice());
    seal_at(buf, start);
    Ok(())
}

/// `[18, id, bin]`.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
pub fn put_watch<B: FrameBuf>(buf: &mut B, id: u64, actor: &[u8]) -> Result<(), WireError> {
    check_ceiling(Head::BYTES + actor.len())?;
    let mut head = Head::frame(3, Kind::Watch);
    head.uint(id);
    head.bin_header(actor.len());
    head.seal(actor.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(actor);
    Ok(())
}

/// `[19, id, reason, error|nil]`.
///
/// # Errors
/// An error whose details cannot be encoded, or are above the ceiling.
pub fn put_down<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    reason: u32,
    error: Option<&Status>,
) -> Result<(), Status> {
    let error = match error {
        Some(error) => codec::to_named(error)?,
        None => vec![0xc0],
    };
    check_ceiling(Head::BYTES + error.len())?;
    let mut head = Head::frame(4, Kind::Down);
    head.uint(id);
    head.uint(u64::from(reason));
    head.seal(error.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(&error);
    Ok(())
}

/// `[22, id, node, incarnation]`.
///
/// # Errors
/// [`WireError::TooLong`] for a name of more than [`METHOD_BYTES_MAX`] bytes.
pub fn put_redirect<B: FrameBuf>(
    buf: &mut B,
    id: u64,
    node: &str,
    incarnation: u64,
) -> Result<(), WireError> {
    if node.len() > METHOD_BYTES_MAX {
        return Err(WireError::TooLong {
            what: "REDIRECT.node",
            claimed: node.len() as u64,
            limit: METHOD_BYTES_MAX as u64,
        });
    }
    let start = buf.as_mut().len();
    let mut head = Head::frame(4, Kind::Redirect);
    head.uint(id);
    head.str_header(node.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(node.as_bytes());
    let mut tail = Head::new();
    tail.uint(incarnation);
    buf.put_slice(tail.as_slice());
    seal_at(buf, start);
    Ok(())
}

/// `[20, bin]`.
///
/// # Errors
/// [`WireError::FrameTooLarge`] above the ceiling.
pub fn put_health<B: FrameBuf>(buf: &mut B, report: &[u8]) -> Result<(), WireError> {
    check_ceiling(Head::BYTES + report.len())?;
    let mut head = Head::frame(2, Kind::Health);
    head.bin_header(report.len());
    head.seal(report.len());
    buf.put_slice(head.as_slice());
    buf.put_slice(report);
    Ok(())
}

/// `[21, channel]`.
#[inline]
pub fn put_detach<B: FrameBuf>(buf: &mut B, channel: u64) {
    let mut head = Head::frame(2, Kind::Detach);
    head.uint(channel);
    head.put_alone(buf);
}

/// `[23, channel, seq, kind, value]`.
#[inline]
pub fn put_mark<B: FrameBuf>(buf: &mut B, channel: u64, seq: u64, mark: Mark) {
    let mut head = Head::frame(5, Kind::Mark);
    head.uint(channel);
    head.uint(seq);
    match mark {
        Mark::Watermark(at_ms) => {
            head.byte(0);
            head.int(at_ms);
        }
        Mark::Idle => head.bytes(&[1, 0xc0]),
        Mark::Barrier(epoch) => {
            head.byte(2);
            head.uint(epoch);
        }
        Mark::End => head.bytes(&[3, 0xc0]),
    }
    head.put_alone(buf);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vec_and_bytes_mut_get_the_same_bytes_behind_what_they_hold() {
        let meta = Meta { deadline_ms: Some(70_000), ..Meta::default() };
        let mut vec = b"before".to_vec();
        let mut bytes = BytesMut::from(&b"before"[..]);
        put_request(&mut vec, u64::MAX, Method::Name("shop.orders/Place"), &[9; 300], &meta).unwrap();
        put_request(&mut bytes, u64::MAX, Method::Name("shop.orders/Place"), &[9; 300], &meta).unwrap();
        assert_eq!(vec, bytes);
        assert!(vec.starts_with(b"before"));
        let len = u32::from_be_bytes(vec[6..10].try_into().unwrap()) as usize;
        assert_eq!(len, vec.len() - 10);
    }

    #[test]
    fn a_method_name_above_its_limit_leaves_the_buffer_alone() {
        let long = "m".repeat(METHOD_BYTES_MAX + 1);
        let mut buf = b"before".to_vec();
        assert!(put_notify(&mut buf, Method::Name(&long), b"", &Meta::default()).is_err());
        assert!(put_bind(&mut buf, [(1, "a"), (2, long.as_str())].into_iter()).is_err());
        assert_eq!(buf, b"before");
    }

    #[test]
    fn a_payload_above_the_ceiling_is_refused_without_being_copied() {
        let mut buf = Vec::new();
        let error = put_data_header(&mut buf, 1, 1, 1, FRAME_BYTES_CEILING as usize).unwrap_err();
        assert_eq!(error.reason(), "frame_too_large");
        assert!(buf.is_empty());
    }

    #[test]
    fn the_longest_heads_fit() {
        let mut buf = Vec::new();
        put_mark(&mut buf, u64::MAX, u64::MAX, Mark::Watermark(i64::MIN));
        put_data_header(&mut buf, u64::MAX, u64::MAX, u32::MAX, 1 << 20).unwrap();
        let attach = Attach {
            channel: u64::MAX,
            attempt: u64::MAX,
            fingerprint: u64::MAX,
            job: &"j".repeat(METHOD_BYTES_MAX),
            edge: u32::MAX,
            from: u32::MAX,
            to: u32::MAX,
        };
        put_attach(&mut buf, &attach).unwrap();
        assert!(buf.len() > 300);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut buf = Vec::new();
        put_goaway(&mut buf, 1, 14, &"é".repeat(REASON_BYTES_MAX), 1);
        assert!(buf.len() < REASON_BYTES_MAX + 40);
    }
}
