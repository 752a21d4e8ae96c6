//! A large frame on its way in parts, in turn with others.

use afflux_wire::frame::FRAME_PREFIX_BYTES;
use afflux_wire::put_chunk;
use bytes::{Bytes, BytesMut};

/// A frame that is too large to be sent at once.
pub(crate) struct Body {
    id: u64,
    /// The frame without its prefix.
    frame: Bytes,
    sent: usize,
}

impl Body {
    /// The frame that `put` writes, prefix included.
    pub(crate) fn new<E>(id: u64, put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Self, E> {
        let mut frame = Vec::new();
        put(&mut frame)?;
        let mut frame = Bytes::from(frame);
        Ok(Self { id, frame: frame.split_off(FRAME_PREFIX_BYTES.min(frame.len())), sent: 0 })
    }

    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.sent > 0
    }

    /// Writes the next part; true when it was the last.
    pub(crate) fn put(&mut self, out: &mut BytesMut, part_bytes: usize) -> bool {
        let end = self.frame.len().min(self.sent + part_bytes.max(1));
        let last = end == self.frame.len();
        let total = (self.sent == 0).then_some(self.frame.len() as u64);
        if let Err(error) = put_chunk(out, self.id, total, last, &self.frame[self.sent..end]) {
            // Cannot fail: a part is far below the ceiling.
            tracing::error!(%error, "a part of a large frame cannot be written");
        }
        self.sent = end;
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

    #[test]
    fn the_parts_of_a_frame_put_together_are_the_frame() {
        let result = vec![7; 1_000];
        let mut body = Body::new(5, |buf| put_response_ok(buf, 5, &result, &Meta::default())).unwrap();
        let (mut out, mut parts) = (BytesMut::new(), 1);
        while !body.put(&mut out, 300) {
            parts += 1;
        }
        assert_eq!(parts, 4);
        let frames = take_frames(&mut out, &Limits::default()).unwrap();
        let mut whole = Vec::new();
        for (n, part) in frames.iter().enumerate() {
            let Frame::Chunk { id: 5, total, last, part } = Frame::decode_part(frames.block(), part).unwrap()
            else {
                panic!("no CHUNK")
            };
            assert_eq!((total, last), ((n == 0).then_some(body.len() as u64), n == 3));
            whole.extend_from_slice(&part);
        }
        let whole = Bytes::from(whole);
        let Frame::Response { id: 5, result: Ok(bytes), .. } = Frame::decode(&whole).unwrap() else {
            panic!("no RESPONSE")
        };
        assert_eq!(bytes, result);
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
