//! Cutting a byte stream into frames.

use bytes::{Buf, Bytes, BytesMut};

use super::encode::FRAME_PREFIX_BYTES;
use crate::error::WireError;
use crate::limits::Limits;

/// Room made at once for a frame that has not arrived yet. Never the length that its prefix claims: memory grows
/// with what was received, not with what was promised.
pub const READ_AHEAD_BYTES: usize = 64 << 10;

/// Length of the frame at the start of `input`, `None` while its prefix is incomplete.
#[inline]
fn frame_bytes(input: &[u8], limits: &Limits) -> Result<Option<usize>, WireError> {
    let Some(prefix) = input.first_chunk::<FRAME_PREFIX_BYTES>() else {
        return Ok(None);
    };
    let bytes = u32::from_be_bytes(*prefix) as usize;
    if bytes == 0 {
        return Err(WireError::FrameEmpty);
    }
    limits.check_frame(bytes)?;
    Ok(Some(bytes))
}

/// Makes room for more of a frame that is `missing` bytes short.
#[inline]
fn make_room(buf: &mut BytesMut, missing: usize) {
    buf.reserve(missing.min(READ_AHEAD_BYTES.max(buf.len())));
}

/// Takes one frame, without its prefix, off the front of what was read; `None` while it is incomplete.
///
/// # Errors
/// [`WireError::FrameTooLarge`] and [`WireError::FrameEmpty`], as soon as the prefix is there.
///
/// ```
/// use afflux_wire::{Limits, next_frame, put_ping};
/// use bytes::BytesMut;
///
/// let mut buf = BytesMut::new();
/// put_ping(&mut buf, 9);
/// let rest = buf.split_off(5);
/// assert!(next_frame(&mut buf, &Limits::default()).unwrap().is_none());
/// buf.unsplit(rest);
/// assert_eq!(next_frame(&mut buf, &Limits::default()).unwrap().unwrap(), &[0x92, 8, 9][..]);
/// ```
#[inline]
pub fn next_frame(buf: &mut BytesMut, limits: &Limits) -> Result<Option<Bytes>, WireError> {
    let Some(bytes) = frame_bytes(buf, limits)? else {
        return Ok(None);
    };
    let whole = FRAME_PREFIX_BYTES + bytes;
    if buf.len() < whole {
        make_room(buf, whole - buf.len());
        return Ok(None);
    }
    buf.advance(FRAME_PREFIX_BYTES);
    Ok(Some(buf.split_to(bytes).freeze()))
}

/// Takes all complete frames off the front of what was read, as one block: one reference count for a whole read
/// instead of one per frame. Empty while not even one frame is complete.
///
/// # Errors
/// As [`next_frame`], for the first frame only: complete frames in front of a bad one are handed out first.
///
/// ```
/// use afflux_wire::{Frame, Limits, put_ping, take_frames};
/// use bytes::BytesMut;
///
/// let mut buf = BytesMut::new();
/// put_ping(&mut buf, 1);
/// put_ping(&mut buf, 2);
/// let frames = take_frames(&mut buf, &Limits::default()).unwrap();
/// let nonces: Vec<_> = frames.iter().map(|part| Frame::decode_part(frames.block(), part).unwrap()).collect();
/// assert_eq!(nonces, [Frame::Ping(1), Frame::Ping(2)]);
/// ```
#[inline]
pub fn take_frames(buf: &mut BytesMut, limits: &Limits) -> Result<Frames, WireError> {
    let mut end = 0;
    loop {
        match frame_bytes(&buf[end..], limits) {
            Ok(Some(bytes)) if buf.len() - end >= FRAME_PREFIX_BYTES + bytes => {
                end += FRAME_PREFIX_BYTES + bytes
            }
            Ok(Some(bytes)) => {
                let missing = FRAME_PREFIX_BYTES + bytes - (buf.len() - end);
                let block = buf.split_to(end).freeze();
                make_room(buf, missing);
                return Ok(Frames { block });
            }
            Ok(None) => break,
            Err(error) if end == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(Frames { block: buf.split_to(end).freeze() })
}

/// Complete frames of one read, still with their prefixes.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    block: Bytes,
}

impl Frames {
    /// The block that [`Frame::decode_part`](super::Frame::decode_part) shares.
    #[must_use]
    pub const fn block(&self) -> &Bytes {
        &self.block
    }

    /// Whether no frame was complete.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// Each frame without its prefix, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.block;
        std::iter::from_fn(move || {
            let (prefix, behind) = rest.split_first_chunk::<FRAME_PREFIX_BYTES>()?;
            let (frame, behind) = behind.split_at_checked(u32::from_be_bytes(*prefix) as usize)?;
            rest = behind;
            Some(frame)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{put_ping, put_request};
    use crate::{Meta, Method};

    #[test]
    fn a_length_above_the_limit_is_refused_before_anything_is_allocated() {
        let mut buf = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        let capacity = buf.capacity();
        let error = next_frame(&mut buf, &Limits::default()).unwrap_err();
        assert_eq!(error.reason(), "frame_too_large");
        assert_eq!(buf.capacity(), capacity);
    }

    #[test]
    fn memory_grows_with_what_came_and_not_with_what_is_promised() {
        let mut buf = BytesMut::from(&[0x00, 0xff, 0xff, 0xff, 0x95][..]);
        assert_eq!(next_frame(&mut buf, &Limits::default()).unwrap(), None);
        assert!(buf.capacity() < 2 * READ_AHEAD_BYTES, "{} bytes for a promise", buf.capacity());
    }

    #[test]
    fn a_frame_of_no_bytes_is_refused() {
        let mut buf = BytesMut::from(&[0, 0, 0, 0][..]);
        assert_eq!(next_frame(&mut buf, &Limits::default()), Err(WireError::FrameEmpty));
    }

    #[test]
    fn good_frames_in_front_of_a_bad_one_are_handed_out_first() {
        let mut buf = BytesMut::new();
        put_ping(&mut buf, 1);
        put_ping(&mut buf, 2);
        buf.extend_from_slice(&[0xff; 8]);
        let frames = take_frames(&mut buf, &Limits::default()).unwrap();
        assert_eq!(frames.iter().count(), 2);
        assert!(take_frames(&mut buf, &Limits::default()).is_err());
    }

    #[test]
    fn a_block_stops_before_an_incomplete_frame() {
        let mut buf = BytesMut::new();
        put_ping(&mut buf, 1);
        put_request(&mut buf, 1, Method::Number(1), &[0; 100], &Meta::default()).unwrap();
        let rest = buf.split_off(50);
        assert_eq!(take_frames(&mut buf, &Limits::default()).unwrap().iter().count(), 1);
        assert!(take_frames(&mut buf, &Limits::default()).unwrap().is_empty());
        buf.extend_from_slice(&rest);
        assert_eq!(take_frames(&mut buf, &Limits::default()).unwrap().iter().count(), 1);
        assert!(buf.is_empty());
    }
}
