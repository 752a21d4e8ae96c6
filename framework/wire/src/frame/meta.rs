//! What travels beside a call: a map with small integer keys, or nil.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::encode::Head;
use super::read::Reader;
use crate::contract::TraceParent;
use crate::error::WireError;

impl TraceParent {
    /// Bytes of the binary form: 16 of trace, 8 of parent span, 1 of flags.
    pub const BYTES: usize = 25;

    /// Whether the caller records this trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The binary form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.parent_id);
        bytes[24] = self.flags;
        bytes
    }

    /// From the binary form.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut trace = Self { trace_id: [0; 16], parent_id: [0; 8], flags: bytes[24] };
        trace.trace_id.copy_from_slice(&bytes[..16]);
        trace.parent_id.copy_from_slice(&bytes[16..24]);
        trace
    }
}

/// The text of the [`traceparent` header](https://www.w3.org/TR/trace-context/), version 00.
///
/// ```
/// use afflux_wire::TraceParent;
///
/// let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let trace: TraceParent = text.parse().unwrap();
/// assert!(trace.is_sampled());
/// assert_eq!(trace.to_string(), text);
/// ```
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.parent_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self, WireError> {
        parse_text(text.as_bytes()).ok_or(WireError::Malformed {
            what: "traceparent",
            expected: "00-<32 hex digits>-<16 hex digits>-<2 hex digits>",
            got: "another text",
        })
    }
}

fn parse_text(text: &[u8]) -> Option<TraceParent> {
    let text: &[u8; 55] = text.try_into().ok()?;
    if &text[..3] != b"00-" || text[35] != b'-' || text[52] != b'-' {
        return None;
    }
    let mut bytes = [0; TraceParent::BYTES];
    hex(&text[3..35], &mut bytes[..16])?;
    hex(&text[36..52], &mut bytes[16..24])?;
    hex(&text[53..55], &mut bytes[24..])?;
    let trace = TraceParent::from_bytes(&bytes);
    (trace.trace_id != [0; 16] && trace.parent_id != [0; 8]).then_some(trace)
}

fn hex(text: &[u8], out: &mut [u8]) -> Option<()> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (pair, byte) in text.chunks_exact(2).zip(out) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

/// Keys of the map.
mod key {
    pub(super) const DEADLINE_MS: u64 = 1;
    pub(super) const TRACEPARENT: u64 = 2;
    pub(super) const ATTEMPT: u64 = 3;
    pub(super) const IDEMPOTENCY_KEY: u64 = 4;
    pub(super) const CHAIN: u64 = 5;
    pub(super) const TO: u64 = 6;
    pub(super) const FROM: u64 = 7;
    pub(super) const PRIORITY: u64 = 8;
    pub(super) const TOKEN: u64 = 9;
    pub(super) const COMPRESSION: u64 = 10;
    pub(super) const BAGGAGE: u64 = 11;
    pub(super) const LOAD: u64 = 12;
    pub(super) const TRACESTATE: u64 = 13;
    pub(super) const ROWS: u64 = 14;
}

/// What travels beside `params` or `result`. All of it is optional; an empty one is a single nil on the wire.
///
/// ```
/// use afflux_wire::Meta;
///
/// let meta = Meta { deadline_ms: Some(1_500), ..Meta::default() };
/// assert!(!meta.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Time that is left for the call when the frame is written; it shrinks at every hop.
    pub deadline_ms: Option<u64>,
    /// The trace that the call belongs to.
    pub traceparent: Option<TraceParent>,
    /// 0 for the first attempt of a call.
    pub attempt: u32,
    /// 0 is normal, 1 high, 2 low; others are read as normal.
    pub priority: u32,
    /// Of an answer: requests that its node has not answered yet for the same service; 0 when it does
    /// not say.
    pub load: u32,
    /// Of OPEN: the caller is of the same build, so that items may be rows of [`batch`](crate::batch).
    pub rows: bool,
    /// The rest, behind a pointer: frames are moved about, and most calls have none of it.
    pub rare: Option<Box<RareMeta>>,
}

/// What few calls carry; see [`Meta::rare`]. Only `bin` on the wire: opaque to the link.
///
/// ```
/// use afflux_wire::Meta;
/// use bytes::Bytes;
///
/// let mut meta = Meta::default();
/// meta.rare_mut().idempotency_key = Some(Bytes::from_static(b"order-7"));
/// assert_eq!(meta.rare().map(|rare| rare.token.is_some()), Some(false));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RareMeta {
    /// Equal keys mean the same effect: the called side may answer from memory.
    pub idempotency_key: Option<Bytes>,
    /// The actors that already wait for this call, in the encoding of the layer above.
    pub chain: Option<Bytes>,
    /// The actor that is called, where the method's service does not say it.
    pub to: Option<Bytes>,
    /// The actor that calls.
    pub from: Option<Bytes>,
    /// The caller's credential.
    pub token: Option<Bytes>,
    /// W3C Baggage, as the header has it.
    pub baggage: Option<Bytes>,
    /// What goes with `traceparent` in W3C Trace Context, as the header has it.
    pub tracestate: Option<Bytes>,
}

impl RareMeta {
    /// Key and value of each field, in the order in which they are written.
    fn fields(&self) -> [(u64, &Option<Bytes>); 7] {
        [
            (key::IDEMPOTENCY_KEY, &self.idempotency_key),
            (key::CHAIN, &self.chain),
            (key::TO, &self.to),
            (key::FROM, &self.from),
            (key::TOKEN, &self.token),
            (key::BAGGAGE, &self.baggage),
            (key::TRACESTATE, &self.tracestate),
        ]
    }
}

impl Meta {
    /// Whether there is nothing in it.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries() == 0
    }

    /// The rarely used fields, if there are any.
    #[inline]
    #[must_use]
    pub fn rare(&self) -> Option<&RareMeta> {
        self.rare.as_deref()
    }

    /// The rarely used fields, made when they are absent.
    pub fn rare_mut(&mut self) -> &mut RareMeta {
        self.rare.get_or_insert_default()
    }

    #[inline]
    fn entries(&self) -> u8 {
        let rare = match &self.rare {
            None => 0,
            Some(rare) => rare.fields().iter().filter(|(_, value)| value.is_some()).count() as u8,
        };
        u8::from(self.deadline_ms.is_some())
            + u8::from(self.traceparent.is_some())
            + u8::from(self.attempt != 0)
            + u8::from(self.priority != 0)
            + u8::from(self.load != 0)
            + u8::from(self.rows)
            + rare
    }

    /// Appends the map, or nil.
    #[inline]
    pub(super) fn put<B: bytes::BufMut>(&self, buf: &mut B) {
        let entries = self.entries();
        if entries == 0 {
            buf.put_u8(0xc0);
            return;
        }
        let mut head = Head::new();
        head.byte(0x80 | entries); // at most 13 entries
        if let Some(deadline_ms) = self.deadline_ms {
            head.byte(key::DEADLINE_MS as u8);
            head.uint(deadline_ms);
        }
        if let Some(trace) = &self.traceparent {
            head.byte(key::TRACEPARENT as u8);
            head.bin_header(TraceParent::BYTES);
            head.bytes(&trace.to_bytes());
        }
        if self.attempt != 0 {
            head.byte(key::ATTEMPT as u8);
            head.uint(u64::from(self.attempt));
        }
        if self.priority != 0 {
            head.byte(key::PRIORITY as u8);
            head.uint(u64::from(self.priority));
        }
        if self.load != 0 {
            head.byte(key::LOAD as u8);
            head.uint(u64::from(self.load));
        }
        if self.rows {
            head.byte(key::ROWS as u8);
            head.byte(1);
        }
        buf.put_slice(head.as_slice());
        if let Some(rare) = &self.rare {
            put_rare(rare, buf);
        }
    }

    /// Upper bound of [`Meta::put`]'s bytes.
    #[inline]
    pub(super) fn bytes_max(&self) -> usize {
        let rare = match &self.rare {
            None => 0,
            Some(rare) => {
                rare.fields().iter().map(|(_, value)| value.as_ref().map_or(0, |value| value.len() + 6)).sum()
            }
        };
        Head::BYTES + rare
    }

    /// Reads the map or nil. `block` is what the frame's bytes are a part of.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'_>, block: &Bytes) -> Result<Self, WireError> {
        let mut meta = Self::default();
        if reader.nil() {
            return Ok(meta);
        }
        let entries = reader.map_len("meta")?;
        for _ in 0..entries {
            match reader.u64("meta's key")? {
                key::DEADLINE_MS => meta.deadline_ms = Some(reader.u64("meta.deadline_ms")?),
                key::ATTEMPT => meta.attempt = reader.u32("meta.attempt")?,
                key::PRIORITY => meta.priority = reader.u32("meta.priority")?,
                key::LOAD => meta.load = reader.u32("meta.load")?,
                key::ROWS => meta.rows = reader.u32("meta.rows")? != 0,
                key => meta.read_rare(key, reader, block)?,
            }
        }
        Ok(meta)
    }

    #[inline(never)]
    fn read_rare(&mut self, key: u64, reader: &mut Reader<'_>, block: &Bytes) -> Result<(), WireError> {
        let mut opaque = |what| Ok::<_, WireError>(block.slice_ref(reader.bin(what)?));
        match key {
            key::TRACEPARENT => self.traceparent = Some(read_trace(reader)?),
            key::IDEMPOTENCY_KEY => self.rare_mut().idempotency_key = Some(opaque("meta.idempotency_key")?),
            key::CHAIN => self.rare_mut().chain = Some(opaque("meta.chain")?),
            key::TO => self.rare_mut().to = Some(opaque("meta.to")?),
            key::FROM => self.rare_mut().from = Some(opaque("meta.from")?),
            key::TOKEN => self.rare_mut().token = Some(opaque("meta.token")?),
            key::BAGGAGE => self.rare_mut().baggage = Some(opaque("meta.baggage")?),
            key::TRACESTATE => self.rare_mut().tracestate = Some(opaque("meta.tracestate")?),
            // Skipping it would hand compressed bytes to a decoder; no version offers the feature yet.
            key::COMPRESSION => {
                if reader.u64("meta.compression")? != 0 {
                    return Err(WireError::Malformed {
                        what: "meta.compression",
                        expected: "0 (no compression was agreed)",
                        got: "another number",
                    });
                }
            }
            _ => {
                reader.value("meta's unknown value")?;
            }
        }
        Ok(())
    }
}

#[inline(never)]
fn put_rare<B: bytes::BufMut>(rare: &RareMeta, buf: &mut B) {
    for (key, value) in rare.fields() {
        if let Some(value) = value {
            let mut head = Head::new();
            head.byte(key as u8);
            head.bin_header(value.len());
            buf.put_slice(head.as_slice());
            buf.put_slice(value);
        }
    }
}

fn read_trace(reader: &mut Reader<'_>) -> Result<TraceParent, WireError> {
    const WHAT: &str = "meta.traceparent";
    if reader.at_str() {
        return reader.str(WHAT)?.parse();
    }
    let bytes = reader.bin(WHAT)?;
    let bytes: &[u8; TraceParent::BYTES] = bytes.try_into().map_err(|_| WireError::TooLong {
        what: WHAT,
        claimed: bytes.len() as u64,
        limit: TraceParent::BYTES as u64,
    })?;
    Ok(TraceParent::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Meta, WireError> {
        let block = Bytes::copy_from_slice(bytes);
        let mut reader = Reader::new(&block);
        let meta = Meta::read(&mut reader, &block)?;
        assert!(reader.rest().is_empty(), "{} bytes are left", reader.rest().len());
        Ok(meta)
    }

    fn full() -> Meta {
        Meta {
            deadline_ms: Some(u64::MAX),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok(),
            attempt: u32::MAX,
            priority: u32::MAX,
            load: u32::MAX,
            rows: true,
            rare: Some(Box::new(RareMeta {
                idempotency_key: Some(Bytes::from_static(b"key")),
                chain: Some(Bytes::from_static(b"chain")),
                to: Some(Bytes::from_static(b"to")),
                from: Some(Bytes::from_static(b"from")),
                token: Some(Bytes::from(vec![7; 300])),
                baggage: Some(Bytes::from_static(b"user=42")),
                tracestate: Some(Bytes::from_static(b"vendor=7")),
            })),
        }
    }

    #[test]
    fn an_empty_meta_is_one_nil() {
        let mut bytes = Vec::new();
        Meta::default().put(&mut bytes);
        assert_eq!(bytes, [0xc0]);
        assert_eq!(read(&bytes).unwrap(), Meta::default());
    }

    #[test]
    fn a_full_meta_comes_back_and_fits_its_bound() {
        let mut bytes = Vec::new();
        full().put(&mut bytes);
        assert!(bytes.len() <= full().bytes_max(), "{} > {}", bytes.len(), full().bytes_max());
        assert_eq!(read(&bytes).unwrap(), full());
    }

    #[test]
    fn unknown_keys_are_skipped_whatever_they_hold() {
        let bytes = [0x82, 0x63, 0x92, 0x01, 0x81, 0xa1, b'k', 0xc0, 0x01, 0x05];
        assert_eq!(read(&bytes).unwrap(), Meta { deadline_ms: Some(5), ..Meta::default() });
    }

    #[test]
    fn a_traceparent_may_be_text() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let mut bytes = vec![0x81, 0x02];
        rmp::encode::write_str(&mut bytes, text).unwrap();
        assert_eq!(read(&bytes).unwrap().traceparent, Some(text.parse().unwrap()));
    }

    #[test]
    fn a_traceparent_of_another_length_is_refused() {
        assert!(matches!(read(&[0x81, 0x02, 0xc4, 1, 0]), Err(WireError::TooLong { .. })));
        assert!(matches!(read(&[0x81, 0x02, 0xa1, b'x']), Err(WireError::Malformed { .. })));
    }

    #[test]
    fn compression_that_nobody_agreed_to_is_refused() {
        assert!(read(&[0x81, 10, 0]).is_ok());
        assert!(read(&[0x81, 10, 1]).is_err());
    }
}
