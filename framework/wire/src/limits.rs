//! Every bound of the wire, by name and unit.

use serde::{Deserialize, Serialize};

use crate::error::WireError;

/// Hard ceiling of a frame, whatever the settings say: lengths stay far away from `u32::MAX`.
pub const FRAME_BYTES_CEILING: u32 = 1 << 30;

/// Nesting allowed in one value; also the size of the scanner's stack, so no setting can raise it.
pub const DEPTH_MAX: u32 = 64;

/// Bytes of a method's name, `shop.orders/Place`.
pub const METHOD_BYTES_MAX: usize = 256;

/// Time for the first byte of an accepted connection.
pub const FIRST_BYTE_MS_MAX: u64 = 5_000;

/// Time for a HELLO after the preface.
pub const HELLO_MS_MAX: u64 = 5_000;

/// Bytes of items that one credit of a stream stands for: a frame of items costs as many credits as it has items,
/// and no fewer than its bytes divided by this.
pub const ITEM_BYTES_PER_CREDIT: usize = 512;

/// Credits that a frame of `count` items in `bytes` bytes costs on a stream of `window` credits: one an item, and more
/// where its bytes ask for it, for which no more than half the window counts. A receiver may keep less than half the
/// window back before it gives credit, so an item of any size can be sent.
///
/// ```
/// use afflux_wire::limits::item_credits;
/// assert_eq!(item_credits(3, 30, 256), 3);
/// assert_eq!(item_credits(1, 40_000, 256), 79);
/// assert_eq!(item_credits(1, 40_000_000, 256), 128);
/// ```
#[inline]
#[must_use]
pub const fn item_credits(count: u64, bytes: usize, window: u64) -> u64 {
    let by_bytes = bytes.div_ceil(ITEM_BYTES_PER_CREDIT) as u64;
    let most = if window > 1 { window / 2 } else { 1 };
    let by_bytes = if by_bytes > most { most } else { by_bytes };
    if by_bytes > count { by_bytes } else { count }
}

/// The bounds that one side of a link keeps, exchanged in HELLO and WELCOME.
///
/// A sender obeys the receiver's limits; [`Limits::common`] gives what holds on a link.
///
/// ```
/// use afflux_wire::Limits;
///
/// let ours = Limits::default();
/// let theirs = Limits { frame_bytes_max: 1 << 20, ..Limits::default() };
/// assert_eq!(ours.common(&theirs).frame_bytes_max, 1 << 20);
/// assert!(ours.check_frame(17 << 20).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of one frame behind its length prefix.
    pub frame_bytes_max: u32,
    /// Bytes of one message (params, result, item) when put together from chunks.
    pub message_bytes_max: u32,
    /// Bytes of HELLO, WELCOME, REJECT and BIND: what a peer may send before it is known.
    pub hello_bytes_max: u32,
    /// Nesting of arrays and maps in one value; at most [`DEPTH_MAX`].
    pub depth_max: u32,
    /// Calls that a peer may have unanswered on one link.
    pub in_flight_max: u32,
    /// Byte credits of a fresh exchange channel.
    pub channel_credit_bytes: u32,
    /// Item credits of a fresh stream.
    pub stream_credit_items: u32,
    /// Payload of one chunk of a large message.
    pub chunk_bytes: u32,
    /// Streams that a peer may have open on one link.
    pub streams_max: u32,
    /// Bytes of large messages that are being put together on one link at a time; a sender starts no further one
    /// above it. One message is always allowed.
    pub chunked_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 << 20,
            message_bytes_max: 64 << 20,
            hello_bytes_max: 1 << 20,
            depth_max: DEPTH_MAX,
            in_flight_max: 16_384,
            channel_credit_bytes: 1 << 20,
            stream_credit_items: 2_048,
            chunk_bytes: 64 << 10,
            streams_max: 4_096,
            chunked_bytes_max: 64 << 20,
        }
    }
}

impl Limits {
    /// The smaller of each bound: what both sides of a link accept.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        Self {
            frame_bytes_max: self.frame_bytes_max.min(other.frame_bytes_max),
            message_bytes_max: self.message_bytes_max.min(other.message_bytes_max),
            hello_bytes_max: self.hello_bytes_max.min(other.hello_bytes_max),
            depth_max: self.depth_max.min(other.depth_max),
            in_flight_max: self.in_flight_max.min(other.in_flight_max),
            channel_credit_bytes: self.channel_credit_bytes.min(other.channel_credit_bytes),
            stream_credit_items: self.stream_credit_items.min(other.stream_credit_items),
            chunk_bytes: self.chunk_bytes.min(other.chunk_bytes),
            streams_max: self.streams_max.min(other.streams_max),
            chunked_bytes_max: self.chunked_bytes_max.min(other.chunked_bytes_max),
        }
    }

    /// What holds until the peer is known: its frames are at most `hello_bytes_max` long.
    #[must_use]
    pub const fn before_hello(mut self) -> Self {
        if self.hello_bytes_max < self.frame_bytes_max {
            self.frame_bytes_max = self.hello_bytes_max;
        }
        self
    }

    /// Refuses a frame of `bytes` bytes (without its prefix) that is above the limit.
    ///
    /// # Errors
    /// [`WireError::FrameTooLarge`] with both numbers.
    #[inline]
    pub const fn check_frame(&self, bytes: usize) -> Result<(), WireError> {
        let max = self.frame_bytes_ceiling();
        if bytes as u64 > max as u64 {
            return Err(WireError::FrameTooLarge { bytes: bytes as u64, frame_bytes_max: max as u64 });
        }
        Ok(())
    }

    /// `frame_bytes_max`, never above [`FRAME_BYTES_CEILING`].
    #[inline]
    #[must_use]
    pub const fn frame_bytes_ceiling(&self) -> u32 {
        if self.frame_bytes_max < FRAME_BYTES_CEILING { self.frame_bytes_max } else { FRAME_BYTES_CEILING }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_limit_itself_is_allowed_and_one_byte_more_is_not() {
        let limits = Limits::default();
        assert!(limits.check_frame(16 << 20).is_ok());
        assert_eq!(
            limits.check_frame((16 << 20) + 1),
            Err(WireError::FrameTooLarge { bytes: (16 << 20) + 1, frame_bytes_max: 16 << 20 })
        );
    }

    #[test]
    fn an_unknown_peer_may_send_less() {
        let limits = Limits::default().before_hello();
        assert_eq!(limits.frame_bytes_max, Limits::default().hello_bytes_max);
        let small = Limits { frame_bytes_max: 10, ..Limits::default() };
        assert_eq!(small.before_hello().frame_bytes_max, 10);
    }

    #[test]
    fn no_setting_lifts_the_ceiling() {
        let limits = Limits { frame_bytes_max: u32::MAX, ..Limits::default() };
        assert!(limits.check_frame(FRAME_BYTES_CEILING as usize + 1).is_err());
    }

    #[test]
    fn what_holds_on_a_link_is_the_smaller_of_each_bound() {
        let a = Limits { frame_bytes_max: 10, chunk_bytes: 99, ..Limits::default() };
        let b = Limits { frame_bytes_max: 20, chunk_bytes: 9, ..Limits::default() };
        let both = a.common(&b);
        assert_eq!((both.frame_bytes_max, both.chunk_bytes), (10, 9));
        assert_eq!(both, b.common(&a));
    }
}
