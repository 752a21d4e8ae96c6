//! Reading frames.

use bytes::Bytes;

use super::encode::{CHUNK_FIRST, CHUNK_LAST};
use super::read::{Reader, malformed};
use super::{Attach, CancelReason, Frame, IGNORABLE_KIND_MIN, Kind, Mark, Meta, Method};
use crate::codec;
use crate::error::WireError;
use crate::limits::METHOD_BYTES_MAX;
use crate::status::Status;

impl<'a> Frame<'a> {
    /// Decodes one frame, given without its length prefix.
    ///
    /// Elements behind those that this version knows are walked and skipped, so a later minor version may append
    /// some. The `Bytes` inside the frame share `input`: a frame that is kept keeps its whole read buffer.
    ///
    /// # Errors
    /// [`WireError`]; every one of them is a reason to close the connection.
    #[inline]
    pub fn decode(input: &'a Bytes) -> Result<Self, WireError> {
        Self::decode_part(input, input)
    }

    /// Decodes the frame `part`, which must be a sub-slice of `block`: saves a reference count per frame when many
    /// came in one read.
    ///
    /// # Errors
    /// As [`Frame::decode`].
    ///
    /// # Panics
    /// If `part` is not within `block` and the frame carries bytes: an error of the caller, not of the input.
    pub fn decode_part(block: &'a Bytes, part: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(part);
        if part.is_empty() {
            return Err(WireError::FrameEmpty);
        }
        let elements = reader.array_len("frame")?;
        if elements == 0 {
            return Err(WireError::TooFewElements { what: "frame", elements: 0, elements_min: 1 });
        }
        let number = reader.u64("frame's kind")?;
        if number >= IGNORABLE_KIND_MIN {
            return Ok(Frame::Ignored { kind: number });
        }
        let number = number as u8; // below 64
        let Some(kind) = Kind::from_number(number) else {
            return Err(WireError::UnknownKind { kind: number });
        };
        let shape = &SHAPES[usize::from(number)];
        if elements < usize::from(shape.least) {
            return Err(WireError::TooFewElements {
                what: shape.name,
                elements: elements as u64,
                elements_min: u64::from(shape.least),
            });
        }
        let frame = read(kind, elements, &mut reader, block)?;
        if elements > usize::from(shape.known) {
            skip_later(&mut reader, elements - usize::from(shape.known))?;
        }
        if !reader.rest().is_empty() {
            return Err(WireError::Trailing { what: shape.name, bytes: reader.rest().len() as u64 });
        }
        Ok(frame)
    }
}

#[inline(never)]
fn skip_later(reader: &mut Reader<'_>, elements: usize) -> Result<(), WireError> {
    for _ in 0..elements {
        reader.value("an element of a later version")?;
    }
    Ok(())
}

/// What is known of a kind's array.
struct Shape {
    name: &'static str,
    /// Elements that must be there; 0 for a reserved kind.
    least: u8,
    /// Elements that this version reads; further ones are skipped.
    known: u8,
}

const fn shape(name: &'static str, least: u8, known: u8) -> Shape {
    Shape { name, least, known }
}

/// By number.
static SHAPES: [Shape; Kind::ALL.len()] = [
    shape("REQUEST", 4, 5),
    shape("RESPONSE", 4, 5),
    shape("NOTIFY", 3, 4),
    shape("HELLO", 2, 2),
    shape("WELCOME", 2, 2),
    shape("REJECT", 2, 2),
    shape("BIND", 2, 2),
    shape("GOAWAY", 5, 5),
    shape("PING", 2, 2),
    shape("PONG", 2, 2),
    shape("CANCEL", 3, 3),
    shape("OPEN", 4, 5),
    shape("ITEM", 5, 5),
    shape("END", 4, 4),
    shape("CREDIT", 3, 3),
    shape("CHUNK", 4, 5),
    shape("DATA", 5, 5),
    shape("ATTACH", 8, 8),
    shape("WATCH", 3, 3),
    shape("DOWN", 4, 4),
    shape("HEALTH", 2, 2),
    shape("DETACH", 2, 2),
    shape("REDIRECT", 4, 4),
    shape("MARK", 5, 5),
];

#[inline]
fn read<'a>(kind: Kind, elements: usize, r: &mut Reader<'a>, block: &Bytes) -> Result<Frame<'a>, WireError> {
    Ok(match kind {
        Kind::Request => {
            let id = r.u64("REQUEST.id")?;
            let method = method(r, "REQUEST.method")?;
            let params = share(block, r.bin_or_nil("REQUEST.params")?);
            let meta = if elements > 4 { Meta::read(r, block)? } else { Meta::default() };
            Frame::Request { id, method, params, meta }
        }
        Kind::Response => {
            let id = r.u64("RESPONSE.id")?;
            let result = if r.nil() {
                Ok(share(block, r.bin_or_nil("RESPONSE.result")?))
            } else {
                let error = status(r, "RESPONSE.error")?;
                r.value("RESPONSE.result")?;
                Err(error)
            };
            let meta = if elements > 4 { Meta::read(r, block)? } else { Meta::default() };
            Frame::Response { id, result, meta }
        }
        Kind::Notify => {
            let method = method(r, "NOTIFY.method")?;
            let params = share(block, r.bin_or_nil("NOTIFY.params")?);
            let meta = if elements > 3 { Meta::read(r, block)? } else { Meta::default() };
            Frame::Notify { method, params, meta }
        }
        Kind::Data => Frame::Data {
            channel: r.u64("DATA.channel")?,
            seq: r.u64("DATA.seq")?,
            count: r.u32("DATA.count")?,
            rows: share(block, r.bin("DATA.rows")?),
        },
        Kind::Item => {
            let (id, first_seq) = (r.u64("ITEM.id")?, r.u64("ITEM.first_seq")?);
            let (count, items) = (r.u32("ITEM.count")?, r.bin("ITEM.items")?);
            // A value takes at least one byte.
            if count == 0 || count as usize > items.len() {
                return Err(WireError::TooLong {
                    what: "ITEM.count",
                    claimed: u64::from(count),
                    limit: items.len() as u64,
                });
            }
            Frame::Item { id, first_seq, count, items: share(block, items) }
        }
        Kind::Open => {
            let id = r.u64("OPEN.id")?;
            let method = method(r, "OPEN.method")?;
            let params = share(block, r.bin_or_nil("OPEN.params")?);
            let meta = if elements > 4 { Meta::read(r, block)? } else { Meta::default() };
            Frame::Open { id, method, params, meta }
        }
        Kind::End => {
            let id = r.u64("END.id")?;
            let result = if r.nil() {
                Ok(share(block, r.bin_or_nil("END.result")?))
            } else {
                let error = status(r, "END.error")?;
                r.value("END.result")?;
                Err(error)
            };
            Frame::End { id, result }
        }
        Kind::Chunk => {
            let (id, flags) = (r.u64("CHUNK.id")?, r.u64("CHUNK.flags")?);
            let part = share(block, r.bin("CHUNK.part")?);
            let first = flags & CHUNK_FIRST != 0;
            if first && elements < 5 {
                return Err(WireError::TooFewElements {
                    what: "CHUNK",
                    elements: elements as u64,
                    elements_min: 5,
                });
            }
            let total = if elements > 4 { Some(r.u64("CHUNK.total")?).filter(|_| first) } else { None };
            Frame::Chunk { id, total, last: flags & CHUNK_LAST != 0, part }
        }
        Kind::Mark => {
            Frame::Mark { channel: r.u64("MARK.channel")?, seq: r.u64("MARK.seq")?, mark: mark(r)? }
        }
        Kind::Credit => Frame::Credit { id: r.u64("CREDIT.id")?, n: r.u64("CREDIT.n")? },
        Kind::Ping => Frame::Ping(r.u64("PING.nonce")?),
        Kind::Pong => Frame::Pong(r.u64("PONG.nonce")?),
        Kind::Cancel => Frame::Cancel {
            id: r.u64("CANCEL.id")?,
            reason: CancelReason::from_number(r.u32("CANCEL.reason")?),
        },
        Kind::Detach => Frame::Detach { channel: r.u64("DETACH.channel")? },
        _ => return read_rare(kind, r, block),
    })
}

#[inline(never)]
fn read_rare<'a>(kind: Kind, r: &mut Reader<'a>, block: &Bytes) -> Result<Frame<'a>, WireError> {
    Ok(match kind {
        Kind::Hello => Frame::Hello(share(block, r.value("HELLO")?)),
        Kind::Welcome => Frame::Welcome(share(block, r.value("WELCOME")?)),
        Kind::Reject => Frame::Reject(status(r, "REJECT.error")?),
        Kind::Health => Frame::Health(share(block, r.bin("HEALTH.report")?)),
        Kind::Goaway => Frame::Goaway {
            last_id: r.u64("GOAWAY.last_id")?,
            code: r.u32("GOAWAY.code")?,
            reason: r.str("GOAWAY.reason")?,
            grace_ms: r.u64("GOAWAY.grace_ms")?,
        },
        Kind::Bind => {
            let count = r.array_len("BIND.methods")?;
            // An entry takes at least three bytes, so this never exceeds the frame by much.
            let mut methods = Vec::with_capacity(count.min(r.rest().len() / 3));
            for _ in 0..count {
                if r.array_len("BIND.method")? != 2 {
                    return Err(WireError::Malformed {
                        what: "BIND.method",
                        expected: "[number, name]",
                        got: "an array of another length",
                    });
                }
                methods.push((r.u32("BIND.number")?, name(r, "BIND.name")?));
            }
            Frame::Bind(methods)
        }
        Kind::Attach => Frame::Attach(Attach {
            channel: r.u64("ATTACH.channel")?,
            attempt: r.u64("ATTACH.attempt")?,
            fingerprint: r.u64("ATTACH.fingerprint")?,
            job: name(r, "ATTACH.job")?,
            edge: r.u32("ATTACH.edge")?,
            from: r.u32("ATTACH.from")?,
            to: r.u32("ATTACH.to")?,
        }),
        Kind::Watch => Frame::Watch { id: r.u64("WATCH.id")?, actor: share(block, r.bin("WATCH.actor")?) },
        Kind::Down => Frame::Down {
            id: r.u64("DOWN.id")?,
            reason: r.u32("DOWN.reason")?,
            error: if r.nil() { None } else { Some(status(r, "DOWN.error")?) },
        },
        Kind::Redirect => Frame::Redirect {
            id: r.u64("REDIRECT.id")?,
            node: name(r, "REDIRECT.node")?,
            incarnation: r.u64("REDIRECT.incarnation")?,
        },
        other => return Err(WireError::Unsupported { kind: other }),
    })
}

/// A slice that shares the block; no reference is counted for nothing.
#[inline]
fn share(block: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { block.slice_ref(part) }
}

#[inline]
fn method<'a>(r: &mut Reader<'a>, what: &'static str) -> Result<Method<'a>, WireError> {
    if r.at_str() { Ok(Method::Name(name(r, what)?)) } else { Ok(Method::Number(r.u32(what)?)) }
}

#[inline]
fn name<'a>(r: &mut Reader<'a>, what: &'static str) -> Result<&'a str, WireError> {
    let name = r.str(what)?;
    if name.len() > METHOD_BYTES_MAX {
        return Err(WireError::TooLong { what, claimed: name.len() as u64, limit: METHOD_BYTES_MAX as u64 });
    }
    Ok(name)
}

#[inline]
fn mark(r: &mut Reader<'_>) -> Result<Mark, WireError> {
    Ok(match r.u64("MARK.kind")? {
        0 => Mark::Watermark(r.i64("MARK.value")?),
        1 => {
            r.value("MARK.value")?;
            Mark::Idle
        }
        2 => Mark::Barrier(r.u64("MARK.value")?),
        3 => {
            r.value("MARK.value")?;
            Mark::End
        }
        other => {
            return Err(WireError::TooLong { what: "MARK.kind", claimed: other, limit: 3 });
        }
    })
}

#[inline(never)]
fn status(r: &mut Reader<'_>, what: &'static str) -> Result<Status, WireError> {
    let marker = r.rest().first().copied().unwrap_or(0xc1);
    let bytes = r.value(what)?;
    codec::from_slice(bytes)
        .map_err(|_| malformed(what, "[code, message] or [code, message, details]", marker))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<(), WireError> {
        Frame::decode(&Bytes::copy_from_slice(bytes)).map(|_| ())
    }

    #[test]
    fn payloads_are_slices_of_the_input_and_not_copies() {
        let mut buf = Vec::new();
        super::super::put_data(&mut buf, 1, 2, 3, b"some rows").unwrap();
        let input = Bytes::from(buf).slice(4..);
        let Frame::Data { rows, .. } = Frame::decode(&input).unwrap() else { panic!("no DATA") };
        assert!(input.as_ptr_range().contains(&rows.as_ptr()));
        assert_eq!(rows, &b"some rows"[..]);
    }

    #[test]
    fn every_shape_stands_at_the_number_of_its_kind() {
        for (kind, shape) in Kind::ALL.into_iter().zip(&SHAPES) {
            assert_eq!(kind.name().to_uppercase(), shape.name);
            assert_eq!(kind.is_carried(), shape.least > 0, "{kind:?}");
        }
    }

    #[test]
    fn a_frame_of_items_claims_no_more_than_it_has_bytes_and_is_never_empty() {
        let claims = |count: u8| decode(&[0x95, 12, 1, 1, count, 0xc4, 2, 7, 8]);
        assert_eq!(claims(2), Ok(()));
        for count in [0, 3] {
            let claimed = u64::from(count);
            assert_eq!(claims(count), Err(WireError::TooLong { what: "ITEM.count", claimed, limit: 2 }));
        }
    }

    #[test]
    fn the_first_part_of_a_whole_says_how_long_the_whole_is() {
        assert!(decode(&[0x94, 15, 1, 1, 0xc4, 1, 7]).is_err());
        assert!(decode(&[0x95, 15, 1, 1, 0xc4, 1, 7, 9]).is_ok());
    }

    #[test]
    fn unknown_kinds_below_64_are_errors_and_above_are_ignored() {
        assert_eq!(decode(&[0x91, 24]), Err(WireError::UnknownKind { kind: 24 }));
        assert_eq!(decode(&[0x91, 63]), Err(WireError::UnknownKind { kind: 63 }));
        let ignored = Bytes::from_static(&[0x92, 64, 0xc0]);
        assert_eq!(Frame::decode(&ignored), Ok(Frame::Ignored { kind: 64 }));
    }

    #[test]
    fn elements_of_a_later_version_are_skipped() {
        let input = Bytes::from_static(&[0x94, 8, 7, 0x92, 1, 2, 0xa1, b'x']);
        assert_eq!(Frame::decode(&input), Ok(Frame::Ping(7)));
    }

    #[test]
    fn too_few_elements_are_an_error_that_names_the_frame() {
        assert_eq!(
            decode(&[0x92, 14, 1]),
            Err(WireError::TooFewElements { what: "CREDIT", elements: 2, elements_min: 3 })
        );
        assert_eq!(
            decode(&[0x90]),
            Err(WireError::TooFewElements { what: "frame", elements: 0, elements_min: 1 })
        );
        assert_eq!(decode(&[]), Err(WireError::FrameEmpty));
    }

    #[test]
    fn bytes_behind_the_array_are_an_error() {
        assert_eq!(decode(&[0x92, 8, 7, 0]), Err(WireError::Trailing { what: "PING", bytes: 1 }));
    }

    #[test]
    fn a_request_without_meta_has_an_empty_one() {
        let input = Bytes::from_static(&[0x94, 0, 1, 4, 0xc4, 1, 0xc0]);
        let Ok(Frame::Request { id: 1, method: Method::Number(4), params, meta }) = Frame::decode(&input)
        else {
            panic!("no REQUEST");
        };
        assert_eq!((params.as_ref(), meta), (&[0xc0][..], Meta::default()));
    }

    #[test]
    fn a_mark_of_an_unknown_kind_is_an_error() {
        assert!(matches!(
            decode(&[0x95, 23, 1, 1, 4, 0xc0]),
            Err(WireError::TooLong { what: "MARK.kind", .. })
        ));
    }
}
