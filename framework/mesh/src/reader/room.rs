//! How much a connection reads at once: little while little comes, so that thousands of idle ones cost little.

use bytes::BytesMut;

/// Room for one read of a connection on which little comes.
pub(super) const READ_BYTES_MIN: usize = 2 << 10;
/// Reads that each filled less than an eighth of the room, after which there is less of it.
const SMALL_READS: u32 = 16;
/// Room grows and shrinks by this factor.
const STEP: usize = 4;

/// The room of one connection's reads.
pub(super) struct Room {
    bytes: usize,
    bytes_max: usize,
    small: u32,
    shrunk: bool,
}

impl Room {
    /// Starts small.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: READ_BYTES_MIN.min(bytes_max), bytes_max, small: 0, shrunk: false }
    }

    /// Makes room for the next read; returns how much there is.
    #[inline]
    pub(super) fn make(&mut self, buf: &mut BytesMut) -> usize {
        let free = buf.capacity() - buf.len();
        if self.shrunk {
            self.shrunk = false;
            // A new one: the old one, whatever is left of it, is as large as it ever was.
            let mut less = BytesMut::with_capacity(self.bytes + buf.len());
            less.extend_from_slice(buf);
            *buf = less;
        } else if free < self.bytes / 4 || free == 0 {
            buf.reserve(self.bytes);
        } else {
            return free;
        }
        buf.capacity() - buf.len()
    }

    /// So many bytes came where `free` had room.
    #[inline]
    pub(super) fn has_read(&mut self, n: usize, free: usize) {
        if n >= self.bytes / 8 {
            self.small = 0;
            if n == free && self.bytes < self.bytes_max {
                self.bytes = (self.bytes * STEP).min(self.bytes_max);
            }
            return;
        }
        self.small += 1;
        if self.small >= SMALL_READS && self.bytes > READ_BYTES_MIN {
            self.small = 0;
            self.bytes = (self.bytes / STEP).max(READ_BYTES_MIN);
            self.shrunk = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_fills_its_room_gets_more_up_to_its_bound() {
        let (mut room, mut buf) = (Room::new(256 << 10), BytesMut::new());
        let mut seen = Vec::new();
        for _ in 0..6 {
            buf.clear();
            let free = room.make(&mut buf);
            seen.push(free >> 10);
            buf.resize(buf.len() + free, 7);
            room.has_read(free, free);
        }
        assert_eq!(seen.first(), Some(&2));
        assert_eq!(room.bytes, 256 << 10);
        assert!(seen.is_sorted() && *seen.last().unwrap() >= 256, "{seen:?}");
    }

    #[test]
    fn a_connection_that_has_become_quiet_gives_its_room_back_and_keeps_what_has_come() {
        let (mut room, mut buf) = (Room::new(64 << 10), BytesMut::new());
        room.bytes = 64 << 10;
        assert_eq!(room.make(&mut buf), 64 << 10);
        for _ in 0..3 * SMALL_READS {
            buf.clear();
            buf.extend_from_slice(b"part");
            let free = room.make(&mut buf);
            room.has_read(4, free);
        }
        room.make(&mut buf);
        assert_eq!((&buf[..], room.bytes), (&b"part"[..], READ_BYTES_MIN));
        assert!(buf.capacity() <= READ_BYTES_MIN + 64, "{}", buf.capacity());
    }

    #[test]
    fn there_is_always_room_for_a_read() {
        let (mut room, mut buf) = (Room::new(64 << 10), BytesMut::with_capacity(3));
        buf.extend_from_slice(b"abc");
        assert!(room.make(&mut buf) >= READ_BYTES_MIN);
        assert_eq!(&buf[..], b"abc");
    }
}
