//! A large frame on its way in parts, in turn with others.

use afflux_wire::frame::FRAME_PREFIX_BYTES;
use afflux_wire::{WireError, put_chunk, response_around};
use bytes::{Bytes, BytesMut};

/// A frame that is too large to be sent at once.
pub(crate) struct Body {
    id: u64,
    /// The frame without its prefix, in pieces that no part reaches over; none is empty.
    pieces: Vec<Bytes>,
    len: usize,
    sent: usize,
    /// The piece that is being sent, and how much of it was.
    at: (usize, usize),
}

impl Body {
    /// The frame that `put` writes, prefix included.
    pub(crate) fn new<E>(id: u64, put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Self, E> {
        let mut frame = Vec::new();
        put(&mut frame)?;
        let mut frame = Bytes::from(frame);
        Ok(Self::of(id, vec![frame.split_off(FRAME_PREFIX_BYTES.min(frame.len()))]))
    }

    /// The answer with this result, which is not copied.
    pub(crate) fn answer(id: u64, result: Bytes) -> Result<Self, WireError> {
        let (head, tail) = response_around(id, result.len())?;
        Ok(Self::of(id, vec![head.into(), result, tail.into()]))
    }

    fn of(id: u64, mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        Self { id, len: pieces.iter().map(Bytes::len).sum(), pieces, sent: 0, at: (0, 0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.sent > 0
    }

    /// Writes the next part; true when it was the last.
    pub(crate) fn put(&mut self, out: &mut BytesMut, part_bytes: usize) -> bool {
        let (piece, from) = self.at;
        let bytes = self.pieces.get(piece).map_or(&[][..], |piece| &piece[from..]);
        let part = &bytes[..bytes.len().min(part_bytes.max(1))];
        let last = self.sent + part.len() == self.len;
        let total = (self.sent == 0).then_some(self.len as u64);
        if let Err(error) = put_chunk(out, self.id, total, last, part) {
            // Cannot fail: a part is far below the ceiling.
            tracing::error!(%error, "a part of a large frame cannot be written");
        }
        self.at = if part.len() == bytes.len() { (piece + 1, 0) } else { (piece, from + part.len()) };
        self.sent += part.len();
        last
    }
}

/// The bytes of large frames that are under way to one peer, which puts them together.
pub(crate) struct Budget {
    under_way: usize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        Self { under_way: 0, max }
    }

    /// Whether a further frame may begin; one always may.
    pub(crate) fn begin(&mut self, bytes: usize) -> bool {
        if self.under_way > 0 && self.under_way + bytes > self.max {
            return false;
        }
        self.under_way += bytes;
        true
    }

    /// Counts a frame that begins whether there is room or not.
    pub(crate) fn begin_always(&mut self, bytes: usize) {
        self.under_way += bytes;
    }

    pub(crate) fn end(&mut self, bytes: usize) {
        self.under_way = self.under_way.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::{Frame, Limits, Meta, put_response_ok, take_frames};

    /// Sends all parts; returns how many there were, and the frame that they are.
    fn put_together(mut body: Body) -> (usize, Bytes) {
        let (mut out, mut parts) = (BytesMut::new(), 1);
        while !body.put(&mut out, 300) {
            parts += 1;
        }
        let frames = take_frames(&mut out, &Limits::default()).unwrap();
        let mut whole = Vec::new();
        for (n, part) in frames.iter().enumerate() {
            let Frame::Chunk { id: 5, total, last, part } = Frame::decode_part(frames.block(), part).unwrap()
            else {
                panic!("no CHUNK")
            };
            assert_eq!((total, last), ((n == 0).then_some(body.len() as u64), n + 1 == parts));
            whole.extend_from_slice(&part);
        }
        (parts, whole.into())
    }

    #[test]
    fn the_parts_of_a_frame_put_together_are_the_frame() {
        let result = Bytes::from(vec![7; 1_000]);
        let copied = Body::new(5, |buf| put_response_ok(buf, 5, &result, &Meta::default())).unwrap();
        let (parts, whole) = put_together(copied);
        assert_eq!(parts, 4);
        let Frame::Response { id: 5, result: Ok(bytes), .. } = Frame::decode(&whole).unwrap() else {
            panic!("no RESPONSE")
        };
        assert_eq!(bytes, result);
        let (parts, handed_over) = put_together(Body::answer(5, result).unwrap());
        assert_eq!((parts, handed_over), (6, whole));
    }

    #[test]
    fn one_large_frame_may_always_begin_and_others_while_there_is_room() {
        let mut budget = Budget::new(100);
        assert!(budget.begin(500));
        assert!(!budget.begin(1));
        budget.end(500);
        assert!(budget.begin(60) && budget.begin(40) && !budget.begin(1));
    }
}
